"""The report on the ends of websockets as one HTML page: no script, nothing from elsewhere, light and dark."""

from collections.abc import Iterator, Sequence
from html import escape

from ops.model.disconnects.report.pattern import Pattern
from ops.model.disconnects.report.report import DisconnectReport, Reading, Row, Step, Table
from ops.model.text import format_seconds, visible
from ops.output.text import iso, not_counted_again

CHART_WIDTH, CHART_HEIGHT, AXIS_HEIGHT = 960, 160, 20

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --card: #f5f6f8; --ink: #1b1f24; --soft: #5b6470; --line: #d5d9df;
  --plain: #3b7dd8; --odd: #c9510c; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --card: #1d2228; --ink: #e6e9ed; --soft: #9aa4b0;
  --line: #353c45; --plain: #6aa5f2; --odd: #f08a4b; } }
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p, li { overflow-wrap: anywhere; } .soft { color: var(--soft); }
.pattern { background: var(--card); border-left: 4px solid var(--odd); border-radius: 4px; padding: .6rem 1rem;
  margin: .8rem 0; }
.pattern h3 { font-size: 1rem; margin: 0; } .pattern ul { margin: .3rem 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 500; } td.number, th.number { text-align: right; white-space: nowrap; }
td.name { overflow-wrap: anywhere; min-width: 13rem; font-family: ui-monospace, monospace; font-size: .9em; }
td.bar { width: 22%; } td.bar svg { display: block; margin-top: .35rem; }
svg { width: 100%; } .plain { fill: var(--plain); } .odd { fill: var(--odd); }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; } .axis { stroke: var(--line); }
""".strip()

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="referrer" content="no-referrer">
<title>Why websockets ended</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def disconnect_page(report: DisconnectReport) -> str:
    """The whole page. Everything that comes from logs is escaped, for people and then for HTML."""
    return PAGE.format(style=STYLE, body="\n".join(_body(report)))


def _body(report: DisconnectReport) -> Iterator[str]:
    yield f"<h1>{report.records:,} websockets ended</h1>"
    yield f'<p class="soft">{_about(report)}</p>'
    yield from map(_pattern, report.patterns)
    if report.records and not report.patterns:
        yield "<p>No pattern stands out.</p>"
    if report.timeline:
        yield f"<h2>Ends over time, in {format_seconds(report.step_seconds)} each</h2>"
        yield _timeline(report.timeline)
        yield '<p class="soft">Orange: ends that were not ordinary.</p>'
    for heading, table in (
        ("Cause", report.by_cause),
        ("Close code", report.by_code),
        ("Closed by", report.by_closer),
        ("Worker", report.by_worker),
        ("Path", report.by_path),
        ("Lived for", report.ages),
        ("Exception", report.by_exception),
    ):
        if table.rows:
            yield from _table(heading, table)
    yield from _notes(report.reading)


def _text(name: str) -> str:
    return escape(visible(name))


def _about(report: DisconnectReport) -> str:
    parts = [", ".join(map(_text, report.sources)), f"layer {_text(report.layer)}"]
    if report.first_at is not None:
        parts.append(f"from {iso(report.first_at)} to {iso(report.last_at)}")
    if report.untimed:
        parts.append(f"{report.untimed:,} do not say when")
    if report.dropped:
        parts.append(f"{report.dropped:,} more could not be recorded")
    if report.reaped_later:
        parts.append(not_counted_again(report.reaped_later))
    return " · ".join(parts)


def _pattern(pattern: Pattern) -> str:
    evidence = "".join(f"<li>{escape(line)}</li>" for line in pattern.evidence)
    return (
        f'<section class="pattern"><h3>{escape(pattern.title)}</h3><ul>{evidence}</ul>'
        f'<p class="soft">{escape(pattern.advice)}</p></section>'
    )


def _timeline(steps: Sequence[Step]) -> str:
    most = max(step.total for step in steps)
    width = CHART_WIDTH / len(steps)
    bars = [_column(step, number * width, width, most) for number, step in enumerate(steps) if step.total]
    base = CHART_HEIGHT + 14
    axis = f'<line class="axis" x1="0" x2="{CHART_WIDTH}" y1="{CHART_HEIGHT}" y2="{CHART_HEIGHT}"/>'
    begins, ends = f'<text x="0" y="{base}">{iso(steps[0].at)}</text>', ""
    if len(steps) > 1:
        ends = f'<text x="{CHART_WIDTH}" y="{base}" text-anchor="end">{iso(steps[-1].at)}</text>'
    return (
        f'<svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT + AXIS_HEIGHT}" role="img" aria-label="Ends over time">'
        f'{"".join(bars)}{axis}{begins}{ends}<text x="0" y="10">{most:,}</text></svg>'
    )


def _column(step: Step, left: float, width: float, most: int) -> str:
    total, bad = (CHART_HEIGHT - 14) * step.total / most, (CHART_HEIGHT - 14) * step.bad / most
    wide = max(1.0, width - 1)
    ordinary = _bar("plain", left, CHART_HEIGHT - total, wide, total - bad)
    odd = _bar("odd", left, CHART_HEIGHT - bad, wide, bad)
    return f"<g><title>{iso(step.at)}: {step.total:,}, not ordinary {step.bad:,}</title>{ordinary}{odd}</g>"


def _bar(kind: str, x: float, y: float, width: float, height: float) -> str:
    if height <= 0 or width <= 0:
        return ""
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def _table(heading: str, table: Table) -> Iterator[str]:
    meaning = any(row.meaning for row in table.rows)
    bad = any(row.bad for row in table.rows)
    yield f"<h2>{heading}</h2>"
    headings = ['<th class="number">Ends</th>', "<th></th>"]
    headings += ['<th class="number">Not ordinary</th>'] * bad + ["<th>Meaning</th>"] * meaning
    yield f"<table><thead><tr><th>{heading}</th>{''.join(headings)}</tr></thead><tbody>"
    most = max(row.count for row in table.rows)
    for row in table.rows:
        yield _row(row, most, bad=bad, meaning=meaning)
    if table.other:
        yield f'<tr><td class="soft">others</td><td class="number">{table.other:,}</td></tr>'
    yield "</tbody></table>"


def _row(row: Row, most: int, *, bad: bool, meaning: bool) -> str:
    share, odd = 100 * row.count / most, 100 * row.bad / most
    bars = _bar("plain", odd, 0, share - odd, 10) + _bar("odd", 0, 0, odd, 10)
    cells = [
        f'<td class="name">{_text(row.name)}</td>',
        f'<td class="number">{row.count:,}</td>',
        f'<td class="bar"><svg viewBox="0 0 100 10" height="10" preserveAspectRatio="none">{bars}</svg></td>',
    ]
    cells += [f'<td class="number">{row.bad:,}</td>'] * bad + [f'<td class="soft">{escape(row.meaning)}</td>'] * meaning
    return f"<tr>{''.join(cells)}</tr>"


def _notes(reading: Reading) -> Iterator[str]:
    for problem in reading.problems:
        yield f"<p>{_text(problem)}</p>"
    if reading.still_open:
        yield f'<p class="soft">{reading.still_open:,} sockets opened whose end is not in the log.</p>'
    if reading.unreadable:
        samples = "".join(f'<li class="name">{_text(sample)}</li>' for sample in reading.samples)
        yield f'<p class="soft">{reading.unreadable:,} of {reading.entries:,} could not be read; the first:</p>'
        yield f"<ul>{samples}</ul>"
