"""Suspicions, the plan of a run, and the safety stops."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.model.liveness.evidence import (
    Evidence,
    JoinedSince,
    LeaseLapsed,
    ProbeUnanswered,
    SeveralKeys,
    SuspectedBefore,
    UnreadableMessages,
)
from ops.model.liveness.judge import Policy, State, Verdict, judge
from ops.model.liveness.plan import ReapPlan, plan_reap
from ops.model.liveness.readability import Unreadable
from ops.model.liveness.stops import Control, MisplacedGroup
from ops.model.liveness.suspicion import Recall, Suspicion, recall, suspicion_lifetime_seconds, suspicions_after

SUSPICION = Suspicion("p", since=1000.0, renewed_at=1100.0, epoch="run-1", newest_joined_at=500.0)
times = st.floats(min_value=0, max_value=4e9)
suspicions = st.builds(Suspicion, st.just("p"), times, times, st.sampled_from("ab"), times)


def recalled(**changes: Any) -> Recall:
    known: dict[str, Any] = {"now": 1200.0, "epoch": "run-1", "newest_joined_at": 500.0, "confirm_after_seconds": 60.0}
    return recall(SUSPICION, **{**known, **changes})


# What an earlier suspicion is worth


def test_a_suspicion_counts_from_its_first_round() -> None:
    assert recalled() == Recall(SUSPICION, (SuspectedBefore(200.0),))


def test_a_suspicion_is_void_after_a_restart() -> None:
    assert recalled(epoch="run-2") == Recall(SUSPICION, (), void=True, restarted=True)


def test_a_suspicion_is_void_after_a_join() -> None:
    assert recalled(newest_joined_at=1150.0) == Recall(SUSPICION, (JoinedSince(150.0),), void=True)


def test_a_join_counts_by_the_clock_of_its_host_whatever_that_says() -> None:
    """Only join times of one process are compared with one another."""
    assert recalled(newest_joined_at=500.000001).void
    assert not recalled(newest_joined_at=499.0).void


def test_a_join_hides_a_restart() -> None:
    assert not recalled(newest_joined_at=1150.0, epoch="run-2").restarted


@pytest.mark.parametrize(("confirm_after", "lifetime"), [(1.0, 900.0), (60.0, 900.0), (300.0, 900.0), (600.0, 1800.0)])
def test_a_suspicion_that_no_run_renewed_is_void_after_its_lifetime(confirm_after: float, lifetime: float) -> None:
    assert suspicion_lifetime_seconds(confirm_after) == lifetime
    at_the_end, after = SUSPICION.renewed_at + lifetime, SUSPICION.renewed_at + lifetime + 1
    assert not recalled(now=at_the_end, confirm_after_seconds=confirm_after).void
    assert recalled(now=after, confirm_after_seconds=confirm_after) == Recall(SUSPICION, (), void=True)


def test_a_clock_that_was_set_back_makes_no_silence_older() -> None:
    assert recalled(now=900.0).evidence == (SuspectedBefore(0.0),)


@given(suspicions, times, st.sampled_from("ab"), times, st.floats(0.001, 1e6))
def test_a_void_suspicion_never_bears_silence(
    suspicion: Suspicion, now: float, epoch: str, newest: float, confirm_after: float
) -> None:
    found = recall(suspicion, now=now, epoch=epoch, newest_joined_at=newest, confirm_after_seconds=confirm_after)
    silent = any(isinstance(fact, SuspectedBefore) for fact in found.evidence)
    assert silent is not found.void
    assert not (silent and (epoch != suspicion.epoch or newest > suspicion.newest_joined_at))


# The plan


def plan(states: str, facts: tuple[Evidence, ...] = (), **changes: Any) -> ReapPlan:
    """``states``: one letter for each process, (l)ive, (s)uspect, (d)ead, (u)nknown; it is called by its position.

    ``facts``: the evidence about all of them.
    """
    names = {"l": State.LIVE, "s": State.SUSPECT, "d": State.DEAD, "u": State.UNKNOWN}
    verdicts = {str(at): Verdict(names[letter], facts) for at, letter in enumerate(states)}
    known: dict[str, Any] = {
        "controls": [Control(0, 2.0)],
        "probe_timeout_seconds": 10.0,
        "voided_by_restart": [],
        "seen_live": [],
        "max_share": 0.5,
        "members": dict.fromkeys(verdicts, 1),
        "misplaced": [],
    }
    return plan_reap(verdicts, **{**known, **changes})


def test_the_dead_go_and_nobody_else() -> None:
    assert plan("dlsud") == ReapPlan(frozenset({"0", "4"}))
    assert plan("") == plan("lsu") == ReapPlan(frozenset())


@pytest.mark.parametrize("states", ["d", "s", "lds"])
def test_a_control_that_took_no_probe_stops(states: str) -> None:
    found = plan(states, controls=[Control(0, 1.0), Control(1, None)])
    assert (found.dead, found.control_failed) == (frozenset(), True)
    assert found.stopped
    assert found.stopped.startswith("control: the reaper's own probe on shard 1 was not taken within 10 s")


def test_a_control_that_was_slow_stops() -> None:
    assert plan("d", controls=[Control(0, 5000.0)]).stopped is None
    found = plan("d", controls=[Control(0, 5000.1)])
    assert found.stopped
    assert "took 5000 ms, more than half of the probe timeout" in found.stopped
    assert found.control_failed


def test_where_nobody_is_silent_the_control_does_not_matter() -> None:
    assert plan("lu", controls=[Control(0, None)]) == ReapPlan(frozenset())


KEYS = SeveralKeys()
UNREADABLE = UnreadableMessages(f"{Unreadable('p', False, 'InvalidToken').words}; another key is in use")


@pytest.mark.parametrize(
    ("states", "members", "stops"),
    [("du", {"1": 2}, True), ("ds", {"1": 2}, True), ("du", {"0": 3, "1": 0}, False), ("dl", {"0": 3, "1": 2}, False)],
)
def test_a_process_with_members_that_was_not_probed_for_several_keys_stops(
    states: str, members: dict[str, int], stops: bool
) -> None:
    """Whoever said itself that it has left, or that it lives, needs no probe."""
    found = plan(states, facts=(KEYS,), members=members)
    assert found.dead == (frozenset() if stops else frozenset("0"))
    assert (found.stopped or "").startswith("keys: 1 process with 2 members were not probed" if stops else "")
    assert found.control_failed is False


@pytest.mark.parametrize("states", ["d", "u", "s", "lu"])
def test_an_unreadable_message_stops_whoever_else_is_dead(states: str) -> None:
    found = plan(states, facts=(UNREADABLE,), members={})
    assert found.dead == frozenset()
    assert found.stopped == (
        "unreadable: a message in the inbox of process p cannot be read with the settings here: InvalidToken; another "
        "key is in use"
    )


def misplaced(joined_seconds_ago: float, name: str = "room") -> MisplacedGroup:
    return MisplacedGroup(name, "shard 0 (redis://a:1/0)", "shard 1 (redis://b:1/0)", joined_seconds_ago)


@pytest.mark.parametrize("joined_seconds_ago", [-7200.0, -math.inf, 0.0, 3600.0])
def test_a_group_that_was_joined_on_another_shard_within_the_hour_stops(joined_seconds_ago: float) -> None:
    found = plan("d", misplaced=[misplaced(joined_seconds_ago), misplaced(3601.0, "old")])
    assert (found.dead, found.control_failed) == (frozenset(), False)
    assert found.stopped
    assert "'room' lies on shard 0 (redis://a:1/0) and belongs on shard 1 (redis://b:1/0) (joined " in found.stopped
    assert "old" not in found.stopped


def test_groups_that_lie_on_another_shard_since_a_change_of_hosts_stop_nobody() -> None:
    assert plan("d", misplaced=[misplaced(3600.1), misplaced(86400.0)]) == ReapPlan(frozenset("0"))


def test_of_many_misplaced_groups_those_that_were_joined_last_are_named() -> None:
    found = plan("d", misplaced=[misplaced(float(age), f"room{age}\x1b") for age in range(9, 0, -1)])
    assert found.stopped
    assert found.stopped.count("lies on") == 3
    assert all(f"'room{age}\\x1b'" in found.stopped for age in (1, 2, 3))


# What is remembered of who was not asked


def remembered(verdict: Verdict, earlier: Recall | None) -> Suspicion | None:
    recalls = {} if earlier is None else {"p": earlier}
    return suspicions_after({"p": verdict}, recalls, {"p": 500.0}, now=1200.0, epoch="run-1").get("p")


def test_a_suspicion_is_not_renewed_by_a_look_that_did_not_ask() -> None:
    """Otherwise one silence and a rotation of keys that takes a day would be two silences."""
    before = recalled()
    assert remembered(judge((*before.evidence, KEYS), Policy(60.0)), before) == SUSPICION
    silent = judge((*before.evidence, ProbeUnanswered(10.0, 0)), Policy(60.0))
    assert remembered(silent, before) == Suspicion("p", 1000.0, 1200.0, "run-1", 500.0)


@pytest.mark.parametrize("earlier", [None, Recall(SUSPICION, (), void=True)])
def test_who_was_not_asked_is_not_suspected_anew(earlier: Recall | None) -> None:
    assert remembered(judge((LeaseLapsed(90.0, "web-1"), KEYS), Policy(60.0)), earlier) is None


def test_a_restart_inside_the_confirm_time_stops_all() -> None:
    found = plan("ds", voided_by_restart=["1"])
    assert (found.dead, found.control_failed) == (frozenset(), False)
    assert found.stopped
    assert found.stopped.startswith("restart: Redis restarted or failed over since 1 silent process was")
    two = plan("dss", voided_by_restart=["1", "2"]).stopped
    assert two
    assert "2 silent processes were" in two


@pytest.mark.parametrize(
    ("states", "seen_live", "max_share", "stops"),
    [
        ("d", "0", 0.0, False),  # one alone never stops
        ("dd", "01", 0.5, True),
        ("dd", "01", 0.99, True),
        ("dd", "01", 1.0, False),
        ("ddl", "01", 0.5, True),
        ("ddll", "01", 0.5, False),  # as many as allowed
        ("dddll", "012", 0.5, True),
        ("ddllu", "01", 0.49, True),
        ("dddddll", "", 0.5, False),  # none was ever seen live
        ("dddddll", "01", 0.5, False),  # two of four were
        ("dddddl", "01", 0.5, True),
        ("ddsssll", "01234", 0.5, False),  # suspects do not count until they are confirmed
    ],
)
def test_the_share_of_the_fleet_that_may_go_silent_at_once(
    states: str, seen_live: str, max_share: float, stops: bool
) -> None:
    found = plan(states, seen_live=list(seen_live), max_share=max_share)
    assert bool(found.stopped) is stops
    assert len(found.dead) == (0 if stops else states.count("d"))
    if found.stopped:
        assert found.stopped.startswith("share: ")
        assert "--max-share 1" in found.stopped


controls = st.lists(st.builds(Control, st.integers(0, 2), st.none() | st.floats(0, 1e5)), max_size=3)


@given(st.text("lsdu", max_size=8), controls, st.sets(st.sampled_from("01234567")), st.booleans(), st.floats(0, 1))
def test_a_plan_removes_all_the_dead_or_stops_and_removes_nobody(
    states: str, found_controls: list[Control], seen: set[str], restarted: bool, max_share: float
) -> None:
    dead = {str(at) for at, letter in enumerate(states) if letter == "d"}
    found = plan(
        states,
        controls=found_controls,
        seen_live=seen,
        voided_by_restart=["x"] if restarted else [],
        max_share=max_share,
    )
    assert found.dead == (frozenset() if found.stopped else dead)
    if restarted or (dead and any(control.round_trip_ms is None for control in found_controls)):
        assert found.stopped
    assert not (found.control_failed and not found.stopped)
