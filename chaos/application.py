"""What the campaign's workers serve: sockets that join and leave groups on demand, fail, and block their event loop."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import django

django.setup()

from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.urls import path
from redis.exceptions import RedisError

from chaos.safeties import SAFETIES
from ops.application.connections import card
from ops.middleware import DisconnectLogMiddleware, OpsMiddleware
from project.consumers import GroupsConsumer

card.LEASE_SECONDS = 3.0  # A process that was killed is to be found dead within a round.


class CampaignConsumer(GroupsConsumer):
    """`{"join": group}` and `{"leave": group}`, confirmed; `say` to a `group`; `block` for seconds; `fail`.

    After `{"keep_busy": seconds}` the handler takes so long, but blocks nothing.
    """

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
            if "keep_busy" in content:
                await asyncio.sleep(content["keep_busy"])
        except (RedisError, OSError) as error:
            await self.send_json({"type": "failed", "error": str(error)})


sockets: Any = URLRouter([path("ws/groups/", CampaignConsumer.as_asgi())])
match os.environ.get("CHAOS_APPLICATION", "logged"):
    case "logged":
        sockets = DisconnectLogMiddleware(sockets)
    case "ops":
        # Without the log: no clean-up is to take away what its consumers should not have left.
        settings.CHANNELS_OPS = {"DISCONNECT_LOG_STREAM": False}
        sockets = OpsMiddleware(sockets)
if (without := os.environ.get("CHAOS_WITHOUT")) and SAFETIES[without].in_workers:
    SAFETIES[without].take_away()
application = ProtocolTypeRouter({"websocket": sockets})
