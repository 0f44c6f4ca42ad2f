"""Whole logs of real servers, and lines of anybody's: what ended, and why, as far as the log knows."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.model.disconnects.logs import pairing
from ops.model.disconnects.logs import reader as log_reader
from ops.model.disconnects.logs.reader import Lines, LogReader
from ops.model.disconnects.record import UNTIMED, Disconnect, iso_time, to_json
from ops.model.disconnects.report.patterns import find_patterns
from ops.model.disconnects.report.tally import DisconnectTally
from tests.conftest import REPOSITORY

CAPTURED = REPOSITORY / "tests" / "data" / "logs"
CHICAGO = ZoneInfo("America/Chicago")
NOW = 1_795_953_600.0  # 2026-11-29T12:00:00Z


def read(text: str | bytes) -> tuple[list[Disconnect], Lines]:
    raw = text.encode() if isinstance(text, str) else text
    found: list[Disconnect] = []
    reader = LogReader(CHICAGO, found.append)
    for line in raw.removesuffix(b"\n").split(b"\n"):
        reader.feed(line)
    reader.end()
    return found, reader.lines


def causes(found: list[Disconnect]) -> dict[str, int]:
    return dict(Counter(one.cause for one in found))


def captured(name: str) -> Path:
    return CAPTURED / name


@pytest.mark.parametrize("name", ["daphne", "uvicorn", "uvicorn-timed"])
def test_the_toolkits_own_lines_are_read_whole(name: str) -> None:
    raw = captured(f"{name}.jsonl").read_bytes()
    found, lines = read(raw)
    assert [to_json(one) for one in found] == raw.decode().splitlines()
    assert (lines.read, lines.unreadable) == (len(found), 0)


def test_daphnes_log_tells_paths_ages_and_the_exceptions_that_came_before() -> None:
    found, lines = read(captured("daphne.log").read_bytes())
    by_path = {one.path: one for one in found}
    assert lines.unreadable == 0
    assert len(found) == 17  # as many as there are WSDISCONNECT: an exception and its socket's end are one
    assert {path: by_path[path].cause for path in ("/ws/raised/", "/ws/no-handler/", "/ws/waits/", "/ws/idle-2/")} == {
        "/ws/raised/": "handler_exception",
        "/ws/no-handler/": "no_handler",
        "/ws/waits/": "redis_timeout",
        "/ws/idle-2/": "redis_connection_lost",
    }
    assert by_path["/ws/rejecting/"].cause == "rejected"
    assert by_path["/ws/normal/"].cause == "unknown"
    assert by_path["/ws/idle-1/"].lived_seconds == 15.0
    assert iso_time(by_path["/ws/waits/"].at) == "2026-11-25T12:49:46.000Z"
    assert by_path["/ws/waits/"].exception[0].startswith("redis.exceptions.TimeoutError: Timeout reading from")
    assert {one.source for one in found} == {"daphne"}


def test_daphnes_access_log_alone_tells_paths_and_ages() -> None:
    found, lines = read(captured("daphne-access.log").read_bytes())
    assert len(found) == 17
    assert (lines.read, lines.unreadable) == (50, 0)
    assert causes(found) == {"unknown": 16, "rejected": 1}


@pytest.mark.parametrize("name", ["uvicorn.log", "uvicorn-timed.log"])
def test_uvicorns_log_tells_exceptions_and_rejections(name: str) -> None:
    found, lines = read(captured(name).read_bytes())
    assert {one.cause for one in found} == {
        "handler_exception",
        "no_handler",
        "redis_timeout",
        "redis_connection_lost",
        "rejected",
    }
    assert [one.path for one in found if one.cause == "rejected"] == ["/ws/rejecting/"]
    assert {one.at == UNTIMED for one in found} == {name == "uvicorn.log"}
    assert all("disconnect log" in sample for sample in lines.samples)  # two lines that no formatter has touched


def test_a_secret_in_a_traceback_or_a_query_string_is_not_kept() -> None:
    for name in ("daphne.log", "uvicorn.log"):
        found, _ = read(captured(name).read_bytes())
        kept = " ".join(to_json(one) for one in found)
        assert "hunter2" not in kept
        assert "token" not in kept


def prefixed(text: str, prefix: str) -> str:
    """``text`` as it arrives through Docker or journald, which write when each line came."""
    minute = "49:40"
    lines = []
    for line in text.splitlines():
        if (clock := re.search(r"[: ]06:(\d\d:\d\d)", line)) is not None:
            minute = clock[1]
        lines.append(f"{prefix.format(minute)}{line}\n")
    return "".join(lines)


@pytest.mark.parametrize(
    "prefix",
    [
        "2026-11-25T12:{}.123456789Z ",
        "2026-11-25T12:{}+0000 web-1 daphne[17]: ",
        "Nov 25 06:{} web-1 app[1]: ",
    ],
)
def test_what_docker_or_journald_put_before_each_line_changes_nothing(prefix: str) -> None:
    for name in ("daphne.log", "uvicorn-timed.log", "daphne.jsonl"):
        plain = captured(name).read_text()
        found, _ = read(prefixed(plain, prefix))
        expected = [(one.cause, one.path, one.exception) for one in read(plain)[0]]
        assert [(one.cause, one.path, one.exception) for one in found] == expected


@pytest.mark.parametrize(
    "prefix",
    [
        "message from bob: ",
        " ",
        "INFO:     ",
        "INFO:     said ",
        "INFO chat.consumers: ",
        "2026-11-25 06:00:01,250 ",
        "2026-11-25 06:00:01,250 2026-11-25T12:00:01Z ",
        "2026-11-25 06:00:01,250 INFO message from bob: ",
        "2026-11-25T12:00:01.250000000Z message from bob: ",
        "2026-11-25T12:00:01.250000000Z INFO:     ",
        "2026-11-25T12:00:01+0000 web-1 daphne[17]: message from bob: ",
        "Nov 25 06:00:01 web-1 app[1]: 2026-11-25 06:00:01,250 INFO ",
        '{"log": "',
        "ValueError: ",
    ],
)
def test_a_record_that_somebody_had_logged_is_no_end(prefix: str) -> None:
    """What a client sends may reach a log, and a clean-up takes records for proof."""
    record = captured("daphne.jsonl").read_text().splitlines()[0]
    assert read(record)[0] != []
    assert read(prefix + record)[0] == []


def test_an_exception_whose_socket_does_not_end_in_time_stands_for_itself() -> None:
    lines = captured("daphne.log").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if "ERROR" in line and "No handler" in line)
    traceback = "\n".join(lines[start:]).partition("\n127.")[0]
    end = '127.0.0.1:1 - - [25/Nov/2026:06:59:00] "WSDISCONNECT /ws/other/" - -'
    found, _ = read(f"{traceback}\n{end}\n")
    assert [(one.cause, one.path) for one in found] == [("no_handler", None), ("unknown", "/ws/other/")]


def test_a_traceback_of_something_else_is_no_end() -> None:
    text = 'ERROR Internal Server Error: /\nTraceback (most recent call last):\n  File "a.py", line 1\nKeyError: 1\n\n'
    found, lines = read(text)
    assert (found, lines.unreadable) == ([], 0)


def test_a_traceback_of_redis_in_a_consumer_is_one_whoever_logged_it() -> None:
    text = (
        "Task exception was never retrieved\n"
        "Traceback (most recent call last):\n"
        '  File "/x/site-packages/channels/consumer.py", line 58, in __call__\n'
        "redis.exceptions.ConnectionError: Error UNKNOWN while writing to socket. Connection lost.\n"
    )
    found, lines = read(text)
    assert [(one.cause, one.source, one.at) for one in found] == [("redis_connection_lost", "unknown", UNTIMED)]
    assert lines.samples == ["Task exception was never retrieved"]


def test_what_cannot_be_read_is_counted_and_the_first_few_are_kept() -> None:
    found, lines = read("\n".join(f"no log line {number}" for number in range(50)) + '\n{"schema_version":1,"at":\n')
    assert found == []
    assert (lines.unreadable, lines.read, len(lines.samples)) == (51, 51, log_reader.SAMPLES)
    assert lines.samples[0] == "no log line 0"


def test_ordinary_log_lines_are_passed_over() -> None:
    found, lines = read(
        '{"level": "info", "message": "Started"}\nINFO:     Started\n\n'
        '10.0.0.1:1 - - [25/Nov/2026:06:00:00] "GET /" 200 5\n'
    )
    assert (found, lines.read, lines.unreadable) == ([], 4, 0)


def test_json_that_holds_no_known_text_is_counted() -> None:
    found, lines = read('{"level": "info"}\n{"schema_version": 2}\n{"log": "no log line"}\n')
    assert (found, lines.json_read, lines.json_unknown, lines.unreadable) == ([], 3, 1, 3)


def test_sockets_without_an_end_are_counted_and_do_not_take_memory_without_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pairing, "MOST_OPEN", 10)
    line = '127.0.0.1:{} - - [25/Nov/2026:06:00:00] "WSCONNECTING /ws/" - -'
    _, lines = read("\n".join(line.format(port) for port in range(1, 101)))
    assert lines.still_open == 10


@given(st.lists(st.binary(max_size=300) | st.sampled_from(captured("uvicorn.log").read_bytes().splitlines())))
def test_no_lines_raise_and_each_is_counted(raws: list[bytes]) -> None:
    reader = LogReader(timezone.utc, lambda one: None)
    for raw in raws:
        reader.feed(raw)
    reader.end()
    assert reader.lines.read == len(raws)
    assert reader.lines.unreadable <= len(raws)


# Shapes of logs

SHAPES = CAPTURED / "shapes"
EXPECTED: dict[str, dict[str, Any]] = json.loads((SHAPES / "expected.json").read_text())


@pytest.mark.parametrize("name", EXPECTED)
def test_each_shape_of_log_is_told_rightly(name: str) -> None:
    tally = DisconnectTally()
    reader = LogReader(ZoneInfo("UTC"), tally.add, NOW)
    for line in (SHAPES / name).read_bytes().removesuffix(b"\n").split(b"\n"):
        reader.feed(line)
    reader.end()
    told = {
        "records": tally.records,
        "unreadable": reader.lines.unreadable,
        "untimed": tally.untimed,
        "causes": {str(cause): count for cause, count in tally.by_cause.ordered()},
        "patterns": [pattern.id for pattern in find_patterns(tally)],
        "ages_known": sum(tally.lived),
    }
    assert {key: told[key] for key in EXPECTED[name]} == EXPECTED[name]
