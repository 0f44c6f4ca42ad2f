"""What `runworker` would serve: one consumer that handles recorded ends, and one that does not."""

from __future__ import annotations

from typing import Any

from channels.consumer import AsyncConsumer
from channels.routing import ChannelNameRouter, ProtocolTypeRouter


class Audit(AsyncConsumer):
    async def ops_disconnect(self, message: dict[str, Any]) -> None:
        pass


class Thumbnails(AsyncConsumer):
    pass


application = ProtocolTypeRouter(
    {"channel": ChannelNameRouter({"audit": Audit.as_asgi(), "thumbnails": Thumbnails.as_asgi()})}
)
