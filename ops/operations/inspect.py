"""See who is in which group, and which members are dead."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from dataclasses import dataclass

from ops.exceptions import ShardError
from ops.model.groups import Group, Inspection, Member, Process, StateCounts
from ops.model.keys import Inbox, decode_name, inbox_of
from ops.model.liveness.evidence import AppearedMeanwhile, NoProcessInName
from ops.model.liveness.judge import MEMBER_STATES, State, Verdict
from ops.operations.observe import Look, Observation, Progress, no_progress, observe, selection_on
from ops.store.connection.shards import OpenLayer, Shard
from ops.store.groups.census import Census, GroupSlice, ScanNotes, read_slices
from ops.store.groups.pubsub import count_subscribers

APPEARED = Verdict(State.UNKNOWN, (AppearedMeanwhile(),))
GENERAL = Verdict(State.UNKNOWN, (NoProcessInName(general=True),))
UNNAMED = Verdict(State.UNKNOWN, (NoProcessInName(general=False),))


@dataclass(frozen=True, slots=True)
class InspectOptions:
    """What to show. ``states``: only groups with members in one of them, and only those members."""

    look: Look
    members: bool = False
    states: Collection[str] = MEMBER_STATES


async def summarize(opened: OpenLayer, options: InspectOptions, progress: Progress = no_progress) -> Inspection:
    """Totals and processes: one pass, in memory that grows with the processes, and by a mark for each group."""
    if opened.is_pubsub:
        inspection, _ = await _inspect_pubsub(opened, options)
        return inspection
    observation = await observe(opened, options.look, progress)
    inspection = _begin(opened, observation)
    inspection.total_groups = observation.census.groups
    inspection.totals.unknown += observation.census.unnamed
    for process, verdict in observation.verdicts.items():
        members = observation.census.processes[process].members
        inspection.totals.count(verdict.state.of_members, members)
        inspection.processes.append(Process(process, verdict, members, observation.leases.get(process)))
    return inspection


async def inspect(
    opened: OpenLayer, options: InspectOptions, progress: Progress = no_progress
) -> tuple[Inspection, AsyncGenerator[Group, None]]:
    """Look, then read the groups again: an Inspection that is whole once the groups have been taken from the iterator.

    The first pass tells which processes there are, the second shows each group in the light of the verdicts on them,
    so that no more than one group is held at a time.
    """
    if opened.is_pubsub:
        return await _inspect_pubsub(opened, options)
    observation = await observe(opened, options.look, progress)
    inspection = _begin(opened, observation)
    return inspection, _Reader(opened, options, observation, inspection, progress).groups()


def _begin(opened: OpenLayer, observation: Observation) -> Inspection:
    return Inspection(
        layer=opened.alias,
        backend=opened.backend,
        taken_at=observation.now,
        complete=opened.complete,
        shards=tuple(shard.info for shard in opened.shards),
        notes=list(observation.notes),
        absent=frozenset(observation.census.absent),
    )


class _Reader:
    """The second pass: every group with its members' states."""

    def __init__(
        self,
        opened: OpenLayer,
        options: InspectOptions,
        observation: Observation,
        inspection: Inspection,
        progress: Progress,
    ) -> None:
        self._opened = opened
        self._options = options
        self._verdicts = observation.verdicts
        self._leases = observation.leases
        self._inspection = inspection
        self._progress = progress
        self._inboxes: dict[bytes, Inbox | None] = {}
        self._of_process: Counter[str] = Counter()
        self._words_of: dict[int, tuple[str, ...]] = {}

    async def groups(self) -> AsyncGenerator[Group, None]:
        inspection = self._inspection
        for shard in self._opened.answering:
            try:
                async with aclosing(self._groups_of(shard)) as groups:
                    async for group in groups:
                        inspection.total_groups += bool(group.counts.members)
                        if not group.counts.members or any(getattr(group.counts, s) for s in self._options.states):
                            yield group
            except ShardError as error:
                shard.problem = str(error)
                inspection.notes.append(str(error))
        inspection.complete = self._opened.complete
        inspection.shards = tuple(shard.info for shard in self._opened.shards)
        inspection.processes = [
            Process(process, self._verdicts.get(process, APPEARED), members, self._leases.get(process))
            for process, members in self._of_process.items()
        ]

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
                self._progress("reading", self._inspection.total_groups, self._inspection.totals.members)

    def _group(self, shard: Shard, parts: list[GroupSlice]) -> Group:
        counts = StateCounts()
        channels: list[Member] = []
        for part in reversed(parts):
            for inbox, members in Counter([member[: member.find(b"!") + 1] for member in part.members]).items():
                process, verdict = self._judged(inbox)
                counts.count(verdict.state.of_members, members)
                if process is not None:
                    self._of_process[process] += members
            if self._options.members:
                channels.extend(self._members(part))
        self._inspection.totals.add(counts)
        first = next((part.scores[0] for part in reversed(parts) if part.scores), None)
        return Group(self._opened.keyspace.group_name(parts[0].key), shard.index, counts, first, tuple(channels))

    def _members(self, part: GroupSlice) -> list[Member]:
        members = []
        for raw, joined_at in zip(part.members, part.scores, strict=True):
            process, verdict = self._judged(raw[: raw.find(b"!") + 1])
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
        return inbox.process, self._verdicts.get(inbox.process, APPEARED)


async def _inspect_pubsub(opened: OpenLayer, options: InspectOptions) -> tuple[Inspection, AsyncGenerator[Group, None]]:
    """Publish/subscribe: a subscription is alive by its nature, and Redis knows no more than their number."""
    note = "publish/subscribe: members are subscribed connections; Redis does not know their channel names"
    inspection = _begin(opened, Observation(time.time(), Census(), {}, {}, notes=[note]))
    groups: dict[str, Group] = {}

    async def read(shard: Shard) -> None:
        try:
            counts = await count_subscribers(opened, shard, options.look.names, options.look.glob)
            inspection.taken_at = await shard.now()
        except ShardError as error:
            shard.problem = str(error)
            return
        for name, subscribers in counts.items():
            groups[name] = Group(name, shard.index, StateCounts(live=subscribers), None)

    await asyncio.gather(*(read(shard) for shard in opened.answering))
    inspection.complete = opened.complete
    inspection.shards = tuple(shard.info for shard in opened.shards)
    if inspection.complete:  # The layer alone knows on which shard a group would be.
        inspection.absent = frozenset(options.look.names) - groups.keys()
    inspection.total_groups = len(groups)
    inspection.totals = StateCounts(live=sum(group.counts.live for group in groups.values()))
    return inspection, _each(list(groups.values()) if "live" in options.states else [])


async def _each(groups: list[Group]) -> AsyncGenerator[Group, None]:
    for group in groups:
        yield group
