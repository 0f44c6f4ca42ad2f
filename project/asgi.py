"""What Daphne and uvicorn serve: HTTP to Django, websockets to the chat consumers."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
# First, since it sets Django up: consumers may import what needs settings and apps.
django_application = get_asgi_application()

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402

from ops.middleware import DisconnectLogMiddleware  # noqa: E402
from project.urls import websocket_urlpatterns  # noqa: E402

websocket_application = AllowedHostsOriginValidator(URLRouter(websocket_urlpatterns))

application = ProtocolTypeRouter(
    {"http": django_application, "websocket": DisconnectLogMiddleware(websocket_application)}
)
