"""argparse ``type=`` functions: a value that cannot be used is a usage error that names its option."""

import argparse
import math
import re
import time
from datetime import datetime

from django.utils.timezone import get_default_timezone

from ops.conf import LONGEST_SECONDS

LARGEST_COUNT = 10**9


def seconds(text: str) -> float:
    """A span in seconds, above 0."""
    value = _number(text)
    if not 0 < value <= LONGEST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!a} is not a number of seconds above 0 and up to {LONGEST_SECONDS:.0f}")
    return value


def share(text: str) -> float:
    """A share, from 0 to 1."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!a} is not a share from 0 to 1")
    return value


def count(text: str) -> int:
    """A whole number that is not negative."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value <= LARGEST_COUNT:
        raise argparse.ArgumentTypeError(f"{text!a} is not a whole number from 0 to {LARGEST_COUNT}")
    return value


def positive_count(text: str) -> int:
    """A whole number above 0."""
    value = count(text)
    if value == 0:
        raise argparse.ArgumentTypeError("0 is too few: give a whole number above 0")
    return value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


_SPAN_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def moment(text: str) -> float:
    """A point in time as unix seconds: an ISO 8601 time, in the project's time zone where it says none, or a span ago
    such as ``90s``, ``30m``, ``2h``, ``7d``, ``1w``."""
    span = re.fullmatch(r"(\d{1,7}(?:\.\d{1,3})?)([smhdw])", text)
    if span is not None:
        return time.time() - float(span[1]) * _SPAN_SECONDS[span[2]]
    try:
        # Python 3.10 does not know the Z.
        at = datetime.fromisoformat(text.removesuffix("Z") + "+00:00" * text.endswith("Z"))
        return (at if at.tzinfo else at.replace(tzinfo=get_default_timezone())).timestamp()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!a} is neither an ISO time such as 2026-11-25T14:00Z nor a span such as 30m, 2h, 7d"
        ) from None


def speed(text: str) -> float | None:
    """How many times faster than it was; None for ``max``."""
    if text == "max":
        return None
    value = _number(text)
    if not 0 < value <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!a} is neither a number above 0 nor max")
    return value
