"""What an application puts around its websockets in ``asgi.py``.

::

    application = ProtocolTypeRouter({"websocket": OpsMiddleware(AuthMiddlewareStack(URLRouter(…))), …})

Consumers and layers stay as they are. What consumers do with their layer is observed on the layer object that they use.
"""

import logging
from collections.abc import Mapping
from typing import Any

from ops.application.connections.card import keep_cards, name_children_anew
from ops.application.connections.guard import guarded
from ops.application.connections.leaving import leaving
from ops.application.connections.registry import tracked
from ops.application.disconnects.connection import recorded
from ops.application.observation import Application, observed
from ops.conf import ops_settings, problems
from ops.model.settings import OpsSettings

logger = logging.getLogger("ops.middleware")


class DisconnectLogMiddleware:
    """Records the end of each websocket of ``application``, in the sinks that ``CHANNELS_OPS`` asks for.

    It never raises and never waits, but for a moment at the server's shutdown, for the last records to be written.
    Around another one it does all the work, and the inner one none.
    """

    def __init__(self, application: Application) -> None:
        self._application = application
        self._websockets: Application | None = None

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> Any:
        if scope["type"] != "websocket":
            return await self._application(scope, receive, send)
        if self._websockets is None:
            for problem in problems():
                logger.warning("CHANNELS_OPS: %s; the default holds", problem)
            self._websockets = observed(self._with_parts(self._application, ops_settings()))
        return await self._websockets(scope, receive, send)

    def _with_parts(self, application: Application, settings: OpsSettings) -> Application:
        return recorded(application, settings)


class OpsMiddleware(DisconnectLogMiddleware):
    """No websocket of ``application`` leaves anything behind, and the end of each is recorded with its reason.

    - ``GRACEFUL_DISCONNECT``: a send to a client that has left is not an error. The consumer goes on to receive its
      ``websocket.disconnect``, and ``disconnect()`` runs. A handler that sends in a loop is ended after 5 s.
    - ``LEAVE_GROUPS``: the channels of consumers that have ended leave the groups that they are still in.
    - ``PROCESS_CARD``: a process with the stock layer holds a lease, which tells who it is and that it lives.
    - ``TRACK_CONNECTIONS``, off by default: open websockets are registered in Redis, and can be closed from outside.
    - ``DISCONNECT_LOG_STREAM`` and ``DISCONNECT_LOG_LOGGER``: as ``DisconnectLogMiddleware``.

    ``CHANNELS_OPS`` can switch each of them on and off.
    """

    def __init__(self, application: Application) -> None:
        super().__init__(application)
        name_children_anew()

    def _with_parts(self, application: Application, settings: OpsSettings) -> Application:
        if settings.graceful_disconnect or settings.track_connections:
            application = guarded(application, swallows=settings.graceful_disconnect)
        if settings.leave_groups:
            application = leaving(application)
        if settings.process_card:
            keep_cards()
        if settings.track_connections:
            application = tracked(application, users=settings.track_users)
        return recorded(application, settings)
