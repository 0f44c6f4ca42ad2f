"""Facts about layers that are well, to be made ill one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ops.model.disconnects.record import Disconnect
from ops.model.doctor.diagnosis import diagnose
from ops.model.doctor.facts import (
    Client,
    Facts,
    HostSettings,
    KeyspaceFacts,
    Kind,
    LayerSettings,
    LoggedEnd,
    Missing,
    ServerFacts,
)
from ops.model.doctor.findings import Finding

NOW = 1_800_000_000.0
DAY = 86400.0
PROCESS = "a" * 32

INFO: dict[str, Any] = {
    "role": "master",
    "uptime_in_seconds": 30 * DAY,
    "connected_clients": 100,
    "maxclients": 10000,
    "rejected_connections": 0,
    "evicted_keys": 0,
    "used_memory": 100_000_000,
    "used_memory_rss": 110_000_000,
    "maxmemory": 0,
    "maxmemory_policy": "noeviction",
    "latest_fork_usec": 300,
    "aof_delayed_fsync": 0,
}
BUFFER_LIMITS = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60"
BLOCKED = Client("127.0.0.1:40000", 3.0, "b", "bzpopmin", 0)


def host(index: int = 0, **changes: Any) -> HostSettings:
    return HostSettings(index, **{"name": "redis.internal", "keepalive": True, **changes})


def settings_of(kind: Kind = Kind.STOCK, **changes: Any) -> LayerSettings:
    return LayerSettings(**{"alias": "default", "backend": "x.Layer", "kind": kind, "hosts": (host(),), **changes})


def server(info: dict[str, Any] | None = None, **changes: Any) -> ServerFacts:
    well: dict[str, Any] = {
        "info": {**INFO, **(info or {})},
        "config": {"timeout": "0", "client-output-buffer-limit": BUFFER_LIMITS},
        "clients": (BLOCKED,),
        "slow_commands": (),
        "latency_events": (),
        "round_trip_ms": 1.0,
        "clock_ahead_seconds": 0.001,
        "arrives_as": ("127.0.0.1:50000", "127.0.0.1:50000"),
    }
    return ServerFacts(0, "redis://r:6379/0", **{**well, **changes})


def without_info() -> ServerFacts:
    return replace(server(), info=Missing("shard 0 refused a command"))


def unanswered(said: str) -> ServerFacts:
    return ServerFacts(0, "redis://r:6379/0", said, *[Missing(said)] * 8)


def facts(*, kind: Kind = Kind.STOCK, **changes: Any) -> Facts:
    well: dict[str, Any] = {
        "settings": settings_of(kind),
        "servers": (server(),),
        "now": NOW,
        "processes": (),
        "ends": (),
        "keyspace": KeyspaceFacts(),
    }
    return Facts(**{**well, **changes})


def ended(seconds_ago: float = 60.0, still_member: bool = False, late: float = 0.1, **changes: Any) -> LoggedEnd:
    """A record of the log, written ``late`` seconds after the end."""
    at = NOW - seconds_ago
    one = Disconnect(at, **{"process": PROCESS, "host": "web-1", "pid": 7, **changes})
    return LoggedEnd(at + late, one, still_member)


def found(wrong: Facts) -> dict[str, Finding]:
    """The findings by id; nothing may be skipped."""
    findings, skipped = diagnose(wrong)
    assert skipped == ()
    return {finding.id: finding for finding in findings}


def ids(wrong: Facts) -> list[str]:
    return list(found(wrong))


def ids_whatever_is_skipped(wrong: Facts) -> list[str]:
    return [finding.id for finding in diagnose(wrong)[0]]


def skipped_ids(wrong: Facts) -> set[str]:
    return {one.id for one in diagnose(wrong)[1]}
