"""What Daphne and uvicorn serve: HTTP to Django, websockets to the chat consumers."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
# First, since it sets Django up: consumers may import what needs settings and apps.
django_application = get_asgi_application()

from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator

from ops.middleware import DisconnectLogMiddleware, OpsMiddleware
from project.urls import websocket_urlpatterns

websocket_application = AllowedHostsOriginValidator(URLRouter(websocket_urlpatterns))

application = ProtocolTypeRouter({"http": django_application, "websocket": OpsMiddleware(websocket_application)})

# With the disconnect log alone, for what shows and tests what Channels leaves behind.
logged_application = ProtocolTypeRouter(
    {"http": django_application, "websocket": DisconnectLogMiddleware(websocket_application)}
)
