"""The answer of ``send_heartbeat`` for a terminal."""

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ops.model.heartbeats.report import HeartbeatCounts, HeartbeatReport, ProcessHeartbeat
from ops.model.text import counted, visible
from ops.output.tables import GAP, PROCESSES_SHOWN, make_table, number_cell

BAR_WIDTH = 30
PERCENTILES = ("p50", "p95", "p99")


def round_line(number: int, groups: int, counts: HeartbeatCounts) -> str:
    """What one of several rounds has found, in a line."""
    parts = [f"{counts.answered:,} answered", f"{counts.silent:,} silent"]
    if counts.not_capable:
        parts.append(f"{counts.not_capable:,} not able")
    if counts.skipped:
        parts.append(f"{counts.skipped:,} skipped")
    if counts.timed:
        parts.append(", ".join(f"{name} {milliseconds(counts.rtt_ms[name])}" for name in PERCENTILES))
    whole = f"{counted(counts.members, 'member')} of {counted(groups, 'group')}"
    return f"round {number}: {whole}: {', '.join(parts)}"


def heartbeat_report(report: HeartbeatReport) -> RenderableType:
    """The whole answer of a run: groups, processes, silent members, the distribution, the sum."""
    sections: list[RenderableType] = []
    if report.groups:
        sections.append(_groups_table(report))
    processes = _worth_showing(report)
    if processes:
        sections.append(_processes_table(processes, times=report.depth == "process"))
    if report.silent:
        sections.append(_silent_channels(report))
    if report.distribution:
        sections.append(_distribution(report))
    notes = (Text(f"Note: {note}.", style="dim") for note in report.notes)
    sections.append(Stack(_totals_line(report), *notes))
    return Stack(*(part for section in sections[:-1] for part in (section, GAP)), sections[-1])


def milliseconds(value: float) -> str:
    """``0.42 ms``, ``12.3 ms``, ``2.10 s``: three digits tell enough."""
    return f"{value / 1000:.2f} s" if value >= 1000 else f"{digits(value)} ms"


def digits(value: float) -> str:
    """The same without the unit, for a column that names it."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _columns(counts: HeartbeatCounts, *, sent: bool, able: bool) -> list[Text]:
    shown = (Text(digits(counts.rtt_ms[name]) if counts.timed else "-") for name in PERCENTILES)
    states = [
        number_cell(counts.sent if sent else counts.members),
        number_cell(counts.answered, "live"),
        number_cell(counts.silent, "orphan"),
    ]
    return [*states, *(() if able else (number_cell(counts.not_capable, "unknown"),)), *shown]


def _counts_table(first: str, asked: str, *, able: bool) -> Table:
    times = (f"{name} ms" for name in PERCENTILES)
    headings = (asked, "Answered", "Silent", *(() if able else ("Not able",)), *times)
    return make_table(first, *headings, numbers=frozenset(headings), wide=first)


def _groups_table(report: HeartbeatReport) -> RenderableType:
    several = report.rounds > 1
    able = not report.totals.not_capable
    table = _counts_table("Group", "Asked" if several else "Members", able=able)
    for found in report.groups:
        table.add_row(Text(visible(found.group)), *_columns(found.counts, sent=several, able=able))
    hidden = report.groups_seen - len(report.groups)
    if hidden <= 0:
        return table
    more = f"… and {counted(hidden, 'more group')}: the {len(report.groups)} that need most attention are shown."
    return Stack(table, Text(more, style="dim"))


def _worth_showing(report: HeartbeatReport) -> list[ProcessHeartbeat]:
    """At depth process all of them, the worst first; else those with members that were silent or not asked."""
    wanted = [
        found for found in report.processes if report.depth == "process" or found.counts.silent or found.counts.skipped
    ]

    def attention(found: ProcessHeartbeat) -> tuple[int, int, float, str]:
        counts = found.counts
        return -counts.silent, -counts.skipped, -counts.rtt_ms["max"], found.process

    return sorted(wanted, key=attention)


def _processes_table(processes: list[ProcessHeartbeat], *, times: bool) -> RenderableType:
    numbers = ("Silent", "Skipped", *(("Slowest",) if times else ()))
    table = make_table("Process", "Host", *numbers, numbers=frozenset(numbers), wide="Host")
    for found in processes[:PROCESSES_SHOWN]:
        counts = found.counts
        slowest = milliseconds(counts.rtt_ms["max"]) if counts.timed else "-"
        table.add_row(
            found.process,
            Text(f"{visible(found.host)} pid {visible(found.pid)}" if found.host else "-"),
            number_cell(counts.silent, "orphan"),
            number_cell(counts.skipped, "suspect"),
            *((slowest,) if times else ()),
        )
    if len(processes) > PROCESSES_SHOWN:
        table.add_row(Text(f"… {len(processes) - PROCESSES_SHOWN:,} more", style="dim"))
    skipped = [
        Text(f"{found.process}: {counted(found.counts.skipped, 'member')} not asked: {visible(found.skipped_why)}")
        for found in processes[:PROCESSES_SHOWN]
        if found.counts.skipped
    ]
    return Stack(table, *skipped)


def _silent_channels(report: HeartbeatReport) -> RenderableType:
    lines = [Text("Silent members")]
    lines += [Text(f"  {visible(channel)}", style="red") for channel in report.silent]
    more = report.totals.silent - len(report.silent)
    if more > 0 and report.rounds <= 1:
        lines.append(Text(f"  … and {more:,} more; --format json has them all", style="dim"))
    return Stack(*lines)


def _distribution(report: HeartbeatReport) -> RenderableType:
    most = max(count for _, _, count in report.distribution)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(width=BAR_WIDTH)
    table.add_column(justify="right", no_wrap=True)
    for shortest, longest, count in report.distribution:
        seen = max(count, most / BAR_WIDTH / 2) if count else 0
        bar = ProgressBar(total=most, completed=seen, width=BAR_WIDTH, finished_style="bar.complete")
        table.add_row(Text(f"{shortest:g} to {longest:g} ms"), bar, f"{count:,}")
    times = ", ".join(f"{name} {milliseconds(value)}" for name, value in report.totals.rtt_ms.items())
    return Stack(Text(f"Round trip: {times}"), table)


def _totals_line(report: HeartbeatReport) -> Text:
    totals = report.totals
    if report.rounds > 1:
        line = f"{counted(report.rounds, 'round')}, {counted(totals.sent, 'heartbeat')}: "
    else:
        line = f"{counted(report.groups_seen, 'group')}, {counted(totals.members, 'member')}: "
    text = Text(line)
    text.append(f"{totals.answered:,} answered", style="green" if totals.answered else "")
    text.append(", ")
    text.append(f"{totals.silent:,} silent", style="red" if totals.silent else "")
    text.append(f", {totals.not_capable:,} not able, {totals.skipped:,} skipped")
    return text
