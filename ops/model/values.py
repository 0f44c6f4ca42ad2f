"""The kinds of values that settings, options of commands and arguments of the API accept."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

LONGEST_SECONDS = 1e7  # some four months; more is a slip of the hand
SHORTEST_JOURNAL_SECONDS = 60
LARGEST_COUNT = 10**9
FARTHEST_MOMENT = 1e12  # beyond the years that a time in ISO 8601 can name, 1 to 9999, before and after 1970
SHOWN = 60  # characters of a value that is refused


@dataclass(frozen=True, slots=True)
class ValueKind:
    """``words`` follow "must be": what a value of this kind is."""

    words: str
    holds: Callable[[Any], bool]

    def problem_with(self, name: str, value: Any) -> str | None:
        """The message for a value that cannot be used; None if it can be used."""
        return None if self.holds(value) else f"{name} must be {self.words}, not {_shown(value)}"

    def or_none(self) -> "ValueKind":
        return ValueKind(f"{self.words}, or None", lambda value: value is None or self.holds(value))


def one_of(known: Collection[str]) -> ValueKind:
    return ValueKind(f"one of {', '.join(known)}", lambda value: isinstance(value, str) and value in known)


def some_of(known: Collection[str]) -> ValueKind:
    return ValueKind(
        f"a list of names out of {', '.join(known)}",
        lambda value: _is_several(value) and all(isinstance(one, str) and one in known for one in value),
    )


def _number(least: float, most: float, *, above: bool = False) -> Callable[[Any], bool]:
    """Numbers from ``least`` to ``most``; with ``above``, not ``least`` itself. No NaN is among them."""

    def holds(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return least < value <= most if above else least <= value <= most

    return holds


def _whole(least: int) -> Callable[[Any], bool]:
    in_range = _number(least, LARGEST_COUNT)
    return lambda value: in_range(value) and value == int(value)


def _is_several(value: Any) -> bool:
    return isinstance(value, Collection) and not isinstance(value, (str, bytes, Mapping))


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


BOOLEAN = ValueKind("True or False", lambda value: isinstance(value, bool))
TEXT = ValueKind("a text", lambda value: isinstance(value, str))
TEXTS = ValueKind("a list of texts", lambda value: _is_several(value) and all(isinstance(one, str) for one in value))
SECONDS = ValueKind(
    f"a number of seconds above 0 and up to {LONGEST_SECONDS:.0f}", _number(0, LONGEST_SECONDS, above=True)
)
JOURNAL_SECONDS = ValueKind(
    f"a number of seconds of at least {SHORTEST_JOURNAL_SECONDS}, or nothing could be undone",
    _number(SHORTEST_JOURNAL_SECONDS, LARGEST_COUNT),
)
SHARE = ValueKind("a share from 0 to 1", _number(0, 1))
COUNT = ValueKind(f"a whole number from 0 to {LARGEST_COUNT}", _whole(0))
POSITIVE_COUNT = ValueKind(f"a whole number from 1 to {LARGEST_COUNT}", _whole(1))
SPEED = ValueKind("a number above 0 and up to 1000000", _number(0, 1e6, above=True))
MOMENT = ValueKind(
    "a time in unix seconds, as time.time() and datetime.timestamp() give it",
    _number(-FARTHEST_MOMENT, FARTHEST_MOMENT),
)
