"""Times and numbers as people and programs read them."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.model.text import counted
from ops.output.text import ago, iso


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_700_000_000.9996, "2023-11-14T22:13:20.999Z"),
        (-1, "1969-12-31T23:59:59.000Z"),
        (None, None),
        (math.inf, None),
        (-math.inf, None),
        (math.nan, None),
        (1e18, None),
        (1e300, None),
    ],
)
def test_times_are_utc_and_end_in_z(seconds: float | None, text: str | None) -> None:
    assert iso(seconds) == text


@given(st.floats())
def test_any_score_is_a_time_or_none(score: float) -> None:
    text = iso(score)
    assert text is None or re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(100, "0 s"), (99.5, "0.5 s"), (40, "60 s"), (-500, "10 min"), (101, "0 s"), (400, "in 5 min"), (None, "-")],
)
def test_how_long_ago_it_was(seconds: float | None, text: str) -> None:
    assert ago(seconds, 100) == text


@given(st.floats(), st.floats(0, 4e9))
def test_any_score_is_some_time_ago(score: float, now: float) -> None:
    assert ago(score, now)


def test_counts_have_their_noun() -> None:
    assert counted(0, "group") == "0 groups"
    assert counted(1, "group") == "1 group"
    assert counted(1200, "group") == "1,200 groups"
    assert counted(2, "process", "processes") == "2 processes"
