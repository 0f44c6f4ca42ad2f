"""The lease of a process with the stock layer. It tells the commands host, pid and server, and that the process lives.

It is renewed by a task in the event loop that serves websockets, so a process with a blocked loop holds no fresh
one. A process has one for each of its layers, from its first channel on.
"""

import asyncio
import contextlib
import functools
import logging
import os
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from channels.layers import channel_layers

from ops import compat
from ops.application.background import start_task
from ops.application.observation import Channel, Websocket, hear_of_channels, server_name
from ops.application.process_exit import at_exit
from ops.model.disconnects.conclusions import describe_exception
from ops.model.liveness.lease import renewal_seconds, shard_of_hosts
from ops.store.connection.backends import backend_of
from ops.store.connection.failures import will_pass
from ops.store.connection.waiting import spread, within
from ops.store.liveness.leases import STOCK, describe_process, mark_lease_ended, renew_lease

logger = logging.getLogger("ops.middleware")

LEASE_SECONDS = 30.0
RENEWED_WITHIN_SECONDS = 5.0


@functools.cache
def keep_cards() -> None:
    """Hold a lease for each layer on which websockets of this process get channels from now on."""
    hear_of_channels(_keep_card)
    at_exit(_end_at_exit)


class Card:
    """The leases of one layer instance, one on each shard."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self._keyspace = backend_of(layer).keyspace
        self._complaints: set[str] = set()
        self._description = describe_process(layer, LEASE_SECONDS, server_name()) | {"layer": STOCK}
        self._task: asyncio.Task[None] | None = None

    def keep_running(self) -> None:
        """Renew in this event loop from now on, unless it is done already."""
        loop, task = asyncio.get_running_loop(), self._task
        if task is None or task.done() or task.get_loop() is not loop:
            self._task = start_task(self._keep(), "card")

    async def _keep(self) -> None:
        pause = renewal_seconds(LEASE_SECONDS)
        while self._task is asyncio.current_task():
            await self._on_every_shard(self._renew)
            await asyncio.sleep(spread(0.8 * pause, pause))

    async def _renew(self, index: int) -> None:
        layer = self.layer
        description = {**self._description, "shard": shard_of_hosts(index, layer.ring_size)}
        await renew_lease(layer.connection(index), self._keyspace, layer.client_prefix, description, layer.group_expiry)

    async def end(self) -> None:
        """Say that the process is leaving. What it leaves behind is known to be dead."""
        await self._on_every_shard(self._end)

    async def _end(self, index: int) -> None:
        layer = self.layer
        await mark_lease_ended(layer.connection(index), self._keyspace, layer.client_prefix, layer.group_expiry)

    async def _on_every_shard(self, work: Callable[[int], Awaitable[None]]) -> None:
        await asyncio.gather(*(self._try(work, index) for index in range(self.layer.ring_size)))

    async def _try(self, work: Callable[[int], Awaitable[None]], index: int) -> None:
        try:
            await within(RENEWED_WITHIN_SECONDS, work(index))
        except Exception as error:
            if not will_pass(error) and str(error) not in self._complaints:
                self._complaints.add(str(error))
                logger.error("the lease on Redis shard %d cannot be kept: %s", index, describe_exception(error)[0])


# The cards of this process

_cards: dict[str, Card] = {}


def _keep_card(_: Websocket, channel: Channel) -> None:
    """Called for each channel, so it must be cheap."""
    layer = channel.layer
    if not backend_of(layer).lacks_keeper:
        return  # The drop-in layer has its own; a publish/subscribe layer has no name for its process.
    card = _cards.get(channel.alias)
    if card is None or card.layer is not layer:
        card = _cards[channel.alias] = Card(layer)
    card.keep_running()


def _end_at_exit() -> Coroutine[Any, Any, None] | None:
    return _end_all() if _cards else None


async def _end_all() -> None:
    await asyncio.gather(*(card.end() for card in _cards.values()), return_exceptions=True)


# Children


@functools.cache
def name_children_anew() -> None:
    """Give a forked child's layers names of their own. Call it before any fork.

    Otherwise two processes read one inbox: each gets half of the messages, and the death of one is not seen.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_begin_in_child)


def _begin_in_child() -> None:
    _cards.clear()
    for layer in list(channel_layers.backends.values()):
        if backend_of(layer).lacks_keeper:
            with contextlib.suppress(Exception):
                layer.client_prefix = uuid.uuid4().hex
                compat.forget_receivers(layer)
