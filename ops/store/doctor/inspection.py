"""Reading what a server of the layer says of itself, each fact with a time limit. Nothing is written.

A command that is refused, unknown or slow makes a ``Missing`` fact with the reason, and harms no other.
"""

import asyncio
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ops.exceptions import ShardError
from ops.model.doctor.facts import Client, LatencyEvent, Missing, SlowCommand
from ops.model.keys import decode_name
from ops.store.connection.addresses import read_addresses
from ops.store.connection.shards import Shard
from ops.store.connection.waiting import within

FACT_SECONDS = 5.0
MOST_CLIENTS = 10_000
SLOW_COMMANDS = 128
DIRECTIVES = ("timeout", "client-output-buffer-limit")
T = TypeVar("T")


async def fact(work: Awaitable[T], limit_seconds: float = FACT_SECONDS) -> T | Missing:
    """The result of ``work``, or why there is none."""
    try:
        return await within(limit_seconds, work)
    except ShardError as error:
        return Missing(str(error), error.code)
    except asyncio.TimeoutError:
        return Missing(f"it took longer than {limit_seconds:g} s")


@dataclass(frozen=True, slots=True)
class ServerReading:
    """What one server said of itself."""

    info: Mapping[str, Any] | Missing
    config: Mapping[str, str] | Missing
    slow_commands: tuple[SlowCommand, ...] | Missing
    latency_events: tuple[LatencyEvent, ...] | Missing
    clock_ahead_seconds: float | Missing
    arrives_as: tuple[str, str] | Missing


async def read_server(shard: Shard) -> ServerReading:
    """One command after the other: a server that is in trouble is not asked for everything at once."""
    return ServerReading(
        info=await fact(read_info(shard)),
        config=await fact(read_config(shard)),
        slow_commands=await fact(read_slow_commands(shard)),
        latency_events=await fact(read_latency_events(shard)),
        clock_ahead_seconds=await fact(read_clock_ahead(shard)),
        arrives_as=await fact(read_addresses(shard)),
    )


async def read_info(shard: Shard) -> Mapping[str, Any]:
    found = await shard.execute("INFO")
    return found if isinstance(found, Mapping) else {}


async def read_config(shard: Shard) -> Mapping[str, str]:
    """The directives that findings need, and no others: some hold passwords."""
    found: dict[str, str] = {}
    for name in DIRECTIVES:
        reply = await shard.execute("CONFIG GET", name)
        found.update({_text(key): _text(value) for key, value in dict(reply).items()})
    return found


async def read_clients(shard: Shard, connected: float) -> tuple[Client, ...]:
    """CLIENT LIST, where it is not too long. ``connected``: how many there are, as INFO says."""
    if connected > MOST_CLIENTS:
        raise ShardError(f"{shard.address} has {connected:,.0f} clients, too many to list")
    lines = await shard.execute("CLIENT LIST")
    return tuple(
        Client(
            address=str(line.get("addr", ""))[:100],
            idle_seconds=_number(line.get("idle")),
            flags=str(line.get("flags", "")),
            command=str(line.get("cmd", "")).lower()[:100],
            unread_bytes=int(_number(line.get("omem"))),
        )
        for line in lines
        if isinstance(line, Mapping)
    )


async def read_slow_commands(shard: Shard) -> tuple[SlowCommand, ...]:
    entries = await shard.execute("SLOWLOG GET", SLOW_COMMANDS)
    now = await shard.now()
    return tuple(
        SlowCommand(
            command=_text(entry.get("command", b"")).split(" ")[0][:40].upper(),
            took_ms=_number(entry.get("duration")) / 1000,
            seconds_ago=now - _number(entry.get("start_time")),
        )
        for entry in entries
        if isinstance(entry, Mapping)
    )


async def read_latency_events(shard: Shard) -> tuple[LatencyEvent, ...]:
    """What the latency monitor has, if it is on (``latency-monitor-threshold``)."""
    entries = await shard.execute("LATENCY LATEST")
    now = await shard.now()
    return tuple(
        LatencyEvent(_text(name)[:40], _number(worst), now - _number(at))
        for name, at, _, worst, *_ in (
            entry for entry in entries if isinstance(entry, (list, tuple)) and len(entry) > 3
        )
    )


async def read_clock_ahead(shard: Shard) -> float:
    """How far the clock of this host is ahead of the server's, to half a round trip."""
    before = time.time()
    theirs = await shard.now()
    return (before + time.time()) / 2 - theirs


def _text(value: Any) -> str:
    return decode_name(value) if isinstance(value, bytes) else str(value)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0
