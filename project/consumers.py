"""An ordinary Channels application, as its documentation teaches it. Two of its consumers use the toolkit's mixin."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from typing import Any
from urllib.parse import parse_qs

from channels.generic.websocket import AsyncJsonWebsocketConsumer
from redis.exceptions import RedisError

from ops.consumers import HeartbeatMixin

logger = logging.getLogger(__name__)

REDIS_WITHIN_SECONDS = 5.0
TRIES = 3
# asyncio's own name for a time-out, which is the built-in one only since Python 3.11.
REDIS_FAILURES = (RedisError, OSError, asyncio.TimeoutError)


class RoomConsumer(AsyncJsonWebsocketConsumer):
    """A chat room: `{"text": "…"}` from one goes to all as `{"type": "message", "room", "text", "from"}`.

    At connect the client is told who serves it: `{"type": "welcome", "channel", "pid", "room"}`.
    """

    async def connect(self) -> None:
        self.room = self.scope["url_route"]["kwargs"]["room"]
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()
        await self.send_json({"type": "welcome", "channel": self.channel_name, "pid": os.getpid(), "room": self.room})

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.group, self.channel_name)

    @property
    def group(self) -> str:
        return f"room.{self.room}"

    @classmethod
    async def decode_json(cls, text_data: str) -> Any:
        try:
            return json.loads(text_data)
        except (ValueError, RecursionError):
            return None

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        text = content.get("text") if isinstance(content, dict) else None
        if not isinstance(text, str):
            await self.send_json({"type": "error", "reason": 'send {"text": "…"}'})
            return
        await self.channel_layer.group_send(
            self.group, {"type": "room.message", "room": self.room, "text": text, "from": self.channel_name}
        )

    async def room_message(self, event: dict[str, Any]) -> None:
        await self.send_json({**event, "type": "message"})


class ChatConsumer(HeartbeatMixin, RoomConsumer):
    """A room as the chat page joins it: a browser that is gone without a word is noticed.

    After the welcome it says more of who serves it: `{"type": "worker", "server", "host", "layer"}`.
    """

    heartbeat_interval = 5  # the default, 25, would be dull to look at
    heartbeat_timeout = 5

    async def connect(self) -> None:
        await super().connect()
        await self.send_json(
            {
                "type": "worker",
                "server": "Daphne" if "daphne.server" in sys.modules else "uvicorn",
                "host": socket.gethostname(),
                "layer": "drop-in" if hasattr(self.channel_layer, "set_client_ping") else "stock",
            }
        )


class CarefulConsumer(HeartbeatMixin, AsyncJsonWebsocketConsumer):
    """A room, with all that a consumer itself can do about lost connections to Redis (docs/connection-lost.md)."""

    async def connect(self) -> None:
        self.group = f"room.{self.scope['url_route']['kwargs']['room']}"
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()
        await self.send_json({"type": "welcome", "channel": self.channel_name, "pid": os.getpid()})

    async def disconnect(self, code: int) -> None:
        for _ in range(TRIES):  # to leave twice is to leave once
            leaving = self.channel_layer.group_discard(self.group, self.channel_name)
            try:
                return await asyncio.wait_for(leaving, REDIS_WITHIN_SECONDS)
            except REDIS_FAILURES as error:
                failure = error
        logger.warning("%s stays in %s, closed with %s: %s", self.channel_name, self.group, code, failure)
        return None

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        event = {"type": "room.message", "text": str(content["text"]), "from": self.channel_name}
        try:
            await asyncio.wait_for(self.channel_layer.group_send(self.group, event), REDIS_WITHIN_SECONDS)
        except REDIS_FAILURES as error:
            logger.warning("a message to %s may be lost: %s", self.group, error)
            await self.send_json({"type": "error", "reason": "This may not have been sent. Try again?"})

    async def room_message(self, event: dict[str, Any]) -> None:
        await self.send_json({**event, "type": "message"})


class AnnouncementsConsumer(AsyncJsonWebsocketConsumer):
    """What is said to everybody. Channels joins and leaves the groups of `groups` by itself."""

    groups = ("announcements",)

    async def connect(self) -> None:
        await self.accept()
        await self.send_json({"type": "welcome", "channel": self.channel_name, "pid": os.getpid()})

    async def disconnect(self, code: int) -> None:
        logger.warning("%s was told of its end, with %s", self.channel_name, code)

    async def room_message(self, event: dict[str, Any]) -> None:
        await self.send_json({**event, "type": "message"})


class GroupsConsumer(AsyncJsonWebsocketConsumer):
    """One channel in several groups at once: `/ws/groups/?groups=a,b,c`. It passes on what any of them is sent."""

    async def connect(self) -> None:
        query = parse_qs(self.scope["query_string"].decode())
        self.joined = [name for names in query.get("groups", []) for name in names.split(",") if name]
        for name in self.joined:
            await self.channel_layer.group_add(name, self.channel_name)
        await self.accept()
        await self.send_json(
            {"type": "welcome", "channel": self.channel_name, "pid": os.getpid(), "groups": self.joined}
        )

    async def disconnect(self, code: int) -> None:
        for name in self.joined:
            await self.channel_layer.group_discard(name, self.channel_name)

    async def room_message(self, event: dict[str, Any]) -> None:
        await self.send_json({**event, "type": "message"})
