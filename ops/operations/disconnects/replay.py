"""Read the ends of websockets, from the log in Redis or from files, and report on them."""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import tzinfo

from ops.exceptions import NoDisconnectLog, ShardError, SourceUnreadable
from ops.model.disconnects.logs.reader import SAMPLES, LogReader
from ops.model.disconnects.record import UNTIMED, Disconnect
from ops.model.disconnects.report.report import DisconnectReport, Reading, conclude_report
from ops.model.disconnects.report.tally import DisconnectTally
from ops.operations.progress import Progress, no_progress
from ops.store.connection.shards import OpenLayer
from ops.store.disconnects.log import BEGINNING, has_log, read_disconnects
from ops.store.disconnects.log_files import read_lines

STREAM = "the disconnect log in Redis"


@dataclass(frozen=True, slots=True)
class Span:
    """From ``since`` up to ``until``, unix seconds; None where it is open. What says no time is in no span but the
    open one."""

    since: float | None = None
    until: float | None = None

    def holds(self, one: Disconnect) -> bool:
        if self.since is None and self.until is None:
            return True
        return one.at != UNTIMED and (self.since or 0) <= one.at and (self.until is None or one.at <= self.until)


@dataclass(slots=True)
class Records:
    """Ends as they are read, some at a time. ``reading``: how that went so far; ``position``: in the log in Redis, the
    entry that was read last."""

    position: str = BEGINNING
    reading: Reading = field(default_factory=Reading)

    def _note(self, **more: int) -> None:
        counts = {name: getattr(self.reading, name) + number for name, number in more.items()}
        self.reading = replace(self.reading, **counts)

    async def of_stream(self, opened: OpenLayer, span: Span, *, reaped: bool = True) -> AsyncIterator[list[Disconnect]]:
        """Those of the log in Redis after ``position``. ``reaped``: also those that the reaper removed."""
        pages = read_disconnects(opened, after=self.position, since=span.since, until=span.until, reaped=reaped)
        async for page in pages:
            self._note(entries=len(page.disconnects) + page.unreadable, unreadable=page.unreadable)
            yield page.disconnects
            self.position = page.last_id

    async def of_files(self, sources: Sequence[str], zone: tzinfo, span: Span) -> AsyncIterator[list[Disconnect]]:
        """Those of files, one after the other. One that cannot be read is noted, and the next ones are read."""
        for source in sources:
            found: list[Disconnect] = []
            reader = LogReader(zone, found.append, time.time())
            try:
                async for lines in read_lines(source):
                    for line in lines:
                        reader.feed(line)
                    yield _taken(found, span)
            except SourceUnreadable as problem:
                self.reading = replace(self.reading, problems=(*self.reading.problems, str(problem)))
            reader.end()
            yield _taken(found, span)
            self._note_lines(reader)

    def _note_lines(self, reader: LogReader) -> None:
        lines = reader.lines
        names = ("unreadable", "json_read", "json_unknown", "unproved", "still_open")
        self._note(entries=lines.read, **{name: getattr(lines, name) for name in names})
        self.reading = replace(self.reading, samples=(*self.reading.samples, *lines.samples)[:SAMPLES])


def _taken(found: list[Disconnect], span: Span) -> list[Disconnect]:
    """What has been found since the last call, as far as it lies in the span."""
    taken = [one for one in found if span.holds(one)]
    found.clear()
    return taken


async def require_log(opened: OpenLayer) -> None:
    """Raise NoDisconnectLog if the layer has none: nothing found in it would say that all is well."""
    if not await has_log(opened):
        raise NoDisconnectLog("There is no disconnect log yet: is the middleware in asgi.py?")


async def report_stream(opened: OpenLayer, span: Span, progress: Progress = no_progress) -> DisconnectReport:
    """The report on the log in Redis. The shards that did not answer are among its problems.

    Raises ShardError where the first one did not, since that is where the log is, and NoDisconnectLog.
    """
    if opened.home.problem is not None:
        raise ShardError(opened.home.problem)
    await require_log(opened)
    records = Records()
    report = await _report(opened.alias, [STREAM], records, records.of_stream(opened, span), progress)
    problems = (*report.reading.problems, *opened.problems)
    return replace(report, reading=replace(report.reading, problems=problems))


async def report_files(
    alias: str, sources: Sequence[str], zone: tzinfo, span: Span, progress: Progress = no_progress
) -> DisconnectReport:
    """The report on files; no Redis is needed."""
    records = Records()
    return await _report(alias, sources, records, records.of_files(sources, zone, span), progress)


async def _report(
    alias: str, sources: Sequence[str], records: Records, batches: AsyncIterator[list[Disconnect]], progress: Progress
) -> DisconnectReport:
    tally = DisconnectTally()
    async for batch in batches:
        for one in batch:
            tally.add(one)
        progress(f"{tally.records:,} ends read", 0, 0)
    return conclude_report(alias, sources, records.reading, tally)
