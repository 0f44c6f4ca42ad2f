"""A websocket that ends as its client asks: what it is sent, it does. Beside it, one that accepts nobody."""

import asyncio
import os
from types import SimpleNamespace
from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

django_application = get_asgi_application()

from ops.consumers import HeartbeatMixin
from ops.middleware import DisconnectLogMiddleware


class EndingConsumer(AsyncJsonWebsocketConsumer):
    async def connect(self) -> None:
        await self.channel_layer.group_add("ending", self.channel_name)
        await self.channel_layer.group_add("left", self.channel_name)
        await self.channel_layer.group_discard("left", self.channel_name)
        await self.accept()
        await self.send_json({"type": "welcome", "channel": self.channel_name, "pid": os.getpid()})

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard("ending", self.channel_name)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        if "close" in content:
            await self.close(code=content["close"])
        elif "send" in content:
            await self.channel_layer.send(self.channel_name, {"type": content["send"]})
        elif "talk" in content:
            while True:
                await self.send_json({})
                await asyncio.sleep(0.01)
        else:
            raise KeyError("redis://user:hunter2@example.org/ is not what was asked for")


class BeatingConsumer(HeartbeatMixin, EndingConsumer):
    heartbeat_interval = 0.4
    heartbeat_timeout = 2  # less than the server takes to give up a client (see IMPATIENT)


class RejectingConsumer(AsyncJsonWebsocketConsumer):
    async def connect(self) -> None:
        await self.close()


class KnownUser:
    """Stands where an application has Channels' AuthMiddlewareStack: inside the disconnect log."""

    def __init__(self, application: Any) -> None:
        self._application = application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        return await self._application({**scope, "user": SimpleNamespace(pk=42)}, receive, send)


routes = URLRouter(
    [
        path("ws/rejecting/", RejectingConsumer.as_asgi()),
        path("ws/<name>/", EndingConsumer.as_asgi()),
        path("ws/beating/<name>/", BeatingConsumer.as_asgi()),
        path("ws/<kind>/<name>/", EndingConsumer.as_asgi()),
    ]
)
application = ProtocolTypeRouter(
    {"http": django_application, "websocket": DisconnectLogMiddleware(KnownUser(DisconnectLogMiddleware(routes)))}
)
