"""The times that servers, log handlers and log shippers write. Pure."""

import re
from datetime import datetime, timedelta, timezone, tzinfo
from functools import lru_cache

from ops.model.disconnects.record import time_of

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_AHEAD_SECONDS = 86400.0  # that far before now a time without a year may lie and still be of this year
_AMBIGUITY_SECONDS = 900  # clocks change at full quarters of an hour

_MONTH = "(?:" + "|".join(MONTHS) + ")"
_CLOCK = r"\d\d:\d\d:\d\d"
_FRACTION = r"(?:[.,]\d{1,9})?"
_OFFSET = r"(?: ?(?:Z|[+-]\d\d:?\d\d)(?!\d))?"
TIME = (
    rf"(?P<handler>\d{{4}}[-/]\d\d[-/]\d\d {_CLOCK}{_FRACTION}{_OFFSET})"
    rf"|(?P<shipper>\d{{4}}-\d\d-\d\dT{_CLOCK}{_FRACTION}{_OFFSET})"
    rf"|(?P<ncsa>\d\d/{_MONTH}/\d{{4}}[: ]{_CLOCK}(?: [+-]\d{{4}})?)"
    rf"|(?P<syslog>{_MONTH} [ \d]\d {_CLOCK}{_FRACTION})"
    rf"|(?P<epoch>(?<![\d.])1\d{{9}}\.\d{{1,9}}(?![\d.]))"
    rf"|(?P<clock>{_CLOCK}{_FRACTION})"
)
"""Any time, as a pattern with a named group for each kind."""

_TIMES = re.compile(TIME, re.ASCII)
_ISO = re.compile(
    r"(\d{4})[-/](\d\d)[-/](\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))? ?(Z|[+-]\d\d:?\d\d)?", re.ASCII
)
_NCSA = re.compile(r"(\d\d)/([A-Z][a-z]{2})/(\d{4})[: ](\d\d):(\d\d):(\d\d)(?: ([+-]\d{4}))?", re.ASCII)
_SYSLOG = re.compile(r"([A-Z][a-z]{2}) ([ \d]\d) (\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?", re.ASCII)


def find_time(text: str, zone: tzinfo, now: float | None = None) -> float | None:
    """The last time in ``text``, as unix seconds. One that says no zone is of ``zone``.

    A time without a year is of the year before ``now``; without ``now`` it tells nothing.
    """
    latest = None
    for found in _TIMES.finditer(text):
        at = _read(found, zone, now)
        latest = latest if at is None else at
    return latest


def iso_seconds(found: "re.Match[str]", zone: tzinfo) -> float | None:
    """The time of a match whose groups are year, month, day, hour, minute, second, fraction and offset."""
    year, month, day, hour, minute, second, fraction, offset = found.groups()
    of_zone = _offset(offset, zone)
    if of_zone is None:
        return None
    whole = _unix(of_zone, int(year), int(month), int(day), int(hour), int(minute), int(second))
    return None if whole is None else whole + float(f"0.{fraction or 0}")


@lru_cache(maxsize=4096)  # Many lines are of one second.
def ncsa_seconds(text: str, zone: tzinfo) -> float | None:
    """The time of an access log, such as ``28/Nov/2026:10:00:09``."""
    found = _NCSA.fullmatch(text)
    if found is None or found[2] not in MONTHS:
        return None
    day, month, year, hour, minute, second, offset = found.groups()
    of_zone = _offset(offset, zone)
    if of_zone is None:
        return None
    return _unix(of_zone, int(year), MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second))


def is_ambiguous(at: float, zone: tzinfo) -> bool:
    """Whether the clocks of ``zone`` show this time twice, as when summer time ends."""
    return _is_ambiguous(int(at // _AMBIGUITY_SECONDS), zone)


@lru_cache(maxsize=4096)
def _is_ambiguous(quarter: int, zone: tzinfo) -> bool:
    try:
        local = datetime.fromtimestamp(quarter * _AMBIGUITY_SECONDS, zone)
        return local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset()
    except (ValueError, OverflowError, OSError):
        return True


def _read(found: "re.Match[str]", zone: tzinfo, now: float | None) -> float | None:
    kind, text = found.lastgroup, found[0]
    if kind in ("handler", "shipper"):
        iso = _ISO.fullmatch(text)
        return None if iso is None else iso_seconds(iso, zone)
    if kind == "ncsa":
        return ncsa_seconds(text, zone)
    if kind == "epoch":
        return float(text)
    return _of_this_year(text, zone, now) if kind == "syslog" and now is not None else None


def _of_this_year(text: str, zone: tzinfo, now: float) -> float | None:
    found = _SYSLOG.fullmatch(text)
    if found is None:
        return None
    month, day, hour, minute, second, fraction = found.groups()
    year = datetime.fromtimestamp(now, zone).year
    for candidate in (year + 1, year, year - 1):
        at = _unix(zone, candidate, MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second))
        if at is not None and at <= now + _AHEAD_SECONDS:
            return at + float(f"0.{fraction or 0}")
    return None


def _offset(text: str | None, zone: tzinfo) -> tzinfo | None:
    """The zone of an offset; ``zone`` if there is none, None if it cannot be."""
    if not text:
        return zone
    if text == "Z":
        return timezone.utc
    ahead = timedelta(hours=int(text[1:3]), minutes=int(text[-2:]))
    if ahead >= timedelta(days=1):
        return None
    return timezone(-ahead if text[0] == "-" else ahead)


def _unix(zone: tzinfo, year: int, month: int, day: int, hour: int, minute: int, second: int) -> float | None:
    try:
        return time_of(datetime(year, month, day, hour, minute, second, tzinfo=zone))
    except (ValueError, OverflowError):
        return None
