"""The report in its three forms: for a terminal, as JSON whose fields are an interface, and as a page."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ops.model.disconnects.record import Disconnect
from ops.model.disconnects.report.report import DisconnectReport, Reading, conclude_report
from ops.model.disconnects.report.tally import DisconnectTally
from ops.output.disconnect_documents import disconnect_report_document
from ops.output.disconnect_page import disconnect_page
from ops.output.disconnect_tables import disconnect_report
from ops.output.documents import dump

NOON = 1_795_608_000.0
HOSTILE = "<script>alert(1)</script>\x1b[2J\u202e\"'&"


def report_of(*records: Disconnect, reading: Reading | None = None) -> DisconnectReport:
    tally = DisconnectTally()
    for one in records:
        tally.add(one)
    return conclude_report("default", ["a.log"], reading or Reading(), tally)


def shown(report: DisconnectReport, width: int = 80, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    Console(file=stream, width=width).print(disconnect_report(report), markup=False, highlight=False, emoji=False)
    stream.flush()
    return raw.getvalue().decode(encoding)


def test_the_json_has_the_fields_of_the_interface() -> None:
    end = Disconnect(
        NOON,
        "no_close_frame",
        "client",
        lived_seconds=7.0,
        code=1006,
        path="/ws/room/17/",
        process="p",
        exception=("E: x",),
    )
    reading = Reading(entries=4, unreadable=3, still_open=2, samples=("\x1b[2J",), problems=("b.log cannot be read",))
    document = disconnect_report_document(report_of(end, Disconnect(0.0, dropped_before=7), reading=reading))
    assert json.loads(dump(document)) == {
        "schema_version": 1,
        "layer": "default",
        "sources": ["a.log"],
        "complete": False,
        "records": 2,
        "untimed": 1,
        "dropped": 7,
        "reaped_later": 0,
        "first_at": "2026-11-25T12:00:00.000Z",
        "last_at": "2026-11-25T12:00:00.000Z",
        "by_code": {
            "rows": [{"code": 1006, "count": 1, "meaning": "no close frame: the connection was cut"}],
            "other": 0,
        },
        "by_cause": {
            "rows": [
                {
                    "cause": "no_close_frame",
                    "count": 1,
                    "meaning": "the TCP connection ended without a closing handshake (1006)",
                },
                {"cause": "unknown", "count": 1, "meaning": "what was known says nothing"},
            ],
            "other": 0,
        },
        "by_closer": {"rows": [{"closed_by": "client", "count": 1}, {"closed_by": "unknown", "count": 1}], "other": 0},
        "by_worker": {"rows": [{"worker": "p", "count": 1}], "other": 0},
        "by_path": {"rows": [{"path": "/ws/room/{number}/", "count": 1, "not_ordinary": 1}], "other": 0},
        "by_exception": {"rows": [{"exception": "E: x", "count": 1}], "other": 0},
        "left_behind": {"rows": [], "other": 0},
        "by_age": {"rows": [{"lived": "1 s to 10 s", "count": 1}], "other": 0},
        "timeline": {
            "step_seconds": 1,
            "steps": [{"at": "2026-11-25T12:00:00.000Z", "count": 1, "not_ordinary": 1}],
        },
        "patterns": [],
        "entries": 4,
        "unreadable": 3,
        "unreadable_samples": ["\\x1b[2J"],
        "not_understood": "only 1 of 4 entries or lines could be read: what follows tells little",
        "json_lines": 0,
        "json_not_understood": 0,
        "unproved": 0,
        "still_open": 2,
        "problems": ["b.log cannot be read"],
    }


def test_a_pattern_has_its_evidence_in_every_form() -> None:
    report = report_of(*(Disconnect(NOON, "process_died", process="p") for _ in range(9)))
    [pattern] = disconnect_report_document(report)["patterns"]
    assert (pattern["id"], pattern["connections"]) == ("worker_died", 9)
    assert pattern["title"] in shown(report)
    for text in (pattern["title"], *pattern["evidence"]):
        assert text in disconnect_page(report)


def test_the_commonest_rows_are_shown_and_the_others_counted() -> None:
    report = report_of(*(Disconnect(NOON, path=f"/{'x' * number}") for number in range(1, 31) for _ in range(number)))
    document = disconnect_report_document(report)
    assert len(document["by_path"]["rows"]) == 15
    assert document["by_path"]["other"] == sum(range(1, 16))
    assert re.search(r"others +120", shown(report))


def test_an_empty_report_says_so() -> None:
    assert shown(report_of()) == "Read from a.log: no websocket ended.\n\n"
    assert "0 websockets ended" in disconnect_page(report_of())


def test_the_timeline_fits_into_any_width_and_into_ascii() -> None:
    report = report_of(*(Disconnect(NOON + number * number) for number in range(300)))
    for width in (20, 80, 200):
        assert max(map(len, shown(report, width).splitlines())) <= width
    assert "█" in shown(report)
    assert "@" in shown(report, encoding="ascii")


class Elements(HTMLParser):
    """The names of the elements, and what refers to another place."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.references += [
            name for name, _ in attrs if name in ("src", "href", "srcset", "action") or name[:2] == "on"
        ]


def elements_of(page: str) -> Elements:
    parser = Elements()
    parser.feed(page)
    return parser


def hostile_report(text: str) -> DisconnectReport:
    records = [
        Disconnect(
            NOON, "process_died", host=text, pid=1, process=text, path=text, exception=(text,), lived_seconds=60.0
        )
    ]
    return report_of(*records * 9, reading=Reading(unreadable=1, samples=(text,), problems=(text,)))


@given(st.text(min_size=1, max_size=60) | st.just(HOSTILE))
def test_no_name_makes_an_element_of_the_page_or_reaches_a_terminal_as_it_is(name: str) -> None:
    harmless = elements_of(disconnect_page(hostile_report("name")))
    page = disconnect_page(hostile_report(name))
    assert elements_of(page).names == harmless.names
    assert elements_of(page).references == []
    assert "script" not in harmless.names
    assert all(character.isprintable() or character == "\n" for character in page + shown(hostile_report(name)))
    assert dump(disconnect_report_document(hostile_report(name))).isascii()


def test_the_page_takes_nothing_from_elsewhere() -> None:
    page = disconnect_page(hostile_report(HOSTILE))
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|@import|url\(", page)
    assert "prefers-color-scheme: dark" in page
