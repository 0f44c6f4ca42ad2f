"""Prove that groups can be reached: ask their members, and say who answers.

The groups are read while they are asked, so that no more than what is under way is held.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from ops.exceptions import ShardError
from ops.model.heartbeats.report import GroupHeartbeat, HeartbeatCounts, HeartbeatReport
from ops.model.heartbeats.tally import GroupTally, ProcessTally, RunTally
from ops.model.keys import Inbox, decode_name, inbox_of
from ops.model.liveness.evidence import Evidence, InboxDrained, NotProbed, OtherSettings, ProbesTaken
from ops.model.liveness.lease import Lease
from ops.operations.heartbeats.pieces import OpenGroup, Pieces
from ops.operations.heartbeats.pubsub import count_subscriptions
from ops.operations.observe import Look, selection_on, take_census
from ops.operations.progress import Progress, no_progress
from ops.store.connection.shards import OpenLayer, Shard
from ops.store.connection.waiting import end
from ops.store.groups.census import ScanNotes, read_slices
from ops.store.heartbeats import Asker, asking, is_text
from ops.store.liveness.leases import read_leases
from ops.store.liveness.probes import probe_processes
from ops.store.liveness.readability import reads_ours

TELL_SECONDS = 0.25
APPEARED = NotProbed("it appeared meanwhile")


@dataclass(frozen=True, slots=True)
class HeartbeatOptions:
    """``rate``: how many members are asked in a second, at most; at depth process each process is asked only once."""

    look: Look
    depth: str
    timeout_seconds: float
    rate: int


@asynccontextmanager
async def heartbeats(opened: OpenLayer, options: HeartbeatOptions) -> AsyncIterator["HeartbeatRun"]:
    """A run of one round or more: ``async for group in run.round()``. ``run.report`` has at any time what was found."""
    async with asking(opened, options.timeout_seconds) as asker:
        yield HeartbeatRun(opened, options, asker)


class HeartbeatRun:
    """Asks all groups in each round. What a shard that fails cannot say is left out; ``report.problems`` says why."""

    def __init__(self, opened: OpenLayer, options: HeartbeatOptions, asker: Asker) -> None:
        self._opened = opened
        self._options = options
        self._tally = RunTally(options.depth)
        self._asker = asker
        self._leases: dict[str, Lease | None] = {}
        self._members_seen = 0

    @property
    def report(self) -> HeartbeatReport:
        """All rounds so far, and what has been found in the one under way."""
        return self._tally.result()

    @property
    def rounds(self) -> int:
        """Rounds that are whole."""
        return self._tally.rounds

    @property
    def latest(self) -> tuple[int, HeartbeatCounts]:
        """Groups with members, and the counts, of the latest round."""
        return self._tally.groups_seen, self._tally.latest.counts()

    async def round(self, progress: Progress = no_progress) -> AsyncGenerator[GroupHeartbeat, None]:
        """Ask each group once. Yields what became of each, which is in the report then."""
        if self._tally.rounds:
            await self._look_again()
        began = time.monotonic()
        self._tally.begin_round()
        self._members_seen = 0
        telling = asyncio.create_task(self._keep_telling(progress))
        try:
            async with aclosing(self._groups()) as groups:
                async for found in groups:
                    self._tally.add(found)
                    yield found.result()
        finally:
            telling.cancel()
        self._tally.problems.update(dict.fromkeys((*self._opened.problems, *self._asker.losses)))
        self._tally.rounds += 1
        self._tally.duration_seconds += time.monotonic() - began

    async def _keep_telling(self, progress: Progress) -> None:
        """Now and then, also while everybody is silent."""
        while True:
            await asyncio.sleep(TELL_SECONDS)
            progress("asking", self._tally.groups_seen, self._members_seen)

    async def _look_again(self) -> None:
        """A shard that failed in an earlier round may be there again, and processes have come and gone."""
        self._leases.clear()
        for shard in self._opened.shards:
            if shard.problem is not None:
                shard.forget_failure()
                await shard.identify()

    def _groups(self) -> AsyncGenerator[GroupTally, None]:
        if not self._opened.backend.keeps_members:
            return count_subscriptions(
                self._opened, self._options.look, self._options.depth, self._options.timeout_seconds, self._tally
            )
        return self._probe() if self._options.depth == "process" else self._ask()

    # Depth process

    async def _probe(self) -> AsyncGenerator[GroupTally, None]:
        """Each process is probed once, then the groups are read in the light of that."""
        census, notes = await take_census(self._opened, self._options.look, no_progress)
        self._tally.notes.update(dict.fromkeys(notes))
        inboxes = {process: tally.inboxes for process, tally in census.processes.items()}
        await self._learn(inboxes)
        evidence = await self._probe_processes(inboxes)
        async for group, channels in self._slices():
            for channel, inbox in self._addressed(group, channels):
                self._note_probed(group.found, channel, inbox, evidence.get(inbox.process, APPEARED))
            if group.read:
                yield group.found

    async def _probe_processes(self, inboxes: Mapping[str, Iterable[str]]) -> Mapping[str, Evidence]:
        """A shard that fails meanwhile is marked, and the processes on the others are probed again."""
        leases = {process: lease for process, lease in self._leases.items() if lease is not None}
        while self._opened.answering:
            try:
                return await probe_processes(self._opened, inboxes, self._options.timeout_seconds, leases=leases)
            except ShardError as error:
                before = self._opened.answering
                await asyncio.gather(*(shard.identify() for shard in before))
                if self._opened.answering == before:  # It is back already.
                    self._tally.problems[str(error)] = None
                    break
        return {}

    def _note_probed(self, found: GroupTally, channel: str, inbox: Inbox, answer: Evidence) -> None:
        process = self._process(inbox.process)
        if isinstance(answer, NotProbed):
            process.skip(answer.reason)
            found.skip(inbox.name)
        elif isinstance(answer, ProbesTaken):
            process.counts.note_answer(answer.round_trip_ms)
            found.counts.note_answer(answer.round_trip_ms)
        elif isinstance(answer, InboxDrained):  # A full inbox is watched instead: how fast it drains is not known.
            process.counts.note_answer(None)
            found.counts.note_answer(None)
        else:
            process.counts.note_silence()
            found.note_silence(channel)

    # Depths channel and client

    async def _ask(self) -> AsyncGenerator[GroupTally, None]:
        """Pieces of groups are asked beside one another; a group comes when its last piece is done."""
        pieces = Pieces(self._asker, self._options.depth, self._options.rate, self._process)
        reading = asyncio.create_task(self._hand_over(pieces))
        try:
            while (group := await pieces.done.get()) is not None:
                yield group.found
            await reading
        finally:
            await end(reading)

    async def _hand_over(self, pieces: Pieces) -> None:
        """Read the groups, and have those of their members asked that can answer."""
        async with pieces:
            async for group, channels in self._slices():
                addressed = list(self._addressed(group, channels))
                await self._learn({inbox.process for _, inbox in addressed})
                for channel, inbox in addressed:
                    lease = self._leases.get(inbox.process)
                    if lease is None or not lease.heartbeats:
                        group.found.counts.not_capable += 1
                        self._process(inbox.process).counts.not_capable += 1
                    elif reads_ours(self._opened.layer, lease) is False:
                        self._process(inbox.process).skip(OtherSettings().reason)
                        group.found.skip(inbox.name)
                    else:
                        await pieces.add(group, channel, inbox)
                if group.read:
                    pieces.close(group)

    # What both need

    async def _slices(self) -> AsyncGenerator[tuple[OpenGroup, list[str]], None]:
        """Some members of a group after the other; ``read`` is set with the last. One that fails midway ends there."""
        for shard in self._opened.answering:
            group: OpenGroup | None = None
            try:
                async with aclosing(self._slices_on(shard)) as slices:
                    async for group, channels in slices:
                        self._members_seen += len(channels)
                        yield group, channels
            except ShardError as error:
                shard.note_failure(error)
                if group is not None and not group.read:
                    group.read = True
                    yield group, []

    async def _slices_on(self, shard: Shard) -> AsyncGenerator[tuple[OpenGroup, list[str]], None]:
        keyspace, look = self._opened.keyspace, self._options.look
        group: OpenGroup | None = None
        async with shard.wire() as wire:
            selection = selection_on(self._opened, shard, look)
            async for page in read_slices(wire, keyspace, selection, ScanNotes(), scores=False):
                for found in page:
                    group = group or OpenGroup(GroupTally(keyspace.group_name(found.key)))
                    group.found.counts.members += len(found.members)
                    group.read = found.last
                    if group.found.counts.members or look.names:
                        yield group, [decode_name(raw) for raw in found.members]
                    if found.last:
                        group = None

    def _addressed(self, group: OpenGroup, channels: Iterable[str]) -> Iterable[tuple[str, Inbox]]:
        """The channels of which it is known where to ask; the others are counted as not capable."""
        for channel in channels:
            inbox = inbox_of(channel)
            if inbox is None or not is_text(channel):
                group.found.counts.not_capable += 1
            else:
                self._process(inbox.process).counts.members += 1
                yield channel, inbox

    async def _learn(self, processes: Iterable[str]) -> None:
        """Read the leases that have not been read in this round, from the first shard that answers."""
        unknown = [process for process in processes if process not in self._leases]
        while unknown and self._opened.answering:
            shard = self._opened.answering[0]
            with shard.noting_failure():
                leases = await read_leases(shard, self._opened.keyspace, unknown)
                for name in unknown:
                    self._leases[name] = lease = leases.get(name)
                    if lease is not None:
                        process = self._process(name)
                        process.host, process.pid = lease.host, lease.pid
                return

    def _process(self, name: str) -> ProcessTally:
        return self._tally.processes.setdefault(name, ProcessTally(name))
