"""One line at a time: what it says of a websocket, behind whatever a log handler put before it."""

from __future__ import annotations

import json
import time
from datetime import datetime, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.model.disconnects.logs import daphne, runserver, uvicorn
from ops.model.disconnects.logs.lines import WebsocketLine, parse_exception, without_colours
from ops.model.disconnects.logs.prefixes import Prefixes, is_shippers, key_of, place_of, split_stamp
from ops.model.disconnects.logs.reader import LogReader
from ops.model.disconnects.logs.times import find_time, is_ambiguous
from ops.model.disconnects.logs.wrapped import load, unwrap

CHICAGO = ZoneInfo("America/Chicago")
NOON = datetime(2026, 11, 25, 12, 0, 1, tzinfo=timezone.utc).timestamp()


@pytest.mark.parametrize(
    ("line", "text", "at"),
    [
        ("2026-11-25 06:00:01,250 ERROR    said", "said", NOON + 0.25),
        ("2026-11-25 06:00:01,250 INFO uvicorn.error: said", "said", NOON + 0.25),
        ("2026-11-25T12:00:01.250000000Z INFO:     said", "said", NOON + 0.25),
        ("2026-11-25T14:00:01+0200 web-1 uvicorn[17]: INFO:     said", "said", NOON),
        ("2026-11-25T12:00:01+00:00 web-1 daphne[17]: 2026-11-25 06:00:01,250 ERROR said", "said", NOON + 0.25),
        ('2026-11-25T12:00:01+0000 web-1 uvicorn[17]:   File "x"', '  File "x"', NOON),
        ("Nov 25 06:00:01 web-1 uvicorn[17]: INFO:     said", "said", None),
        ("INFO:     said", "said", None),
        ("said", "said", None),
        ("2026-13-25 06:00:01,250 ERROR said", "said", None),
        ("2026-11-25T12:00:01+99:99 said", "said", None),
        ("0001-01-01T00:00:00+1400 said", "said", None),
        ("9999-12-31T23:59:59.999999999Z said", "said", None),
    ],
)
def test_what_a_handler_docker_or_journald_put_before_a_line_is_taken_off(
    line: str, text: str, at: float | None
) -> None:
    stamped = split_stamp(line, CHICAGO)
    assert (stamped.text, stamped.at) == (text, at)


@pytest.mark.parametrize("verb", ["connecting", "connect", "reject", "disconnect"])
def test_daphnes_times_are_of_the_projects_zone(verb: str) -> None:
    line = f'10.0.0.1:4000 - - [25/Nov/2026:06:00:01] "WS{verb.upper()} /ws/a/?token=x" - -'
    verbs = {"connect": "connected", "reject": "rejected", "disconnect": "ended"}
    assert daphne.find(line, CHICAGO) == WebsocketLine(verbs.get(verb, verb), "10.0.0.1:4000", "/ws/a/", NOON)


@pytest.mark.parametrize(
    "line",
    [
        '10.0.0.1:4000 - - [25/Foo/2026:06:00:01] "WSCONNECT /" - -',
        '10.0.0.1:4000 - - [35/Nov/2026:06:00:01] "WSCONNECT /" - -',
        '10.0.0.1:4000 - - [25/Nov/2026:06:00:01] "WSOTHER /" - -',
        "",
    ],
)
def test_other_lines_are_none_of_daphnes_about_websockets(line: str) -> None:
    assert daphne.find(line, CHICAGO) is None


def test_an_http_line_of_daphne_is_known_as_one() -> None:
    line = '10.0.0.1:4000 - - [25/Nov/2026:06:00:01] "GET /?a=1" {} 17'
    assert daphne.find(line.format(200), CHICAGO) == WebsocketLine("request", "10.0.0.1:4000", "/", NOON)
    assert daphne.find(line.format(500), CHICAGO) == WebsocketLine("failed", "10.0.0.1:4000", "/", NOON)
    assert daphne.find("GET / 200", CHICAGO) is None


def test_uvicorns_lines_tell_whether_the_handshake_was_accepted() -> None:
    line = '10.0.0.1:4000 - "WebSocket /ws/a/?token=x" {}'
    assert uvicorn.find(line.format("[accepted]"), CHICAGO) == WebsocketLine("connected", "10.0.0.1:4000", "/ws/a/")
    assert uvicorn.find(line.format("403"), CHICAGO) == WebsocketLine("rejected", "10.0.0.1:4000", "/ws/a/")
    assert uvicorn.find(line.format("500"), CHICAGO) == WebsocketLine("failed", "10.0.0.1:4000", "/ws/a/")
    assert uvicorn.find("connection closed", CHICAGO) == WebsocketLine("ended", "", "")
    assert uvicorn.find('10.0.0.1:4000 - "GET / HTTP/1.1" 200 OK', CHICAGO) is None
    assert uvicorn.find("the database connection closed", CHICAGO) is None


def test_the_last_line_of_a_traceback_is_type_and_text() -> None:
    assert parse_exception("redis.exceptions.ConnectionError: Connection lost.") == (
        "redis.exceptions.ConnectionError: Connection lost."
    )
    assert parse_exception("TimeoutError") == "TimeoutError: "
    assert parse_exception("two words") is None


@given(st.text(max_size=5000) | st.from_regex(r"\S{0,200} - - \[.{0,30}\] \"WS[A-Z]{0,20} .{0,100}"))
def test_no_line_raises(line: str) -> None:
    text = split_stamp(line, CHICAGO).text
    for server in (daphne, uvicorn, runserver):
        server.find(text, CHICAGO)
        server.is_own(text)
    parse_exception(text)


@pytest.mark.parametrize(
    ("prefix", "host", "pid", "is_a_shippers"),
    [
        ("web-1  | ", "web-1", None, True),
        ("2026-11-25T12:00:01.250000+00:00 app[web.1]: ", "web.1", None, True),
        ("2026-11-25T12:00:01.250000000Z stderr F ", None, None, True),
        ("daphne[4211]: ", None, 4211, True),
        ("Nov 25 06:00:01 web-1 daphne: ", "web-1", None, True),
        ("<14>1 2026-11-25T12:00:01.25Z web-1 daphne 4211 - - ", "web-1", 4211, True),
        ("2026-11-25T12:00:01+0000 web-1 daphne[4211]: ", "web-1", 4211, True),
        ("[pod/web-7d9f-x2/web] ", "web-7d9f-x2", None, True),
        ("[2026-11-25 06:00:01 -0600] [12274] [INFO] ", None, 12274, False),
        ("ERROR 2026-11-25 06:00:01,250 server 14201 140123456789 ", None, 14201, False),
        ("2026-11-25 06:00:01,250 - ERROR - server - ", None, None, False),
        ("message from bob: ", None, None, False),
    ],
)
def test_a_prefix_names_a_place_and_says_who_wrote_it(
    prefix: str, host: str | None, pid: int | None, is_a_shippers: bool
) -> None:
    assert place_of(key_of(prefix)) == (host, pid)
    assert is_shippers(prefix) is is_a_shippers


def test_what_stood_before_one_line_is_taken_off_another_with_another_time() -> None:
    prefixes = Prefixes()
    prefixes.learn("2026-11-25T12:00:01.25Z stdout F web-1  | ")
    assert prefixes.split('2026-11-25T12:00:02Z stderr F web-12  |   File "x"') == 40
    assert prefixes.split("2026-11-25T12:00:02Z stderr F web-12  |") == 39
    assert prefixes.split("2026-11-25T12:00:02Z stderr F db-1  | x") == 0


def test_what_stands_before_a_traceback_stands_before_its_lines_only_if_they_have_it() -> None:
    for line, length in (('web |   File "x"', 6), ('  File "x"', 0)):
        prefixes = Prefixes()
        prefixes.try_out("web | ")
        assert prefixes.split(line) == length
        assert prefixes.split("web | ValueError") == length


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-25T12:00:01.250Z",
        "2026-11-25 06:00:01,250",
        "2026/11/25 06:00:01.25",
        "[2026-11-25 06:00:01.25 -0600]",
        "1795608001.250",
        "Nov 25 06:00:01.250",
        "Nov 25 06:00:01 2026-11-25T12:00:01.25+00:00",
    ],
)
def test_times_are_found_however_they_are_written(text: str) -> None:
    assert find_time(f"web {text} ", CHICAGO, NOON + 3600) == NOON + 0.25


def test_a_time_without_a_year_is_of_the_year_before_now() -> None:
    january = datetime(2027, 1, 2, tzinfo=timezone.utc).timestamp()
    assert find_time("Nov 25 06:00:01", CHICAGO, january) == NOON
    assert find_time("Nov 25 06:00:01", CHICAGO) is None
    assert find_time("25/Nov/2026 06:00:01", CHICAGO) == NOON


def test_an_hour_that_the_clocks_show_twice_is_ambiguous() -> None:
    ends = datetime(2026, 11, 1, 6, 30, tzinfo=timezone.utc).timestamp()
    assert is_ambiguous(ends, CHICAGO)
    assert not is_ambiguous(ends + 7200, CHICAGO)
    assert not is_ambiguous(ends, timezone.utc)


def test_runserver_says_what_happened_and_to_which_client() -> None:
    line = "WebSocket {} /ws/a/?x=1 [127.0.0.1:39542]"
    assert runserver.find(line.format("DISCONNECT"), CHICAGO) == WebsocketLine("ended", "127.0.0.1:39542", "/ws/a/")
    assert runserver.find(line.format("OTHER"), CHICAGO) is None
    assert runserver.is_own("HTTP GET /?a=1 200 [0.01, 127.0.0.1:39542]")


def test_colours_are_taken_out() -> None:
    assert without_colours("\x1b[32mINFO\x1b[0m:     said") == "INFO:     said"


@pytest.mark.parametrize(
    "line",
    [
        " - - [" * 700,
        "1" * 4000,
        "web-1 " * 600 + "| ",
        "2026-11-25T12:00:01" * 200 + "}",
        '{"' * 2000 + "}",
        "\x1b[" * 2000,
        ' - "WebSocket ' * 300,
        "x" * 290 + " connection closed",
        "[" * 4000,
        "1795608001." * 300,
    ],
)
def test_no_line_takes_long(line: str) -> None:
    reader = LogReader(CHICAGO, lambda one: None)
    before = time.process_time()
    for number in range(100):
        reader.feed(f"{line}{number}".encode())
        reader.feed(f"{line}{number} | Traceback (most recent call last):".encode())
        reader.feed(f"{line[:200]}{number} | Traceback (most recent call last):".encode())
        reader.feed(f'{line[:200]}{number} |   File "x"'.encode())
    assert time.process_time() - before < 2


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "message",
                        "log",
                        "exc_info",
                        "exception",
                        "time",
                        "pid",
                        "host",
                        "level",
                        "frames",
                        "exc_type",
                        "container_id",
                        "schema_version",
                    ]
                ),
                inner,
                max_size=5,
            )
        ),
    )
)
def test_no_json_raises(document: object) -> None:
    raw = json.dumps(document)
    loaded = load(raw)
    if loaded is not None:
        unwrap(loaded, CHICAGO, NOON)
    LogReader(CHICAGO, lambda one: None).feed(raw.encode())
