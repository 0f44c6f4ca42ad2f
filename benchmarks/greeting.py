"""The same small websocket, ``benchmarks.greeting:plain``, with the disconnect log, OpsMiddleware and all its parts."""

from typing import Any

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

django_application = get_asgi_application()

from django.conf import settings

from ops.middleware import DisconnectLogMiddleware, OpsMiddleware


class Greeting(AsyncWebsocketConsumer):  # type: ignore[misc]  # channels has no types
    groups = ("everybody",)

    async def connect(self) -> None:
        await self.accept()
        await self.send(text_data="welcome")


def serving(websocket: Any) -> Any:
    return ProtocolTypeRouter({"http": django_application, "websocket": websocket})


routes = URLRouter([path("ws/", Greeting.as_asgi())])
plain = serving(routes)
recorded = serving(DisconnectLogMiddleware(routes))
full = serving(OpsMiddleware(routes))


async def tracked(scope: Any, receive: Any, send: Any) -> None:
    """With the registry of websockets, too. Settings are read at the first websocket."""
    settings.CHANNELS_OPS = {"TRACK_CONNECTIONS": True}
    await full(scope, receive, send)
