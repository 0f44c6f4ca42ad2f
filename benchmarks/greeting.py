"""The same small websocket with the disconnect log and without: ``benchmarks.greeting:recorded`` and ``…:plain``."""

from typing import Any

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

django_application = get_asgi_application()

from ops.middleware import DisconnectLogMiddleware


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
