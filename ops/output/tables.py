"""Reports as tables for a terminal, made with rich. They read well at 80 columns: long names fold, none is cut."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich import box
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ops.model.groups import Group, Inspection, Process, StateCounts
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
DIGITS_SHOWN = 8  # of a process with a host and a pid
URGENCY = ("dead", "suspect", "unknown", "live")
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


def inspection_report(
    inspection: Inspection, *, members: bool, summary: bool, hidden: int = 0, for_a_terminal: bool = True
) -> RenderableType:
    """The whole answer of ``channels_groups``. ``hidden``: how many groups a limit left out.

    ``for_a_terminal``: only so many processes are listed, with the first digits of their names.
    """
    sections: list[RenderableType] = []
    if not inspection.total_groups and not inspection.groups:
        why = "nobody is connected, or nobody has joined one" if inspection.complete else "not every shard answered"
        verb = "has" if inspection.complete else "shows"
        sections.append(Text(f"Layer {inspection.layer!r} {verb} no groups: {why}."))
    elif not inspection.groups and not summary:
        sections.append(Text("No group has such members."))
    elif members:
        sections.extend(_group_with_members(group, inspection) for group in inspection.groups)
    elif not summary:
        sections.append(_groups_table(inspection))
    if hidden:
        sections.append(Text(f"… and {counted(hidden, 'more group')}; --limit shows more.", style="dim"))
    if inspection.processes:
        sections.append(_processes_table(inspection, for_a_terminal=for_a_terminal))
    notes = (Text(f"Note: {note}.", style="dim") for note in inspection.notes)
    sections.append(Stack(_totals_line(inspection), *_next_step(inspection.totals), *notes))
    return Stack(*(part for section in sections for part in (section, GAP)))


def _groups_table(inspection: Inspection) -> Table:
    several = len(inspection.shards) > 1
    columns = [column for column in GROUP_COLUMNS if several or column is not SHARD]
    return _table_of(columns, inspection.groups, inspection.taken_at, wide="Group")


def _group_with_members(group: Group, inspection: Inspection) -> RenderableType:
    title = Text.assemble((visible(group.group), "bold"), f"  {counted(group.counts.members, 'member')}")
    columns = [*(column for column in MEMBER_COLUMNS if column is not CHANNEL), CHANNEL]  # Whole names fold at the end.
    return Stack(title, _table_of(columns, group.channels, inspection.taken_at, wide="Channel"))


def _processes_table(inspection: Inspection, *, for_a_terminal: bool) -> Table:
    """The processes that need attention first. If a terminal could not hold all, some of each state."""
    shown: list[Process] = []
    hidden: dict[str, list[Process]] = {}
    room = PROCESSES_SHOWN if for_a_terminal else len(inspection.processes)
    by_state = {state: [p for p in inspection.processes if p.verdict.state.value == state] for state in URGENCY}
    for number, (state, processes) in enumerate(by_state.items()):
        ordered = sorted(processes, key=lambda p: (-p.members, p.process))
        others = sum(map(len, list(by_state.values())[number + 1 :]))
        most = max(room - others, room // (len(URGENCY) - number))
        shown += ordered[:most]
        hidden[state] = ordered[most:]
        room -= len(ordered[:most])
    short = DIGITS_SHOWN if for_a_terminal else None
    table = _table_of(PROCESS_COLUMNS, shown, inspection.taken_at, wide="Evidence", digits=short)
    for state, rest in hidden.items():
        if rest:
            more = Text(f"… {len(rest):,} more", style="dim")
            table.add_row(more, _state(state), number_cell(sum(p.members for p in rest)), "")
    return table


def _table_of(
    columns: Iterable[Column[T]], rows: Iterable[T], now: float, *, wide: str, digits: int | None = None
) -> Table:
    shown = shown_in_tables(columns)
    numbers = frozenset(column.heading for column in shown if column.kind is ColumnKind.NUMBER)
    table = make_table(*(column.heading for column in shown), numbers=numbers, wide=wide)
    for row in rows:
        table.add_row(*(_cell(column, row, now, digits) for column in shown))
    return table


def _cell(column: Column[T], row: T, now: float, digits: int | None) -> Text | str:
    value = column.value(row)
    if isinstance(row, Process) and column.name == "process":
        return process_cell(row.process, row.lease, digits)
    if column.kind is ColumnKind.NUMBER:
        return number_cell(value, column.name if column.name in STATE_STYLES else None)
    if column.kind is ColumnKind.STATE:
        return _state(value)
    if column.kind is ColumnKind.TIME:
        return ago(value, now)
    return Text("; ".join(value) if column.kind is ColumnKind.WORDS else visible(value or ""))


def process_cell(process: str, lease: Lease | None, digits: int | None = DIGITS_SHOWN) -> Text:
    """Its host and pid, if its lease tells them, before the layer's name for it, of which ``digits`` are shown."""
    if lease is None or not lease.host:
        return Text(process)
    return Text(f"{visible(lease.host)} pid {visible(lease.pid)} {process[:digits]}{'…' if digits else ''}")


def _next_step(totals: StateCounts) -> list[Text]:
    if totals.orphan:
        return [Text("manage.py reap_stale removes the orphans.")]
    if totals.suspect:
        return [Text("manage.py reap_stale --wait finds out whether the suspects are dead, and removes them then.")]
    return []


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


def reap_report(report: ReapReport, *, next_step: str = "") -> RenderableType:
    """The answer of ``reap_stale``. ``next_step``: what to do now."""
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
    parts.extend(Text(line) for line in (*_reap_lines(report), next_step) if line)
    parts.extend(Text(f"Note: {note}.", style="dim") for note in report.notes)
    return Stack(*parts)


def _reap_lines(report: ReapReport) -> list[str]:
    scanned = f"{counted(report.members_scanned, 'member')} of {counted(report.groups_scanned, 'group')}"
    what = "would be removed" if report.dry_run else "removed"
    looked = f"Looked at {scanned} in {report.duration_seconds:.1f} s"
    lines = [f"{looked}: {report.removed:,} {what}, {report.suspects:,} under suspicion."]
    if not report.complete and not report.members_scanned:
        lines = ["No member was looked at: not every shard answered."]
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
