"""Application processes as Redis sees them, and what a test wants to know about the keys that they leave.

A live process is a real layer with a coroutine in ``receive()``; a dead one is a layer that nobody reads any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgpack
import redis
from channels.layers import channel_layers
from channels_redis.core import RedisChannelLayer

from ops.application.layer.keeper import Keeper
from ops.layers import RedisChannelLayer as DropInLayer
from ops.model.disconnects.record import Disconnect
from ops.model.keys import Keyspace
from ops.model.liveness.moments import Moment, look_after
from ops.model.liveness.stops import Absence
from ops.model.liveness.suspicion import Suspicion
from ops.model.runs import ReapReport
from ops.model.settings import DEFAULTS
from ops.operations.observe import Look, observe
from ops.operations.reaping.reap import ReapOptions, reap
from ops.store.connection.shards import OpenLayer, close_layer, open_layer
from ops.store.disconnects.log import append_records
from ops.store.liveness.suspects import record_latest_look, record_suspicions
from tests.waiting import until

# A live process answers within a few milliseconds on a machine that has time for it; a silent one costs all of this.
BUSY = min(5.0, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))
PROBE_TIMEOUT_SECONDS = round(0.5 * BUSY, 2)
PROBE = ("--probe-timeout", str(PROBE_TIMEOUT_SECONDS))
CONFIRM_AFTER_SECONDS = 60.0
LOG_LENGTH = DEFAULTS.disconnect_log_length

ASGI = Keyspace("asgi")

StartProcess = Callable[..., Awaitable["AppProcess"]]
MakeLayer = Callable[..., DropInLayer]
Dump = dict[bytes, tuple[bytes | None, bool]]


def layer_of(*hosts: Any, backend: str = "channels_redis.core.RedisChannelLayer", **config: Any) -> dict[str, Any]:
    """CHANNEL_LAYERS with a default layer on these hosts. A URL gets the socket time-out that channels_redis needs."""
    options = [{"address": host, "socket_timeout": None} if isinstance(host, str) else host for host in hosts]
    return {"default": {"BACKEND": backend, "CONFIG": {"hosts": options, **config}}}


class AppProcess:
    """One process of an application that uses the channel layer of the settings."""

    def __init__(self, alias: str = "default") -> None:
        self.layer: Any = channel_layers.make_backend(alias)
        self.received: list[Any] = []
        self.tasks: list[asyncio.Task[None]] = []

    @property
    def name(self) -> str:
        return str(self.layer.client_prefix)

    @property
    def inbox(self) -> str:
        return f"specific.{self.name}!"

    @property
    def inbox_key(self) -> bytes:
        return Keyspace(self.layer.prefix).inbox(self.inbox)

    @property
    def inflight_key(self) -> bytes:
        return Keyspace(self.layer.prefix).inflight(self.inbox)

    async def join(self, *groups: str, count: int = 1, prefix: str = "specific") -> list[str]:
        """Add ``count`` new channels to each of the groups."""
        channels = [await self.layer.new_channel(prefix) for _ in range(count)]
        for group in groups:
            for channel in channels:
                await self.layer.group_add(group, channel)
        return channels

    async def live(self, channel: str | None = None) -> AppProcess:
        """Have a consumer wait in ``receive()``; returns when Redis has it waiting."""
        channel = channel or await self.layer.new_channel()
        self.tasks.append(asyncio.create_task(self._consume(channel)))
        await asyncio.sleep(0)
        return self

    async def _consume(self, channel: str) -> None:
        while True:
            self.received.append(await self.layer.receive(channel))

    async def die(self) -> None:
        """Stop reading, as a killed process does: nothing is cleaned up in Redis."""
        for task in self.tasks:
            task.cancel()
        with contextlib.suppress(redis.RedisError, OSError):
            await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks = []
        # A cancelled BZPOPMIN would still be answered by Redis if its connection stayed open.
        with contextlib.suppress(redis.RedisError, OSError):
            await close_layer(self.layer)


def keeper_of(layer: DropInLayer) -> Keeper:
    """What looks after the memberships of this layer, so that a test has it look when it wants."""
    return layer._keeper


async def has_a_lease(layer: DropInLayer) -> None:
    """Return when the layer's process has said that it is there, on every shard, and puts nothing back any more."""
    runs = keeper_of(layer)._server_runs
    await until(lambda: all(runs.get(index) is not None for index in range(layer.ring_size)))


def new_process_name() -> str:
    return uuid.uuid4().hex


def channels_of(process: str, count: int, prefix: str = "specific") -> list[str]:
    """Names as ``new_channel()`` makes them."""
    return [f"{prefix}.{process}!{uuid.uuid4().hex}" for _ in range(count)]


def add_members(client: redis.Redis, group: str, channels: Iterable[str | bytes], **options: Any) -> None:
    """What ``group_add`` leaves, for many channels at once. ``joined_at``: unix seconds; ``prefix``: of the layer."""
    joined_at = options.get("joined_at", time.time())
    key = Keyspace(options.get("prefix", "asgi")).group(group)
    names = list(channels)
    pipe = client.pipeline(transaction=False)
    for start in range(0, len(names), 5000):
        pipe.zadd(key, dict.fromkeys(names[start : start + 5000], joined_at))
    pipe.expire(key, 86400)
    pipe.execute()


def members_of(client: redis.Redis, group: str, keyspace: Keyspace = ASGI) -> dict[str, float]:
    """Channel -> score."""
    return {name.decode(): score for name, score in client.zrange(keyspace.group(group), 0, -1, withscores=True)}


def dump(client: redis.Redis, *, without: Sequence[bytes] = ()) -> Dump:
    """Every key: its serialized value, and whether it expires."""
    keys = sorted(key for key in client.keys("*") if not key.startswith(tuple(without)))
    return {key: (client.dump(key), client.pttl(key) >= 0) for key in keys}


def let_time_pass(client: redis.Redis, seconds: float, keyspace: Keyspace = ASGI, *, boots: bool = True) -> None:
    """Move what earlier runs remembered that far into the past; without ``boots`` by Redis' clock alone."""
    for key in (keyspace.suspects, keyspace.looks):
        for field, raw in client.hgetall(key).items():
            entry = json.loads(raw)
            for name in ("since", "renewed_at", "at", "stepped_at", "epoch_at", "new_at"):
                if name in entry:
                    entry[name] -= seconds
                    entry[f"{name}_boot"][1] -= seconds * boots
            if "others" in entry:
                entry["others"] = [clock - seconds for clock in entry["others"]]
            client.hset(key, field, json.dumps(entry))


def suspected(client: redis.Redis, keyspace: Keyspace = ASGI) -> set[str]:
    return {process.decode() for process in client.hkeys(keyspace.suspects)}


async def run_reap(alias: str = "default", *, control_may_fail: bool = False, **options: Any) -> ReapReport:
    """One run as the command makes it; again where a stall of this machine made it distrust its own probe.

    Such a run has neither removed nor remembered anything.
    """
    options.setdefault("probe_timeout_seconds", PROBE_TIMEOUT_SECONDS)
    options.setdefault("confirm_after_seconds", CONFIRM_AFTER_SECONDS)
    for _ in range(5):
        async with open_layer(alias) as opened:
            report = await reap(opened, ReapOptions(**options))
        if control_may_fail or not (report.stopped or "").startswith("control: "):
            break
    return report


async def record_ends(opened: OpenLayer, ends: Iterable[Disconnect], length: int = LOG_LENGTH) -> int:
    """Append to the disconnect log as an application does; returns how many it took."""
    return await append_records(opened.home.client, opened.keyspace.disconnects, ends, length)


async def suspect_everybody(alias: str = "default", *, released: bool = True) -> None:
    """Leave what two runs would have left that found every process silent, longer ago than the confirm time.

    ``released``: and no receiver's connection idle.
    """
    async with open_layer(alias) as opened:
        observation = await observe(opened, Look(probe=False, scores=True, leftovers=True), suspicions={})
        since = Moment(observation.now - CONFIRM_AFTER_SECONDS - 1)
        suspicions = [
            Suspicion(process, since, since, opened.epoch, newest, looks=2)
            for process, newest in observation.newest_joins.items()
        ]
        await record_suspicions(opened, suspicions)
        await record_latest_look(
            opened, look_after(None, since, opened.epoch), Absence(since, opened.epoch) if released else None
        )


class NoLock:
    """Stands for the lock of a run where a test is about what holds without it: it is never lost."""

    async def __aenter__(self) -> NoLock:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def renew(self) -> bool:
        return True


def receipts(client: redis.Redis, run_id: str, keyspace: Keyspace = ASGI) -> dict[bytes, dict[bytes, float]]:
    """Group key -> member -> score, as the journal of a run has it on this server."""
    found: dict[bytes, dict[bytes, float]] = {}
    for raw in client.lrange(keyspace.journal(run_id), 0, -1):
        groups, scores = msgpack.unpackb(raw, raw=True)
        assert len(scores) == sum(len(members) for _, members in groups)
        taken = iter(scores)
        for key, members in groups:
            group = found.setdefault(key, {})
            assert not group.keys() & set(members), "a member has two receipts"
            group.update(zip(members, taken, strict=False))
    return found


@asynccontextmanager
async def app_processes() -> AsyncIterator[StartProcess]:
    """``await start(live=…, groups=…, count=…)`` starts processes that end with the block."""
    started: list[AppProcess] = []

    async def start(*groups: str, count: int = 1, live: bool = False, alias: str = "default") -> AppProcess:
        process = AppProcess(alias)
        started.append(process)
        await process.join(*groups, count=count)
        return await process.live() if live else process

    try:
        yield start
    finally:
        for process in started:
            await process.die()


class DeafLayer(RedisChannelLayer):
    """Its receivers never take a message."""

    async def receive(self, channel: str) -> Any:
        await asyncio.Event().wait()


class SlowLayer(RedisChannelLayer):
    """Its receivers take a message at once, and the next one only after a while."""

    pause_seconds = 0.5

    async def receive_single(self, channel: str) -> Any:
        received = await super().receive_single(channel)
        await asyncio.sleep(self.pause_seconds)
        return received
