"""What a process with the drop-in layer does for its memberships, three times in each lease.

It renews the lease; puts memberships back where they may be gone; and refreshes those that would soon expire. Between,
it takes channels out of their groups as soon as their consumer has ended. At exit it takes all of them with it.
"""

import asyncio
import contextlib
import functools
import logging
import os
import time
import weakref
from collections.abc import Coroutine, Iterable, Sequence
from itertools import chain
from typing import Any

from ops import compat
from ops.application.background import start_task
from ops.application.layer.outages import LONGEST_WAIT_SECONDS
from ops.application.layer.own_index import forget_index, has_index, members_in, read_index, take_out_all
from ops.application.layer.protocol import DropInLayer
from ops.application.layer.repairs import Member, Repairs, on_shard
from ops.application.observation import server_name
from ops.application.process_exit import at_exit
from ops.model.disconnects.conclusions import describe_exception
from ops.model.keys import Keyspace
from ops.model.liveness.lease import LEASE_COUNTS, RENEWALS_PER_LEASE, renewal_seconds, shard_of_hosts
from ops.store.connection.failures import will_pass
from ops.store.connection.scripts import run_script
from ops.store.connection.waiting import spread
from ops.store.liveness.leases import (
    Renewal,
    delete_lease,
    describe_process,
    mark_lease_ended,
    read_run_since,
    renew_lease,
)

logger = logging.getLogger("ops.layers")

LOOKS_PER_GROUP_EXPIRY = 4
VERIFIED_EACH_TIME = 1000  # of each shard at each look
VERIFIED_AT_ONCE = 500  # of one script: at most some 1 ms of the server's time, if each is of another group
SETTLED_SECONDS = 1.0
END_SECONDS = 2.0


class Keeper:
    """Looks after the memberships of one layer instance, in the event loop that receives."""

    def __init__(self, layer: DropInLayer) -> None:
        self._layer = weakref.ref(layer)
        self._keyspace = Keyspace(layer.prefix)
        self._complaints: set[str] = set()
        self._begin()
        _keepers.add(self)
        _watch_the_process()

    def _begin(self) -> None:
        """As a process that has nothing in Redis."""
        self._description: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._wake: asyncio.Event | None = None
        self._under_way: dict[int, asyncio.Task[bool]] = {}
        self._settling: asyncio.Task[None] | None = None
        self._settle_again = False
        # shard -> the history of its server in which all memberships are known to be; None where some may be missing
        self._server_runs: dict[int, bytes | None] = {}
        self._renewed_at: dict[int, float] = {}
        self._unverified: dict[int, list[Member]] = {}
        self.repairs = Repairs()
        self.leases_lost = 0
        self.members_put_back = 0
        self.members_refreshed = 0
        self.channels_discarded = 0

    @property
    def _held(self) -> DropInLayer:
        """The layer, for whoever is called by it or works for it."""
        layer = self._layer()
        assert layer is not None
        return layer

    @property
    def holds_something(self) -> bool:
        """Whether anything of this process is in Redis that would be left over."""
        layer = self._layer()
        return layer is not None and bool(self._server_runs or self.repairs.unsettled or len(layer.memberships))

    def keep_running(self) -> None:
        """Start in this loop, unless at work there already. Called by whoever receives, so it must be cheap."""
        loop, task = asyncio.get_running_loop(), self._task
        if task is not None and not task.done() and task.get_loop() is loop:
            return
        layer = self._held
        if not layer.holds_lease:
            return
        if not self._description:
            # Who writes no such field may have consumers that die of a heartbeat.
            answers = {"heartbeats": "1"}
            self._description = describe_process(layer, layer.lease_seconds, server_name()) | answers
        self._wake, self._under_way = asyncio.Event(), {}
        self._task = start_task(_keep(self._layer, self._wake), "keeper")

    async def stop(self) -> None:
        """End in this loop, if at work there."""
        task = self._task
        if task is not None and not task.done() and task.get_loop() is asyncio.get_running_loop():
            task.cancel()
            await asyncio.wait([task])

    def look_now(self) -> None:
        """Redis is back: do not wait for the next time."""
        if self._wake is not None:
            self._wake.set()

    async def look(self, within_seconds: float | None = None) -> bool:
        """One round over all shards; returns whether all of them answered, in time.

        What takes longer goes on meanwhile, and is not begun again by the next round. So no shard that is slow keeps
        this process from renewing its leases on the others.
        """
        layer = self._held
        for index in range(layer.ring_size):
            if index not in self._under_way or self._under_way[index].done():
                self._under_way[index] = start_task(self._look_at(layer, index), f"shard {index}")
        tasks = tuple(self._under_way.values())
        await asyncio.wait(tasks, timeout=within_seconds)
        return all(task.done() and not task.cancelled() and task.result() for task in tasks)

    async def _look_at(self, layer: DropInLayer, index: int) -> bool:
        try:
            await self._renew(layer, index)
            self.repairs.doubt_again()
            await self.repairs.settle(layer, index)
            await self._refresh(layer, index)
            await self._verify(layer, index)
        except Exception as error:
            if will_pass(error):
                return False
            # A user without the rights, a key of another type: it may last, and is no reason to stop.
            if str(error) not in self._complaints:
                self._complaints.add(str(error))
                # Without its traceback, whose last line may quote what the server was sent.
                logger.error("the lease on Redis shard %d cannot be kept: %s", index, describe_exception(error)[0])
        return True

    async def _renew(self, layer: DropInLayer, index: int) -> None:
        keep_seconds, began = max(layer.group_expiry, RENEWALS_PER_LEASE * layer.lease_seconds), time.time()
        client = layer.connection(index)
        try:
            renewal = await renew_lease(
                client, self._keyspace, layer.client_prefix, self._describe(layer, index), keep_seconds
            )
        except BaseException:
            # It may have been done, and its answer have been that the lease was gone: nobody will hear that again.
            if index in self._server_runs:
                self._server_runs[index] = None
            raise
        await self._heed(layer, client, renewal.taken_out, began)
        if renewal.was_there and self._server_runs.get(index) == renewal.history:
            self._renewed_at[index] = renewal.at
            return
        first_time = index not in self._server_runs
        if not first_time:
            self._server_runs[index] = None
        # What joined before there was a lease may be gone, unless its index is there.
        if not (first_time and await has_index(layer, client)):
            why = None if first_time else await self._why_lost(layer, index, renewal)
            await self._put_back(layer, index, why)
        self._server_runs[index] = renewal.history
        self._renewed_at[index] = renewal.at

    async def _heed(self, layer: DropInLayer, client: Any, taken_out: Sequence[bytes], began: float) -> None:
        """Know no more as members whom other processes took out.

        Not who has joined again since ``began``, when this was asked for, or is joining: a join that is done takes its
        own entry away.
        """
        for member in members_in(layer.client_prefix, taken_out):
            joined_at = layer.memberships.joined_at(*member)
            if member not in self.repairs.joining and (joined_at is None or joined_at < began):
                await self.repairs.forget(layer, client, member)

    async def _why_lost(self, layer: DropInLayer, index: int, renewal: Renewal) -> str:
        before = self._renewed_at.get(index, renewal.at)
        silent_seconds = renewal.at - before
        if not renewal.was_there and silent_seconds > layer.lease_seconds:
            run = await read_run_since(layer.connection(0), self._keyspace, before)
            if run is not None:
                return (
                    f"this process was silent for {silent_seconds:.0f} s, and reap_stale took it for dead (run {run})"
                )
        return f"Redis shard {index} may have lost memberships"

    def _describe(self, layer: DropInLayer, index: int) -> dict[str, str]:
        counts = {name: getattr(self, name) for name in LEASE_COUNTS if name != "outages"}
        now = {"index_parts": layer.memberships.index_parts, "outages": layer.outages.count, **counts}
        place = {"shard": shard_of_hosts(index, layer.ring_size)}
        return {**self._description, **place, **{name: str(count) for name, count in now.items()}}

    async def _put_back(self, layer: DropInLayer, index: int, why: str | None) -> None:
        """The shard is new, was emptied or lost its latest writes, or this process was taken for dead.

        What its index names beyond the memberships of now was left, and the shard has lost that. The index stays while
        it is written again: the server may go at any time, and return with what it has now.
        """
        indexed = await read_index(layer, layer.connection(index))
        self.repairs.in_doubt.update(member for member in indexed if not layer.memberships.is_member(*member))
        lost = on_shard(layer, index, layer.memberships.joined_before(float("inf")))
        await self.repairs.join(layer, index, lost, anew=True)
        if lost and why is not None:
            self.leases_lost += 1
            self._note_put_back(why, len(lost))

    def _note_put_back(self, why: str, count: int) -> None:
        self.members_put_back += count
        logger.warning("%s; %d were put back", why, count)

    async def _verify(self, layer: DropInLayer, index: int) -> None:
        """Put back members whose group was evicted or deleted: a part of all at each look, one after the other."""
        unverified = self._unverified.get(index)
        if not unverified:
            # Not those that are joining just now.
            settled = layer.memberships.joined_before(time.time() - SETTLED_SECONDS)
            unverified = self._unverified[index] = on_shard(layer, index, settled)
        sample = unverified[-VERIFIED_EACH_TIME:]
        del unverified[-VERIFIED_EACH_TIME:]
        for start in range(0, len(sample), VERIFIED_AT_ONCE):
            lost = await self._lost_among(layer, index, sample[start : start + VERIFIED_AT_ONCE])
            if lost and not await layer.connection(index).exists(self._keyspace.lease(layer.client_prefix)):
                # More than a group is gone, or this process was taken for dead since it renewed its lease.
                self.look_now()
                return
            if lost:
                await self.repairs.join(layer, index, lost, anew=True)
                self._note_put_back(
                    f"Redis shard {index} lost memberships with their groups, which were evicted or deleted", len(lost)
                )

    async def _lost_among(self, layer: DropInLayer, index: int, members: Sequence[Member]) -> list[Member]:
        by_group: dict[str, list[tuple[str, float]]] = {}
        for group, channel in members:
            joined_at = layer.memberships.joined_at(group, channel)
            if joined_at is not None:
                by_group.setdefault(group, []).append((channel, joined_at))
        if not by_group:
            return []
        keys = [compat.group_key(layer, group) for group in by_group]
        args: list[Any] = []
        for joined in by_group.values():
            args += [len(joined), *chain.from_iterable(joined)]
        asked = [(group, channel) for group, joined in by_group.items() for channel, _ in joined]
        lost = await run_script(layer.connection(index), "find_lost_members", keys, args)
        return [asked[position - 1] for position in lost]

    async def _refresh(self, layer: DropInLayer, index: int) -> None:
        """Renew memberships that have lived half their time, which ``group_send`` would otherwise cut off."""
        joined_before, now = layer.memberships.joined_before, time.time()
        # Of those that come too late, as after a long sleep, somebody may have taken them out for their age.
        for age, anew in ((layer.group_expiry, True), (layer.group_expiry / 2, False)):
            due = on_shard(layer, index, joined_before(now - age))
            if due:
                await self.repairs.join(layer, index, due, anew=anew)
                self.members_refreshed += len(due)

    def discard(self, channel: str, groups: Sequence[str]) -> None:
        """The consumer of ``channel`` has ended, in these groups."""
        if groups:
            self.channels_discarded += 1
            logger.warning("the consumer of %s is gone; it is taken out of %d groups", channel, len(groups))
        self.take_out([(group, channel) for group in groups])

    def take_out(self, members: Iterable[Member]) -> None:
        """Take out who is no member any more, and whatever else is in doubt: soon, and many at a time."""
        self.repairs.in_doubt.update(members)
        self._settle_again = bool(self.repairs.in_doubt)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # A coroutine is destroyed after its loop has ended: the next look, or the exit, settles it.
        task = self._settling
        if self._settle_again and (task is None or task.done() or task.get_loop() is not loop):
            self._settling = start_task(self._settle(), "settle")

    async def _settle(self) -> None:
        """What fails is in doubt as before, and the next look at its shard settles it."""
        while self._settle_again and (layer := self._layer()) is not None:
            self._settle_again = False
            await self._settle_all(layer)

    async def _settle_all(self, layer: DropInLayer) -> None:
        shards = range(layer.ring_size)
        await asyncio.gather(*(self.repairs.settle(layer, index) for index in shards), return_exceptions=True)

    async def end_with_loop(self) -> None:
        """The loop ends, and its consumers with it. Quickly and quietly: nobody waits for this."""
        layer = self._held
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._end(layer), END_SECONDS)

    async def _end(self, layer: DropInLayer) -> None:
        loop = asyncio.get_running_loop()
        owners: list[Any] = [
            owner for owner in layer.memberships.owners() if owner.get_loop() is loop and not owner.done()
        ]
        if owners:
            await asyncio.wait(owners, timeout=END_SECONDS / 2)
        at_work = [task for task in (*self._under_way.values(), self._settling) if task and task.get_loop() is loop]
        for task in at_work:
            task.cancel()
        if at_work:
            await asyncio.wait(at_work)
        await self._settle_all(layer)
        if not len(layer.memberships):
            # Nobody renews it from here on. With members left, the record says when this process was last seen.
            for index in range(layer.ring_size):
                await delete_lease(layer.connection(index), self._keyspace, layer.client_prefix)
            self._server_runs.clear()

    def begin_in_child(self) -> None:
        """This process was forked: channels and memberships are its parent's."""
        layer = self._layer()
        if layer is not None:
            self._begin()
            layer.begin_in_child()

    async def leave(self) -> None:
        """Take every membership along. Marked first: if this is cut short, the rest is known to be dead."""
        layer = self._held
        await asyncio.gather(*(self._leave(layer, index) for index in range(layer.ring_size)), return_exceptions=True)

    async def _leave(self, layer: DropInLayer, index: int) -> None:
        connection, process = layer.connection(index), layer.client_prefix
        await mark_lease_ended(connection, self._keyspace, process, layer.group_expiry)
        known = {*layer.memberships.joined_before(float("inf")), *self.repairs.unsettled}
        await take_out_all(layer, connection, on_shard(layer, index, known))
        # What was being left when the loop stopped in the middle of it, as Granian's does.
        await take_out_all(layer, connection, [*{*await read_index(layer, connection)} - known])
        await forget_index(layer, connection)
        await delete_lease(connection, self._keyspace, process)


async def _keep(reference: "weakref.ref[Any]", wake: asyncio.Event) -> None:
    """The task. It holds the layer only while it looks, and ends where another loop has taken over."""
    me = asyncio.current_task()
    try:
        while (layer := reference()) is not None and layer._keeper._task is me:
            wake.clear()
            answered = await layer._keeper.look(layer.lease_seconds / RENEWALS_PER_LEASE)
            pause = min(renewal_seconds(layer.lease_seconds), layer.group_expiry / LOOKS_PER_GROUP_EXPIRY)
            pause = pause if answered else min(pause, LONGEST_WAIT_SECONDS)
            layer = None
            alarm = asyncio.get_running_loop().call_later(spread(0.8 * pause, pause), wake.set)
            try:
                await wake.wait()
            finally:
                alarm.cancel()
    except asyncio.CancelledError:
        layer = reference()
        if layer is not None and layer._keeper._task is me:
            await layer._keeper.end_with_loop()
        raise


# The process: its exit, and its children

_keepers: "weakref.WeakSet[Keeper]" = weakref.WeakSet()


@functools.cache
def _watch_the_process() -> None:
    at_exit(_leave_at_exit)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_begin_in_child)


def _begin_in_child() -> None:
    for keeper in list(_keepers):
        keeper.begin_in_child()


def _leave_at_exit() -> Coroutine[Any, Any, None] | None:
    holders = [keeper for keeper in _keepers if keeper.holds_something]
    return _leave_all(holders) if holders else None


async def _leave_all(keepers: Iterable[Keeper]) -> None:
    await asyncio.gather(*(keeper.leave() for keeper in keepers), return_exceptions=True)
