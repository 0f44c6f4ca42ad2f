"""What is seen of each websocket's consumers: the channels that they receive on, and the groups that those are in.

A consumer belongs to a websocket only if its scope carries the mark of that websocket. What an application starts
inside the websocket's task with another scope, or with none, is not the websocket's.

The bound methods of a layer instance are wrapped, once; the class and every other instance stay as they are.
"""

import asyncio
import functools
import itertools
import logging
import os
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from channels.layers import channel_layers

from ops import compat

logger = logging.getLogger("ops.middleware")

Application = Callable[[Any, Any, Any], Awaitable[Any]]

MARK = "ops.websocket"
"""The key of a scope under which the number of its websocket is. A number, since applications copy their scopes."""
SERVICE_RESTART = 1012
ENDED_CHANNELS = 20_000
"""How many channels of ended websockets are known, in case that one of them joins a group later: some 5 MB."""


@dataclass(slots=True, eq=False)
class Channel:
    """The channel of a consumer. ``groups``: those that it is in; True if that is in doubt."""

    name: str
    alias: str
    layer: Any
    groups: dict[str, bool] = field(default_factory=dict)
    ended: bool = False


@dataclass(slots=True, eq=False)
class Websocket:
    """One websocket while its application runs.

    ``consumer``: the first that started under its scope, None if there is none yet. ``left``: the
    ``websocket.disconnect`` that the server has told. ``parts``: what is done for it, by whichever middleware.
    ``close``: closes it with a code and a reason, as if its client had; None if nothing can.
    ``hear_of_consumer``: called with each consumer that starts under its scope.
    """

    number: int
    scope: Mapping[str, Any]
    loop: asyncio.AbstractEventLoop
    pid: int = field(default_factory=os.getpid)
    consumer: Any = None
    channels: list[Channel] = field(default_factory=list)
    left: Mapping[str, Any] | None = None
    parts: set[str] = field(default_factory=set)
    close: Callable[[int, str], Coroutine[Any, Any, None]] | None = None
    hear_of_consumer: Callable[[Any], None] | None = None

    @property
    def is_of_this_process(self) -> bool:
        """Whether this process has opened it, and not the one that it was forked from."""
        return self.pid == os.getpid()

    @property
    def is_told_of_restart(self) -> bool:
        """Whether its server ends, and has said so: uvicorn runs nothing more than the tasks of its websockets.

        A client may close with the same code, which uvicorn passes on with a reason, and other servers as it is.
        """
        return (
            self.left is not None
            and self.left.get("code") == SERVICE_RESTART
            and "reason" not in self.left
            and server_name() in ("uvicorn", "gunicorn", "")
        )

    def takes(self, part: str) -> bool:
        """Whether ``part`` is still to be done for it; from now on it is not."""
        if part in self.parts:
            return False
        self.parts.add(part)
        return True


LateJoin = Callable[[Channel, str, bool], None]
NewChannel = Callable[[Websocket, Channel], None]

_numbers = itertools.count(1)
_open: dict[int, Websocket] = {}
_channels: dict[str, Channel] = {}
_ended: deque[Channel] = deque()
_late_join: list[LateJoin] = []
_new_channel: list[NewChannel] = []
_server: list[str] = []


def observed(application: Application) -> Application:
    """``application`` with a mark in the scope of each websocket, unless a middleware around it has seen to that."""

    async def observe(scope: Mapping[str, Any], receive: Any, send: Any) -> Any:
        if websocket_of(scope) is not None:
            return await application(scope, receive, send)
        _observe_layers()
        if not _server:
            _server.append(compat.server_of(send))
        websocket = Websocket(next(_numbers), scope, asyncio.get_running_loop())

        async def receive_and_see() -> Any:
            event = await receive()
            if event.get("type") == "websocket.disconnect":
                websocket.left = event
            return event

        _open[websocket.number] = websocket
        try:
            return await application({**scope, MARK: websocket.number}, receive_and_see, send)
        finally:
            _end(websocket)

    return observe


def websocket_of(scope: Mapping[str, Any]) -> Websocket | None:
    """The open websocket whose mark ``scope`` carries."""
    number = scope.get(MARK)
    return _open.get(number) if isinstance(number, int) else None


def open_websockets() -> list[Websocket]:
    return list(_open.values())


def channel_named(name: str) -> Channel | None:
    """The channel of that name that is known here: of an open websocket, or of one that ended not long ago."""
    return _channels.get(name)


def server_name() -> str:
    """The ASGI server of this process, as far as its first websocket told; otherwise empty."""
    return _server[0] if _server else ""


def hear_of_channels(hear: NewChannel) -> None:
    """Call ``hear`` with a websocket and the channel that a consumer of it has got, for each."""
    _new_channel.append(hear)


def hear_of_late_joins(hear: LateJoin) -> None:
    """Call ``hear`` when a channel of an ended websocket has joined a group: channel, group, whether it is in doubt."""
    _late_join.append(hear)


def end_channels(websocket: Websocket) -> None:
    """The channels of ``websocket`` have ended: whatever group they join from now on is a late join."""
    for channel in websocket.channels:
        channel.ended = True
        _ended.append(channel)
        if len(_ended) > ENDED_CHANNELS:
            _channels.pop(_ended.popleft().name, None)


def _end(websocket: Websocket) -> None:
    _open.pop(websocket.number, None)
    for channel in websocket.channels:
        if channel.ended:
            channel.groups = {}  # They are recorded and left, and the channel is known for long.
        else:
            _channels.pop(channel.name, None)
    # Consumers hold what they send with, which holds the websocket. Such circles keep the garbage collector busy.
    websocket.consumer = websocket.close = websocket.hear_of_consumer = None


# What a layer is asked for


class _Watch:
    """Notes what the layer ``alias`` is asked for with the websocket that it belongs to."""

    def __init__(self, alias: str, layer: Any) -> None:
        self._alias = alias
        self._layer = weakref.ref(layer)

    def created(self, name: str, consumer: Any) -> None:
        scope = getattr(consumer, "scope", None)
        websocket = websocket_of(scope) if isinstance(scope, Mapping) else None
        if websocket is None:
            return
        if websocket.consumer is None:
            websocket.consumer = consumer
        channel = _channels[name] = Channel(name, self._alias, self._layer())
        websocket.channels.append(channel)
        if websocket.hear_of_consumer is not None:
            websocket.hear_of_consumer(consumer)
        for hear in _new_channel:
            hear(websocket, channel)

    def joined(self, group: str, name: str, *, in_doubt: bool = False) -> None:
        channel = channel_named(name)
        if channel is not None:
            if not channel.ended:
                channel.groups[group] = in_doubt
                return
            for hear in _late_join:
                hear(channel, group, in_doubt)

    def left(self, group: str, name: str) -> None:
        channel = channel_named(name)
        if channel is not None:
            channel.groups.pop(group, None)


_observed: "weakref.WeakSet[Any]" = weakref.WeakSet()
_latest: dict[str, Callable[[], Any]] = {}  # alias -> the layer that was observed last; faster to ask than the set


def _observe_layers() -> None:
    """Have each layer of the application observed from now on."""
    for alias in channel_layers.configs:
        try:
            layer = channel_layers[alias]
            if alias in _latest and _latest[alias]() is layer:
                continue
            _latest[alias] = weakref.ref(layer)
            if layer not in _observed:
                _watch_the_process()
                _observed.add(layer)
                _observe_layer(layer, _Watch(alias, layer))
        except Exception:
            # Whoever uses that layer is told so; nobody else is to be kept from what he does.
            logger.debug("the channel layer %r cannot be observed", alias, exc_info=True)


def _observe_layer(layer: Any, watch: _Watch) -> None:
    ask_new_channel, ask_group_add, ask_group_discard = layer.new_channel, layer.group_add, layer.group_discard

    # ops.compat finds the consumer behind functions of this name.
    async def new_channel(*args: Any, **options: Any) -> str:
        channel: str = await ask_new_channel(*args, **options)
        consumer = compat.consumer_that_starts()
        if consumer is not None:
            watch.created(channel, consumer)
        return channel

    async def group_add(group: str, channel: str, *args: Any, **options: Any) -> Any:
        try:
            added = await ask_group_add(group, channel, *args, **options)
        except (AssertionError, TypeError):  # No such name can be.
            raise
        except BaseException:
            watch.joined(group, channel, in_doubt=True)  # Redis may have done it all the same.
            raise
        watch.joined(group, channel)
        return added

    async def group_discard(group: str, channel: str, *args: Any, **options: Any) -> Any:
        discarded = await ask_group_discard(group, channel, *args, **options)
        watch.left(group, channel)
        return discarded

    layer.new_channel, layer.group_add, layer.group_discard = new_channel, group_add, group_discard


@functools.cache
def _watch_the_process() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_begin_in_child)


def _begin_in_child() -> None:
    _open.clear()
    _channels.clear()
    _ended.clear()
