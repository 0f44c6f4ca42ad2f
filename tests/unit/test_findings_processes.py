"""What is said of processes, their inboxes and members, and what is not said when it only almost is so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ops.model.doctor.diagnosis import Diagnosis, diagnose
from ops.model.doctor.facts import Client, Facts, Kind, Missing, ProcessFacts
from ops.model.liveness.lease import Lease
from tests.unit.facts_of import (
    BLOCKED,
    NOW,
    PROCESS,
    ended,
    facts,
    found,
    host,
    ids,
    server,
    settings_of,
    skipped_ids,
)

LIVE = ProcessFacts(PROCESS, live=True, silent=False, evidence=("took two probes",), members=5, capacity=100)
SILENT = replace(LIVE, live=False, silent=True, evidence=("took no probe within 3 s",))
IDLE_POP = replace(BLOCKED, flags="N", idle_seconds=3.0)


def lease(**changes: Any) -> Lease:
    return Lease(**{"process": PROCESS, "renewed_at": NOW, "lease_seconds": 30.0, "ended": False, "host": "web-1",
                    "pid": "7", "started_at": NOW - 60, "version": "", **changes})  # fmt: skip


def with_processes(*processes: ProcessFacts, clients: tuple[Client, ...] = (BLOCKED,), **changes: Any) -> Facts:
    return facts(processes=processes, servers=(server(clients=clients),), **changes)


def test_live_processes_are_not_objected_to() -> None:
    assert ids(with_processes(LIVE, replace(LIVE, messages=97, in_flight=1, oldest_joined_at=NOW - 3600))) == []


def test_what_is_neither_live_nor_silent_is_not_objected_to() -> None:
    assert ids(with_processes(replace(LIVE, live=False))) == []


def test_a_silent_process_without_a_connection_is_gone() -> None:
    finding = found(with_processes(SILENT))
    assert list(finding) == ["ops.W403"]
    assert finding["ops.W403"].evidence == (
        f"process {PROCESS} has 5 members and takes no messages: took no probe within 3 s; there is no disconnect log; "
        f"not known: whether it has ended, and why",
    )


def test_a_cause_is_not_made_up_for_a_process_that_is_silent() -> None:
    """It may have been stopped, killed or lost, or it is held up: one look does not show which."""
    other = ended(cause="normal", process="c" * 32)
    own = ended(cause="no_handler"), ended(cause="no_handler"), ended(cause="normal")
    for process, ends, said in (
        (SILENT, (other,), "the disconnect log has nothing of it; not known: whether it has ended, and why"),
        (SILENT, own, "in the log its websockets ended: 2 of no_handler, 1 of normal; not known: whether it has ended"),
        (replace(SILENT, lease=lease(), lease_is_fresh=True), (), "not known: whether it has ended since; it did not"),
    ):
        [evidence] = found(with_processes(process, ends=ends))["ops.W403"].evidence
        assert said in evidence
        assert "killed" not in evidence


def test_what_a_process_has_already_is_not_the_advice() -> None:
    advice = "ops.middleware.OpsMiddleware, outermost in asgi.py, or ops.layers.RedisChannelLayer"
    carded = replace(SILENT, lease=lease())
    for wrong, advised in (
        (with_processes(SILENT), True),
        (with_processes(SILENT, replace(carded, process="b" * 32)), True),
        (with_processes(carded), False),
        (with_processes(SILENT, settings=settings_of(Kind.DROP_IN)), False),
    ):
        assert (advice in found(wrong)["ops.W403"].fix) is advised
    left = replace(SILENT, lease=lease(ended=True))
    assert advice not in found(with_processes(left))["ops.W404"].fix
    assert advice in found(with_processes(SILENT, ends=(ended(cause="process_exit"),)))["ops.W404"].fix


def test_who_has_said_that_it_ended_does_not_hang() -> None:
    left = replace(SILENT, lease=lease(ended=True), messages=3, oldest_message_seconds=20.0)
    assert ids(with_processes(left, clients=(IDLE_POP,))) == ["ops.W404"]
    assert ids(with_processes(replace(left, members=0), clients=(IDLE_POP,))) == []


def test_who_renews_its_lease_and_takes_nothing_is_connected_and_does_not_read() -> None:
    finding = found(with_processes(replace(SILENT, lease=lease(), lease_is_fresh=True, lease_is_renewed=True)))
    assert list(finding) == ["ops.E402"]
    assert "took no probe within 3 s; renewed its lease after that; 5 members" in finding["ops.E402"].evidence[0]


def test_members_that_have_been_silent_for_long_without_a_reaper_are_told_of() -> None:
    old = replace(SILENT, newest_score=NOW - 7200)
    finding = found(with_processes(old, reaper_has_looked=False))
    assert list(finding) == ["ops.W403", "ops.W416"]
    assert finding["ops.W416"].evidence == (
        "5 members of 1 process that take no messages, the newest joined 2 h ago; no run of reap_stale is on record",
    )
    assert ids(with_processes(old, reaper_has_looked=True)) == ["ops.W403"]
    assert ids(with_processes(replace(old, newest_score=NOW - 60), reaper_has_looked=False)) == ["ops.W403"]


def test_memberships_that_were_put_back_are_told_of_and_leave_the_layer_healthy() -> None:
    kept = replace(LIVE, lease=lease(counts=(("members_put_back", 12), ("outages", 1))))
    findings, _ = diagnose(with_processes(kept, replace(LIVE, process="b" * 32, lease=lease())))
    assert [finding.id for finding in findings] == ["ops.I312"]
    assert findings[0].evidence[0] == "12 memberships were put back by 1 process"
    assert findings[0].evidence[1].startswith("shard 0 (redis://r:6379/0) started at 2026-12-16T")
    assert Diagnosis("default", findings, ()).healthy


def test_a_layer_without_members_beside_databases_in_use_is_told_of() -> None:
    used = server({"db0": {"keys": 3}, "db1": {"keys": 12, "expires": 0}})
    [finding] = found(facts(servers=(used,))).values()
    assert (finding.id, finding.level) == ("ops.I417", "info")
    assert "other databases are in use: 1 (12 keys)" in finding.evidence[0]
    assert ids(facts(servers=(used,), processes=(LIVE,))) == []
    both = (used, replace(used, index=1, address="redis://r:6379/1"))
    assert ids(facts(servers=both, settings=settings_of(hosts=(host(), host(1))))) == ["ops.W206"]


def test_a_fresh_lease_does_not_show_that_a_process_reads() -> None:
    """It may have been stopped within the time of its lease, and a reply lies there unread."""
    stopped = replace(LIVE, lease=lease(), by_lease_alone=True, oldest_message_seconds=20.0, messages=99)
    assert ids(with_processes(stopped)) == []
    assert ids(with_processes(replace(stopped, by_lease_alone=False))) == ["ops.E402", "ops.E405"]


def test_an_idle_acknowledgement_shows_a_receiver_only_if_no_process_is_live() -> None:
    acknowledged = replace(IDLE_POP, command="zpopmin")
    assert ids(with_processes(SILENT, clients=(acknowledged,))) == ["ops.E402"]
    live = replace(LIVE, process="b" * 32)
    assert ids(with_processes(SILENT, live, clients=(acknowledged,))) == ["ops.W403"]
    # Consumers that have ended leave it behind as well.
    died = ended(cause="no_handler", still_member=True)
    finding = found(with_processes(SILENT, clients=(acknowledged,), ends=(died, died)))
    assert list(finding) == ["ops.W403"]
    assert "in the log its websockets ended: 2 of no_handler" in finding["ops.W403"].evidence[0]


def test_a_silent_process_without_members_has_left_nothing() -> None:
    assert ids(with_processes(replace(SILENT, members=0))) == []


@pytest.mark.parametrize(
    ("process", "clients"),
    [
        (replace(SILENT, frozen=True), (BLOCKED,)),
        (SILENT, (BLOCKED, IDLE_POP)),
        (replace(LIVE, oldest_message_seconds=10.0, messages=3), (BLOCKED,)),
    ],
    ids=["took the first probe only", "a connection stands idle", "does not drain"],
)
def test_a_connected_process_that_takes_nothing_hangs(process: ProcessFacts, clients: tuple[Client, ...]) -> None:
    assert ids(with_processes(process, clients=clients)) == ["ops.E402"]


@pytest.mark.parametrize(
    "client", [replace(IDLE_POP, idle_seconds=1.0), replace(IDLE_POP, command="zadd"), replace(IDLE_POP, flags="b")]
)
def test_another_connection_says_nothing_of_a_silent_process(client: Client) -> None:
    assert ids(with_processes(SILENT, clients=(client,))) == ["ops.W403"]


def test_an_idle_connection_alone_says_nothing() -> None:
    assert ids(with_processes(LIVE, clients=(IDLE_POP,))) == []


def test_the_backlog_of_a_hung_worker_is_in_the_evidence() -> None:
    hung = replace(SILENT, frozen=True, messages=12, oldest_message_seconds=40.0)
    [evidence, _] = found(with_processes(hung, clients=(IDLE_POP,)))["ops.E402"].evidence
    assert evidence.endswith("; in its inbox 12 messages, the oldest 40 s old; 5 members")


def test_of_two_silent_processes_with_one_idle_connection_none_is_said_to_hang() -> None:
    other = replace(SILENT, process="b" * 32)
    assert ids(with_processes(SILENT, other, clients=(IDLE_POP,))) == ["ops.W403"]
    assert ids(with_processes(SILENT, other, clients=(IDLE_POP, IDLE_POP))) == ["ops.E402"]


@pytest.mark.parametrize("cause", ["process_exit", "shutdown_cancelled"])
def test_who_ended_in_order_and_left_members_was_deployed(cause: str) -> None:
    finding = found(with_processes(SILENT, ends=(ended(cause=cause), ended(cause=cause))))
    assert list(finding) == ["ops.W404"]
    assert (
        "ended and left 5 members behind; in the log, 2 websockets ended with it" in (finding["ops.W404"].evidence[0])
    )


def test_who_ended_its_lease_and_left_members_was_deployed() -> None:
    assert ids(with_processes(replace(SILENT, lease=lease(ended=True)))) == ["ops.W404"]


@pytest.mark.parametrize("end", [ended(cause="normal"), ended(cause="process_exit", process="c" * 32)])
def test_other_ends_do_not_tell_of_a_deploy(end: Any) -> None:
    assert ids(with_processes(SILENT, ends=(end,))) == ["ops.W403"]


def test_a_deploy_that_left_nobody_is_no_finding() -> None:
    assert ids(with_processes(LIVE, ends=(ended(cause="process_exit", process="c" * 32),))) == []


def test_channels_that_outlived_their_consumer_in_a_live_process_are_orphans() -> None:
    ends = (ended(cause="no_handler", still_member=True), ended(cause="redis_timeout", still_member=True))
    finding = found(with_processes(LIVE, ends=(*ends, ends[0])))
    assert list(finding) == ["ops.W403"]
    assert (
        "3 websockets of live processes ended, and the channels are members still: 2 of no_handler, 1"
        in (finding["ops.W403"].evidence[0])
    )
    assert finding["ops.W403"].fix.startswith("manage.py replay_disconnects --cleanup. At")
    assert ids(with_processes(LIVE, ends=(ended(cause="no_handler"),))) == []


def test_a_full_inbox_is_told_of_with_the_groups_that_feed_it() -> None:
    full = replace(LIVE, messages=98, groups=(("room\x1b", 40), ("news", 2)), oldest_message_seconds=4.0)
    finding = found(with_processes(full))
    assert list(finding) == ["ops.E405"]
    [evidence] = finding["ops.E405"].evidence
    assert evidence.endswith(
        "98 messages in an inbox of 100, the oldest 4 s old; fed by room\\x1b (40 members here), news (2 members here)"
    )


def test_the_full_inbox_of_a_process_that_is_gone_is_not_its_trouble() -> None:
    assert ids(with_processes(replace(SILENT, messages=100))) == ["ops.W403"]


def test_messages_in_flight_leak_only_from_processes_that_are_gone() -> None:
    assert ids(with_processes(replace(SILENT, members=0, in_flight=2))) == ["ops.W410"]
    assert ids(with_processes(replace(LIVE, in_flight=2))) == []


def test_live_members_are_about_to_expire_on_the_stock_layer_only() -> None:
    old = replace(LIVE, near_expiry=3, oldest_joined_at=NOW - 80_000)
    assert ids(with_processes(old)) == ["ops.W411"]
    assert ids(with_processes(replace(old, lease=lease()))) == []
    assert ids(with_processes(old, settings=settings_of(Kind.DROP_IN))) == []
    assert ids(with_processes(replace(old, live=False, silent=True))) == ["ops.W403"]


def test_at_most_five_are_shown_and_the_rest_is_counted() -> None:
    many = [replace(SILENT, process=f"{number:032x}") for number in range(8)]
    assert found(with_processes(*many))["ops.W403"].evidence[5:] == ("and 3 more processes",)


def test_a_holder_of_a_lease_is_named_by_host_and_pid() -> None:
    [evidence] = found(with_processes(replace(SILENT, lease=lease(host="web\x1b1"))))["ops.W403"].evidence
    assert evidence.startswith(f"process {PROCESS} (web\\x1b1 pid 7) has 5 members")


def test_without_processes_their_checks_are_skipped() -> None:
    refused = facts(processes=Missing("refused"))
    expected = {
        "ops.W309",
        "ops.W409",
        "ops.E402",
        "ops.E405",
        "ops.W404",
        "ops.W403",
        "ops.W410",
        "ops.W411",
        "ops.E414",
        "ops.W416",
        "ops.I417",
        "ops.I312",
    }
    assert skipped_ids(refused) == expected
