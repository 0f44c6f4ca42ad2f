"""JSON lines: a shipper's that hold a line of a log, and a logger's that hold what was logged. Pure.

A client may have had any text logged, so nothing in here proves anything.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any

from ops.model.disconnects.logs.lines import CHAINED, TRACEBACK
from ops.model.disconnects.logs.times import find_time
from ops.model.disconnects.record import MAX_DOCUMENT_BYTES, SANE_TIMES

OWN_LOGGER = "ops.disconnects"
MOST_STACKS, MOST_FRAMES = 8, 100

_TEXTS = ("message", "MESSAGE", "log", "event", "msg", "@message", "textPayload", "jsonPayload", "line", "text", "body")
_EXCEPTIONS = ("exc_info", "exception", "exc_text", "stack_trace", "error.stack_trace", "traceback", "stack")
_NESTED = ("error", "exception", "exc_info", "record", "jsonPayload", "attributes", "extra", "fields")
_LEVELS = ("levelname", "level", "log.level", "severity", "loglevel", "level_name")
_LOGGERS = ("name", "logger", "logger_name", "log.logger", "loggerName")
_TIMES = (
    "@timestamp", "timestamp", "time", "asctime", "ts", "created", "_SOURCE_REALTIME_TIMESTAMP",
    "__REALTIME_TIMESTAMP", "datetime", "date",
)  # fmt: skip
_PIDS = ("process", "pid", "_PID", "process_id", "SYSLOG_PID", "process.pid")
_HOSTS = ("hostname", "host", "_HOSTNAME", "container_name", "pod_name", "pod", "dyno")
_STREAMS = ("container_id", "container_name", "CONTAINER_ID", "pod_name", "pod", "kubernetes", "_PID", "_SYSTEMD_UNIT")
_UNITS = (1.0, 1e3, 1e6, 1e9)  # what a number may count: seconds, or fewer


@dataclass(frozen=True, slots=True)
class Wrapped:
    """``text``: a line, several lines, or a document. ``exception``: the lines of a traceback beside it.

    ``stream``: what tells this stream of lines from others in one file; empty if nothing does. ``logged``: a logger
    wrote it, of the name ``logger`` if it says so; otherwise a shipper did.
    """

    text: str | Mapping[str, Any]
    exception: tuple[str, ...]
    at: float | None
    host: str | None
    pid: int | None
    stream: str
    logged: bool
    logger: str


def load(text: bytes | str) -> dict[str, Any] | None:
    """The JSON object in a line that may be anybody's; None if there is none."""
    if len(text) > MAX_DOCUMENT_BYTES:
        return None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def unwrap(document: Mapping[str, Any], zone: tzinfo, now: float | None) -> Wrapped | None:
    """What a JSON line holds; None if it has no text that is known as such."""
    text = next((found for name in _TEXTS if (found := _text(document.get(name))) is not None), None)
    exception = _exception(document)
    if text is None and not exception:
        return None
    host, pid = _named(document, _HOSTS), _named(document, _PIDS)
    stream = "" if text is None else "\n".join(str(document[name])[:200] for name in _STREAMS if name in document)
    level, logger = _named(document, _LEVELS), _named(document, _LOGGERS)
    return Wrapped(
        text="" if text is None else text,
        exception=exception,
        at=_time(document, zone, now),
        host=host[:255] if isinstance(host, str) and host else None,
        pid=_whole(pid),
        stream=stream,
        logged=level is not None,
        logger=logger if isinstance(logger, str) else "",
    )


def _text(value: object) -> str | Mapping[str, Any] | None:
    """A text, a document, or the bytes of a text, as journald has one that is not printable."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return value if any(name in value for name in (*_TEXTS, "schema_version")) else None
    if isinstance(value, list) and value and all(isinstance(one, int) and 0 <= one < 256 for one in value):
        return bytes(value).decode("utf-8", "surrogateescape")
    return None


def _named(document: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The first of ``names`` that ``document`` has, also as ``{"log": {"level": …}}``."""
    for name in names:
        outer, _, inner = name.partition(".")
        value = document.get(name)
        if value is None and inner and isinstance(document.get(outer), dict):
            value = document[outer].get(inner)
        if value is not None and not isinstance(value, (dict, list)):
            return value
    return None


def _whole(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 7:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**7 else None


def _time(document: Mapping[str, Any], zone: tzinfo, now: float | None) -> float | None:
    for name in _TIMES:
        value = document.get(name)
        if isinstance(value, str):
            at = find_time(value[:64], zone, now)
            value = float(value) if at is None and value.isascii() and value.isdigit() and len(value) < 20 else at
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30:
            at = next((value / unit for unit in _UNITS if int(value / unit) in SANE_TIMES), None)
            if at is not None:
                return at
    return None


def _exception(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The lines of a traceback in it, at its top or in a part of it."""
    for part in (document, *(document[name] for name in _NESTED if isinstance(document.get(name), dict))):
        for name in _EXCEPTIONS:
            value = part.get(name)
            if isinstance(value, str) and TRACEBACK in value:
                return tuple(value.split("\n"))
            if isinstance(value, list) and (lines := _stacks(value)):
                return lines
    return ()


def _stacks(value: list[Any]) -> tuple[str, ...]:
    """Structured tracebacks, what was raised last first, as Python would write them."""
    lines: list[str] = []
    if value and all(isinstance(one, str) for one in value):
        return tuple("".join(value).split("\n")) if TRACEBACK in value[0] else ()
    for stack in reversed(value[:MOST_STACKS]):
        if not isinstance(stack, dict) or not isinstance(stack.get("exc_type"), str):
            return ()
        frames = stack.get("frames")
        frames = [one for one in frames if isinstance(one, dict)] if isinstance(frames, list) else []
        lines.extend([*(["", CHAINED[1], ""] if lines else []), TRACEBACK])
        lines.extend(f'  File "{one.get("filename")}", line {one.get("lineno")}' for one in frames[-MOST_FRAMES:])
        said = str(stack.get("exc_value", "")).replace("\n", " ")
        lines.append(f"{stack['exc_type']}: {said}")
    return tuple(lines)
