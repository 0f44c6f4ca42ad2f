"""What is seen of each websocket while it is open, and the record of its end."""

import asyncio
import contextlib
import functools
import logging
import os
import socket
import time
from collections.abc import Coroutine, Mapping
from contextvars import Context
from typing import Any

from channels.layers import DEFAULT_CHANNEL_LAYER, channel_layers

from ops import compat
from ops.application import outbox
from ops.application.disconnects.recorder import Recorder
from ops.application.observation import Application, Websocket, websocket_of
from ops.application.process_exit import at_exit
from ops.model.disconnects.conclusions import Seen, conclude, describe_exception
from ops.model.disconnects.record import MAX_TEXT, Disconnect, bounded
from ops.model.keys import inbox_of
from ops.model.settings import OpsSettings
from ops.store.connection.backends import backend_of
from ops.store.connection.waiting import within

logger = logging.getLogger("ops.middleware")
lines = logging.getLogger("ops.disconnects")

LINGER_SECONDS = 30.0
WRITTEN_WITHIN_SECONDS = 2.0


def recorded(application: Application, settings: OpsSettings) -> Application:
    """``application``, of whose websockets the ends are recorded in the sinks that ``settings`` ask for."""

    async def record(scope: Mapping[str, Any], receive: Any, send: Any) -> Any:
        websocket = websocket_of(scope)
        if websocket is None or not websocket.takes("log"):
            return await application(scope, receive, send)
        _prepare(settings)
        return await _run_recorded(application, Connection(websocket, scope, receive, send, settings), scope)

    return record


async def _run_recorded(application: Application, connection: "Connection", scope: Mapping[str, Any]) -> Any:
    _open.add(connection)
    try:
        result = await application(scope, connection.receive, connection.send)
        await connection.hear_the_rest()
        return result
    except asyncio.CancelledError:
        connection.cancelled = True
        await connection.hear_the_rest()
        raise
    except GeneratorExit:
        connection.cancelled = True
        raise
    except BaseException as error:
        if connection in _open:  # It is not, where the process has ended and takes its coroutines down.
            connection.chain = describe_exception(error)
        await connection.hear_the_rest()
        raise
    finally:
        recorder = _end(connection)
        if recorder is not None and connection.is_told_of_restart and not connection.cancelled:
            # The server waits for this task, and for nothing that comes after it.
            await recorder.written(WRITTEN_WITHIN_SECONDS)


class Connection:
    """What is seen of one websocket while it is open."""

    __slots__ = (
        "_receive",
        "_scope",
        "_send",
        "_settings",
        "_websocket",
        "cancelled",
        "chain",
        "closed_clock",
        "seen",
        "started_at",
        "started_clock",
    )

    def __init__(
        self, websocket: Websocket, scope: Mapping[str, Any], receive: Any, send: Any, settings: OpsSettings
    ) -> None:
        self._websocket = websocket
        self._scope, self._receive, self._send = scope, receive, send
        self._settings = settings
        self.started_at, self.started_clock = time.time(), time.monotonic()
        self.closed_clock: float | None = None
        self.seen = Seen()
        self.chain: tuple[str, ...] = ()
        self.cancelled = False

    @property
    def to_lines(self) -> bool:
        return self._settings.disconnect_log_logger

    @property
    def is_told_of_restart(self) -> bool:
        return self._websocket.is_told_of_restart

    async def receive(self) -> Any:
        event = await self._receive()
        if event.get("type") == "websocket.disconnect":
            self.seen.client_left(compat.close_code(event, self._scope.get("asgi", {})))
            self._closed()
        return event

    async def send(self, message: Any) -> None:
        kind = message.get("type")
        if kind == "websocket.accept":
            self.seen.accepted = True
        elif kind == "websocket.close":
            self.seen.application_closed(message.get("code"))
            self._closed()
        try:
            await self._send(message)
        except Exception as error:
            self.seen.send_failed = self.seen.send_failed or compat.says_that_socket_is_closed(error)
            raise

    def _closed(self) -> None:
        if self.closed_clock is None:
            self.closed_clock = time.monotonic()
            _lingering.add(self)

    async def hear_the_rest(self) -> None:
        """Take the ``websocket.disconnect`` that the application has not received.

        Of a client to which it could not send, this has the code. Of a consumer that was cancelled, it tells a
        websocket that had ended before, for which Daphne waits no longer, from the end of the server.
        """
        with contextlib.suppress(Exception):
            while (self.seen.send_failed or self.cancelled) and self.seen.closed_by is None:
                await within(0, self.receive())

    def ended(self, *, exited: bool = False) -> Disconnect:
        cause, closed_by = conclude(self.seen, chain=self.chain, cancelled=self.cancelled, exited=exited)
        consumer, channels = self._websocket.consumer, self._websocket.channels
        channel = channels[0] if channels else None
        groups, omitted = bounded(channel.groups if channel else ())
        end = time.monotonic() if self.closed_clock is None else self.closed_clock
        lived = end - self.started_clock
        inbox = inbox_of(channel.name) if channel else None
        return Disconnect(
            at=self.started_at + lived,
            cause=cause,
            closed_by=closed_by,
            lived_seconds=lived,
            code=self.seen.code,
            exception=self.chain,
            path=str(self._scope.get("path", ""))[:MAX_TEXT] or None,
            consumer=_class_name(consumer) if consumer is not None else None,
            channel=channel.name if channel else None,
            process=inbox.process if inbox else None,
            host=_host(),
            pid=os.getpid(),
            groups=groups,
            groups_omitted=omitted,
            layer=channel.alias if channel else DEFAULT_CHANNEL_LAYER,
            **self._personal(),
        )

    def _personal(self) -> dict[str, Any]:
        """Client address, user and query string, as far as the settings ask for them."""
        found: dict[str, Any] = {}
        for name in self._settings.disconnect_log_personal:
            # A user object is the application's own.
            with contextlib.suppress(Exception):
                if name == "client":
                    found[name] = ":".join(map(str, self._scope.get("client") or ()))
                elif name == "user":
                    consumer = self._websocket.consumer
                    scope = self._scope if consumer is None else consumer.scope
                    found[name] = getattr(scope.get("user"), "pk", None)
                elif name == "query":
                    found[name] = self._scope.get("query_string", b"").decode("utf-8", "replace")
        return {name: str(value)[:MAX_TEXT] for name, value in found.items() if value not in (None, "")}


@functools.cache
def _host() -> str:
    return socket.gethostname()[:MAX_TEXT]


def _class_name(consumer: object) -> str:
    return f"{type(consumer).__module__}.{type(consumer).__qualname__}"[:MAX_TEXT]


# The connections that are open

_open: set[Connection] = set()


def _end(connection: Connection, *, exited: bool = False) -> Recorder | None:
    """Record the end of ``connection``, unless that is done; returns who writes it to the stream."""
    if connection not in _open:
        return None
    _open.discard(connection)
    _lingering.discard(connection)
    try:
        return _record(connection.ended(exited=exited), to_lines=connection.to_lines)
    except Exception:
        logger.exception("the end of a websocket could not be recorded")
        return None


class _Lingering:
    """Those that were closed, and whose consumer goes on.

    It may never return: the stock layer sometimes misses that it was cancelled. One timer watches over all: if each had
    its own, those that were cancelled would hold all that their connections had until their time is up.
    """

    def __init__(self) -> None:
        self._closed: dict[Connection, None] = {}  # in the order in which they were closed
        self._watched_by: asyncio.AbstractEventLoop | None = None

    def add(self, connection: Connection) -> None:
        self._closed[connection] = None
        self._watch(LINGER_SECONDS)

    def discard(self, connection: Connection) -> None:
        self._closed.pop(connection, None)

    def clear(self) -> None:
        self._closed.clear()
        self._watched_by = None

    def _watch(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if self._watched_by is not loop:
            self._watched_by = loop
            loop.call_later(seconds, self._end_those_too_long, context=Context())

    def _end_those_too_long(self) -> None:
        self._watched_by = None
        now = time.monotonic()
        for connection in list(self._closed):
            remaining = (connection.closed_clock or now) + LINGER_SECONDS - now
            if remaining > 0:
                self._watch(remaining)
                break
            self.discard(connection)
            _end(connection)


_lingering = _Lingering()


# The sinks

_recorders: dict[str, tuple[Any, Recorder | None]] = {}


def _prepare(settings: OpsSettings) -> None:
    """Have a recorder for each layer of the application."""
    for alias in channel_layers.configs:
        try:
            layer = channel_layers[alias]
            if alias not in _recorders or _recorders[alias][0] is not layer:
                wanted = settings.disconnect_log_stream and backend_of(layer).has_redis
                _recorders[alias] = layer, Recorder(layer, settings.disconnect_log_length) if wanted else None
        except Exception:
            # Whoever uses that layer is told so; nobody else is to be kept from what he does.
            logger.debug("the channel layer %r has no disconnect log", alias, exc_info=True)
    _watch_the_process()


def _record(record: Disconnect, *, to_lines: bool) -> Recorder | None:
    """Hand ``record`` to the sinks; returns who writes it to the stream."""
    if to_lines:
        lines.info("websocket ended: %s", record.cause, extra={"disconnect": record})
    _, recorder = _recorders.get(record.layer or "", (None, None))
    if recorder is not None:
        recorder.put(record)
    return recorder


@functools.cache
def _watch_the_process() -> None:
    at_exit(_end_at_exit)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_begin_in_child)


def _end_at_exit() -> Coroutine[Any, Any, None] | None:
    """The process takes with it what is still open."""
    for connection in list(_open):
        _end(connection, exited=True)
    return outbox.send_the_rest(recorder for _, recorder in _recorders.values() if recorder is not None)


def _begin_in_child() -> None:
    _lingering.clear()
    _open.clear()
    outbox.begin_in_child()
