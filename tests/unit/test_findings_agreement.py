"""What is said of processes that disagree, and of what the disconnect log tells."""

from __future__ import annotations

from typing import Any

import pytest

from ops.model.doctor.facts import KeyspaceFacts, Kind, Missing, ProcessFacts, UntestedVersion
from ops.model.liveness.readability import Unreadable
from tests.unit.facts_of import NOW, PROCESS, ended, facts, found, host, ids, server, settings_of, skipped_ids

TIMED_OUT = {"cause": "redis_timeout", "lived_seconds": 5.0}


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ([ended(**TIMED_OUT)] * 3, ["ops.E401"]),
        ([ended(**TIMED_OUT)] * 2, []),
        ([ended(**{**TIMED_OUT, "lived_seconds": 42.0})] * 3, []),
        ([ended(**{**TIMED_OUT, "lived_seconds": None})] * 3, []),
        ([ended(**{**TIMED_OUT, "cause": "normal"})] * 3, []),
        ([ended(4000.0, **TIMED_OUT)] * 3, []),
        ([ended(60.0 - 5.1 * number, cause="redis_timeout", lived_seconds=77.0) for number in range(4)], ["ops.E401"]),
        ([ended(60.0 - 9.0 * number, cause="redis_timeout", lived_seconds=77.0) for number in range(4)], []),
        ([ended(60.0 - 5.0 * n, cause="redis_timeout", process=f"{n:032x}") for n in range(4)], []),
    ],
    ids=[
        "a storm",
        "two",
        "other ages",
        "no ages",
        "closed in order",
        "long ago",
        "one each 5 s of one process",
        "one each 9 s",
        "of different processes",
    ],
)
def test_a_storm_is_known_by_the_ages_of_those_that_died(ends: Any, expected: list[str]) -> None:
    assert ids(facts(ends=tuple(ends))) == expected


def test_a_storm_and_the_setting_that_makes_it_are_one_finding() -> None:
    short = host(socket_timeout_seconds=5.0, own_socket_timeout=False)
    settings = settings_of(hosts=(short,), redis_py="8.1.0")
    assert ids(facts(settings=settings)) == ["ops.W202"]
    evidence = found(facts(settings=settings, ends=(ended(**TIMED_OUT),) * 40))
    assert list(evidence) == ["ops.E401"]
    assert evidence["ops.E401"].evidence[0].startswith("of 40 websockets that ended within the last hour 40 died")
    assert evidence["ops.E401"].evidence[1].startswith("host 0 has no socket_timeout, and redis-py 8.1.0")


def test_groups_on_another_shard_show_that_hosts_differ() -> None:
    keyspace = KeyspaceFacts(misplaced_groups=70, misplaced=((0, "room", 1),))
    finding = found(facts(keyspace=keyspace))
    assert list(finding) == ["ops.E407"]
    assert finding["ops.E407"].evidence == (
        "the group room lies on shard 0, and this configuration looks for it on shard 1",
        "70 groups in all",
    )


def test_unreadable_messages_are_told_of() -> None:
    assert ids(facts(keyspace=KeyspaceFacts(unreadable=(Unreadable(PROCESS, False, "InvalidToken"),)))) == ["ops.E406"]


@pytest.mark.parametrize(
    ("exception", "expected"),
    [
        (("cryptography.fernet.InvalidToken: ",), ["ops.E406"]),
        (("InvalidToken",), ["ops.E406"]),
        (("ValueError: wrong", "ExtraData: unpack(b) received extra data."), ["ops.E406"]),
        (("JSONDecodeError: Expecting value",), []),
        (("ValueError: InvalidToken",), []),
    ],
)
def test_consumers_that_died_of_a_message_are_told_of(exception: tuple[str, ...], expected: list[str]) -> None:
    assert ids(facts(ends=(ended(cause="handler_exception", exception=exception),))) == expected
    assert ids(facts(ends=(ended(2 * 86400, cause="handler_exception", exception=exception),))) == []


def test_another_prefix_with_the_same_groups_is_told_of() -> None:
    assert ids(facts(keyspace=KeyspaceFacts(other_prefixes={"chat": "room"}))) == ["ops.W408"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("RuntimeError: Two event loops are trying to receive() on one channel layer at once!", ["ops.E412"]),
        ("RuntimeError: <Queue> got Future <Future> attached to a different loop", ["ops.E412"]),
        ("RuntimeError: Event loop stopped", []),
    ],
)
def test_several_event_loops_are_told_of(said: str, expected: list[str]) -> None:
    assert ids(facts(ends=(ended(cause="handler_exception", exception=(said,)),))) == expected
    assert ids(facts(ends=(ended(2 * 86400, cause="handler_exception", exception=(said,)),))) == []


@pytest.mark.parametrize(("ahead", "expected"), [(4.9, []), (-4.9, []), (5.0, ["ops.W409"]), (-90.0, ["ops.W409"])])
def test_the_clock_of_this_host_is_compared(ahead: float, expected: list[str]) -> None:
    assert ids(facts(servers=(server(clock_ahead_seconds=ahead),))) == expected


@pytest.mark.parametrize(("ahead", "expected"), [(4.0, []), (6.0, ["ops.W409"]), (-90.0, [])])
def test_times_in_the_future_show_a_clock_that_is_ahead(ahead: float, expected: list[str]) -> None:
    process = ProcessFacts(PROCESS, live=True, silent=False, newest_score=NOW + ahead)
    assert ids(facts(processes=(process,))) == expected


@pytest.mark.parametrize(
    ("late", "expected"),
    [([-6.0, 0.1], ["ops.W409"]), ([0.1, 400.0], []), ([90.0, 61.0, 70.0], ["ops.W409"]), ([90.0, 61.0], [])],
    ids=["before it happened", "once late", "always late", "too few"],
)
def test_records_that_come_too_early_or_always_late_show_a_clock(late: list[float], expected: list[str]) -> None:
    assert ids(facts(ends=tuple(ended(late=seconds) for seconds in late))) == expected
    others = tuple(ended(late=seconds, source="daphne") for seconds in late)
    assert ids(facts(ends=others)) == []


def test_what_cannot_be_read_is_skipped() -> None:
    assert skipped_ids(facts(ends=Missing("refused"))) == {"ops.E401", "ops.E412"}
    assert skipped_ids(facts(keyspace=Missing("refused"))) == {
        "ops.E407",
        "ops.E406",
        "ops.E415",
        "ops.W408",
        "ops.W413",
    }
    assert skipped_ids(facts(kind=Kind.PUBSUB, processes=())) == set()


def test_each_version_that_was_never_tested_is_evidence_of_one_finding() -> None:
    untested = (UntestedVersion("redis", "9.1.0", "5", "8"), UntestedVersion("hiredis", "4.0", "3", "3"))
    finding = found(facts(settings=settings_of(untested_versions=untested)))["ops.W208"]
    assert finding.level == "warning"
    first, second = finding.evidence
    assert first.startswith("redis 9.1.0 has not been tested with channels-ops ")
    assert first.endswith("; tested: 5 to 8.")
    assert second.endswith("; tested: 3.")
