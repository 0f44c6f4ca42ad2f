"""What a process with the drop-in layer does for its memberships, three times in each lease.

It renews the lease; puts memberships back where the lease was gone; refreshes those that would soon expire; and takes
away those of channels whose consumer is gone. At exit it takes all of them with it.
"""

import asyncio
import atexit
import contextlib
import logging
import os
import random
import socket
import time
import weakref
from collections.abc import Iterable
from typing import Any

from ops.model.keys import Keyspace, index_entry
from ops.model.records import LEASE_COUNTS
from ops.store.leases import delete_lease, describe_process, mark_lease_ended, renew_lease
from ops.store.outages import GONE, LONGEST_WAIT_SECONDS

logger = logging.getLogger("ops.layers")

RENEWALS_PER_LEASE = 3
GRACE_SECONDS = 10.0
MEMBERS_AT_ONCE = 500
EXIT_SECONDS = 5.0


class Keeper:
    """Looks after the memberships of one layer instance, in the event loop that receives."""

    def __init__(self, layer: Any) -> None:
        self._layer = weakref.ref(layer)
        self._keyspace = Keyspace(layer.prefix)
        self._description: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._wake: asyncio.Event | None = None
        self._pid = 0
        self.leases_lost = 0
        self.members_put_back = 0
        self.members_refreshed = 0
        self.channels_discarded = 0

    def keep_running(self) -> None:
        """Start in this loop, unless at work there already. Called by whoever receives, so it must be cheap."""
        task = self._task
        if task is not None and not task.done() and task.get_loop() is asyncio.get_running_loop():
            return
        layer: Any = self._layer()
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._description = describe_process(layer.lease_seconds)
            atexit.register(_leave_at_exit, self._layer, os.getpid())
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(_keep(self._layer, self._wake), name="ops.layers keeper")

    def look_now(self) -> None:
        """Redis is back: do not wait for the next time."""
        if self._wake is not None:
            self._wake.set()

    async def look(self) -> bool:
        """One round over all shards; returns whether all of them answered."""
        layer: Any = self._layer()
        all_answered = True
        for index in range(layer.ring_size):
            try:
                await self._look_at(layer, index)
            except GONE:
                all_answered = False
        await self._discard_abandoned(layer)
        return all_answered

    async def _look_at(self, layer: Any, index: int) -> None:
        connection = layer.connection(index)
        was_there = await renew_lease(
            connection, self._keyspace, layer.client_prefix, self._describe(layer), layer.group_expiry
        )
        if not was_there:
            await self._put_back(layer, index)
        await self._refresh(layer, index)

    def _describe(self, layer: Any) -> dict[str, str]:
        counts = {name: getattr(self, name) for name in LEASE_COUNTS if name != "outages"}
        now = {"index_parts": layer.memberships.index_parts, "outages": layer.outages.count, **counts}
        return {**self._description, **{name: str(count) for name, count in now.items()}}

    async def _put_back(self, layer: Any, index: int) -> None:
        """The lease was gone: the shard is new, was emptied, or this process was taken for dead."""
        lost = _on_shard(layer, index, layer.memberships.by_group())
        members = sum(map(len, lost.values()))
        if members:
            self.leases_lost += 1
            self.members_put_back += members
            await _forget_index(layer, layer.connection(index))
            await _join(layer, index, lost, into_index=True)
            logger.warning("the lease on Redis shard %d was gone; %d memberships were put back", index, members)

    async def _refresh(self, layer: Any, index: int) -> None:
        """Renew memberships that have lived half their time, which ``group_send`` would otherwise cut off."""
        due = _on_shard(layer, index, layer.memberships.joined_before(time.time() - layer.group_expiry / 2))
        if due:
            await _join(layer, index, due, into_index=False)
            self.members_refreshed += sum(map(len, due.values()))

    async def _discard_abandoned(self, layer: Any) -> None:
        for channel, groups in layer.memberships.abandoned(time.monotonic(), GRACE_SECONDS):
            with contextlib.suppress(*GONE):
                for group in groups:
                    await layer.group_discard(group, channel)
                layer.receive_buffer.pop(channel, None)
                self.channels_discarded += 1
                logger.warning("the consumer of %s is gone; it was taken out of %d groups", channel, len(groups))


async def _keep(reference: "weakref.ref[Any]", wake: asyncio.Event) -> None:
    """The task. It holds the layer only while it looks."""
    try:
        while (layer := reference()) is not None:
            all_answered = await layer._keeper.look()
            pause = layer.lease_seconds / RENEWALS_PER_LEASE if all_answered else LONGEST_WAIT_SECONDS
            pause *= random.uniform(0.8, 1.0)  # noqa: S311  (spreads load, guards nothing)
            layer = None
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(wake.wait(), pause)
            wake.clear()
    finally:
        layer = reference()
        if layer is not None:
            # Nobody renews it from here on: without a record, the process is judged by its inbox again.
            for index in range(layer.ring_size):
                with contextlib.suppress(*GONE, asyncio.CancelledError):
                    await delete_lease(layer.connection(index), Keyspace(layer.prefix), layer.client_prefix)


def _on_shard(layer: Any, index: int, members: dict[str, list[str]]) -> dict[str, list[str]]:
    return {group: channels for group, channels in members.items() if layer.consistent_hash(group) == index}


async def _join(layer: Any, index: int, members: dict[str, list[str]], *, into_index: bool) -> None:
    """Add channels to their groups with the score of now; who leaves meanwhile is taken out again."""
    connection, now = layer.connection(index), time.time()
    for group, channels in members.items():
        key = layer._group_key(group)
        for start in range(0, len(channels), MEMBERS_AT_ONCE):
            batch = [
                name for name in channels[start : start + MEMBERS_AT_ONCE] if layer.memberships.is_member(group, name)
            ]
            if not batch:
                continue
            pipe = connection.pipeline(transaction=False)
            pipe.zadd(key, dict.fromkeys(batch, now))
            pipe.expire(key, layer.group_expiry)
            for name in batch:
                part = layer.index_key(name)
                if into_index:
                    pipe.rpush(part, index_entry(group, name))
                pipe.expire(part, layer.group_expiry)
            await pipe.execute()
            await _take_out(layer, connection, key, group, batch, now)


async def _forget_index(layer: Any, connection: Any) -> None:
    keyspace, parts = Keyspace(layer.prefix), layer.memberships.index_parts
    for start in range(0, parts, MEMBERS_AT_ONCE):
        numbers = range(start, min(start + MEMBERS_AT_ONCE, parts))
        await connection.unlink(*(keyspace.index(layer.client_prefix, number) for number in numbers))


async def _take_out(layer: Any, connection: Any, key: bytes, group: str, batch: Iterable[str], now: float) -> None:
    gone = []
    for name in batch:
        if layer.memberships.is_member(group, name):
            layer.memberships.joined(group, name, now)
        else:
            gone.append(name)
    if gone:
        await connection.zrem(key, *gone)


# At exit


class _ExitLoop(asyncio.SelectorEventLoop):
    """Resolves names without a thread: at exit no thread can be started any more."""

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        return socket.getaddrinfo(host, port, **options)


def _leave_at_exit(reference: "weakref.ref[Any]", pid: int) -> None:
    layer = reference()
    if layer is None or os.getpid() != pid:
        return
    loop = _ExitLoop()
    with contextlib.suppress(*GONE, RuntimeError):
        loop.run_until_complete(asyncio.wait_for(_leave(layer), EXIT_SECONDS))
    loop.close()


async def _leave(layer: Any) -> None:
    """Take every membership along. Marked first: if this is cut short, the rest is known to be dead."""
    keyspace, process = Keyspace(layer.prefix), layer.client_prefix
    for index in range(layer.ring_size):
        connection = layer.connection(index)
        await mark_lease_ended(connection, keyspace, process)
        pipe = connection.pipeline(transaction=False)
        for group, channels in _on_shard(layer, index, layer.memberships.by_group()).items():
            for start in range(0, len(channels), MEMBERS_AT_ONCE):
                pipe.zrem(layer._group_key(group), *channels[start : start + MEMBERS_AT_ONCE])
        await pipe.execute()
        await _forget_index(layer, connection)
        await delete_lease(connection, keyspace, process)
    layer.memberships.clear()
