"""The report on the ends of websockets for a terminal, made with rich."""

from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, RenderableType
from rich.console import Group as Stack
from rich.table import Table as RichTable
from rich.text import Text

from ops.model.disconnects.cleanup import CleanupReport
from ops.model.disconnects.report.counting import shares
from ops.model.disconnects.report.report import DisconnectReport, Reading, Row, Step, Table
from ops.model.text import counted, format_seconds, visible
from ops.output.tables import GAP, PROCESSES_SHOWN, make_table
from ops.output.text import iso, not_counted_again

CHART_ROWS = 5
EIGHTHS = " ▁▂▃▄▅▆▇█"
ASCII = " .:-=+*#@"
BAR_WIDTH = 12
LEFT_BEHIND_SHOWN = 3


def disconnect_report(report: DisconnectReport) -> RenderableType:
    """The whole answer of ``replay_disconnects --report``."""
    parts: list[RenderableType] = [*_head(report), GAP]
    for pattern in report.patterns:
        parts.append(Text(f"! {pattern.title}", style="bold yellow"))
        parts.extend(Text(f"  {line}") for line in pattern.evidence)
        parts.extend([Text(f"  {pattern.advice}", style="dim"), GAP])
    if report.timeline:
        parts.extend([TimelineChart(report.timeline, report.step_seconds), GAP])
    named = (
        ("Cause", report.by_cause),
        ("Code", report.by_code),
        ("Closed by", report.by_closer),
        ("Worker", report.by_worker),
        ("Path", report.by_path),
        ("Lived", report.ages),
        ("Exception", report.by_exception),
    )
    for heading, table in named:
        if table.rows:
            parts.extend([_counts(heading, table), GAP])
    parts.extend(_notes(report.reading))
    return Stack(*parts)


def _head(report: DisconnectReport) -> list[Text]:
    where = ", ".join(visible(source) for source in report.sources)
    if not report.records:
        return [Text(f"Read from {where}: no websocket ended.")]
    lines = [Text(f"Read from {where}: {counted(report.records, 'websocket')} ended.")]
    if report.first_at is not None and report.last_at is not None:
        span = format_seconds(report.last_at - report.first_at)
        lines.append(Text(f"From {_minute(report.first_at)} to {_minute(report.last_at)}, {span}."))
    if report.untimed:
        lines.append(Text(f"{report.untimed:,} of them do not say when."))
    if report.dropped:
        lines.append(
            Text(f"{report.dropped:,} more ended of which nothing is known: there was no room to record them.")
        )
    if report.reaped_later:
        lines.append(Text(f"{not_counted_again(report.reaped_later)}."))
    if report.left_behind.rows:
        lines.append(Text(_left_behind(report.left_behind), style="yellow"))
    elif not report.patterns:
        lines.append(Text("No pattern stands out."))
    return lines


def _left_behind(table: Table) -> str:
    number = sum(row.count for row in table.rows) + table.other
    named = [f"{row.count:,} of {visible(row.name)}" for row in table.rows[:LEFT_BEHIND_SHOWN]]
    rest = number - sum(row.count for row in table.rows[:LEFT_BEHIND_SHOWN])
    ended = ", ".join([*named, *([f"{rest:,} of others"] if rest else [])])
    return (
        f"{counted(number, 'end')} left members in groups: {ended}. "
        f"To remove them: manage.py replay_disconnects --cleanup"
    )


def _minute(at: float) -> str:
    return f"{(iso(at) or '-')[:19]}Z"


def _counts(heading: str, table: Table) -> RichTable:
    wide = "Meaning" if any(row.meaning for row in table.rows) else heading
    headings = [heading, "Ends", ""]
    if any(row.bad for row in table.rows):
        headings.append("Not ordinary")
    if wide == "Meaning":
        headings.append(wide)
    drawn = make_table(*headings, numbers=frozenset({"Ends", "Not ordinary"}), wide=wide)
    most = max(row.count for row in table.rows)
    for row in table.rows:
        drawn.add_row(*_cells(row, headings, most))
    if table.other:
        drawn.add_row(Text("others", style="dim"), f"{table.other:,}")
    return drawn


def _cells(row: Row, headings: Sequence[str], most: int) -> list[Text]:
    cells = [
        Text(visible(row.name)),
        Text(f"{row.count:,}"),
        Text("=" * shares([row.count, most], BAR_WIDTH)[0], "cyan"),
    ]
    if "Not ordinary" in headings:
        cells.append(Text(f"{row.bad:,}", style="yellow" if row.bad else "dim"))
    if "Meaning" in headings:
        cells.append(Text(row.meaning, style="dim"))
    return cells


def _notes(reading: Reading) -> Iterator[Text]:
    if reading.still_open:
        yield Text(
            f"{counted(reading.still_open, 'socket')} opened whose end is not in the log: still open, or open when "
            f"Daphne was told to end, of which it writes nothing.",
            style="dim",
        )
    if reading.unreadable:
        entries = counted(reading.unreadable, "entry or line", "entries or lines")
        yield Text(f"{entries} of {reading.entries:,} could not be read; the first:", style="dim")
        yield from (Text(f"  {visible(sample)}", style="dim") for sample in reading.samples)


def cleanup_report(report: CleanupReport) -> RenderableType:
    """The answer of ``replay_disconnects --cleanup``."""
    parts: list[RenderableType] = []
    if report.processes:
        verb = "Would go" if report.dry_run else "Removed"
        table = make_table("Process", verb, numbers=frozenset({verb}))
        for one in report.processes[:PROCESSES_SHOWN]:
            table.add_row(one.process, f"{one.removed:,}")
        if rest := report.processes[PROCESSES_SHOWN:]:
            table.add_row(Text(f"… {len(rest):,} more", style="dim"), f"{sum(one.removed for one in rest):,}")
        parts.extend([table, GAP])
    what = "would be removed" if report.dry_run else "removed"
    parts.append(
        Text(
            f"{counted(report.records, 'end')} on record, {counted(report.channels, 'channel')} to look for in "
            f"{counted(report.members_scanned, 'member')} of {counted(report.groups_scanned, 'group')}, in "
            f"{report.duration_seconds:.1f} s: {report.removed:,} {what}."
        )
    )
    if report.kept:
        parts.append(Text(f"{counted(report.kept, 'member')} stayed: joined after the recorded end, or just left."))
    if report.removed and not report.dry_run:
        parts.append(Text(f"To put them back: manage.py reap_stale --undo {report.run_id}"))
    parts.extend(_notes(report.reading))
    return Stack(*parts)


class TimelineChart:
    """Ends over time as columns, yellow where most are not ordinary. ASCII where there is no Unicode."""

    def __init__(self, steps: Sequence[Step], step_seconds: int) -> None:
        self._steps = steps
        self._step_seconds = step_seconds

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        most = max(step.total for step in self._steps)
        width = len(f"{most:,}")
        columns = _fit(self._steps, max(1, options.max_width - width - 3))
        merged = -(-len(self._steps) // len(columns))
        most = max(column.total for column in columns)
        marks = ASCII if options.ascii_only else EIGHTHS
        heights = shares([column.total for column in columns], CHART_ROWS * (len(marks) - 1))
        yield Text(f"Ends in {format_seconds(self._step_seconds * merged)} each", style="bold")
        for row in range(CHART_ROWS - 1, -1, -1):
            line = Text(f"{most if row == CHART_ROWS - 1 else '':>{width}} |" if row else f"{0:>{width}} |")
            for column, height in zip(columns, heights, strict=True):
                level = min(len(marks) - 1, max(0, height - row * (len(marks) - 1)))
                line.append(marks[level], style="yellow" if column.bad * 2 > column.total else "cyan")
            yield line
        begins, ends = _minute(columns[0].at), _minute(columns[-1].at)
        gap = max(1, len(columns) - len(begins) - len(ends))
        yield Text(" " * (width + 2) + (begins + " " * gap + ends if len(columns) > 40 else begins), style="dim")


def _fit(steps: Sequence[Step], width: int) -> list[Step]:
    """``steps`` in at most ``width`` columns, by joining neighbours."""
    together = -(-len(steps) // width)
    joined = (steps[start : start + together] for start in range(0, len(steps), together))
    return [Step(some[0].at, sum(step.total for step in some), sum(step.bad for step in some)) for some in joined]
