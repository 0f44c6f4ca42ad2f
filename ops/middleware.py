"""What an application puts around its websockets in ``asgi.py``, so that each one's end is recorded with its reason.

::

    application = ProtocolTypeRouter({"websocket": DisconnectLogMiddleware(AuthMiddlewareStack(URLRouter(…))), …})

Consumers stay as they are. What they do with their layer is observed on the layer object that they use.
"""

from collections.abc import Mapping
from typing import Any

from ops.application.disconnects.connection import RECORDED, Application, run_recorded
from ops.conf import ops_settings
from ops.model.settings import OpsSettings


class DisconnectLogMiddleware:
    """Records the end of each websocket of ``application``, in the sinks that ``CHANNELS_OPS`` asks for.

    It never raises and never waits, but for a moment at the server's shutdown, for the last records to be written.
    Around another one it does all the work, and the inner one none.
    """

    def __init__(self, application: Application) -> None:
        self._application = application
        self._settings: OpsSettings | None = None

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> Any:
        if scope["type"] != "websocket" or RECORDED in scope:
            return await self._application(scope, receive, send)
        if self._settings is None:
            self._settings = ops_settings()
        return await run_recorded(self._application, scope, receive, send, self._settings)
