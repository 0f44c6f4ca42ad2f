"""A busy room, with OpsMiddleware or without. A list in Redis has what its consumers do."""

import asyncio
import os
from typing import Any

import redis.asyncio
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.routing import ProtocolTypeRouter
from django.conf import settings
from django.core.asgi import get_asgi_application

django_application = get_asgi_application()

from channels.layers import get_channel_layer

from ops.middleware import OpsMiddleware

settings.CHANNELS_OPS = {"TRACK_CONNECTIONS": "TRACK" in os.environ}
if os.environ.get("MAKE_LAYER_AT_IMPORT"):
    get_channel_layer()

ROOM = "busy"
EVENTS = "busy:events"


class BusyConsumer(AsyncJsonWebsocketConsumer):
    async def connect(self) -> None:
        self.redis = redis.asyncio.Redis.from_url(os.environ["REDIS_URL"])
        await self.channel_layer.group_add(ROOM, self.channel_name)
        await self.accept()
        await self.redis.rpush(EVENTS, f"connect {self.channel_name}")
        await self.send_json({"type": "welcome", "channel": self.channel_name, "pid": os.getpid()})

    async def disconnect(self, code: int) -> None:
        await self.redis.rpush(EVENTS, f"disconnect {self.channel_name}")
        await self.channel_layer.group_discard(ROOM, self.channel_name)
        await self.redis.aclose()

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        """Streams for ever."""
        try:
            while True:
                await self.send_json({"type": "stream"})
                await asyncio.sleep(0.05)
        finally:
            await self.redis.rpush(EVENTS, f"streamed {self.channel_name}")

    async def said(self, event: dict[str, Any]) -> None:
        await self.send_json(event)


websockets: Any = BusyConsumer.as_asgi()
application = ProtocolTypeRouter(
    {"http": django_application, "websocket": OpsMiddleware(websockets) if os.environ.get("WITH_OPS") else websockets}
)
