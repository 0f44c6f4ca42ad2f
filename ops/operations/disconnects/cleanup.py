"""Remove the channels whose end is on record from whatever groups they are still in.

A recorded end is proof by itself: it needs no probe, no second round and no drop-in layer. The groups in a record are
not relied on: another process may have added the channel to more.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import Any

from ops.model.disconnects.cleanup import CleanedProcess, CleanupReport
from ops.model.disconnects.record import Disconnect
from ops.model.disconnects.report.report import Reading
from ops.model.keys import decode_name, inbox_of, inbox_part
from ops.model.liveness.recorded_ends import gone_channel
from ops.model.settings import DEFAULTS, OpsSettings
from ops.model.text import counted
from ops.operations.disconnects.replay import STREAM, Records, Span, require_log
from ops.operations.observe import options_from
from ops.operations.progress import Progress, no_progress
from ops.operations.reaping.reap import new_run_id
from ops.store.connection.shards import OpenLayer, Shard
from ops.store.disconnects.log import BEGINNING, ends_before, read_position, record_position
from ops.store.groups.census import GroupSlice, ScanNotes, Selection, read_slices
from ops.store.removal import journal
from ops.store.removal.judgement import Judgement
from ops.store.removal.locks import RunLock, run_lock
from ops.store.removal.retention import Retention, delete_what_is_over, read_retention

NOTHING_TO_CLEAN = "publish/subscribe memberships end with their connection: there is nothing to clean up"
CHANNELS_AT_ONCE = 100_000  # for each of these batches, all groups are read once


@dataclass(frozen=True, slots=True)
class CleanupOptions:
    """``sources``: files; none is the log in Redis. ``zone``: of times in files that say none. ``resume``: begin where
    the last clean-up of that log stopped."""

    zone: tzinfo
    sources: Sequence[str] = ()
    span: Span = field(default_factory=Span)
    dry_run: bool = False
    resume: bool = False
    journal_seconds: float = DEFAULTS.journal_seconds

    @classmethod
    def from_settings(cls, settings: OpsSettings, **chosen: Any) -> "CleanupOptions":
        return cls(**options_from(settings, cls, chosen))


async def clean_up(opened: OpenLayer, options: CleanupOptions, progress: Progress = no_progress) -> CleanupReport:
    """One run. With ``dry_run`` it goes the same way and writes nothing.

    Raises ShardError where a shard does not answer, and NoDisconnectLog, before anything is changed;
    AnotherRunHoldsTheLock.
    """
    if not opened.backend.keeps_members:
        return _nothing_to_clean(opened, options)
    opened.require_every_shard("nothing was removed")
    if not options.sources:
        await require_log(opened)
    if options.dry_run:
        return await _Cleanup(opened, options, progress).run()
    async with run_lock(opened) as lock:
        return await _Cleanup(opened, options, progress, lock).run()


def _nothing_to_clean(opened: OpenLayer, options: CleanupOptions) -> CleanupReport:
    return CleanupReport(
        layer=opened.alias,
        sources=(),
        dry_run=options.dry_run,
        complete=True,
        run_id=None,
        records=0,
        channels=0,
        groups_scanned=0,
        members_scanned=0,
        removed=0,
        kept=0,
        processes=(),
        resumed_from=None,
        position=None,
        reading=Reading(),
        duration_seconds=0.0,
        not_applicable=NOTHING_TO_CLEAN,
    )


def _unproved(reading: Reading) -> tuple[str, ...]:
    if not reading.unproved:
        return ()
    which = f"{counted(reading.unproved, 'record')} behind a prefix or in other JSON"
    return (f"{which} proved nothing, since a client may have had it logged: clean up with the toolkit's own lines",)


class _Cleanup:
    """The state of one run. ``lock``: None in a dry run."""

    def __init__(
        self, opened: OpenLayer, options: CleanupOptions, progress: Progress, lock: RunLock | None = None
    ) -> None:
        self._opened = opened
        self._lock = lock
        self._options = options
        self._progress = progress
        self._clock = time.monotonic()
        self._records = Records()
        self._resumed_from: str | None = None
        self._read = 0
        self._channels = 0
        self._groups = 0
        self._members = 0
        self._kept = 0
        self._removed: Counter[bytes] = Counter()
        self._run_id: str | None = None
        self._judgement: Judgement | None = None
        self._retention: Retention | None = None
        self._notes: list[str] = []
        self._starting = asyncio.Lock()

    async def run(self) -> CleanupReport:
        opened, options = self._opened, self._options
        if options.resume:
            self._resumed_from = self._records.position = await self._resume_at()
        gone: dict[bytes, float] = {}
        started_at = await opened.home.now()
        async for batch in self._batches():
            self._read += len(batch)
            # The log in Redis is the applications' alone, and of hosts whose clocks are ahead, too.
            now = started_at + time.monotonic() - self._clock if options.sources else None
            for one in batch:
                if (proved := gone_channel(one, now)) is not None:
                    channel, joined_by = proved
                    gone[channel] = max(joined_by, gone.get(channel, joined_by))
            if len(gone) >= CHANNELS_AT_ONCE:
                await self._clean(gone)
                gone = {}
            if not opened.complete or self._stopped:
                break
        await self._clean(gone)
        if opened.complete:
            await self._note_end()
        if self._lock is not None and opened.complete:
            self._notes.extend(await delete_what_is_over(opened))
        return self._report()

    async def _resume_at(self) -> str:
        position = await read_position(self._opened)
        if not await ends_before(self._opened, position):
            return position
        self._notes.append(
            f"the disconnect log ends before {position}, up to which the last clean-up came: it was deleted, or "
            f"replaced by an older one, so this clean-up began at its beginning"
        )
        return BEGINNING

    @property
    def _stopped(self) -> str | None:
        """Why nothing more may be removed: a recorded end stays true, but this run may be over."""
        return self._judgement.stopped if self._judgement is not None else None

    def _batches(self) -> AsyncIterator[list[Disconnect]]:
        options = self._options
        if options.sources:
            return self._records.of_files(options.sources, options.zone, options.span)
        return self._records.of_stream(self._opened, options.span, reaped=False)

    async def _clean(self, gone: dict[bytes, float]) -> None:
        """Find the channels in the groups of every shard, and remove them there."""
        opened = self._opened
        if not gone or not opened.complete or self._stopped:
            return
        self._channels += len(gone)
        await asyncio.gather(*(self._clean_shard(shard, gone) for shard in opened.databases))
        if opened.complete:
            await self._note_position()

    async def _clean_shard(self, shard: Shard, gone: dict[bytes, float]) -> None:
        script: journal.Remover | None = None
        with shard.noting_failure():
            async with AsyncExitStack() as stack:
                pages = await stack.enter_async_context(aclosing(self._slices(shard)))
                async for slices in pages:
                    for found in slices:
                        members = [member for member in found.members if member in gone]
                        self._count(found)
                        if members and self._options.dry_run:
                            self._would_remove(found, gone)
                        elif members:
                            script = script or await self._open_script(stack, shard)
                            await script.remove(found.key, members, [gone[member] for member in members])
                    self._progress("cleaning up", self._groups, self._members)
                    if self._judgement is not None and not await self._judgement.holds():
                        break
                if script is not None:
                    await script.finish()
        if script is not None:
            self._removed.update(script.tally.by_inbox)
            self._kept += script.tally.kept

    async def _slices(self, shard: Shard) -> AsyncGenerator[list[GroupSlice], None]:
        keyspace = self._opened.keyspace
        async with shard.wire() as reading:
            # Without scores: the script has to look at them anyway.
            scores, selection = self._options.dry_run, Selection(pattern=keyspace.groups_pattern())
            async for slices in read_slices(reading, keyspace, selection, ScanNotes(), scores=scores):
                yield slices

    def _count(self, found: GroupSlice) -> None:
        self._groups += found.last and bool(found.members)
        self._members += len(found.members)

    def _would_remove(self, found: GroupSlice, gone: dict[bytes, float]) -> None:
        for member, score in zip(found.members, found.scores, strict=True):
            if member in gone and score <= gone[member]:
                self._removed[inbox_part(member)] += 1
            elif member in gone:
                self._kept += 1

    async def _open_script(self, stack: AsyncExitStack, shard: Shard) -> journal.Remover:
        """The script on ``shard``; the run is listed before anything is removed anywhere."""
        opened = self._opened
        async with self._starting:
            if self._run_id is None or self._judgement is None or self._retention is None:
                self._run_id, self._judgement, self._retention = await self._start_run()
        writing = await stack.enter_async_context(shard.wire())
        receipts = opened.keyspace.journal(self._run_id)
        journal_seconds = await self._retention.of_receipts(shard, receipts)
        script = journal.Remover(writing, shard, receipts, journal_seconds, self._judgement)
        await script.load()
        await stack.enter_async_context(script.counting())
        return script

    async def _start_run(self) -> tuple[str, Judgement, Retention]:
        opened, options = self._opened, self._options
        assert self._lock is not None, "a dry run removes nothing"
        now = await opened.home.now()
        run_id = new_run_id(now)
        retention = await read_retention(opened, options.journal_seconds)
        self._notes.extend(retention.notes)
        await journal.record_run_started(opened, run_id, now, retention, None, takes_leases=False)
        return run_id, Judgement(opened, run_id, self._lock), retention

    async def _note_position(self) -> None:
        """What has been cleaned up need not be read again, if nothing before it was left out."""
        options = self._options
        if options.dry_run or options.sources or options.span.since is not None or self._stopped:
            return
        if self._records.position != BEGINNING:
            await record_position(self._opened, self._records.position)

    async def _note_end(self) -> None:
        await self._note_position()
        # Without an end the run is listed as interrupted, with what its receipts say.
        if self._run_id is not None:
            summary = {"removed": self._removed.total(), "processes": len(self._processes()), "set_aside": 0}
            await journal.record_run_ended(self._opened, self._run_id, summary)

    def _processes(self) -> tuple[CleanedProcess, ...]:
        by_process: Counter[str] = Counter()
        for inbox, removed in self._removed.items():
            parsed = inbox_of(decode_name(inbox))
            if parsed is not None and removed:
                by_process[parsed.process] += removed
        return tuple(CleanedProcess(process, removed) for process, removed in by_process.most_common())

    def _report(self) -> CleanupReport:
        opened, options = self._opened, self._options
        reading = self._records.reading
        return CleanupReport(
            layer=opened.alias,
            sources=tuple(options.sources) or (STREAM,),
            dry_run=options.dry_run,
            complete=opened.complete and not reading.problems,
            run_id=self._run_id,
            records=self._read,
            channels=self._channels,
            groups_scanned=self._groups,
            members_scanned=self._members,
            removed=self._removed.total(),
            kept=self._kept,
            processes=self._processes(),
            resumed_from=self._resumed_from,
            position=None if options.sources else self._records.position,
            reading=reading,
            duration_seconds=time.monotonic() - self._clock,
            stopped=self._stopped,
            notes=(*opened.problems, *self._notes, *_unproved(reading)),
        )
