"""argparse ``type=`` functions: a value that cannot be used is a usage error that names its option."""

import argparse
import re
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import NamedTuple, TypeVar

from django.utils.timezone import get_default_timezone

from ops.model.values import COUNT, POSITIVE_COUNT, SECONDS, SHARE, SPEED, ValueKind

T = TypeVar("T")


def seconds(text: str) -> float:
    """A span in seconds, above 0."""
    return _as(SECONDS, text, float)


def share(text: str) -> float:
    """A share, from 0 to 1."""
    return _as(SHARE, text, float)


def count(text: str) -> int:
    """A whole number that is not negative."""
    return _as(COUNT, text, int)


def positive_count(text: str) -> int:
    """A whole number above 0."""
    return _as(POSITIVE_COUNT, text, int)


def speed(text: str) -> float | None:
    """How many times faster than it was; None for ``max``."""
    return None if text == "max" else _as(SPEED, text, float, or_else="max")


def _as(kind: ValueKind, text: str, parse: Callable[[str], T], or_else: str = "") -> T:
    try:
        value = parse(text)
    except ValueError:
        value = None
    if value is None or not kind.holds(value):
        raise argparse.ArgumentTypeError(f"{text!a} is not {kind.words}{or_else and ', nor '}{or_else}")
    return value


_SPAN_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class Moment(NamedTuple):
    """A point in time, unix seconds. ``said``: how it was understood, if it was said without a zone."""

    at: float
    said: str = ""


def moment(text: str) -> Moment:
    """A point in time: an ISO 8601 time, in the project's time zone if it says none, or a span ago such as ``90s``,
    ``30m``, ``2h``, ``7d``, ``1w``."""
    span = re.fullmatch(r"(\d{1,7}(?:\.\d{1,3})?)([smhdw])", text)
    if span is not None:
        return Moment(time.time() - float(span[1]) * _SPAN_SECONDS[span[2]])
    try:
        # Python 3.10 does not know the Z.
        at = datetime.fromisoformat(text.removesuffix("Z") + "+00:00" * text.endswith("Z"))
        if at.tzinfo is not None:
            return Moment(at.timestamp())
        local = at.replace(tzinfo=get_default_timezone())
        utc = local.astimezone(timezone.utc)
        return Moment(local.timestamp(), f"{local:%Y-%m-%d %H:%M:%S} {local.tzinfo}, {utc:%Y-%m-%d %H:%M:%S} UTC")
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!a} is neither an ISO time such as 2026-11-25T14:00Z nor a span such as 30m, 2h, 7d"
        ) from None
