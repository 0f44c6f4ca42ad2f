"""Suspicions, the plan of a run, and the safety stops."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.model.liveness.evidence import (
    AliveSince,
    Evidence,
    JoinedSince,
    LeaseEnded,
    LeaseFresh,
    LeaseLapsed,
    ProbesTaken,
    ProbeUnanswered,
    SeveralKeys,
    SuspectedBefore,
    UnreadableMessages,
)
from ops.model.liveness.judge import Policy, State, Verdict, judge
from ops.model.liveness.judgement import JUDGEMENT_SECONDS, RENEW_AFTER_SECONDS, check_renewal, is_due
from ops.model.liveness.moments import LatestLook, Moment, elapsed_seconds, look_after
from ops.model.liveness.plan import ReapPlan, common_cause_of, plan_reap, those_in_doubt
from ops.model.liveness.readability import Unreadable
from ops.model.liveness.stops import (
    SEEN_BEFORE_A_STEP,
    Absence,
    Control,
    LastUse,
    MisplacedGroup,
    absence_after,
    is_released,
    last_uses,
)
from ops.model.liveness.suspicion import (
    MOST_VANISHED,
    Recall,
    Signs,
    Suspicion,
    always_back,
    recall,
    seen_live_after,
    sees_a_new_process,
    suspicion_lifetime_seconds,
    suspicions_after,
)

BOOT = "boot-1"
SILENT = Verdict(State.SUSPECT, (ProbeUnanswered(10.0, 0),))
SUSPICION = Suspicion("p", Moment(1000.0, BOOT, 10.0), Moment(1100.0, BOOT, 110.0), "run-1", newest_joined_at=500.0)
NOW = Moment(1200.0, BOOT, 210.0)
times = st.floats(min_value=0, max_value=4e9)
moments = st.builds(Moment, times, st.sampled_from(["", "a", "b"]), st.floats(0, 1e6))
suspicions = st.builds(
    Suspicion, st.just("p"), moments, moments, st.sampled_from("ab"), times, st.integers(1, 5), st.integers(0, 3)
)


def recalled(suspicion: Suspicion = SUSPICION, **changes: Any) -> Recall:
    signs = {name: changes.pop(name) for name in ("newest_joined_at", "marks", "lease_renewed_at") if name in changes}
    known: dict[str, Any] = {"now": NOW, "epoch": "run-1", "evicted_keys": 0, "confirm_after_seconds": 60.0}
    return recall(suspicion, Signs(**{"newest_joined_at": 500.0, **signs}), **{**known, **changes})


# How long ago something was


@pytest.mark.parametrize(
    ("then", "now", "elapsed"),
    [
        (Moment(100.0), Moment(160.0), 60.0),
        (Moment(100.0, "a", 1.0), Moment(220.0, "a", 8.0), 7.0),  # Redis' clock was set forward
        (Moment(100.0, "a", 1.0), Moment(107.0, "a", 121.0), 7.0),  # it was set back
        (Moment(100.0, "a", 1.0), Moment(160.0, "b", 5000.0), 60.0),  # another host
        (Moment(100.0, "", 0.0), Moment(160.0, "a", 5000.0), 60.0),  # written by a host that does not tell
        (Moment(86500.0), Moment(160.0), None),  # from the future
        (Moment(100.0, "a", 900.0), Moment(160.0, "a", 10.0), None),
        (Moment(161.0), Moment(160.0), 0.0),  # two servers' clocks are never equal
    ],
)
def test_time_between_runs_is_the_shorter_of_two_clocks_and_never_comes_from_the_future(
    then: Moment, now: Moment, elapsed: float | None
) -> None:
    assert elapsed_seconds(then, now) == elapsed


@pytest.mark.parametrize(
    ("then", "now", "was_set"),
    [
        (Moment(100.0, "a", 1.0), Moment(280.0, "a", 61.0), True),
        (Moment(100.0, "a", 1.0), Moment(160.5, "a", 61.0), False),
        (Moment(100.0, "a", 1.0), Moment(40.0, "a", 61.0), True),
        (Moment(100.0, "b", 1.0), Moment(280.0, "a", 61.0), False),
    ],
)
def test_a_step_of_redis_clock_is_seen_from_the_host_that_looked_before(
    then: Moment, now: Moment, was_set: bool
) -> None:
    assert look_after(look_after(None, then), now).stepped_at == (now if was_set else None)


@pytest.mark.parametrize(
    ("others", "was_set"), [((107.0, 560.0), False), ((700.0, 560.0), True), ((107.0, 60.0), True), ((107.0,), True)]
)
def test_so_is_a_step_of_any_other_shard(others: tuple[float, ...], was_set: bool) -> None:
    then, now = Moment(100.0, "a", 1.0), Moment(160.0, "a", 61.0)
    earlier = look_after(None, then, "e", (47.0, 500.0))
    assert look_after(earlier, now, "e", others).stepped_at == (now if was_set else None)


def test_a_step_of_redis_clock_is_remembered_by_the_looks_after_it() -> None:
    step = Moment(280.0, "a", 61.0)
    before = LatestLook(Moment(285.0, "a", 66.0), "e", Moment(100.0), stepped_at=step)
    found = look_after(before, Moment(290.0, "a", 71.0), "e")
    assert (found.stepped_at, found.even_seconds) == (step, 10.0)
    set_right = look_after(before, Moment(70.0, "a", 131.0), "e")
    assert look_after(set_right, Moment(80.0, "a", 141.0), "e").even_seconds == 10.0, "the boot clock tells"
    assert look_after(None, step, "e").even_seconds == math.inf


def test_a_look_knows_since_when_the_servers_have_run_without_a_break() -> None:
    first = look_after(None, Moment(100.0), "e")
    assert (first.epoch, first.epoch_at) == ("e", Moment(100.0))
    assert look_after(first, Moment(160.0), "e").epoch_at == Moment(100.0)
    assert look_after(first, Moment(160.0), "f").epoch_at == Moment(160.0)
    nobody_knows = look_after(None, Moment(100.0), "")
    assert look_after(nobody_knows, Moment(160.0), "").epoch_at == Moment(160.0)


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


def test_a_lease_that_was_renewed_since_makes_it_void() -> None:
    assert recalled(lease_renewed_at=1100.5) == Recall(SUSPICION, (AliveSince("renewed its lease"),), void=True)
    assert not recalled(lease_renewed_at=1100.0).void


@pytest.mark.parametrize(
    ("left", "there", "evicted_keys", "found"),
    [
        (0, None, 0, "not certain"),  # none were left
        (2, None, 0, "not certain"),  # nobody was allowed to count them
        (2, 2, 0, "unbroken"),
        (2, 3, 0, "unbroken"),
        (2, 1, 0, "alive"),
        (2, 0, 0, "alive"),
        (2, 0, 7, "not certain"),  # the server may have evicted them
        (2, 2, 7, "unbroken"),
    ],
)
def test_markers_tell_whether_it_was_alive_in_between(
    left: int, there: int | None, evicted_keys: int, found: str
) -> None:
    was = recalled(replace(SUSPICION, marks=left, looks=2), marks=there, evicted_keys=evicted_keys)
    if found == "alive":
        assert (was.void, was.took_marker) == (True, True)
        assert isinstance(was.evidence[0], AliveSince)
    else:
        assert was.evidence == (SuspectedBefore(200.0, 2, unbroken=found == "unbroken"),)


@pytest.mark.parametrize(("confirm_after", "lifetime"), [(1.0, 900.0), (60.0, 900.0), (300.0, 900.0), (600.0, 1800.0)])
def test_a_suspicion_that_no_run_renewed_is_void_after_its_lifetime(confirm_after: float, lifetime: float) -> None:
    assert suspicion_lifetime_seconds(confirm_after) == lifetime
    at_the_end, after = Moment(1100.0 + lifetime), Moment(1101.0 + lifetime)
    assert not recalled(now=at_the_end, confirm_after_seconds=confirm_after).void
    assert recalled(now=after, confirm_after_seconds=confirm_after) == Recall(SUSPICION, (), void=True)


def test_a_suspicion_from_the_future_is_void() -> None:
    assert recalled(now=Moment(900.0)) == Recall(SUSPICION, (), void=True)


@given(suspicions, moments, st.sampled_from("ab"), times, st.none() | st.integers(0, 3), st.floats(0.001, 1e6))
def test_a_void_suspicion_never_bears_silence(
    suspicion: Suspicion, now: Moment, epoch: str, newest: float, marks: int | None, confirm_after: float
) -> None:
    found = recalled(
        suspicion, now=now, epoch=epoch, newest_joined_at=newest, marks=marks, confirm_after_seconds=confirm_after
    )
    silent = any(isinstance(fact, SuspectedBefore) for fact in found.evidence)
    assert silent is not found.void
    assert not (silent and (epoch != suspicion.epoch or newest > suspicion.newest_joined_at))
    assert not (silent and marks is not None and marks < suspicion.marks)


def test_looks_in_a_row_are_counted_and_a_void_one_begins_again() -> None:
    silent = {"p": SILENT}
    how: dict[str, Any] = {"now": NOW, "epoch": "run-1", "evicted_keys": 3}
    first = suspicions_after(silent, {}, {"p": 500.0}, **how)["p"]
    assert (first.looks, first.since, first.renewed, first.evicted_keys) == (1, NOW, NOW, 3)
    again = suspicions_after(silent, {"p": recalled()}, {"p": 500.0}, **how)["p"]
    assert (again.looks, again.since, again.renewed) == (2, SUSPICION.since, NOW)
    void = suspicions_after(silent, {"p": recalled(epoch="run-2")}, {"p": 500.0}, **how)["p"]
    assert (void.looks, void.since, void.vanished) == (1, NOW, 0)


def test_a_process_that_is_always_back_between_the_looks_is_named_after_the_fifth() -> None:
    suspicion = replace(SUSPICION, marks=1)
    for look in range(1, MOST_VANISHED + 1):
        assert always_back({"p": suspicion}) == []
        was = recalled(suspicion, marks=0)
        after = suspicions_after({"p": SILENT}, {"p": was}, {"p": 500.0}, now=NOW, epoch="run-1", evicted_keys=0)
        suspicion = replace(after["p"], marks=1)
        assert suspicion.vanished == look
    assert always_back({"p": suspicion}) == ["p"]


# The plan


def judged(states: str, facts: tuple[Evidence, ...] = ()) -> dict[str, Verdict]:
    """One letter for each process, (l)ive, (s)uspect, (d)ead, (e)nded by itself, (u)nknown; named by its position."""
    names = {"l": State.LIVE, "s": State.SUSPECT, "d": State.DEAD, "e": State.DEAD, "u": State.UNKNOWN}
    own_word = (LeaseEnded("host pid 1"),)
    return {str(at): Verdict(names[letter], own_word if letter == "e" else facts) for at, letter in enumerate(states)}


def plan(states: str, facts: tuple[Evidence, ...] = (), **changes: Any) -> ReapPlan:
    """``facts``: the evidence about all of them."""
    verdicts = judged(states, facts)
    known: dict[str, Any] = {
        "controls": [Control(0, 2.0)],
        "probe_timeout_seconds": 10.0,
        "confirm_after_seconds": 60.0,
        "released": False,
        "voided_by_restart": [],
        "seen_live": [],
        "max_share": 0.5,
        "members": dict.fromkeys(verdicts, 1),
        "misplaced": [],
    }
    return plan_reap(verdicts, **{**known, **changes})


def test_the_dead_go_and_nobody_else() -> None:
    assert plan("dlsud") == ReapPlan(frozenset({"0", "4"}), waits=True)
    assert plan("dlud") == ReapPlan(frozenset({"0", "3"}))
    assert plan("") == plan("lu") == ReapPlan(frozenset())


@pytest.mark.parametrize("states", ["d", "s", "lds"])
def test_a_control_that_took_no_probe_stops(states: str) -> None:
    found = plan(states, controls=[Control(0, 1.0), Control(1, None)])
    assert (found.dead, found.control_failed) == (frozenset(), True)
    assert found.stopped
    assert found.stopped.startswith("control: the reaper's own probe on shard 1 was not taken within 10 s")


def test_a_control_that_was_slow_stops() -> None:
    assert plan("dl", controls=[Control(0, 5000.0)]).stopped is None
    found = plan("dl", controls=[Control(0, 5000.1)])
    assert found.stopped
    assert "took 5000 ms, more than half of the probe timeout" in found.stopped
    assert found.control_failed


def test_where_nobody_is_silent_the_control_does_not_matter() -> None:
    assert plan("lu", controls=[Control(0, None)]) == ReapPlan(frozenset())


KEYS = SeveralKeys()
UNREADABLE = UnreadableMessages(f"{Unreadable('p', False, 'InvalidToken').words}; another key is in use")


@pytest.mark.parametrize(
    ("states", "members", "stops"),
    [("eu", {"1": 2}, True), ("es", {"1": 2}, True), ("eu", {"0": 3, "1": 0}, False), ("el", {"0": 3, "1": 2}, False)],
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
    assert plan("dl", misplaced=[misplaced(3600.1), misplaced(86400.0)]) == ReapPlan(frozenset("0"))


def test_of_many_misplaced_groups_those_that_were_joined_last_are_named() -> None:
    found = plan("d", misplaced=[misplaced(float(age), f"room{age}\x1b") for age in range(9, 0, -1)])
    assert found.stopped
    assert found.stopped.count("lies on") == 3
    assert all(f"'room{age}\\x1b'" in found.stopped for age in (1, 2, 3))


# What is remembered of who was not asked


def remembered(verdict: Verdict, earlier: Recall | None) -> Suspicion | None:
    recalls = {} if earlier is None else {"p": earlier}
    return suspicions_after({"p": verdict}, recalls, {"p": 500.0}, now=NOW, epoch="run-1", evicted_keys=0).get("p")


def test_a_suspicion_is_not_renewed_by_a_look_that_did_not_ask() -> None:
    """Otherwise one silence and a rotation of keys that takes a day would be two silences."""
    before = recalled()
    assert remembered(judge((*before.evidence, KEYS), Policy(60.0)), before) == SUSPICION
    silent = judge((*before.evidence, ProbeUnanswered(10.0, 0)), Policy(60.0))
    assert remembered(silent, before) == replace(SUSPICION, renewed=NOW, looks=2)


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
        ("eel", "01", 0.5, False),  # what says itself that it has left is not silent
        ("edl", "01", 0.5, False),
        ("eddl", "012", 0.5, True),
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
    assert len(found.dead) == (0 if stops else states.count("d") + states.count("e"))
    if found.stopped:
        assert found.stopped.startswith("share: ")
        assert "--max-share 1" in found.stopped


def test_a_stop_of_a_common_cause_is_released_by_evidence_and_says_how_it_ends() -> None:
    found = plan("ddl", seen_live=["0", "1"])
    assert found.stopped
    assert "it ends by itself in a run 60 s after one that found no connection to Redis idle" in found.stopped
    assert found.waits
    for_long = (SuspectedBefore(60.0, unbroken=True),)
    assert plan("ddl", for_long, seen_live=["0", "1"], released=True) == ReapPlan(frozenset({"0", "1"}))


@pytest.mark.parametrize(
    ("states", "seen_live", "max_share", "stops"),
    [
        ("d", "", 0.5, True),
        ("ddd", "", 0.99, True),
        ("ddd", "", 1.0, False),
        ("dddl", "", 0.5, False),  # a live one answers: it would have been recognized
        ("d", "0", 0.5, False),  # it was seen live once
        ("dd", "7", 0.5, True),  # of another deploy
        ("e", "", 0.5, False),  # its own word
        ("ed", "", 0.5, True),
        ("sss", "", 0.5, False),  # nobody would go
        ("u", "", 0.5, False),
    ],
)
def test_if_nobody_lives_and_nobody_was_ever_seen_live_nothing_goes(
    states: str, seen_live: str, max_share: float, stops: bool
) -> None:
    found = plan(states, seen_live=list(seen_live), max_share=max_share)
    assert bool(found.stopped) is stops
    if found.stopped:
        assert found.stopped.startswith("nobody live: ")
        for seconds, released in ((19.0, False), (20.0, True)):
            facts = (SuspectedBefore(seconds),)
            later = plan(states, facts, seen_live=list(seen_live), max_share=max_share, released=True)
            assert (later.stopped is None) is released, "a process that froze since would not be listed as idle yet"


def test_a_lease_that_lapsed_shows_that_its_process_was_seen_live() -> None:
    lapsed = (LeaseLapsed(90.0, "host pid 1"),)
    assert plan("dd", lapsed) == ReapPlan(frozenset({"0", "1"}))


def test_a_stop_to_come_is_foreseen_while_its_processes_are_suspects() -> None:
    """So that the look which finds them silent first is also the first one without idle receivers."""
    verdicts = judged("ss")
    assert common_cause_of(verdicts, (State.DEAD,), seen_live=[], max_share=0.5) is None
    assert common_cause_of(verdicts, (State.DEAD, State.SUSPECT), seen_live=[], max_share=0.5)


# At 1000 s: two looks, 100 and 40 s ago, were the last to see it live and the first to find it silent.
SILENT_SINCE: tuple[Evidence, ...] = (SuspectedBefore(40.0, unbroken=True),)


def uses_of(facts: tuple[Evidence, ...] = SILENT_SINCE, seen_at: float | None = 900.0, **look: Any) -> set[LastUse]:
    """A worker that a deploy has started was first seen live 50 s ago."""
    epoch_at, look = Moment(look.pop("epoch_at", 500.0)), {"new_at": Moment(950.0), **look}
    this_look = LatestLook(Moment(1000.0, BOOT, 500.0), "e", epoch_at, **look)
    seen_live = {} if seen_at is None else {"0": seen_at}
    uses = last_uses(judged("d", facts), seen_live, now=1000.0, this_look=this_look)
    assert uses is not None
    return set(uses)


@pytest.mark.parametrize(
    ("idle_seconds", "age_seconds", "may_be"),
    [
        (60.0, 5000.0, True),  # used last when it was live, and before it was silent
        (100.0, 100.0, True),
        (40.0, 100.0, True),
        (31.0, 100.0, True),  # its last BZPOPMIN ended a little later
        (110.0, 5000.0, False),  # somebody's who had been idle before
        (25.0, 5000.0, False),  # a silent process uses nothing
        (60.0, 60.0, False),  # opened since: of a worker that a deploy has started
    ],
)
def test_a_connection_may_be_of_a_silent_process_if_it_was_last_used_when_that_was(
    idle_seconds: float, age_seconds: float, may_be: bool
) -> None:
    [use] = uses_of()
    assert use.may_be_of(idle_seconds=idle_seconds, age_seconds=age_seconds) is may_be


@pytest.mark.parametrize(
    ("use", "why"),
    [
        ({"stepped_at": Moment(950.0, BOOT, 450.0)}, "nobody knows how long ago it was seen"),
        ({"new_at": None}, "no other is likely to have opened it"),
        ({"new_at": Moment(850.0)}, "all that live were there when it was seen"),
        ({"seen_at": None}, "nobody knows what it had"),
    ],
)
def test_the_age_of_a_connection_counts_only_where_it_is_known_that_processes_keep_theirs(
    use: dict[str, Any], why: str
) -> None:
    assert uses_of()
    for found in uses_of(**use):
        assert found.may_be_of(idle_seconds=60.0, age_seconds=60.0), why


def test_who_may_have_been_alive_between_two_silences_may_have_used_any_connection_since() -> None:
    for facts in ((SuspectedBefore(40.0),), ()):
        [use] = uses_of(facts)
        assert use.may_be_of(idle_seconds=11.0, age_seconds=5000.0)


def test_who_let_its_lease_lapse_has_used_no_connection_since() -> None:
    """Another program that uses its own now and then would otherwise keep the stop on for ever."""
    [use] = uses_of((LeaseLapsed(90.0, "host pid 1"),))
    assert not use.may_be_of(idle_seconds=12.0, age_seconds=5000.0)
    assert use.may_be_of(idle_seconds=75.0, age_seconds=5000.0)


def test_nothing_is_known_of_connections_if_redis_restarted_since_one_was_seen_live() -> None:
    this_look = LatestLook(Moment(1000.0, BOOT, 500.0), "e", Moment(950.0))
    assert last_uses(judged("dd"), {"0": 960.0, "1": 900.0}, now=1000.0, this_look=this_look) is None
    assert last_uses(judged("dd"), {"0": 960.0, "1": 955.0}, now=1000.0, this_look=this_look) is not None


@pytest.mark.parametrize("seen_at", [SEEN_BEFORE_A_STEP, 1040.0])
def test_any_connection_may_be_of_a_process_that_was_seen_before_a_clock_was_set(seen_at: float) -> None:
    [use] = uses_of(seen_at=seen_at)
    assert use.may_be_of(idle_seconds=11.0, age_seconds=1.0)


def test_the_first_look_of_another_host_knows_since_when_redis_has_not_restarted() -> None:
    now = Moment(1000.0, BOOT, 500.0)
    elsewhere = [LatestLook(Moment(990.0, "other", 5.0), "e", Moment(700.0, "other", 1.0))]
    assert look_after(None, now, "e", elsewhere=elsewhere).epoch_at.redis == 700.0
    assert look_after(None, now, "f", elsewhere=elsewhere).epoch_at == now


def test_a_fresh_lease_says_when_its_process_was_live_and_a_probe_that_it_is() -> None:
    fresh, taken = LeaseFresh(20.0, "host pid 1"), ProbesTaken(1.0)
    verdicts = {str(at): Verdict(State.LIVE, facts) for at, facts in enumerate([(fresh,), (taken,), (taken, fresh)])}
    assert seen_live_after({}, verdicts, 1000.0) == {"0": 980.0, "1": 1000.0, "2": 1000.0}
    assert sees_a_new_process({"0": 900.0}, verdicts)
    assert not sees_a_new_process(dict.fromkeys("012", 900.0), verdicts)
    assert not sees_a_new_process({}, verdicts), "the first look of all"


def test_only_those_that_a_stop_is_about_keep_it_on() -> None:
    left = {"9": Verdict(State.DEAD, (LeaseEnded("host pid 9"),))}
    verdicts = judged("ddl") | left
    assert set(those_in_doubt(verdicts, (State.DEAD,), ["0"])) == {"0"}
    assert set(those_in_doubt(verdicts, (State.DEAD,), [])) == {"0", "1"}


def test_only_looks_a_confirm_time_apart_without_idle_receivers_release() -> None:
    first = absence_after(None, 0, now=NOW, epoch="e")
    assert first == Absence(NOW, "e")
    later = Moment(NOW.redis + 61, BOOT, NOW.boot_seconds + 61)
    assert absence_after(first, 0, now=later, epoch="e") == first
    assert absence_after(first, 1, now=later, epoch="e") is None, "one stands idle"
    assert absence_after(first, None, now=later, epoch="e") is None, "nobody knows"
    assert absence_after(first, 0, now=later, epoch="f") == Absence(later, "f"), "it begins again after a restart"

    def released(absence: Absence | None, now: Moment, epoch: str = "e") -> bool:
        return is_released(absence, now=now, epoch=epoch, confirm_after_seconds=60.0)

    assert released(first, later)
    assert not released(first, NOW)
    assert not released(None, later)
    assert not released(first, later, epoch="f")
    stepped = Moment(NOW.redis + 120, BOOT, NOW.boot_seconds + 4)
    assert not released(first, stepped), "Redis' clock was set forward"


@pytest.mark.parametrize(
    ("confirm_after_seconds", "seconds", "released"), [(4, 19, False), (4, 20, True), (60, 59, False)]
)
def test_a_short_confirm_time_releases_no_sooner_than_a_frozen_receiver_is_idle(
    confirm_after_seconds: float, seconds: float, released: bool
) -> None:
    now = Moment(NOW.redis + seconds, BOOT, NOW.boot_seconds + seconds)
    assert is_released(Absence(NOW, "e"), now=now, epoch="e", confirm_after_seconds=confirm_after_seconds) is released


controls = st.lists(st.builds(Control, st.integers(0, 2), st.none() | st.floats(0, 1e5)), max_size=3)


@given(st.text("lsdue", max_size=8), controls, st.sets(st.sampled_from("01234567")), st.booleans(), st.floats(0, 1))
def test_a_plan_removes_all_the_dead_or_stops_and_removes_nobody(
    states: str, found_controls: list[Control], seen: set[str], restarted: bool, max_share: float
) -> None:
    dead = {str(at) for at, letter in enumerate(states) if letter in "de"}
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


# The judgement, while members are removed by it


def test_a_judgement_is_renewed_well_before_it_is_too_old() -> None:
    assert not is_due(RENEW_AFTER_SECONDS - 0.001)
    assert is_due(RENEW_AFTER_SECONDS)
    assert is_due(1e9)
    assert RENEW_AFTER_SECONDS <= JUDGEMENT_SECONDS / 2


@pytest.mark.parametrize(
    ("undone", "ours", "begins"),
    [(False, True, None), (False, False, "lock: "), (True, True, "undone: "), (True, False, "undone: ")],
)
def test_a_run_that_is_over_or_no_longer_alone_removes_nothing_more(undone: bool, ours: bool, begins: str) -> None:
    found = check_renewal(run_is_undone=undone, lock_is_ours=ours)
    assert (found is None) is (begins is None)
    assert begins is None or (found or "").startswith(begins)
