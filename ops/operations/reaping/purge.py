"""Remove the members of processes that were judged dead, and what else these left behind."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field

from ops.exceptions import ShardError
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

Reader = Callable[[Shard], AsyncIterator[list[GroupSlice]]]


@dataclass(frozen=True, slots=True)
class Doom:
    """Whose members are to go, as of which observation, and under which run their receipts are kept."""

    run_id: str
    dead: frozenset[str]
    observation: Observation
    glob: str | None
    journal_seconds: float


@dataclass(slots=True)
class Purged:
    """What went. ``removed``: members by process; ``moved``: inboxes whose process showed that it lives after all."""

    removed: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    moved: set[bytes] = field(default_factory=set)
    leftovers: list[Leftover] = field(default_factory=list)


async def purge(opened: OpenLayer, doom: Doom, purged: Purged, *, dry_run: bool, progress: Progress) -> None:
    """Remove, shard by shard at once; a shard that fails is marked in ``opened``.

    What went is counted in ``purged``, however this ends. Raises ShardError.
    """
    work = _Purging(opened, doom, purged, dry_run, progress)
    if dry_run:
        await work.count_members()
    else:
        await work.remove_members()
    if doom.glob is None and opened.complete:
        await work.set_aside_leftovers()


class _Purging:
    def __init__(self, opened: OpenLayer, doom: Doom, purged: Purged, dry_run: bool, progress: Progress) -> None:
        self.purged = purged
        self._opened = opened
        self._doom = doom
        self._dry_run = dry_run
        self._progress = progress
        self._tallies = doom.observation.census.processes

    async def count_members(self) -> None:
        """What would go: what was counted, or with a glob what is in the groups that match it."""
        if self._doom.glob is None:
            self.purged.removed.update({process: self._tallies[process].members for process in self._doom.dead})
            return
        judged = self._judged(self._doom.dead)
        process_of = {encode_name(inbox): p for p in self._doom.dead for inbox in self._tallies[p].inboxes}
        for shard in self._opened.answering:
            async for slices in self._by_group(shard):
                for found in slices:
                    chosen, _ = _judged_among(found.members, judged)
                    self.purged.removed.update(process_of[inbox] for inbox in inbox_parts(chosen))

    def _judged(self, processes: Collection[str]) -> dict[bytes, float]:
        """Inbox -> the join time up to which its members were judged."""
        return {
            encode_name(inbox): self._tallies[process].newest_joined_at
            for process in processes
            for inbox in self._tallies[process].inboxes
        }

    async def remove_members(self) -> None:
        """By the index of the processes that keep one; then, where that was not all, by reading the groups."""
        opened, doom = self._opened, self._doom
        # A holder that was taken for dead and comes back finds its lease gone, and puts its memberships back. Where
        # that is gone at home already, as after a restart without data, the other shards may have it still.
        await asyncio.gather(*(forget_leases(shard, opened.keyspace, sorted(doom.dead)) for shard in opened.shards))
        leases = [doom.observation.leases[process] for process in doom.dead if process in doom.observation.leases]
        indexed = [lease for lease in leases if lease.index_parts and doom.glob is None]
        if indexed:

            def by_index(shard: Shard) -> AsyncIterator[list[GroupSlice]]:
                return read_indexed(shard, opened.keyspace, indexed)

            await self._on_every_shard(by_index, [lease.process for lease in indexed])
        rest = [process for process in doom.dead if self.purged.removed[process] < self._tallies[process].members]
        if rest and opened.complete:
            self.purged.kept = 0  # who stayed is met again
            await self._on_every_shard(self._by_group, rest)
        if opened.complete:
            await asyncio.gather(*(forget_index(shard, opened.keyspace, indexed) for shard in opened.shards))

    async def _by_group(self, shard: Shard) -> AsyncIterator[list[GroupSlice]]:
        selection = selection_on(self._opened, shard, Look(glob=self._doom.glob))
        async with shard.wire() as reading:
            # Without scores: the script has to look at them anyway.
            async for slices in read_slices(reading, self._opened.keyspace, selection, ScanNotes(), scores=False):
                yield slices

    async def _on_every_shard(self, read: Reader, processes: Collection[str]) -> None:
        await asyncio.gather(*(self._on_shard(shard, read, processes) for shard in self._opened.answering))

    async def _on_shard(self, shard: Shard, read: Reader, processes: Collection[str]) -> None:
        judged = self._judged(processes)
        purged = journal.Purged()
        try:
            async with shard.wire() as writing:
                script = journal.Purge(
                    writing, self._opened.keyspace.journal(self._doom.run_id), self._doom.journal_seconds
                )
                purged = script.purged
                await script.load()
                groups = members = 0
                async for slices in read(shard):
                    for found in slices:
                        await script.remove(found.key, *_judged_among(found.members, judged))
                        groups, members = groups + found.last, members + len(found.members)
                    self._progress("removing", groups, members)
                await script.finish()
        except ShardError as error:
            shard.problem = str(error)
        self._count(purged, processes)

    def _count(self, purged: journal.Purged, processes: Collection[str]) -> None:
        process_of = {encode_name(inbox): p for p in processes for inbox in self._tallies[p].inboxes}
        for inbox, count in purged.by_inbox.items():
            self.purged.removed[process_of[inbox]] += count
        self.purged.kept += purged.kept
        self.purged.moved |= purged.kept_inboxes

    async def set_aside_leftovers(self) -> None:
        """Inboxes and in-flight messages of the dead: nobody will read them, and the latter never expire."""
        keyspace = self._opened.keyspace
        if not self._dry_run:
            inboxes = self._doom.observation.inboxes_of(self._doom.dead)
            await remove_markers(self._opened, {name for names in inboxes.values() for name in names})
        for process in sorted(self._doom.dead):
            tally = self._tallies[process]
            # One that joined or left a group since it was judged is alive: it may want its messages.
            if any(encode_name(name) in self.purged.moved for name in tally.inboxes):
                continue
            for name in sorted(tally.inboxes):
                shard = self._opened.shard_of_inbox(name)
                # Nobody sends to a process without members any more: its inbox expires by itself, if it can.
                inbox = (keyspace.inbox(name), "inbox", tally.members > 0)
                for key, kind, expiring_too in (inbox, (keyspace.inflight(name), "inflight", True)):
                    messages = await self._set_aside(shard, key, expiring_too=expiring_too)
                    if messages:
                        self.purged.leftovers.append(Leftover(decode_name(key), shard.index, kind, process, messages))

    async def _set_aside(self, shard: Shard, key: bytes, *, expiring_too: bool) -> int:
        if self._dry_run:
            return await journal.count_messages(shard, key)
        doom = self._doom
        return await journal.set_aside(
            self._opened, doom.run_id, shard, key, doom.journal_seconds, expiring_too=expiring_too
        )


def _judged_among(members: list[bytes], judged: Mapping[bytes, float]) -> tuple[list[bytes], list[float]]:
    """The channels of judged inboxes, each with the time by which it had joined when that was judged."""
    inboxes = inbox_parts(members)
    chosen = [member for member, inbox in zip(members, inboxes, strict=True) if inbox in judged]
    return chosen, [judged[inbox] for inbox in inboxes if inbox in judged]
