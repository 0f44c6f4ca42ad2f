"""An ordinary Channels application, as its documentation teaches it. Only ChatConsumer knows of the toolkit."""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any
from urllib.parse import parse_qs

from channels.generic.websocket import AsyncJsonWebsocketConsumer

from ops.consumers import HeartbeatMixin


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
        except ValueError:
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


class ChatConsumer(HeartbeatMixin, RoomConsumer):  # type: ignore[misc]  # Channels has no types
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
