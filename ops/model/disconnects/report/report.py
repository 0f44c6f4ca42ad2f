"""The report on the ends of websockets: what was counted, in the order and the number in which it is shown. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

from ops.model.disconnects.cause import explain
from ops.model.disconnects.close_codes import code_meaning
from ops.model.disconnects.report.counting import TopTally
from ops.model.disconnects.report.pattern import Pattern
from ops.model.disconnects.report.patterns import find_patterns
from ops.model.disconnects.report.tally import AGE_LIMITS, ORDINARY, DisconnectTally
from ops.model.text import format_seconds

ROWS_SHOWN = 15
STEPS_SHOWN = 120


@dataclass(frozen=True, slots=True)
class Row:
    """``bad``: how many of ``count`` were no ordinary ends."""

    name: str
    count: int
    meaning: str = ""
    bad: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """The commonest first. ``other``: how many fell to names that are not in ``rows``."""

    rows: tuple[Row, ...]
    other: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the timeline, which begins at ``at`` (unix seconds)."""

    at: float
    total: int
    bad: int


@dataclass(frozen=True, slots=True)
class Reading:
    """How reading went. ``entries``: lines of files and entries of the log; ``samples``: the first unreadable ones, as
    they came; ``problems``: sources that could not be read to their end, and shards that did not answer.

    ``json_read``, ``json_unknown``: lines of JSON, and those that hold no text that is known; ``unproved``: records of
    the toolkit in lines that a client may have written, which count and prove nothing.
    """

    entries: int = 0
    unreadable: int = 0
    still_open: int = 0
    samples: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    json_read: int = 0
    json_unknown: int = 0
    unproved: int = 0

    @property
    def not_understood(self) -> str | None:
        """What to say first of sources most of which could not be read; None if they could."""
        if self.json_unknown * 2 > self.json_read:
            lines = f"{self.json_unknown:,} of {self.json_read:,} lines of JSON"
            return f"{lines} were not understood: they hold no text under a name such as message, log, event or MESSAGE"
        if self.unreadable * 2 > self.entries:
            which = "none" if self.unreadable == self.entries else f"only {self.entries - self.unreadable:,}"
            return f"{which} of {self.entries:,} entries or lines could be read: what follows tells little"
        return None


@dataclass(frozen=True, slots=True)
class DisconnectReport:
    """``first_at``, ``last_at``: unix seconds, None where no end says when it was. ``untimed``: how many do not.

    ``dropped``: how many more ended of which nothing is known, since whoever recorded them had no room left.
    ``reaped_later``: how many records of the reaper were left out, since the end is on record already.
    ``left_behind``: the ends that left their channel in a group, by exception, or by cause if there was none.
    """

    layer: str
    sources: tuple[str, ...]
    reading: Reading
    records: int
    untimed: int
    dropped: int
    reaped_later: int
    first_at: float | None
    last_at: float | None
    by_code: Table
    by_cause: Table
    by_closer: Table
    by_worker: Table
    by_path: Table
    by_exception: Table
    left_behind: Table
    ages: Table
    step_seconds: int
    timeline: tuple[Step, ...]
    patterns: tuple[Pattern, ...]


def conclude_report(layer: str, sources: Iterable[str], reading: Reading, tally: DisconnectTally) -> DisconnectReport:
    """What ``tally`` says, and the patterns in it."""
    timed = tally.records > tally.untimed
    timeline = tally.timeline.coarser(STEPS_SHOWN)
    return DisconnectReport(
        layer=layer,
        sources=tuple(sources),
        reading=reading,
        records=tally.records,
        untimed=tally.untimed,
        dropped=tally.dropped,
        reaped_later=tally.reaped_later,
        first_at=tally.first_at if timed else None,
        last_at=tally.last_at if timed else None,
        by_code=_codes(tally.by_code),
        by_cause=_named(tally.by_cause, explain),
        by_closer=_named(tally.by_closer),
        by_worker=_workers(tally),
        by_path=_paths(tally.by_path_and_cause),
        by_exception=_named(tally.by_exception),
        left_behind=_named(tally.left_behind),
        ages=age_shares(tally),
        step_seconds=timeline.width_seconds,
        timeline=tuple(Step(at, slot.total, slot.bad) for at, slot in timeline.steps()),
        patterns=tuple(find_patterns(tally)),
    )


def _codes(tally: TopTally[int]) -> Table:
    top, other = tally.top(ROWS_SHOWN)
    return Table(tuple(Row(str(code), count, code_meaning(code)) for code, count in top), other)


def _named(tally: TopTally[str], explain: Callable[[str], str] = lambda _: "") -> Table:
    top, other = tally.top(ROWS_SHOWN)
    return Table(tuple(Row(name, count, explain(name)) for name, count in top), other)


def _workers(tally: DisconnectTally) -> Table:
    named = [worker for worker in tally.workers.values() if worker.name]
    ordered = sorted(named, key=lambda worker: (-worker.total, worker.label))
    rows = tuple(Row(worker.label, worker.total) for worker in ordered[:ROWS_SHOWN])
    return Table(rows, tally.other_workers + sum(worker.total for worker in ordered[ROWS_SHOWN:]))


def _paths(tally: TopTally[tuple[str, str]]) -> Table:
    totals: dict[str, int] = {}
    bad: dict[str, int] = {}
    for (path, cause), count in tally.ordered():
        totals[path] = totals.get(path, 0) + count
        bad[path] = bad.get(path, 0) + (0 if cause in ORDINARY else count)
    ordered = sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    rows = tuple(Row(path, count, bad=bad[path]) for path, count in ordered[:ROWS_SHOWN])
    return Table(rows, tally.other + sum(count for _, count in ordered[ROWS_SHOWN:]))


def age_shares(tally: DisconnectTally) -> Table:
    """How many connections lived for how long, the shortest first."""
    limits = [format_seconds(limit) for limit in AGE_LIMITS]
    between = [f"{low} to {high}" for low, high in pairwise(limits)]
    names = [f"under {limits[0]}", *between, f"over {limits[-1]}"]
    return Table(tuple(Row(name, count) for name, count in zip(names, tally.lived, strict=True) if count))
