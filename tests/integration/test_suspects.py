"""What runs remember between one another, and that damage to it can kill nobody."""

from __future__ import annotations

import json
import math
from typing import Any

import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ops.model.liveness.moments import LatestLook, Moment
from ops.model.liveness.stops import Absence
from ops.model.liveness.suspicion import Suspicion
from ops.store.connection.shards import open_layer
from ops.store.liveness.suspects import (
    MEMORY_SECONDS,
    read_latest_looks,
    read_seen_live,
    read_suspicions,
    record_seen_live,
    record_suspicions,
)
from project.embedded_redis import EmbeddedRedis
from tests.layer_builders import (
    ASGI,
    CONFIRM_AFTER_SECONDS,
    PROBE_TIMEOUT_SECONDS,
    StartProcess,
    dump,
    let_time_pass,
    run_reap,
)

times = st.floats(min_value=1e9, max_value=4e9)
names = st.text("0123456789abcdef", min_size=32, max_size=32) | st.binary(max_size=12).map(
    lambda raw: raw.decode("utf-8", "surrogateescape")
)
moments = st.builds(Moment, times, st.text(max_size=5), st.floats(0, 1e7))
suspicions = st.builds(
    Suspicion,
    process=names,
    since=moments,
    renewed=moments,
    epoch=st.text(max_size=9),
    newest_joined_at=times | st.sampled_from([math.inf, -math.inf, -1.0]),
    looks=st.integers(1, 9),
    marks=st.integers(0, 9),
    evicted_keys=st.integers(0, 2**40),
    vanished=st.integers(0, 9),
)
once_each = st.lists(suspicions, max_size=5, unique_by=lambda suspicion: suspicion.process)
function_scoped = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@function_scoped
@given(found=once_each)
async def test_suspicions_are_read_as_they_were_recorded(redis_server: EmbeddedRedis, found: list[Suspicion]) -> None:
    async with open_layer("default") as opened:
        await record_suspicions(opened, found)
        assert sorted((await read_suspicions(opened)).values(), key=repr) == sorted(found, key=repr)


async def test_suspicions_replace_those_before_and_are_kept_for_a_week(redis_client: redis.Redis) -> None:
    many = [Suspicion(f"{number:032x}", Moment(1.0), Moment(2.0), "epoch", 3.0) for number in range(2500)]
    async with open_layer("default") as opened:
        await record_suspicions(opened, many)
        assert len(await read_suspicions(opened)) == 2500
        assert MEMORY_SECONDS - 5 < redis_client.ttl(ASGI.suspects) <= MEMORY_SECONDS == 7 * 86400
        await record_suspicions(opened, many[:1])
        assert list(await read_suspicions(opened)) == [many[0].process]
        await record_suspicions(opened, [])
        assert redis_client.keys("*") == []


@function_scoped
@given(seen=st.dictionaries(names, times, max_size=5))
async def test_who_was_seen_live_is_read_as_it_was_recorded(
    redis_server: EmbeddedRedis, seen: dict[str, float]
) -> None:
    async with open_layer("default") as opened:
        await record_seen_live(opened, seen)
        assert await read_seen_live(opened) == seen


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
fields = ("since", "since_boot", "renewed_at", "renewed_at_boot", "epoch", "newest_joined_at", "looks", "marks")
entries = st.fixed_dictionaries(dict.fromkeys((*fields, "evicted_keys", "vanished", "at", "at_boot"), json_values))
# Numbers that are too large for a float, and more brackets than a parser of JSON descends.
TOO_LARGE = json.dumps({"since": 10**400, "renewed_at": 1, "newest_joined_at": 1, "epoch": ""}).encode()
TOO_DEEP = b"[" * 100_000
damage = (
    st.binary(max_size=30)
    | st.sampled_from([TOO_LARGE, TOO_DEEP, b"1" * 400])
    | (json_values | entries).map(lambda value: json.dumps(value).encode())
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stored=st.dictionaries(st.binary(max_size=8), damage, min_size=1, max_size=4))
async def test_a_damaged_suspicion_counts_as_none(redis_server: EmbeddedRedis, stored: dict[bytes, bytes]) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
        client.hset(ASGI.suspects, mapping=stored)
        client.hset(ASGI.seen, mapping=stored)
        client.hset(ASGI.looks, mapping=dict.fromkeys(("absence", "clock:b"), next(iter(stored.values()))))
        async with open_layer("default") as opened:
            for suspicion in (await read_suspicions(opened)).values():
                assert math.isfinite(suspicion.since.redis)
                assert math.isfinite(suspicion.renewed.redis)
                assert math.isfinite(suspicion.renewed.boot_seconds)
                assert not math.isnan(suspicion.newest_joined_at)
                assert isinstance(suspicion.epoch, str)
            looks, absence = await read_latest_looks(opened)
            assert all(isinstance(look, LatestLook) for look in looks.values())
            assert absence is None or isinstance(absence, Absence)
            assert all(math.isfinite(when) for when in (await read_seen_live(opened)).values())


async def test_a_damaged_memory_neither_stops_a_run_nor_kills_anybody(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    live, silent = await start_process("room", live=True), await start_process("room")
    future = {"since": 9e9, "renewed_at": 9e9, "epoch": "?", "newest_joined_at": 9e9}
    for process in (live, silent):
        for entry in (
            TOO_LARGE,
            TOO_DEEP,
            b"1" * 400,
            b"{",
            b"[]",
            b'{"since": "nan"}',
            json.dumps({**future, "since": "-inf"}),
            json.dumps(future),
        ):
            redis_client.hset(ASGI.suspects, process.name, entry)
            redis_client.hset(ASGI.seen, process.name, entry)
            report = await run_reap(probe_timeout_seconds=PROBE_TIMEOUT_SECONDS / 2)
            assert report.removed == 0
    assert redis_client.zcard(ASGI.group("room")) == 2


async def test_a_suspicion_from_the_future_confirms_nothing(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    """As after the clock of Redis was set back."""
    silent = await start_process("room")
    async with open_layer("default") as opened:
        ahead = Moment(await opened.home.now() + 86400)
        await record_suspicions(opened, [Suspicion(silent.name, ahead, ahead, opened.epoch, 9e9, looks=9)])
    assert (await run_reap()).removed == 0
    assert redis_client.zcard(ASGI.group("room")) == 1
    let_time_pass(redis_client, CONFIRM_AFTER_SECONDS + 1)
    assert (await run_reap()).removed == 1, "it began again, and ends in time"


async def test_an_interrupted_write_leaves_the_old_memory_or_the_new(redis_client: redis.Redis) -> None:
    """It is one transaction: no other client ever meets an empty memory between delete and write."""
    many = [Suspicion(f"{number:032x}", Moment(1.0), Moment(2.0), "epoch", 3.0) for number in range(3000)]
    async with open_layer("default") as opened:
        await record_suspicions(opened, many)
        before = dump(redis_client)
        with redis_client.monitor() as monitor:
            await record_suspicions(opened, many)
            said = []
            for command in monitor.listen():
                said.append(command["command"].split()[0])
                if said[-1] == "EXEC":
                    break
    assert dump(redis_client) == before
    written = said[said.index("MULTI") :]
    assert written == ["MULTI", "DEL", "HSET", "HSET", "HSET", "EXPIRE", "EXEC"]
