"""Reports as tables for a terminal, made with rich. They read well at 80 columns: long names fold, none is cut."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich import box
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ops.model.groups import Group, Inspection, Process
from ops.model.liveness.lease import Lease
from ops.model.runs import ReapReport, RunRecord
from ops.model.text import counted, visible
from ops.output.columns import (
    CHANNEL,
    GROUP_COLUMNS,
    MEMBER_COLUMNS,
    PROCESS_COLUMNS,
    SHARD,
    Column,
    ColumnKind,
    shown_in_tables,
)
from ops.output.text import ago, iso

T = TypeVar("T")

STATE_STYLES = {"live": "green", "suspect": "yellow", "orphan": "red", "dead": "red", "unknown": "cyan"}
PROCESSES_SHOWN = 20
GAP = Text("")


def make_table(*headings: str, numbers: frozenset[str] = frozenset(), wide: str | None = None) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, expand=False)
    for heading in headings:
        if heading == wide:
            table.add_column(heading, overflow="fold", ratio=1)
        else:
            table.add_column(heading, justify="right" if heading in numbers else "left", no_wrap=True)
    return table


def _state(state: str) -> Text:
    return Text(state, style=STATE_STYLES[state])


def number_cell(count: int, state: str | None = None) -> Text:
    return Text(f"{count:,}", style=STATE_STYLES[state] if state and count else "" if count else "dim")


def inspection_report(inspection: Inspection, *, members: bool, summary: bool, hidden: int = 0) -> RenderableType:
    """The whole answer of ``channels_groups``. ``hidden``: how many groups a limit left out."""
    sections: list[RenderableType] = []
    if not inspection.total_groups and not inspection.groups:
        why = "nobody is connected, or nobody has joined one" if inspection.complete else "not every shard answered"
        verb = "has" if inspection.complete else "shows"
        sections.append(Text(f"Layer {inspection.layer!r} {verb} no groups: {why}."))
    elif members:
        sections.extend(_group_with_members(group, inspection) for group in inspection.groups)
    elif not summary:
        sections.append(_groups_table(inspection))
    if hidden:
        sections.append(Text(f"… and {counted(hidden, 'more group')}; --limit shows more.", style="dim"))
    if inspection.processes:
        sections.append(_processes_table(inspection.processes, inspection.taken_at))
    notes = (Text(f"Note: {note}.", style="dim") for note in inspection.notes)
    sections.append(Stack(_totals_line(inspection), *notes))
    return Stack(*(part for section in sections for part in (section, GAP)))


def _groups_table(inspection: Inspection) -> Table:
    several = len(inspection.shards) > 1
    columns = [column for column in GROUP_COLUMNS if several or column is not SHARD]
    return _table_of(columns, inspection.groups, inspection.taken_at, wide="Group")


def _group_with_members(group: Group, inspection: Inspection) -> RenderableType:
    title = Text.assemble((visible(group.group), "bold"), f"  {counted(group.counts.members, 'member')}")
    columns = [*(column for column in MEMBER_COLUMNS if column is not CHANNEL), CHANNEL]  # Whole names fold at the end.
    return Stack(title, _table_of(columns, group.channels, inspection.taken_at, wide="Channel"))


def _processes_table(processes: Sequence[Process], now: float) -> Table:
    """The processes that need attention first."""
    urgency = ("dead", "suspect", "unknown", "live")
    ordered = sorted(processes, key=lambda p: (urgency.index(p.verdict.state.value), -p.members, p.process))
    table = _table_of(PROCESS_COLUMNS, ordered[:PROCESSES_SHOWN], now, wide="Evidence")
    if len(ordered) > PROCESSES_SHOWN:
        rest = ordered[PROCESSES_SHOWN:]
        table.add_row(Text(f"… {len(rest):,} more", style="dim"), "", number_cell(sum(p.members for p in rest)), "")
    return table


def _table_of(columns: Iterable[Column[T]], rows: Iterable[T], now: float, *, wide: str) -> Table:
    shown = shown_in_tables(columns)
    numbers = frozenset(column.heading for column in shown if column.kind is ColumnKind.NUMBER)
    table = make_table(*(column.heading for column in shown), numbers=numbers, wide=wide)
    for row in rows:
        table.add_row(*(_cell(column, row, now) for column in shown))
    return table


def _cell(column: Column[T], row: T, now: float) -> Text | str:
    value = column.value(row)
    if isinstance(row, Process) and column.name == "process":
        return process_cell(row.process, row.lease)
    if column.kind is ColumnKind.NUMBER:
        return number_cell(value, column.name if column.name in STATE_STYLES else None)
    if column.kind is ColumnKind.STATE:
        return _state(value)
    if column.kind is ColumnKind.TIME:
        return ago(value, now)
    return Text("; ".join(value) if column.kind is ColumnKind.WORDS else visible(value or ""))


def process_cell(process: str, lease: Lease | None) -> Text:
    """Its host and pid, if its lease tells them; otherwise the layer's name for it."""
    if lease is None or not lease.host:
        return Text(process)
    return Text(f"{visible(lease.host)} pid {visible(lease.pid)}")


def _totals_line(inspection: Inspection) -> Text:
    totals = inspection.totals
    line = Text(
        f"{counted(inspection.total_groups, 'group')}, {counted(totals.members, 'member')} of "
        f"{counted(len(inspection.processes), 'process', 'processes')}: "
    )
    for index, state in enumerate(("live", "suspect", "orphan", "unknown")):
        count = getattr(totals, state)
        line.append(", " if index else "")
        line.append(f"{count:,} {state}", style=STATE_STYLES[state] if count else "")
    return line


def reap_report(report: ReapReport) -> RenderableType:
    """The answer of ``reap_stale``."""
    parts: list[RenderableType] = []
    silent = [process for process in report.processes if process.state in ("dead", "suspect")]
    if silent:
        verb = "Would go" if report.dry_run else "Removed"
        numbers = frozenset({"Members", verb})
        table = make_table("Process", "State", "Members", verb, "Evidence", numbers=numbers, wide="Evidence")
        for process in sorted(silent, key=lambda p: (p.state, -p.members, p.process)):
            table.add_row(
                process_cell(process.process, process.lease),
                _state(process.state),
                number_cell(process.members),
                number_cell(process.removed, "orphan"),
                Text("; ".join(process.evidence)),
            )
        parts.extend([table, GAP])
    parts.extend(Text(line) for line in _reap_lines(report))
    parts.extend(Text(f"Note: {note}.", style="dim") for note in report.notes)
    return Stack(*parts)


def _reap_lines(report: ReapReport) -> list[str]:
    scanned = f"{counted(report.members_scanned, 'member')} of {counted(report.groups_scanned, 'group')}"
    what = "would be removed" if report.dry_run else "removed"
    looked = f"Looked at {scanned} in {report.duration_seconds:.1f} s"
    lines = [f"{looked}: {report.removed:,} {what}, {report.suspects:,} under suspicion."]
    if report.kept:
        lines.append(f"{counted(report.kept, 'member')} stayed: gone or joined again since judged.")
    if report.leftovers:
        verb = "would be set aside" if report.dry_run else "set aside"
        keys = counted(len(report.leftovers), "inbox or in-flight key", "inbox and in-flight keys")
        lines.append(f"{keys} of dead processes {verb}.")
    if report.removed and not report.dry_run:
        lines.append(f"To put them back: manage.py reap_stale --undo {report.run_id}")
    return lines


def history_table(runs: Sequence[RunRecord]) -> RenderableType:
    if not runs:
        return Text("No run has removed anything that is still in the journal.")
    table = make_table("Run", "State", "Started", "Removed", "Processes", numbers=frozenset({"Removed", "Processes"}))
    for run in runs:
        started = (iso(run.started_at) or "-")[:16].replace("T", " ")  # the seconds are in the run's id
        table.add_row(visible(run.run_id), run.state, started, number_cell(run.removed), number_cell(run.processes))
    return table
