"""What the campaign's workers serve: sockets that join and leave groups on demand, fail, and block their event loop."""

from __future__ import annotations

import time
from typing import Any

import django

django.setup()

from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path
from redis.exceptions import RedisError

from ops.middleware import DisconnectLogMiddleware
from project.consumers import GroupsConsumer


class CampaignConsumer(GroupsConsumer):
    """`{"join": group}` and `{"leave": group}`, confirmed; `say` to a `group`; `block` for seconds; `fail`."""

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        try:
            if "join" in content:
                await self.channel_layer.group_add(content["join"], self.channel_name)
                self.joined.append(content["join"])
                await self.send_json({"type": "joined", "group": content["join"]})
            elif "leave" in content:
                await self.channel_layer.group_discard(content["leave"], self.channel_name)
                await self.send_json({"type": "left", "group": content["leave"]})
            elif "say" in content:
                message = {"type": "room.message", "text": content["say"]}
                await self.channel_layer.group_send(content["group"], message)
                await self.send_json({"type": "said", "said": content["say"]})
            elif "fail" in content:
                raise ValueError("a bug of the application")
            elif "block" in content:
                time.sleep(content["block"])  # noqa: ASYNC251  # the mistake that it stands for
        except (RedisError, OSError) as error:
            await self.send_json({"type": "failed", "error": str(error)})


sockets = URLRouter([path("ws/groups/", CampaignConsumer.as_asgi())])
application = ProtocolTypeRouter({"websocket": DisconnectLogMiddleware(sockets)})
