"""What real servers logged, through what ships logs: each end is told once, whoever put what before its lines.

The application of tests/data/logs/shapes/served-*.log raised in ``receive()``, raised in ``disconnect()``, rejected a
handshake, had one without a route, and had one ordinary end.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timezone
from zoneinfo import ZoneInfo

import pytest

from ops.model.disconnects.logs.reader import Lines, LogReader
from ops.model.disconnects.record import UNTIMED, Disconnect
from tests.conftest import REPOSITORY

SHAPES = REPOSITORY / "tests" / "data" / "logs" / "shapes"
NOW = datetime(2026, 11, 30, tzinfo=timezone.utc).timestamp()
DAPHNES = {"handler_exception": 2, "rejected": 1, "no_route": 1, "unknown": 1}
UVICORNS = {"handler_exception": 2, "rejected": 1, "no_route": 1}  # It does not log an ordinary end.
SERVED = {
    "daphne": DAPHNES,
    "daphne-verbose": DAPHNES,
    "runserver": DAPHNES,
    "runserver-format": DAPHNES,
    "uvicorn": UVICORNS,
    "gunicorn": UVICORNS,
}

Ship = Callable[[int, str], str]
"""The line of a number as it is shipped."""


def second(number: int) -> str:
    return f"{10 + number // 60 % 50:02d}:{number % 60:02d}"


def output(line: str) -> str:
    """Daphne's access log goes to the standard output, all else to the standard error."""
    return "stdout" if " - - [" in line else "stderr"


SHIPPERS: dict[str, Ship] = {
    "as it is": lambda number, line: line,
    "Docker Compose": lambda number, line: f"web-1  | {line}",
    "Docker Compose in colour": lambda number, line: f"\x1b[36mweb-1  | \x1b[0m{line}",
    "Docker Compose --timestamps": lambda number, line: f"web-1  | 2026-11-29T18:{second(number)}.123456789Z {line}",
    "docker logs --timestamps": lambda number, line: f"2026-11-29T18:{second(number)}.{number:09d}Z {line}",
    "kubectl --timestamps --prefix": lambda number, line: (
        f"[pod/web-5d9c7b-x2x9k/web] 2026-11-29T18:{second(number)}.{number:09d}Z {line}"
    ),
    "Kubernetes' files": lambda number, line: f"2026-11-29T18:{second(number)}.{number:09d}Z {output(line)} F {line}",
    "Heroku": lambda number, line: f"2026-11-29T18:{second(number)}.120000+00:00 app[web.1]: {line}",
    "RFC 3164": lambda number, line: f"Nov 29 18:{second(number)} web-1 daphne[4211]: {line}",
    "RFC 3164 with a priority": lambda number, line: f"<{number % 8 + 8}>Nov 29 18:{second(number)} web-1 app: {line}",
    "RFC 5424": lambda number, line: f"<14>1 2026-11-29T18:{second(number)}.12Z web-1 app 4211 - - {line}",
    "RFC 5424 with data": lambda number, line: (
        f'<14>1 2026-11-29T18:{second(number)}.12Z web-1 app 4211 - [meta sequenceId="{number}"] {line}'
    ),
    "journalctl -o short-iso": lambda number, line: f"2026-11-29T18:{second(number)}+0000 web-1 app[4211]: {line}",
    "journalctl --no-hostname": lambda number, line: f"Nov 29 18:{second(number)} app[4211]: {line}",
    "journalctl -o short-unix": lambda number, line: f"17959758{number:02d}.{number:06d} web-1 app[4211]: {line}",
    "honcho": lambda number, line: f"18:{second(number)} web.1   | {line}",
    "Docker's files": lambda number, line: json.dumps(
        {"log": f"{line}\n", "stream": output(line), "time": f"2026-11-29T18:{second(number)}.1Z"}
    ),
    "Fluent Bit": lambda number, line: json.dumps(
        {"@timestamp": f"2026-11-29T18:{second(number)}.000Z",
         "log": f"2026-11-29T18:{second(number)}.1Z stderr F {line}",
         "kubernetes": {"pod_name": "web-1"}}
    ),
    "Google Cloud": lambda number, line: json.dumps(
        {"textPayload": line, "timestamp": f"2026-11-29T18:{second(number)}Z"}
    ),
    "journalctl -o json": lambda number, line: json.dumps(
        {"__REALTIME_TIMESTAMP": f"{1795975800 + number}000000", "_PID": "4211",
         "MESSAGE": list(f"\x1b[0m{line}".encode()) if number % 8 else line}
    ),
    "Compose over JSON": lambda number, line: f"web-1  | {json.dumps({'message': line, 'ts': 1795975800 + number})}",
}  # fmt: skip


def shipped(name: str, ship: Ship) -> list[str]:
    """The log of a server as it comes through ``ship``, each connection four seconds after the one before."""
    lines, now = [], 0
    for line in served(name):
        now += 4 * any(begins in line for begins in ("HANDSHAKING", "WSCONNECTING", ' - "WebSocket '))
        lines.append(ship(now, line))
    return lines


def read(lines: list[str]) -> tuple[list[Disconnect], Lines]:
    found: list[Disconnect] = []
    reader = LogReader(ZoneInfo("UTC"), found.append, NOW)
    for line in lines:
        reader.feed(line.encode())
    reader.end()
    return found, reader.lines


def causes(found: list[Disconnect]) -> dict[str, int]:
    return {str(cause): count for cause, count in Counter(one.cause for one in found).items()}


def served(name: str) -> list[str]:
    return (SHAPES / f"served-{name}.log").read_text().splitlines()


@pytest.mark.parametrize("shipper", SHIPPERS)
@pytest.mark.parametrize("name", SERVED)
def test_each_end_is_told_once_through_whatever_ships_the_log(name: str, shipper: str) -> None:
    ship = SHIPPERS[shipper]
    found, read_lines = read(shipped(name, ship))
    assert causes(found) == SERVED[name]
    assert read_lines.unreadable == 0, read_lines.samples
    by_path = {one.path: one for one in found}
    assert by_path["/project/ws/room/lobby/"].cause == "no_route"
    if SERVED[name] is DAPHNES:
        assert by_path["/ws/room/late/"].exception == ("KeyError: 'late'",)
        assert by_path["/ws/room/lobby/"].exception == ("ValueError: bad colour",)
    if name in ("daphne", "daphne-verbose", "gunicorn", "runserver-format") or "2026" in ship(1, ""):
        assert not [one for one in found if one.at == UNTIMED]


@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize("shipper", ["Docker Compose", "Heroku", "RFC 5424", "journalctl --no-hostname"])
def test_two_containers_in_one_log_keep_their_tracebacks_apart(name: str, shipper: str) -> None:
    mixed = []
    for first in shipped(name, SHIPPERS[shipper]):
        mixed += [first, first.replace("web-1", "web-2").replace("web.1", "web.2").replace("4211", "4212")]
    found, lines = read(mixed)
    assert causes(found) == {cause: 2 * count for cause, count in SERVED[name].items()}
    assert lines.unreadable == 0, lines.samples


def test_the_place_in_a_prefix_is_the_workers() -> None:
    found, _ = read(shipped("daphne", SHIPPERS["RFC 5424"]))
    assert {(one.host, one.pid) for one in found} == {("web-1", 4211)}
    found, _ = read(served("gunicorn"))
    assert {one.pid for one in found} == {25795, 25798}
    found, _ = read(served("daphne-verbose"))
    assert [one.pid for one in found if one.path == "/ws/room/lobby/"] == [25773]


ACCESS = '127.0.0.1:41001 - - [28/Nov/2026:10:00:09] "WSDISCONNECT /ws/a/" - -'
RAISED = [
    "2026-11-28 10:00:09,120 ERROR    Exception inside application: bad",
    "Traceback (most recent call last):",
    '  File "/srv/site-packages/channels/consumer.py", line 58, in __call__',
    "    await dispatch(result)",
    "ValueError: bad",
]
LOGGED = json.dumps(
    {"levelname": "ERROR", "name": "daphne.server", "asctime": "2026-11-28 10:00:09,120", "process": 17,
     "message": "Exception inside application: bad", "exc_info": "\n".join(RAISED[1:])}
)  # fmt: skip
STRUCTURED = json.dumps(
    {"level": "error", "timestamp": "2026-11-28T10:00:09.120Z", "event": "Exception inside application: bad",
     "exception": [{"exc_type": "ValueError", "exc_value": "bad",
                    "frames": [{"filename": "/srv/site-packages/channels/consumer.py", "lineno": 58}]}]}
)  # fmt: skip


@pytest.mark.parametrize(
    "lines",
    [
        [*RAISED, ACCESS],
        [ACCESS, *RAISED],
        [*RAISED[:3], ACCESS, *RAISED[3:]],
        [*RAISED[:4], ACCESS, RAISED[4]],
        [LOGGED, ACCESS],
        [ACCESS, LOGGED],
        [STRUCTURED, ACCESS],
        [json.dumps({"log": ACCESS, "stream": "stdout"}), *(json.dumps({"log": one}) for one in RAISED)],
        [RAISED[0].partition(" ERROR")[2], *RAISED[1:], ACCESS],
        ["2026-11-28 10:00:09 ERROR Exception inside application: bad", f"2026-11-28 10:00:09 {RAISED[1]}",
         *RAISED[2:], ACCESS],
    ],
)  # fmt: skip
def test_an_end_is_one_in_whatever_order_and_format_its_lines_are(lines: list[str]) -> None:
    found, counted = read(lines)
    assert [(one.cause, one.path, one.exception) for one in found] == [
        ("handler_exception", "/ws/a/", ("ValueError: bad",))
    ]
    assert counted.unreadable == 0


def test_uvicorns_closing_line_may_come_before_its_traceback() -> None:
    error = [
        "ERROR:    Exception in ASGI application",
        "Traceback (most recent call last):",
        '  File "/srv/site-packages/uvicorn/protocols/websockets/websockets_impl.py", line 1, in run_asgi',
        "ValueError: bad",
    ]
    for lines in ([*error, "INFO:     connection closed"], ["INFO:     connection closed", *error]):
        assert causes(read(lines)[0]) == {"handler_exception": 1}
    lines = ["INFO:     connection closed", *error, "INFO:     connection closed"]
    assert causes(read(lines)[0]) == {"handler_exception": 1, "unknown": 1}


def test_a_request_without_a_route_is_no_websocket() -> None:
    error = [
        "2026-11-28 10:00:09,120 ERROR    Exception inside application: No route found for path 'api/'.",
        "Traceback (most recent call last):",
        '  File "/srv/site-packages/channels/routing.py", line 136, in __call__',
        "ValueError: No route found for path 'api/'.",
    ]
    request = '127.0.0.1:41002 - - [28/Nov/2026:10:00:09] "GET /api/" 500 17'
    assert [one.path for one in read([*error, request, ACCESS])[0]] == ["/ws/a/"]
    assert causes(read([*error, ACCESS])[0]) == {"unknown": 1}
    assert causes(read(error)[0]) == {"no_route": 1}  # A log of errors alone does not say what it was.


@pytest.mark.parametrize(
    ("client", "began", "ended", "zone", "age"),
    [
        ("127.0.0.1:41001", "10:00:00", "10:00:09", "UTC", 9.0),
        ("None", "10:00:00", "10:00:09", "UTC", None),
        ("10.0.0.1:0", "10:00:00", "10:00:09", "UTC", None),
        ("127.0.0.1:41001", "10:00:09", "10:00:00", "UTC", None),
        ("127.0.0.1:41001", "00:30:00", "03:30:00", "America/Chicago", 4 * 3600.0),
        ("127.0.0.1:41001", "00:30:00", "01:30:00", "America/Chicago", None),
        ("127.0.0.1:41001", "01:30:00", "03:30:00", "America/Chicago", None),
    ],
)
def test_an_age_is_known_only_if_client_and_clock_tell_it(
    client: str, began: str, ended: str, zone: str, age: float | None
) -> None:
    """On that day summer time ended in Chicago, at two."""
    found: list[Disconnect] = []
    reader = LogReader(ZoneInfo(zone), found.append)
    for verb, at in (("CONNECTING", began), ("CONNECT", began), ("DISCONNECT", ended)):
        reader.feed(f'{client} - - [01/Nov/2026:{at}] "WS{verb} /ws/a/" - -'.encode())
    reader.end()
    assert [one.lived_seconds for one in found] == [age]
    assert reader.lines.still_open == 0


def test_a_clock_that_was_put_back_spoils_the_ages_of_what_was_open() -> None:
    line = '127.0.0.1:{} - - [28/Nov/2026:{}] "WS{} /ws/a/" - -'
    found, _ = read(
        [
            line.format(1, "10:00:00", "CONNECTING"),
            line.format(2, "09:10:00", "CONNECTING"),
            line.format(1, "10:20:00", "DISCONNECT"),
            line.format(2, "10:20:00", "DISCONNECT"),
        ]
    )
    assert [one.lived_seconds for one in found] == [None, 4200.0]


def test_a_rejected_handshake_of_a_client_without_an_address_is_one() -> None:
    line = 'None - - [28/Nov/2026:10:00:00] "WS{} {}" - -'
    said = [("CONNECTING", "/ws/a/"), ("CONNECTING", "/ws/b/"), ("REJECT", "/ws/a/"), ("DISCONNECT", "/ws/b/"),
            ("DISCONNECT", "/ws/a/"), ("DISCONNECT", "/ws/a/")]  # fmt: skip
    found, _ = read([line.format(*one) for one in said])
    assert sorted((one.path, str(one.cause)) for one in found) == [
        ("/ws/a/", "rejected"),
        ("/ws/a/", "unknown"),
        ("/ws/b/", "unknown"),
    ]
