"""Round-trip times in buckets: as good as a list of them, and no larger the more there are."""

from __future__ import annotations

import math
import random

import pytest

from ops.model.heartbeats.round_trips import RANKS, WIDTH, RoundTrips


def noted(*milliseconds: float) -> RoundTrips:
    found = RoundTrips()
    for value in milliseconds:
        found.note(value)
    return found


def nearest_rank(values: list[float], rank: float) -> float:
    return sorted(values)[max(0, math.ceil(rank * len(values)) - 1)]


@pytest.mark.parametrize("size", [1, 2, 3, 10, 99, 100, 101, 5000])
@pytest.mark.parametrize("seed", range(3))
def test_percentiles_are_those_of_the_values_within_half_a_bucket(size: int, seed: int) -> None:
    chance = random.Random(f"{size} {seed}")
    values = [10 ** chance.uniform(-2, 4) for _ in range(size)]
    found = noted(*values).percentiles()
    for name, rank in RANKS.items():
        assert found[name] == pytest.approx(nearest_rank(values, rank), rel=WIDTH - 1)
    assert (found["min"], found["max"]) == (min(values), max(values))


def test_without_an_answer_all_is_zero() -> None:
    assert RoundTrips().percentiles() == {"min": 0, "p50": 0, "p95": 0, "p99": 0, "max": 0}
    assert RoundTrips().distribution() == []
    empty = noted(2.0)
    empty.add(RoundTrips())
    assert empty.percentiles() == dict.fromkeys(RANKS, 2.0)


def test_added_up_they_are_as_if_they_had_been_noted_together() -> None:
    first, second = [0.5, 1.5, 700.0], [0.2, 1.6]
    together, parts = noted(*first, *second), noted(*first)
    parts.add(noted(*second))
    assert parts.percentiles() == together.percentiles()
    assert parts.distribution() == together.distribution()
    assert parts.count == 5


def test_many_take_no_more_room_than_few() -> None:
    chance = random.Random(1)
    found = noted(*(10 ** chance.uniform(-6, 12) for _ in range(50_000)))
    assert found.count == 50_000
    assert len(found._buckets) <= math.log(1e12, WIDTH) + 2


@pytest.mark.parametrize("odd", [0.0, -5.0, 1e-300, 1e300])
def test_a_time_that_no_clock_should_give_is_counted_all_the_same(odd: float) -> None:
    found = noted(odd, 1.0)
    assert found.count == 2
    assert sum(count for *_, count in found.distribution()) == 2


def test_the_distribution_has_every_step_from_the_shortest_to_the_longest() -> None:
    assert noted(1.5, 1.7, 7.0, 60.0).distribution() == [
        (1, 2, 2),
        (2, 5, 0),
        (5, 10, 1),
        (10, 20, 0),
        (20, 50, 0),
        (50, 100, 1),
    ]
    assert noted(0.03).distribution() == [(pytest.approx(0.02), pytest.approx(0.05), 1)]


@pytest.mark.parametrize("value", [1.0, 2.0, 5.0, 10.0, 1000.0, 0.001, 1e9])
def test_a_time_on_a_step_is_in_one_that_begins_or_ends_there(value: float) -> None:
    [(shortest, longest, count)] = noted(value).distribution()
    assert count == 1
    assert shortest <= value * 1.001
    assert value <= longest * 1.001
