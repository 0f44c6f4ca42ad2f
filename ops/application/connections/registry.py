"""The registry of the open websockets of a process, which can be closed from outside.

Entries are written in batches in the background. Requests come in a list of the process's own in Redis, and are carried
out by this middleware: the application needs no handler, and is told of the end as if the client had left.
"""

import asyncio
import contextlib
import functools
import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from ops import compat
from ops.application.background import start_task
from ops.application.observation import Application, Channel, Websocket, hear_of_channels, server_name, websocket_of
from ops.application.outbox import Outbox, close_client
from ops.application.process_exit import at_exit
from ops.model.disconnects.record import MAX_TEXT
from ops.model.tracking import CloseRequest
from ops.store.connection.backends import backend_of
from ops.store.connection.waiting import spread, within
from ops.store.tracking import Change, forget_tracking, renew_tracking, take_request, write_changes

logger = logging.getLogger("ops.middleware")

PART = "registry"
ROOM = 200_000
WAIT_SECONDS = 4.0
RENEW_SECONDS = 10.0
TRY_AGAIN_SECONDS = (1.0, 5.0)
REPLY_SECONDS = 5.0
WRITTEN_WITHIN_SECONDS = 2.0


def tracked(application: Application, *, users: bool) -> Application:
    """``application``, whose open websockets are registered; with ``users``, with their user's primary key."""

    async def track(scope: Mapping[str, Any], receive: Any, send: Any) -> Any:
        websocket = websocket_of(scope)
        if websocket is None or not websocket.takes(PART):
            return await application(scope, receive, send)
        _watch_the_process()
        _tracked[websocket.number] = users
        try:
            return await application(scope, receive, send)
        finally:
            _tracked.pop(websocket.number, None)
            registries = _forget(websocket)
            if websocket.is_told_of_restart:
                await asyncio.gather(*(registry.written(WRITTEN_WITHIN_SECONDS) for registry in registries))

    return track


class Registry(Outbox[Change]):
    """The open websockets that have channels of one layer, in that layer's first Redis."""

    AWAY = "open websockets cannot be registered; up to %(room)d changes wait (%(error)s)"
    BACK = "open websockets are registered again; %d changes were dropped so far"
    LOST = "%d changes of the registry of websockets could not be written in time"
    FULL = "%d changes of the registry of websockets wait to be written; those that come now are dropped"

    def __init__(self, layer: Any) -> None:
        super().__init__(layer, 0, ROOM)
        self.keyspace = self.backend.keyspace
        # A publish/subscribe layer has no name for its process.
        self.process = self.backend.process_name or uuid.uuid4().hex
        self._open: dict[str, tuple[Websocket, str]] = {}
        self._listener: asyncio.Task[None] | None = None
        self._renew_at = 0.0

    async def _send(self, client: Any, batch: Sequence[Change]) -> None:
        await write_changes(client, self.keyspace, self.process, batch)

    def opened(self, websocket: Websocket, channel: Channel, *, users: bool) -> None:
        """Register the channel of a websocket."""
        entry = _describe(websocket, users=users)
        self._open[channel.name] = websocket, entry
        self.put((channel.name, entry))
        self._keep_listening()

    def closed(self, channel: Channel) -> None:
        if self._open.pop(channel.name, None) is not None:
            self.put((channel.name, None))

    # Requests

    def _keep_listening(self) -> None:
        loop, task = asyncio.get_running_loop(), self._listener
        if task is None or task.done() or task.get_loop() is not loop:
            self._listener = start_task(self._listen(), "registry")

    async def _listen(self) -> None:
        client = self.backend.new_client(self._shard)
        timeout = compat.pool_options(client.connection_pool).get("socket_timeout")
        wait = WAIT_SECONDS if timeout is None else min(WAIT_SECONDS, timeout / 2)
        try:
            while self._listener is asyncio.current_task():
                try:
                    await within(REPLY_SECONDS, self._renew(client))
                    request = await within(
                        wait + REPLY_SECONDS, take_request(client, self.keyspace, self.process, wait)
                    )
                    if request is not None:
                        await self._carry_out(request)
                except Exception:
                    logger.debug("the registry of websockets cannot be kept", exc_info=True)
                    await asyncio.sleep(spread(*TRY_AGAIN_SECONDS))
        finally:
            await close_client(client)

    async def _renew(self, client: Any) -> None:
        now = time.monotonic()
        if now < self._renew_at:
            return
        description = {"host": socket.gethostname()[:MAX_TEXT], "pid": os.getpid(), "server": server_name()}
        if not await renew_tracking(client, self.keyspace, self.process, description, time.time()):
            # Redis lost its data, or did not have any yet.
            for name, (_, entry) in list(self._open.items()):
                self.put((name, entry))
        self._renew_at = now + RENEW_SECONDS

    async def _carry_out(self, request: CloseRequest) -> None:
        websockets = {found[0].number: found[0] for name in request.channels if (found := self._open.get(name))}
        for websocket in websockets.values():
            if websocket.close is not None:
                # In the loop that serves it: a process may have several.
                asyncio.run_coroutine_threadsafe(websocket.close(request.code, request.reason), websocket.loop)

    async def forget(self) -> None:
        """The process ends."""
        client = self.backend.new_client(self._shard)
        try:
            await forget_tracking(client, self.keyspace, self.process)
        finally:
            await close_client(client)


def _describe(websocket: Websocket, *, users: bool) -> str:
    consumer, scope = websocket.consumer, websocket.scope
    kind = type(consumer)
    entry: dict[str, Any] = {
        "since": round(time.time(), 3),
        "path": str(scope.get("path", ""))[:MAX_TEXT],
        "consumer": f"{kind.__module__}.{kind.__qualname__}"[:MAX_TEXT],
    }
    if users:
        # A user object is the application's own.
        with contextlib.suppress(Exception):
            key = consumer.scope["user"].pk
            if key is not None:
                entry["user"] = str(key)[:MAX_TEXT]
    return json.dumps(entry, separators=(",", ":"))


# The registries of this process

_tracked: dict[int, bool] = {}
_registries: dict[str, Registry] = {}


def _register(websocket: Websocket, channel: Channel) -> None:
    users = _tracked.get(websocket.number)
    layer = channel.layer
    if users is None or not backend_of(layer).has_redis:
        return
    registry = _registries.get(channel.alias)
    if registry is None or registry.layer is not layer:
        registry = _registries[channel.alias] = Registry(layer)
    registry.opened(websocket, channel, users=users)


def _forget(websocket: Websocket) -> list[Registry]:
    """Its channels are not open any more; returns the registries that they were in."""
    if not websocket.is_of_this_process:
        return []
    found = [(channel, _registries[channel.alias]) for channel in websocket.channels if channel.alias in _registries]
    for channel, registry in found:
        registry.closed(channel)
    return list({id(registry): registry for _, registry in found}.values())


@functools.cache
def _watch_the_process() -> None:
    hear_of_channels(_register)
    at_exit(_forget_at_exit)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_begin_in_child)


def _forget_at_exit() -> Coroutine[Any, Any, None] | None:
    return _forget_all() if _registries else None


async def _forget_all() -> None:
    await asyncio.gather(*(registry.forget() for registry in _registries.values()), return_exceptions=True)


def _begin_in_child() -> None:
    _tracked.clear()
    _registries.clear()
