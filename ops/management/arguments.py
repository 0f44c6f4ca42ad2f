"""argparse ``type=`` functions: a value that cannot be used is a usage error that names its option."""

import argparse
import math

LONGEST_SECONDS = 1e7  # some four months; more is a slip of the hand
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
