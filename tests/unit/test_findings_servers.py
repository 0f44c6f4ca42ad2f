"""What is said of a server, and what is not said when it only almost is so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.model.doctor.diagnosis import Diagnosis, diagnose
from ops.model.doctor.facts import Client, Facts, Kind, LatencyEvent, Missing, ProcessFacts, Refusal, SlowCommand
from tests.unit.facts_of import (
    BUFFER_LIMITS,
    DAY,
    INFO,
    NOW,
    PROCESS,
    ended,
    facts,
    found,
    host,
    ids,
    ids_whatever_is_skipped,
    server,
    settings_of,
    skipped_ids,
    unanswered,
    without_info,
)

GIB = 1 << 30


CODES = ("", "ERR", "MOVED", "NOPERM", "OOM", "READONLY", "MISCONF", "NOAUTH", "SOMETHING")
WORDS = ("max number of clients", "read only replica", "used memory >", "MASTERDOWN", "non local key", "something new")
OPERATIONS = ("group_add", "receive", "?")
REFUSED = st.builds(Refusal, st.sampled_from(OPERATIONS), st.sampled_from(CODES), st.sampled_from(WORDS))
WHERE = st.sampled_from(("connect", "round trip", "groups"))
TOLD = st.sampled_from([INFO, {**INFO, "role": "slave"}, {}, Missing("refused")])


@given(refused=REFUSED, info=TOLD, where=WHERE, kind=st.sampled_from(Kind))
def test_no_operation_of_the_layer_can_be_refused_without_an_error(
    refused: Refusal, info: Any, where: str, kind: Kind
) -> None:
    if where == "connect":
        wrong = replace(unanswered(refused.said), problem_code=refused.code)
    elif where == "round trip":
        wrong = replace(server(), info=info, round_trip_ms=Missing(refused.said, refused.code))
    else:
        wrong = replace(server(), info=info, refusals=(refused,))
    findings, _ = diagnose(facts(kind=kind, servers=(wrong,)))
    assert "error" in {finding.level for finding in findings}
    assert not Diagnosis("default", findings, ()).healthy


def of(info: dict[str, Any] | None = None, *, kind: Kind = Kind.STOCK, **changes: Any) -> Facts:
    return facts(kind=kind, servers=(server(info, **changes),))


@pytest.mark.parametrize("kind", [Kind.STOCK, Kind.DROP_IN, Kind.PUBSUB])
def test_a_server_that_is_well_is_not_objected_to(kind: Kind) -> None:
    assert ids(of(kind=kind)) == []


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"connected_clients": 7999}, []),
        ({"connected_clients": 8000}, ["ops.W306"]),
        ({"connected_clients": 10000}, ["ops.E305"]),
        ({"connected_clients": 8000, "rejected_connections": 1}, ["ops.E305"]),
    ],
)
def test_connections_run_out(info: dict[str, Any], expected: list[str]) -> None:
    assert ids(of(info)) == expected


def test_a_server_that_turns_us_away_is_full() -> None:
    said = "shard 0 (redis://r:6379/0) cannot be used: max number of clients reached"
    away = facts(servers=(unanswered(said),))
    assert ids_whatever_is_skipped(away) == ["ops.E305"]
    assert skipped_ids(away) >= {"ops.E301", "ops.E302", "ops.W307"}


def test_a_replica_is_named_by_its_role_or_by_its_refusal() -> None:
    replica = found(of({"role": "slave", "master_host": "10.0.0.5", "master_port": 6379, "master_link_status": "up"}))
    assert replica["ops.E301"].evidence == ("shard 0 (redis://r:6379/0): it is a replica of 10.0.0.5:6379 (link up)",)
    refusal = Missing("shard 0 (…) cannot be used: You can't write against a read only replica.")
    assert ids_whatever_is_skipped(of(round_trip_ms=refusal)) == ["ops.E301"]
    assert ids_whatever_is_skipped(facts(servers=(replace(without_info(), round_trip_ms=refusal),))) == ["ops.E301"]


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"maxmemory": GIB, "used_memory": GIB - 1}, []),
        ({"maxmemory": GIB, "used_memory": GIB, "used_memory_rss": GIB}, ["ops.E302"]),
        ({"maxmemory": 0, "used_memory": GIB, "used_memory_rss": GIB}, []),
        ({"maxmemory": GIB, "errorstat_OOM": {"count": 12}}, ["ops.E302"]),
        ({"maxmemory": GIB, "errorstat_ERR": {"count": 12}}, []),
        ({"maxmemory": GIB, "used_memory_rss": GIB, "maxmemory_policy": "volatile-lru"}, ["ops.W304"]),
        ({"maxmemory": 0, "maxmemory_policy": "allkeys-lru"}, []),
        ({"maxmemory": GIB, "maxmemory_policy": "allkeys-lru", "evicted_keys": 3}, ["ops.E303"]),
    ],
)
def test_memory_runs_out(info: dict[str, Any], expected: list[str]) -> None:
    info.setdefault("used_memory_rss", info.get("used_memory", 110_000_000))
    assert ids(of(info)) == expected


def test_numbers_of_this_system_are_in_the_evidence() -> None:
    evidence = found(of({"maxmemory": GIB, "maxmemory_policy": "allkeys-lfu", "evicted_keys": 1234}))[
        "ops.E303"
    ].evidence
    assert evidence == (
        "shard 0 (redis://r:6379/0): evicted since it started 30 d ago: 1,234 keys, under maxmemory-policy "
        "allkeys-lfu with maxmemory 1,073.7 MB; 100.0 MB in use",
    )


def test_a_server_that_closes_idle_connections_matters_to_hosts_that_do_not_retry() -> None:
    wrong = of(config={"timeout": "300", "client-output-buffer-limit": BUFFER_LIMITS})
    assert ids(wrong) == ["ops.W307"]
    survives = facts(servers=wrong.servers, settings=settings_of(hosts=(host(retries=True),)))
    assert ids(survives) == []


@pytest.mark.parametrize("kind", [Kind.STOCK, Kind.PUBSUB])
def test_something_between_matters_to_hosts_that_would_not_survive_a_cut(kind: Kind) -> None:
    def behind_a_proxy(**options: Any) -> Facts:
        address = ("10.0.0.9:40000", "127.0.0.1:50000")
        return facts(servers=(server(arrives_as=address),), settings=settings_of(kind, hosts=(host(**options),)))

    assert ids(behind_a_proxy(keepalive=False)) == ["ops.W207"]
    for option in ("keepalive", "retries", "health_checks"):
        assert ids(behind_a_proxy(**{"keepalive": False, option: True})) == []
    assert ids(facts(settings=settings_of(kind, hosts=(host(keepalive=False),)))) == []


def subscriber(unread_bytes: int, flags: str = "P") -> Client:
    return Client("127.0.0.1:41000", 0.0, flags, "subscribe", unread_bytes)


@pytest.mark.parametrize(
    ("clients", "info", "expected"),
    [
        ((subscriber(8388607),), {}, []),
        ((subscriber(8388608),), {}, ["ops.E308"]),
        ((subscriber(30_000_000, flags="N"),), {}, []),
        ((), {"client_output_buffer_limit_disconnections": 2}, ["ops.E308"]),
        ((), {"client_output_buffer_limit_disconnections": 0}, []),
    ],
)
def test_a_subscriber_falls_behind(clients: tuple[Client, ...], info: dict[str, Any], expected: list[str]) -> None:
    assert ids(of(info, clients=clients, kind=Kind.PUBSUB)) == expected
    assert ids(of(info, clients=clients, kind=Kind.STOCK)) == []


def test_without_a_limit_nobody_falls_behind_it() -> None:
    config = {"timeout": "0", "client-output-buffer-limit": "normal 0 0 0 slave 0 0 0 pubsub 0 0 0"}
    assert ids(of(clients=(subscriber(10**9),), config=config, kind=Kind.PUBSUB)) == []


def test_members_that_are_older_than_the_server_are_of_consumers_that_its_restart_ended() -> None:
    def restarted(seconds_ago: float, **changes: Any) -> Facts:
        old = ProcessFacts(PROCESS, live=True, silent=False, members=5, oldest_joined_at=NOW - 600, **changes)
        return facts(servers=(server({"uptime_in_seconds": seconds_ago}),), processes=(old,))

    assert ids(restarted(300.0)) == ["ops.W309"]
    assert ids(restarted(597.0)) == []  # clocks may differ by so much
    assert ids(restarted(DAY)) == []


def test_websockets_that_ended_as_the_server_started_again_are_counted() -> None:
    def with_ends(*ends: Any) -> Facts:
        return facts(servers=(server({"uptime_in_seconds": 300.0}),), ends=ends)

    lost = {"cause": "redis_connection_lost"}
    assert ids(with_ends(ended(299, **lost), ended(295, **lost))) == ["ops.W309"]
    assert ids(with_ends(ended(600, **lost), ended(100, **lost), ended(299, cause="normal"))) == []


def test_a_failover_is_known_by_a_promoted_server_and_the_websockets_that_ended_for_it() -> None:
    promoted = {"master_replid2": "ab" * 20}
    lost = (ended(cause="redis_connection_lost"),)
    assert ids(facts(servers=(server(promoted),), ends=lost)) == ["ops.W309"]
    assert ids(facts(servers=(server(promoted),), ends=(ended(7200, cause="redis_connection_lost"),))) == []
    assert ids(facts(servers=(server(promoted),))) == []
    assert ids(facts(servers=(server({"master_replid2": "0" * 40}),), ends=lost)) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"round_trip_ms": 99.0}, []),
        ({"round_trip_ms": 100.0}, ["ops.W310"]),
        ({"slow_commands": (SlowCommand("KEYS", 350.0, 60.0),)}, ["ops.W310"]),
        ({"slow_commands": (SlowCommand("KEYS", 99.0, 60.0), SlowCommand("KEYS", 350.0, 7200.0))}, []),
        ({"latency_events": (LatencyEvent("aof-fsync-always", 400.0, 60.0),)}, ["ops.W310"]),
        ({"latency_events": (LatencyEvent("fork", 400.0, 7200.0), LatencyEvent("command", 400.0, 60.0))}, []),
        ({"info": {"latest_fork_usec": 900_000}}, ["ops.W310"]),
        ({"info": {"aof_delayed_fsync": 3}}, ["ops.W310"]),
        ({"info": {"used_memory": GIB, "used_memory_rss": GIB // 2}}, ["ops.W310"]),
        ({"info": {"used_memory": GIB // 100, "used_memory_rss": GIB // 1000}}, []),
    ],
)
def test_a_server_is_slow(changes: dict[str, Any], expected: list[str]) -> None:
    info = changes.pop("info", None)
    assert ids(of(info, **changes)) == expected


def test_what_cannot_be_asked_is_skipped_with_the_reason() -> None:
    refused = Missing("shard 0 refused a command")
    assert skipped_ids(of(config=refused)) == {"ops.W307"}
    assert skipped_ids(of(config=refused, kind=Kind.PUBSUB)) == {"ops.W307", "ops.E308"}
    assert skipped_ids(of(arrives_as=refused)) == set()
    uncertain = facts(servers=(server(arrives_as=refused),), settings=settings_of(hosts=(host(keepalive=False),)))
    assert skipped_ids(uncertain) == {"ops.W207"}
    assert skipped_ids(of(slow_commands=refused, latency_events=refused)) == {"ops.W310"}
    assert ids_whatever_is_skipped(of(slow_commands=refused, round_trip_ms=100.0)) == ["ops.W310"]
    assert skipped_ids(facts(servers=(without_info(),))) == {
        "ops.E305", "ops.E301", "ops.E302", "ops.E303", "ops.W309", "ops.W306", "ops.W304", "ops.W310", "ops.I417"
    }  # fmt: skip


def test_one_server_that_does_not_tell_does_not_hide_what_another_does() -> None:
    wrong = facts(
        servers=(without_info(), server({"evicted_keys": 5, "maxmemory": GIB, "maxmemory_policy": "allkeys-lru"}))
    )
    assert ids_whatever_is_skipped(wrong) == ["ops.E303"]
