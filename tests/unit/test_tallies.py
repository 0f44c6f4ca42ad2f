"""Counting in bounded memory: what is kept is exact, what is not kept is counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ops.model.disconnects.report.counting import RecentKeys, Timeline, TopTally, age_bin, shares


def test_the_rarest_keys_fall_to_other_and_no_count_is_lost() -> None:
    tally: TopTally[str] = TopTally(10)
    for number in range(1000):
        tally.add("common")
        tally.add(f"rare {number}")
    rows, other = tally.top(1)
    assert rows == [("common", 1000)]
    assert other == 1000
    assert len(tally.ordered()) <= 20


@given(st.lists(st.integers(min_value=0, max_value=30)))
def test_a_key_among_the_newest_is_known_and_an_old_one_forgotten(keys: list[int]) -> None:
    recent = RecentKeys(5)
    order: list[int] = []  # of the new ones, as they came
    for key in keys:
        is_new = recent.add(key)
        assert not (is_new and key in order[-5:])
        assert is_new or key in order[-10:]
        order += [key] * is_new


@given(st.lists(st.integers(min_value=-(10**11), max_value=10**11), min_size=1))
def test_a_timeline_keeps_every_end_in_no_more_steps_than_it_may(times: list[int]) -> None:
    timeline = Timeline(most_slots=10)
    for at in times:
        timeline.slot(at).total += 1
    steps = list(timeline.steps())
    assert len(steps) <= 10
    assert sum(slot.total for _, slot in steps) == len(times)
    assert all(step[0] <= max(times) for step in steps)
    assert steps[0][0] <= min(times)


def test_a_coarser_timeline_says_the_same_and_leaves_the_finer_one_alone() -> None:
    timeline = Timeline(most_slots=1000)
    for at in range(100):
        timeline.slot(float(at)).total += 1
    coarse = timeline.coarser(20)
    assert coarse.width_seconds == 5
    assert [slot.total for _, slot in coarse.steps()] == [5] * 20
    assert len(list(timeline.steps())) == 100
    assert timeline.coarser(1000, least_seconds=10).width_seconds == 10


def test_a_step_that_makes_the_timeline_coarser_is_counted_in_it() -> None:
    timeline = Timeline(most_slots=3)
    for at in (0.0, 1.0, 50.0):
        timeline.slot(at).total += 1
    assert [slot.total for _, slot in timeline.steps()] == [2, 1]


def test_ages_of_a_day_are_known_to_minutes_and_young_ones_to_half_a_second() -> None:
    assert age_bin(4.9) != age_bin(5.1)
    assert age_bin(86400) != age_bin(86400 + 900)
    assert age_bin(99.9) < age_bin(100.0) < age_bin(101.0)


@given(st.floats(min_value=0, max_value=1e12))
def test_any_age_has_one_of_a_bounded_number_of_bins(age: float) -> None:
    assert 0 <= age_bin(age) <= 4200


def test_a_share_that_is_not_nothing_stays_visible() -> None:
    assert shares([0, 1, 1000], 8) == [0, 1, 8]
    assert shares([], 8) == []
