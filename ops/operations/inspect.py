"""See who is in which group, and which members are dead."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from dataclasses import dataclass, replace

from ops.exceptions import ShardError
from ops.model.groups import Group, Inspection, Member, Process, StateCounts
from ops.model.keys import Inbox, decode_name, inbox_of, inbox_part, inbox_parts
from ops.model.liveness.evidence import AppearedMeanwhile, NoProcessInName
from ops.model.liveness.judge import MEMBER_STATES, State, Verdict
from ops.model.liveness.moments import Moment, look_after
from ops.operations.observe import Look, Observation, observe, selection_on
from ops.operations.progress import Progress, no_progress
from ops.store.connection.shards import OpenLayer, Shard, class_path
from ops.store.groups.census import Census, GroupSlice, ScanNotes, read_slices
from ops.store.groups.pubsub import count_subscribers

APPEARED = Verdict(State.UNKNOWN, (AppearedMeanwhile(),))
GENERAL = Verdict(State.UNKNOWN, (NoProcessInName(general=True),))
UNNAMED = Verdict(State.UNKNOWN, (NoProcessInName(general=False),))
PUBSUB_NOTE = "publish/subscribe: members are subscribed connections; Redis does not know their channel names"


@dataclass(frozen=True, slots=True)
class InspectOptions:
    """What to show. ``states``: only groups with members in one of them, and only those members."""

    look: Look
    members: bool = False
    states: Collection[str] = MEMBER_STATES


async def summarize(opened: OpenLayer, options: InspectOptions, progress: Progress = no_progress) -> Inspection:
    """Totals and processes: one pass, in memory that grows with the processes, and by a mark for each group."""
    if not opened.backend.keeps_members:
        found = await _inspect_pubsub(opened, options)
        return replace(found, groups=())
    observation = await observe(opened, options.look, progress)
    census = observation.census
    totals = Counter(unknown=census.unnamed)
    processes = []
    for process, verdict in observation.verdicts.items():
        members = census.processes[process].members
        totals[verdict.state.of_members] += members
        processes.append(Process(process, verdict, members, observation.leases.get(process)))
    return replace(
        _begin(opened, observation),
        total_groups=census.groups,
        totals=StateCounts(**totals),
        processes=tuple(processes),
    )


async def inspect(opened: OpenLayer, options: InspectOptions, progress: Progress = no_progress) -> "GroupStream":
    """Look, then read the groups again, one after the other.

    The first pass tells which processes there are, the second shows each group in the light of the verdicts on them,
    so that no more than one group is held at a time.
    """
    if not opened.backend.keeps_members:
        return _SubscribedGroups(await _inspect_pubsub(opened, options))
    return _JudgedGroups(opened, options, await observe(opened, options.look, progress), progress)


class GroupStream:
    """Groups as they are read: ``async for group in stream.groups()``, once."""

    @property
    def inspection(self) -> Inspection:
        """What has been found so far, without the groups themselves; all of it once every group has been read."""
        raise NotImplementedError

    def groups(self) -> AsyncGenerator[Group, None]:
        raise NotImplementedError

    async def collect(self) -> Inspection:
        """All of it, with the groups."""
        groups = tuple([group async for group in self.groups()])
        return replace(self.inspection, groups=groups)


async def count_group(opened: OpenLayer, group: str) -> int:
    """How many members ``group`` has. Raises ShardError if its shard does not answer or the key is no group's."""
    keeps_members = opened.backend.keeps_members
    shards = (opened.shard_of_group(group),) if keeps_members else opened.databases
    for shard in shards:
        if shard.problem is not None:
            raise ShardError(shard.problem)
    if keeps_members:
        return int(await shards[0].execute("ZCARD", opened.keyspace.group(group)))
    counts = [await count_subscribers(opened, shard, (group,), None) for shard in shards]
    return sum(count.get(group, 0) for count in counts)


def _begin(opened: OpenLayer, observation: Observation) -> Inspection:
    return Inspection(
        layer=opened.alias,
        backend=class_path(opened.alias),
        taken_at=observation.now,
        complete=opened.complete,
        shards=tuple(shard.info for shard in opened.shards),
        notes=tuple(observation.notes),
        absent=frozenset(observation.census.absent),
    )


class _JudgedGroups(GroupStream):
    """The second pass: every group with its members' states."""

    def __init__(
        self, opened: OpenLayer, options: InspectOptions, observation: Observation, progress: Progress
    ) -> None:
        self._opened = opened
        self._options = options
        self._observation = observation
        self._progress = progress
        self._groups = 0
        self._totals: Counter[str] = Counter()
        self._failures: list[str] = []
        self._inboxes: dict[bytes, Inbox | None] = {}
        self._of_process: Counter[str] = Counter()
        self._words_of: dict[int, tuple[str, ...]] = {}

    @property
    def inspection(self) -> Inspection:
        verdicts, leases = self._observation.verdicts, self._observation.leases
        return replace(
            _begin(self._opened, self._observation),
            total_groups=self._groups,
            totals=StateCounts(**self._totals),
            processes=tuple(
                Process(process, verdicts.get(process, APPEARED), members, leases.get(process))
                for process, members in self._of_process.items()
            ),
            notes=(*self._observation.notes, *self._failures),
        )

    async def groups(self) -> AsyncGenerator[Group, None]:
        for shard in self._opened.answering:
            try:
                async with aclosing(self._groups_of(shard)) as groups:
                    async for group in groups:
                        self._groups += bool(group.counts.members)
                        if not group.counts.members or any(getattr(group.counts, s) for s in self._options.states):
                            yield group
            except ShardError as error:
                shard.note_failure(error)
                self._failures.append(str(error))

    async def _groups_of(self, shard: Shard) -> AsyncGenerator[Group, None]:
        selection = selection_on(self._opened, shard, self._options.look)
        parts: list[GroupSlice] = []
        async with shard.wire() as wire:
            async for slices in read_slices(wire, self._opened.keyspace, selection, ScanNotes()):
                for found in slices:
                    parts.append(found)
                    if found.last:
                        group = self._group(shard, parts)
                        parts = []
                        if group.counts.members or self._options.look.names:
                            yield group
                self._progress("reading", self._groups, self._totals.total())

    def _group(self, shard: Shard, parts: list[GroupSlice]) -> Group:
        counts: Counter[str] = Counter()
        channels: list[Member] = []
        for part in reversed(parts):
            for inbox, members in Counter(inbox_parts(part.members)).items():
                process, verdict = self._judged(inbox)
                counts[verdict.state.of_members] += members
                if process is not None:
                    self._of_process[process] += members
            if self._options.members:
                channels.extend(self._members(part))
        self._totals.update(counts)
        first = next((part.scores[0] for part in reversed(parts) if part.scores), None)
        name = self._opened.keyspace.group_name(parts[0].key)
        return Group(name, shard.index, StateCounts(**counts), first, tuple(channels))

    def _members(self, part: GroupSlice) -> list[Member]:
        members = []
        for raw, joined_at in zip(part.members, part.scores, strict=True):
            process, verdict = self._judged(inbox_part(raw))
            state = verdict.state.of_members
            if state in self._options.states:
                members.append(Member(decode_name(raw), process, state, joined_at, self._words(verdict)))
        return members

    def _words(self, verdict: Verdict) -> tuple[str, ...]:
        """The evidence in words, put together once for all members of a process."""
        if id(verdict) not in self._words_of:
            self._words_of[id(verdict)] = tuple(verdict.words)
        return self._words_of[id(verdict)]

    def _judged(self, inbox_part: bytes) -> tuple[str | None, Verdict]:
        """The process behind the part of a channel name up to its ``!`` (empty: a general channel), and its verdict."""
        if not inbox_part:
            return None, GENERAL
        if inbox_part not in self._inboxes:
            self._inboxes[inbox_part] = inbox_of(decode_name(inbox_part))
        inbox = self._inboxes[inbox_part]
        if inbox is None:
            return None, UNNAMED
        return inbox.process, self._observation.verdicts.get(inbox.process, APPEARED)


class _SubscribedGroups(GroupStream):
    """Groups of a publish/subscribe layer: their number is small, so all have been read."""

    def __init__(self, found: Inspection) -> None:
        self._found = found

    @property
    def inspection(self) -> Inspection:
        return replace(self._found, groups=())

    async def groups(self) -> AsyncGenerator[Group, None]:
        for group in self._found.groups:
            yield group


async def _inspect_pubsub(opened: OpenLayer, options: InspectOptions) -> Inspection:
    """Publish/subscribe: a subscription is alive by its nature, and Redis knows no more than their number."""
    taken_at = time.time()
    groups: dict[str, Group] = {}

    async def read(shard: Shard) -> None:
        nonlocal taken_at
        with shard.noting_failure():
            counts = await count_subscribers(opened, shard, options.look.names, options.look.glob)
            taken_at = await shard.now()
            for name, subscribers in counts.items():
                groups[name] = Group(name, shard.index, StateCounts(live=subscribers), None)

    await asyncio.gather(*(read(shard) for shard in opened.answering))
    begun = _begin(opened, Observation(look_after(None, Moment(taken_at), ""), Census(), {}, {}, notes=[PUBSUB_NOTE]))
    return replace(
        begun,
        # The layer alone knows on which shard a group would be.
        absent=frozenset(options.look.names) - groups.keys() if opened.complete else frozenset(),
        total_groups=len(groups),
        totals=StateCounts(live=sum(group.counts.live for group in groups.values())),
        groups=tuple(groups.values()) if "live" in options.states else (),
    )
