"""One line of a server's log at a time: what it says of a websocket, if anything. Pure.

Lines are anybody's: each pattern is tried at one place only and has bounds, so that no line takes long.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo

from ops.model.disconnects.record import time_of

MOST_PREFIXES = 4
LONGEST_LINE = 4096  # of a server's own; a JSON record may be longer
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_ISO_STAMP = re.compile(r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?(Z|[+-]\d\d:?\d\d)?[ \t]")
_SYSLOG_STAMP = re.compile(r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d ")
_SYSLOG_TAG = re.compile(r"[\w.-]{1,255} [\w./@-]{1,64}\[\d{1,10}\]: ?")
_LEVEL = re.compile(r"\[?(?:DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL)\]?:?\s{1,8}")

_DAPHNE = re.compile(
    r'(\S{1,100}) - - \[(\d\d)/([A-Z][a-z]{2})/(\d{4}):(\d\d):(\d\d):(\d\d)\] "(WS[A-Z]{4,12}) (.{0,3000})" - -$'
)
_DAPHNE_HTTP = re.compile(r'\S{1,100} - - \[\d\d/[A-Z][a-z]{2}/\d{4}:[\d:]{8}\] "[A-Z]{1,20} ')
_LOGGER_NAME = re.compile(r"[\w.]{1,100}: ")
_UVICORN = re.compile(r'(\S{0,100}) - "WebSocket (.{0,3000})" (\[accepted\]|\d{3})$')

TRACEBACK = "Traceback (most recent call last):"
CHAINED = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)
_EXCEPTION = re.compile(r"([A-Za-z_][\w.]{0,200})(?:: (.{0,3000}))?$")


@dataclass(frozen=True, slots=True)
class Stamped:
    """A line without what a log handler, Docker or journald put before it. ``at``: unix seconds, None where not said.

    ``logged``: it begins as the line of a log handler does, with a time or a level.
    """

    text: str
    at: float | None = None
    logged: bool = False


@dataclass(frozen=True, slots=True)
class WebsocketLine:
    """``verb``: connecting, connected, rejected, ended. ``client`` tells connections of one server apart."""

    verb: str
    client: str
    path: str
    at: float | None = None


def split_stamp(line: str, zone: tzinfo) -> Stamped:
    """``line`` without its prefixes; a time that says no zone is one of ``zone``."""
    at, logged = None, False
    for _ in range(MOST_PREFIXES):
        if (stamp := _ISO_STAMP.match(line)) is not None:
            at = _time_of(stamp, zone)
            logged = logged or line[10] == " "  # as a log handler writes it; Docker and journald put a T
            line = line[stamp.end() :]
        elif (syslog := _SYSLOG_STAMP.match(line)) is not None:  # has no year, and so tells no time
            line = line[syslog.end() :]
        elif (tag := _SYSLOG_TAG.match(line)) is not None:
            line = line[tag.end() :]
        else:
            break
    if (level := _LEVEL.match(line)) is not None:
        logged, line = True, line[level.end() :]
        if (name := _LOGGER_NAME.match(line)) is not None:
            line = line[name.end() :]
    return Stamped(line, at, logged=logged)


def parse_daphne(text: str, zone: tzinfo) -> WebsocketLine | None:
    """A line of Daphne's access log about a websocket. Its times are whole seconds of ``zone``."""
    found = _DAPHNE.match(text)
    if found is None:
        return None
    client, day, month, year, hour, minute, second, verb, path = found.groups()
    verbs = {
        "WSCONNECTING": "connecting",
        "WSCONNECT": "connected",
        "WSREJECT": "rejected",
        "WSDISCONNECT": "ended",
    }
    if verb not in verbs or month not in _MONTHS:
        return None
    at = _unix(zone, int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second))
    return None if at is None else WebsocketLine(verbs[verb], client, without_query(path), at)


def is_daphne_http(text: str) -> bool:
    """Whether it is a line of Daphne's access log about something else."""
    return _DAPHNE_HTTP.match(text) is not None


def parse_uvicorn(text: str) -> WebsocketLine | None:
    """A line of uvicorn's log about a websocket; it says nothing of when."""
    if text.startswith("connection closed"):
        return WebsocketLine("ended", "", "")
    found = _UVICORN.match(text)
    if found is None:
        return None
    client, path, answer = found.groups()
    if answer.startswith("5"):
        return None  # The application raised, and there is a traceback of it.
    return WebsocketLine("connected" if answer == "[accepted]" else "rejected", client, without_query(path))


def parse_exception(line: str) -> str | None:
    """``Type: text``, as the last line of a traceback says it."""
    found = _EXCEPTION.match(line)
    return None if found is None else f"{found[1]}: {found[2] or ''}"


def without_query(path: str) -> str:
    """A query string may hold a token."""
    return path.partition("?")[0]


def _time_of(stamp: "re.Match[str]", zone: tzinfo) -> float | None:
    year, month, day, hour, minute, second, fraction, offset = stamp.groups()
    if offset == "Z":
        zone = timezone.utc
    elif offset:
        ahead = timedelta(hours=int(offset[1:3]), minutes=int(offset[-2:]))
        if ahead >= timedelta(days=1):
            return None
        zone = timezone(-ahead if offset[0] == "-" else ahead)
    whole = _unix(zone, int(year), int(month), int(day), int(hour), int(minute), int(second))
    return None if whole is None else whole + float(f"0.{fraction or 0}")


def _unix(zone: tzinfo, year: int, month: int, day: int, hour: int, minute: int, second: int) -> float | None:
    try:
        return time_of(datetime(year, month, day, hour, minute, second, tzinfo=zone))
    except (ValueError, OverflowError):
        return None
