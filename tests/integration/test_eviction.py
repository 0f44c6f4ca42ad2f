"""Receipts on a Redis that evicts: they outlive its pressure, or the run says beforehand that they may not."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import msgpack
import pytest
import redis
from django.conf import LazySettings

from ops.operations.reaping.undo import read_history, undo
from ops.store.connection.shards import open_layer
from project.embedded_redis import EmbeddedRedis
from tests.conftest import StartRedis
from tests.in_process_commands import run_beside
from tests.layer_builders import (
    ASGI,
    StartProcess,
    add_members,
    channels_of,
    layer_of,
    members_of,
    new_process_name,
    run_reap,
    suspect_everybody,
)

MEMBERS = 15_000
A_MESSAGE = b"\0" * 12 + msgpack.packb({"type": "a.message"})  # as the layer writes it
FILLER = b"x" * 4000
RUN_KEYS = ("asgi:ops:journal:*", "asgi:ops:run:*", "asgi:ops:runs", "asgi:ops:aside:*")


@pytest.fixture
def server(redis_binary: str | None, start_redis: StartRedis, settings: LazySettings) -> EmbeddedRedis:
    server = start_redis(binary=redis_binary, maxmemory_policy="volatile-lru")
    settings.CHANNEL_LAYERS = layer_of(server.url)
    return server


@pytest.fixture
def client(server: EmbeddedRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as client:
        yield client


def keys_of_runs(client: redis.Redis) -> set[bytes]:
    return {key for pattern in RUN_KEYS for key in client.keys(pattern)}


def evict_all_that_may_be(client: redis.Redis) -> None:
    """Write what expires until Redis has evicted more than there ever was, many times over."""
    client.config_set("maxmemory", client.info("memory")["used_memory"] + 4_000_000)
    numbers = itertools.count()
    while client.info("stats")["evicted_keys"] < 20_000:
        pipe = client.pipeline(transaction=False)
        for number in itertools.islice(numbers, 500):
            pipe.set(f"page:{number}", FILLER, ex=3600)
        pipe.execute()
    client.delete(*client.keys("page:*"))


@pytest.mark.parametrize("policy", ["volatile-lru", "volatile-ttl"])
async def test_receipts_outlive_the_eviction_of_keys_with_an_expiry(client: redis.Redis, policy: str) -> None:
    client.config_set("maxmemory-policy", policy)
    process = new_process_name()
    for number in range(3):
        add_members(client, f"room {number}", channels_of(process, MEMBERS // 3), joined_at=1000)
    client.zadd(ASGI.inflight(f"specific.{process}!"), {A_MESSAGE: time.time()})
    await suspect_everybody()
    report = await run_reap()
    assert (report.removed, len(report.leftovers), report.notes) == (MEMBERS, 1, ())

    evict_all_that_may_be(client)

    async with open_layer("default") as opened:
        [run] = await read_history(opened)
        assert (run.run_id, run.removed) == (report.run_id, MEMBERS)
        undone = await undo(opened, report.run_id)
    assert (undone.restored, undone.keys_restored) == (MEMBERS, 1)


async def test_later_runs_delete_what_is_kept_without_an_expiry_when_its_time_is_over(
    client: redis.Redis, start_redis: StartRedis, settings: LazySettings, server: EmbeddedRedis
) -> None:
    """On every shard. What is undone or interrupted, too; and nothing that is no run's, whatever the list says."""
    other = start_redis(maxmemory_policy="volatile-lru")
    settings.CHANNEL_LAYERS = layer_of(server.url, other.url)
    with redis.Redis.from_url(other.url) as second:
        process = new_process_name()
        for shard in (client, second):
            add_members(shard, "room", channels_of(process, 3), joined_at=1000)
        async with open_layer("default") as opened:
            inbox = f"specific.{process}!"
            key = ASGI.inflight(inbox)
            await opened.shard_of_inbox(inbox).execute("ZADD", key, time.time(), A_MESSAGE)
        await suspect_everybody()
        report = await run_reap()
        assert report.removed == 6
        runs = [keys_of_runs(shard) for shard in (client, second)]
        assert all(runs)
        forged = [ASGI.group("lobby"), ASGI.inbox("work"), ASGI.runs, b"sessions"]
        for shard in (client, second):
            for key in forged[:2]:
                shard.zadd(key, {b"general": 1})
            shard.set("sessions", "untouched")
            shard.zadd(ASGI.kept, dict.fromkeys(forged, 1.0))

        assert (await run_reap()).complete
        assert [keys_of_runs(shard) for shard in (client, second)] == runs, "their time is not over"
        for shard in (client, second):
            for key in shard.zrange(ASGI.kept, 0, -1):
                shard.zadd(ASGI.kept, {key: 1.0})

        assert (await run_reap()).complete

        assert [keys_of_runs(shard) for shard in (client, second)] == [{ASGI.runs}, set()]
        assert [shard.exists(*forged) for shard in (client, second)] == [4, 3]
        assert [shard.exists(ASGI.kept) for shard in (client, second)] == [0, 0]


@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_run_says_beforehand_that_receipts_may_be_evicted(client: redis.Redis, dry_run: bool) -> None:
    client.config_set("maxmemory-policy", "allkeys-lru")
    client.config_set("maxmemory", "1gb")
    add_members(client, "room", channels_of(new_process_name(), 3))
    await suspect_everybody()

    report = await run_reap(dry_run=dry_run)

    [note] = report.notes
    assert note.startswith("shard 0 (redis://127.0.0.1:")
    assert note.endswith(
        "may evict receipts, and then --undo cannot restore what this run removed: its maxmemory-policy is allkeys-lru "
        "with maxmemory 1,073.7 MB"
    )
    assert report.removed == 3


@pytest.mark.parametrize(
    ("policy", "maxmemory"), [("noeviction", "1gb"), ("allkeys-lru", "0")], ids=["keeps all", "has no limit"]
)
async def test_where_nothing_is_evicted_receipts_expire_by_themselves(
    client: redis.Redis, start_process: StartProcess, policy: str, maxmemory: str
) -> None:
    client.config_set("maxmemory-policy", policy)
    client.config_set("maxmemory", maxmemory)
    add_members(client, "room", channels_of(new_process_name(), 3))
    await suspect_everybody()
    report = await run_reap()
    assert (report.removed, report.notes) == (3, ())
    assert min(client.ttl(key) for key in keys_of_runs(client)) > 6 * 86400
    assert not client.exists(ASGI.kept)


async def test_a_list_of_runs_that_had_an_expiry_loses_it_when_the_policy_changes(client: redis.Redis) -> None:
    for policy, expires in (("noeviction", True), ("volatile-lru", False), ("noeviction", True)):
        client.config_set("maxmemory-policy", policy)
        add_members(client, "room", channels_of(new_process_name(), 3))
        await suspect_everybody()
        assert (await run_reap()).removed == 3
        assert (client.ttl(ASGI.runs) > 0) is expires


async def test_a_clean_up_keeps_its_receipts_as_a_run_does(client: redis.Redis, server: EmbeddedRedis) -> None:
    from tests.integration.test_cleanup import end_of, record

    channels = channels_of(new_process_name(), 3)
    add_members(client, "room", channels, joined_at=1000)
    await record(*map(end_of, channels))
    result = await run_beside("replay_disconnects", "--cleanup")
    assert (result.returncode, members_of(client, "room")) == (0, {})
    assert {client.ttl(key) for key in keys_of_runs(client)} == {-1}
    client.config_set("maxmemory-policy", "allkeys-lfu")
    client.config_set("maxmemory", "1gb")
    add_members(client, "room", channels, joined_at=1000)
    result = await run_beside("replay_disconnects", "--cleanup")
    assert "may evict receipts" in result.err
