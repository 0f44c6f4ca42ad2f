"""Results as tables for a terminal, and as the marked block of docs/performance.md; both from the JSON document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
BEGIN = "<!-- figures: written by `python -m benchmarks --write-docs`, do not edit -->"
END = "<!-- end of figures -->"
TITLES = {
    "scan": "Counting everything",
    "reap": "Removing the members of half of the processes",
    "block": "What the application notices",
    "memory": "Peak memory",
    "layer": "The drop-in layer",
    "heartbeat": "Heartbeats at depth channel",
    "disconnects": "The disconnect log",
    "replay": "Recorded ends",
    "huge": "Extreme shapes",
    "groups": "A group for each member",
}
STYLES = {"met": "green", "met, not the aim": "yellow", "MISSED": "bold red"}
HEADINGS = ("What", "Median", "Range", "Target", "Verdict", "Note")

Row = tuple[str, str, str, str, str, str]


def print_report(console: Console, document: dict[str, Any]) -> None:
    console.print(Text(_setting(document)))
    for title, rows in _tables(document):
        table = Table(*HEADINGS[:1], title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in HEADINGS[1:3]:
            table.add_column(heading, justify="right", no_wrap=True)
        for heading in HEADINGS[3:]:
            table.add_column(heading)
        for what, *cells, verdict, note in rows:
            table.add_row(Text(what), *map(Text, cells), Text(verdict, STYLES.get(verdict, "")), Text(note, "dim"))
        console.print(table)
    console.print(Text(_conclusion(document)))


def write_docs(document: dict[str, Any], path: Path = DOCUMENT) -> None:
    """Put the figures between the marks in ``path``. Raises ValueError where the marks are missing."""
    text = path.read_text()
    before, mark, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (mark and end):
        raise ValueError(f"{path.name} has no lines {BEGIN!r} and {END!r}")
    path.write_text(f"{before}{BEGIN}\n\n{_markdown(document)}\n{END}{after}")


def beside(kept: dict[str, Any] | None, document: dict[str, Any]) -> dict[str, Any]:
    """``document`` with the figures of ``kept`` about what it has not measured; then each new subject has its own time.

    Ratios are taken within one run, so subjects of several runs may stand beside each other, but no figure may.
    """
    new = {figure["subject"] for figure in document["figures"]}
    rest = [figure for figure in kept["figures"] if figure["subject"] not in new] if kept else []
    if kept is None or not rest:
        return document
    apart = {**kept.get("apart", {}), **dict.fromkeys(sorted(new), document["taken_at"])}
    failures = {**{name: why for name, why in kept["failures"].items() if name not in new}, **document["failures"]}
    return {**kept, "apart": apart, "failures": failures, "figures": [*rest, *document["figures"]]}


def _markdown(document: dict[str, Any]) -> str:
    lines = [_setting(document), ""]
    for title, rows in _tables(document):
        lines += [f"### {title}", "", _markdown_row(HEADINGS), "|---|--:|--:|---|---|---|"]
        lines += [*map(_markdown_row, rows), ""]
    return "\n".join([*lines, _conclusion(document), ""])


def _markdown_row(cells: Row) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _setting(document: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    apart = ", one of them the server's" if document.get("server_has_its_own_core") else ""
    return (
        f"{document['members']:,} members in {document['groups']:,} groups of {document['processes']} processes; "
        f"{document['repeat']} repetitions, {document['cores']} cores{apart}; {versions}; {document['taken_at']}."
    )


def _conclusion(document: dict[str, Any]) -> str:
    missed = [
        f"{figure['what']} ({_number(figure)})" for figure in document["figures"] if figure["verdict"] == "MISSED"
    ]
    said = f"Targets missed: {'; '.join(missed)}." if missed else "No target that applies at this size was missed."
    failed = "".join(f" Not measured to the end: {name}." for name in document["failures"])
    apart = " What has a time of its own is of a later run." if document.get("apart") else ""
    return f"{said}{failed} The whole run took {document['seconds']:.0f} s.{apart}"


def _tables(document: dict[str, Any]) -> Iterator[tuple[str, list[Row]]]:
    for subject, title in TITLES.items():
        figures = [figure for figure in document["figures"] if figure["subject"] == subject]
        if figures:
            when = document.get("apart", {}).get(subject)
            yield f"{title} ({when})" if when else title, [_row(figure) for figure in figures]


def _row(figure: dict[str, Any]) -> Row:
    runs = figure["runs"]
    spread = f"{_plain(min(runs))} - {_plain(max(runs))}" if len(runs) > 1 else ""
    return figure["what"], _number(figure), spread, _target(figure), figure["verdict"], figure["note"]


def _number(figure: dict[str, Any]) -> str:
    value, unit = figure["value"], figure["unit"]
    if value is None:
        return "-"
    return _plain(value) if unit in ("ratio", "commands") else f"{_plain(value)} {unit}"


def _plain(value: float) -> str:
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def _target(figure: dict[str, Any]) -> str:
    target = figure["target"]
    if target is None:
        return ""
    sign = "≥" if target["at_least"] else "≤"
    aim = f", aim {sign} {target['aim']:g}" if target["aim"] is not None else ""
    return f"{sign} {target['required']:g}{aim}"
