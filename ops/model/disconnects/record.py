"""The record of a websocket's end."""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from operator import attrgetter
from typing import Any

from ops.model.disconnects.cause import Cause

MAX_TEXT = 500
MAX_GROUPS = 50
MAX_CHAIN = 8
MAX_DOCUMENT_BYTES = 128 * 1024
UNTIMED = 0.0  # ``at`` of an end in a log that says no times
SANE_TIMES = range(946684800, 4102444800)  # the 21st century; what lies outside tells no time
_WORD = re.compile(r"[a-z][a-z0-9_.-]{0,39}")
# Lone surrogates but those that stand for a byte, as `decode_name` has them: no name can be made of them.
_OF_NO_BYTES = re.compile(r"[\ud800-\udc7f\udd00-\udfff]")
# What a datetime in UTC can say, without its last second: a fraction could be rounded up to the year 10000.
_EARLIEST, _LATEST = -62135596800.0, 253402300799.0

CLOSED_BY = ("client", "application", "server", "shutdown", "unknown")


@dataclass(frozen=True, slots=True)
class Disconnect:
    """One end of one websocket. Whatever is not known is None or empty.

    ``at`` unix seconds; ``code`` the close code; ``closed_by`` one of CLOSED_BY; ``cause`` a Cause; ``source``
    who wrote it (``middleware``, ``reaper``, ``daphne``, ``uvicorn``); ``exception`` its chain as "Type: text", what
    was raised first and what it came from after it; ``process`` the layer's ``client_prefix``; ``groups`` those that
    the channel was still in, ``groups_omitted`` how many more; ``layer`` the alias; ``run_id`` the run that reaped it;
    ``dropped_before`` how many records were lost before this one.
    ``client``, ``user`` and ``query`` are personal data, and None unless the settings ask for them.
    """

    at: float
    cause: str = Cause.UNKNOWN
    closed_by: str = "unknown"
    source: str = "middleware"
    lived_seconds: float | None = None
    code: int | None = None
    exception: tuple[str, ...] = ()
    path: str | None = None
    consumer: str | None = None
    channel: str | None = None
    process: str | None = None
    host: str | None = None
    pid: int | None = None
    groups: tuple[str, ...] = ()
    groups_omitted: int = 0
    layer: str | None = None
    run_id: str | None = None
    dropped_before: int = 0
    client: str | None = None
    user: str | None = None
    query: str | None = None


_ALWAYS = ("cause", "closed_by", "source")
# Field -> the value that is left out. `fields()` is slow, and this is on the way of each connection.
_OMITTED = {
    field.name: object() if field.name in _ALWAYS else field.default
    for field in fields(Disconnect)
    if field.name != "at"
}
_values_of = attrgetter(*_OMITTED)
_encode = json.JSONEncoder(separators=(",", ":")).encode
_TEXTS = ("path", "consumer", "channel", "process", "host", "layer", "run_id", "client", "user", "query")


def is_timed(one: Disconnect) -> bool:
    """Whether it says when it was, and no clock was off by decades."""
    return int(one.at) in SANE_TIMES


def to_document(disconnect: Disconnect) -> dict[str, Any]:
    """As it is written to JSON: what is not known is left out."""
    document: dict[str, Any] = {"schema_version": 1, "at": iso_time(disconnect.at)}
    for (name, omitted), value in zip(_OMITTED.items(), _values_of(disconnect), strict=True):
        if value != omitted:
            document[name] = list(value) if isinstance(value, tuple) else value
    if disconnect.lived_seconds is not None:
        document["lived_seconds"] = round(disconnect.lived_seconds, 3)
    return document


def to_json(disconnect: Disconnect) -> str:
    """One line of ASCII."""
    return _encode(to_document(disconnect))


def parse_json(raw: bytes | str) -> Disconnect | None:
    """The record that ``raw`` holds; None where it holds none. It may be anybody's."""
    if len(raw) > MAX_DOCUMENT_BYTES:
        return None
    try:
        return parse(json.loads(raw))
    except (ValueError, RecursionError):
        return None


def parse(document: object) -> Disconnect | None:
    """The record of a JSON document; None where it is none. What is too long is cut, what is of no use left out."""
    if not isinstance(document, dict):
        return None
    at = parse_time(document.get("at"))
    if at is None:
        return None
    closed_by = document.get("closed_by")
    return Disconnect(
        at=at,
        cause=_word(document.get("cause"), Cause.UNKNOWN),
        closed_by=closed_by if isinstance(closed_by, str) and closed_by in CLOSED_BY else "unknown",
        source=_word(document.get("source"), "unknown"),
        lived_seconds=_seconds(document.get("lived_seconds")),
        code=_whole(document.get("code"), 65535),
        exception=_texts(document.get("exception"), MAX_CHAIN),
        pid=_whole(document.get("pid"), 2**32),
        groups=_texts(document.get("groups"), MAX_GROUPS),
        dropped_before=_whole(document.get("dropped_before"), 10**9) or 0,
        groups_omitted=_whole(document.get("groups_omitted"), 10**9) or 0,
        **{name: _text(document.get(name)) for name in _TEXTS},
    )


def bounded(names: Iterable[str]) -> tuple[tuple[str, ...], int]:
    """``names`` as a record holds them: as many as may be, and how many more there are."""
    ordered = sorted(names)
    return tuple(name[:MAX_TEXT] for name in ordered[:MAX_GROUPS]), max(0, len(ordered) - MAX_GROUPS)


def iso_time(at: float) -> str:
    """Unix seconds as ISO 8601 in UTC, with milliseconds and ``Z``."""
    return datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_time(value: object) -> float | None:
    """Unix seconds of an ISO 8601 time that says its zone; None for anything else."""
    if not isinstance(value, str) or not 19 < len(value) <= 40:
        return None
    try:
        # Python 3.10 does not know the Z.
        moment = datetime.fromisoformat(value.removesuffix("Z") + "+00:00" * value.endswith("Z"))
        return time_of(moment) if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def time_of(moment: datetime) -> float | None:
    """Unix seconds; None where UTC has no such year, so that ``iso_time`` could not write it."""
    at = moment.timestamp()
    return at if _EARLIEST <= at < _LATEST else None


def encodable(text: str) -> str:
    """``text`` as a name can have it: lone surrogates that stand for no byte become escapes; at most MAX_TEXT long."""
    return _OF_NO_BYTES.sub(lambda found: f"\\u{ord(found[0]):04x}", text[:MAX_TEXT])[:MAX_TEXT]


def _word(value: object, otherwise: str) -> str:
    return value if isinstance(value, str) and _WORD.fullmatch(value) else otherwise


def _text(value: object) -> str | None:
    return encodable(value) if isinstance(value, str) and value else None


def _texts(value: object, most: int) -> tuple[str, ...]:
    values = value[:most] if isinstance(value, list) else []
    return tuple(encodable(item) for item in values if isinstance(item, str) and item)


def _whole(value: object, most: int) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most else None


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e12:
        return None
    return float(value) if math.isfinite(value) else None
