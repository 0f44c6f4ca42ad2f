"""Values of options: what cannot be used is refused with the reason."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.management.arguments import count, positive_count, seconds, share

NO_NUMBERS = ["", "x", "1,5", "nan", "inf", "-inf", "1e999", "0x10", "five", "\x1b[31m", "1 2", "--"]


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (seconds, "0.1", 0.1),
        (seconds, "60", 60.0),
        (seconds, "1e7", 1e7),
        (seconds, " 5 ", 5.0),
        (share, "0", 0.0),
        (share, "1", 1.0),
        (share, "0.25", 0.25),
        (count, "0", 0),
        (count, "1000000000", 10**9),
        (positive_count, "1", 1),
    ],
)
def test_good_values(kind: Callable[[str], float], text: str, value: float) -> None:
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (seconds, ["0", "-1", "-0.0", "1.1e7", *NO_NUMBERS]),
        (share, ["-0.1", "1.0001", "50", *NO_NUMBERS]),
        (count, ["-1", "1.5", "1000000001", "1e3", *NO_NUMBERS]),
        (positive_count, ["0", "-1", "1.5", *NO_NUMBERS]),
    ],
)
def test_bad_values_are_refused_with_a_printable_reason(kind: Callable[[str], float], texts: list[str]) -> None:
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError) as problem:
            kind(text)
        assert str(problem.value).isprintable()


@given(st.text(max_size=8) | st.floats().map(str) | st.integers().map(str))
def test_any_text_is_a_value_in_range_or_refused(text: str) -> None:
    for kind, low, high in ((seconds, 0, 1e7), (share, 0, 1), (count, 0, 10**9), (positive_count, 1, 10**9)):
        try:
            assert low <= kind(text) <= high
        except argparse.ArgumentTypeError:
            continue
