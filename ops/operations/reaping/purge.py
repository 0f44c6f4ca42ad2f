"""Remove the members of processes that were judged dead, and what else these left behind."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from ops.model.keys import decode_name, encode_name, inbox_parts
from ops.model.runs import Leftover
from ops.operations.observe import Look, Observation, selection_on
from ops.operations.progress import Progress
from ops.store.connection.shards import OpenLayer, Shard
from ops.store.groups.census import GroupSlice, ScanNotes, read_slices
from ops.store.groups.index import forget_index, read_indexed
from ops.store.liveness.leases import forget_leases
from ops.store.liveness.markers import remove_markers
from ops.store.removal import journal
from ops.store.removal.judgement import Judgement
from ops.store.removal.retention import Retention

Reader = Callable[[Shard], AsyncGenerator[list[GroupSlice], None]]


@dataclass(frozen=True, slots=True)
class Removal:
    """Whose members are to go, as of which observation, and under which run their receipts are kept."""

    run_id: str
    dead: frozenset[str]
    observation: Observation
    glob: str | None
    retention: Retention


@dataclass(slots=True)
class Removed:
    """What went. ``removed``: members by process; ``moved``: inboxes whose process showed that it lives after all."""

    removed: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    moved: set[bytes] = field(default_factory=set)
    leftovers: list[Leftover] = field(default_factory=list)


async def purge(
    opened: OpenLayer, removal: Removal, purged: Removed, judgement: Judgement | None, progress: Progress
) -> None:
    """Remove, shard by shard at once, while the judgement holds; a shard that fails is marked in ``opened``.

    What went is counted in ``purged``, however this ends. ``judgement``: None in a dry run. Raises ShardError.
    """
    if judgement is None:
        await _count_members(opened, removal, purged)
    else:
        await _MemberRemoval(opened, removal, purged, judgement, progress).remove_members()
        judgement.forget_evidence()
    if removal.glob is None and opened.complete:
        await _set_aside_leftovers(opened, removal, purged, judgement)


class _MemberRemoval:
    """The members of the dead, on all shards."""

    def __init__(
        self, opened: OpenLayer, removal: Removal, purged: Removed, judgement: Judgement, progress: Progress
    ) -> None:
        self.purged = purged
        self._opened = opened
        self._removal = removal
        self._judgement = judgement
        self._progress = progress
        self._tallies = removal.observation.census.processes

    async def remove_members(self) -> None:
        """By the index of the processes that keep one; then, where that was not all, by reading the groups."""
        opened, removal = self._opened, self._removal
        if not await self._judgement.holds():
            return
        # A holder that was taken for dead and comes back finds its lease gone, and puts its memberships back. Where
        # that is gone at home already, as after a restart without data, the other shards may have it still.
        await asyncio.gather(*(forget_leases(shard, opened.keyspace, sorted(removal.dead)) for shard in opened.shards))
        leases = [
            removal.observation.leases[process] for process in removal.dead if process in removal.observation.leases
        ]
        indexed = [lease for lease in leases if lease.index_parts and removal.glob is None]
        if indexed:

            def by_index(shard: Shard) -> AsyncGenerator[list[GroupSlice], None]:
                return read_indexed(shard, opened.keyspace, indexed)

            await self._on_every_shard(by_index, [lease.process for lease in indexed])
        rest = [process for process in removal.dead if self.purged.removed[process] < self._tallies[process].members]
        if rest and opened.complete and not self._judgement.stopped:
            self.purged.kept = 0  # who stayed is met again
            await self._on_every_shard(self._by_group, rest, unindexed=bool(indexed))
        if opened.complete and not self._judgement.stopped:
            await asyncio.gather(*(forget_index(shard, opened.keyspace, indexed) for shard in opened.shards))

    def _by_group(self, shard: Shard) -> AsyncGenerator[list[GroupSlice], None]:
        return _read_groups(self._opened, self._removal, shard)

    async def _on_every_shard(self, read: Reader, processes: Collection[str], *, unindexed: bool = False) -> None:
        work = (self._on_shard(shard, read, processes, unindexed=unindexed) for shard in self._opened.answering)
        await asyncio.gather(*work)

    async def _on_shard(self, shard: Shard, read: Reader, processes: Collection[str], *, unindexed: bool) -> None:
        judged = _joined_by(self._removal, processes)
        purged = journal.RemovalTally()
        with shard.noting_failure():
            async with shard.wire() as writing:
                receipts = self._opened.keyspace.journal(self._removal.run_id)
                journal_seconds = await self._removal.retention.of_receipts(shard, receipts)
                script = journal.Remover(writing, shard, receipts, journal_seconds, self._judgement)
                purged = script.tally
                await script.load()
                if unindexed:
                    await script.begin_unindexed()
                async with script.counting():
                    await self._remove_by(script, read(shard), judged)
        self._count(purged, processes)

    async def _remove_by(
        self, script: journal.Remover, reading: AsyncGenerator[list[GroupSlice], None], judged: Mapping[bytes, float]
    ) -> None:
        groups = members = 0
        async with aclosing(reading) as pages:
            async for slices in pages:
                for found in slices:
                    await script.remove(found.key, *_judged_among(found.members, judged))
                    groups, members = groups + found.last, members + len(found.members)
                self._progress("removing", groups, members)
                if not await self._judgement.holds():
                    break
        await script.finish()

    def _count(self, purged: journal.RemovalTally, processes: Collection[str]) -> None:
        process_of = {encode_name(inbox): p for p in processes for inbox in self._tallies[p].inboxes}
        for inbox, count in purged.by_inbox.items():
            self.purged.removed[process_of[inbox]] += count
        self.purged.kept += purged.kept
        self.purged.moved |= purged.kept_inboxes


async def _set_aside_leftovers(
    opened: OpenLayer, removal: Removal, purged: Removed, judgement: Judgement | None
) -> None:
    """Inboxes and in-flight messages of the dead: nobody will read them, and the latter never expire."""
    if judgement is not None and await judgement.holds():
        inboxes = removal.observation.inboxes_of(removal.dead)
        await remove_markers(opened, {name for names in inboxes.values() for name in names})
    for process in sorted(removal.dead):
        if judgement is not None and not await judgement.holds():
            return
        tally = removal.observation.census.processes[process]
        # One that joined or left a group since it was judged is alive: it may want its messages.
        if any(encode_name(name) in purged.moved for name in tally.inboxes):
            continue
        for name in sorted(tally.inboxes):
            shard = opened.shard_of_inbox(name)
            # Nobody sends to a process without members any more: its inbox expires by itself, if it can.
            inbox = (opened.keyspace.inbox(name), "inbox", tally.members > 0)
            for key, kind, expiring_too in (inbox, (opened.keyspace.inflight(name), "inflight", True)):
                if judgement is None:
                    messages = await journal.count_messages(shard, key)
                else:
                    messages = await journal.set_aside(
                        opened, removal.run_id, removal.retention, shard, key, expiring_too=expiring_too
                    )
                if messages:
                    purged.leftovers.append(Leftover(decode_name(key), shard.index, kind, process, messages))


async def _count_members(opened: OpenLayer, removal: Removal, purged: Removed) -> None:
    """What would go: what was counted, or with a glob what is in the groups that match it."""
    tallies = removal.observation.census.processes
    if removal.glob is None:
        purged.removed.update({process: tallies[process].members for process in removal.dead})
        return
    judged = _joined_by(removal, removal.dead)
    process_of = {encode_name(inbox): process for process in removal.dead for inbox in tallies[process].inboxes}
    for shard in opened.answering:
        async with aclosing(_read_groups(opened, removal, shard)) as pages:
            async for slices in pages:
                for found in slices:
                    chosen, _ = _judged_among(found.members, judged)
                    purged.removed.update(process_of[inbox] for inbox in inbox_parts(chosen))


async def _read_groups(opened: OpenLayer, removal: Removal, shard: Shard) -> AsyncGenerator[list[GroupSlice], None]:
    selection = selection_on(opened, shard, Look(glob=removal.glob))
    async with shard.wire() as reading:
        # Without scores: the script has to look at them anyway.
        async for slices in read_slices(reading, opened.keyspace, selection, ScanNotes(), scores=False):
            yield slices


def _joined_by(removal: Removal, processes: Collection[str]) -> dict[bytes, float]:
    """Inbox -> the join time up to which its members were judged."""
    tallies = removal.observation.census.processes
    return {
        encode_name(inbox): tallies[process].newest_joined_at
        for process in processes
        for inbox in tallies[process].inboxes
    }


def _judged_among(members: list[bytes], judged: Mapping[bytes, float]) -> tuple[list[bytes], list[float]]:
    """The channels of judged inboxes, each with the time by which it had joined when that was judged."""
    inboxes = inbox_parts(members)
    chosen = [member for member, inbox in zip(members, inboxes, strict=True) if inbox in judged]
    return chosen, [judged[inbox] for inbox in inboxes if inbox in judged]
