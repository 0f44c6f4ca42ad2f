"""One line at a time: what it says of a websocket, behind whatever a log handler put before it."""

from __future__ import annotations

from datetime import datetime, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.model.disconnects.logs.lines import (
    WebsocketLine,
    is_daphne_http,
    parse_daphne,
    parse_exception,
    parse_uvicorn,
    split_stamp,
)

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
    assert parse_daphne(line, CHICAGO) == WebsocketLine(verbs.get(verb, verb), "10.0.0.1:4000", "/ws/a/", NOON)


@pytest.mark.parametrize(
    "line",
    [
        '10.0.0.1:4000 - - [25/Nov/2026:06:00:01] "GET /" 200 17',
        '10.0.0.1:4000 - - [25/Foo/2026:06:00:01] "WSCONNECT /" - -',
        '10.0.0.1:4000 - - [35/Nov/2026:06:00:01] "WSCONNECT /" - -',
        '10.0.0.1:4000 - - [25/Nov/2026:06:00:01] "WSOTHER /" - -',
        "",
    ],
)
def test_other_lines_are_none_of_daphnes_about_websockets(line: str) -> None:
    assert parse_daphne(line, CHICAGO) is None


def test_an_http_line_of_daphne_is_known_as_one() -> None:
    assert is_daphne_http('10.0.0.1:4000 - - [25/Nov/2026:06:00:01] "GET /" 200 17')
    assert not is_daphne_http("GET / 200")


def test_uvicorns_lines_tell_whether_the_handshake_was_accepted() -> None:
    line = '10.0.0.1:4000 - "WebSocket /ws/a/?token=x" {}'
    assert parse_uvicorn(line.format("[accepted]")) == WebsocketLine("connected", "10.0.0.1:4000", "/ws/a/")
    assert parse_uvicorn(line.format("403")) == WebsocketLine("rejected", "10.0.0.1:4000", "/ws/a/")
    assert parse_uvicorn(line.format("500")) is None
    assert parse_uvicorn("connection closed") == WebsocketLine("ended", "", "")
    assert parse_uvicorn('10.0.0.1:4000 - "GET / HTTP/1.1" 200 OK') is None


def test_the_last_line_of_a_traceback_is_type_and_text() -> None:
    assert parse_exception("redis.exceptions.ConnectionError: Connection lost.") == (
        "redis.exceptions.ConnectionError: Connection lost."
    )
    assert parse_exception("TimeoutError") == "TimeoutError: "
    assert parse_exception("two words") is None


@given(st.text(max_size=5000) | st.from_regex(r"\S{0,200} - - \[.{0,30}\] \"WS[A-Z]{0,20} .{0,100}"))
def test_no_line_raises(line: str) -> None:
    text = split_stamp(line, CHICAGO).text
    parse_daphne(text, CHICAGO)
    parse_uvicorn(text)
    parse_exception(text)
