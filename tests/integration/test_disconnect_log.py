"""The stream: what is appended is read, in order and in pages, and it does not grow without end."""

from __future__ import annotations

from typing import Any

from django.conf import LazySettings

from ops.model.disconnects.record import Disconnect, to_json
from ops.store.connection.shards import Shard, open_layer
from ops.store.disconnects import log as disconnect_log
from ops.store.disconnects.log import LAST_ID, append_reaped, read_disconnects
from ops.store.removal import journal
from ops.store.removal.judgement import Judgement
from project.embedded_redis import EmbeddedRedis
from tests.conftest import StartRedis
from tests.layer_builders import LOG_LENGTH, NoLock, layer_of, record_ends

PROCESS = "a" * 32


async def all_of(opened: Any, **bounds: Any) -> list[Disconnect]:
    return [one async for page in read_disconnects(opened, **bounds) for one in page.disconnects]


async def test_records_are_read_in_order_and_from_where_the_last_reading_stopped(
    redis_server: EmbeddedRedis, monkeypatch: Any
) -> None:
    monkeypatch.setattr(disconnect_log, "ENTRIES_AT_ONCE", 7)
    records = [Disconnect(at=float(number)) for number in range(30)]
    async with open_layer("default") as opened:
        assert await record_ends(opened, records) == 30
        pages = [page async for page in read_disconnects(opened)]
        assert [one for page in pages for one in page.disconnects] == records
        assert len(pages) == 5
        rest = [one for page in pages[2:] for one in page.disconnects]
        assert await all_of(opened, after=pages[1].last_id) == rest
        assert await all_of(opened, after=pages[-1].last_id) == []
        now = await opened.home.now()
        assert await all_of(opened, since=now + 60) == []
        assert await all_of(opened, since=now - 60, until=now + 60) == records
        assert await all_of(opened, until=now - 60) == []


async def test_the_stream_is_capped(redis_server: EmbeddedRedis) -> None:
    async with open_layer("default") as opened:
        for start in range(0, 3000, 500):
            await record_ends(opened, [Disconnect(at=float(start))] * 500, length=1000)
        assert 1000 <= await opened.home.client.xlen(opened.keyspace.disconnects) <= 1200


async def test_an_entry_that_is_no_record_is_counted_and_passed_over(redis_server: EmbeddedRedis) -> None:
    async with open_layer("default") as opened:
        key = opened.keyspace.disconnects
        for fields in (("d", "{"), ("x", "y"), ("reaped", "[]"), ("reaped", '{"run_id": 5}')):
            await opened.home.execute("XADD", key, "*", *fields)
        await record_ends(opened, [Disconnect(at=1.0)])
        pages = [page async for page in read_disconnects(opened)]
    assert [one for page in pages for one in page.disconnects] == [Disconnect(at=1.0)]
    assert sum(page.unreadable for page in pages) == 4


async def test_a_log_whose_entries_have_the_last_ids_there_can_be_is_read(redis_server: EmbeddedRedis) -> None:
    async with open_layer("default") as opened:
        for entry_id in (f"{2**64 - 1}-{2**64 - 2}", LAST_ID):
            await opened.home.execute("XADD", opened.keyspace.disconnects, entry_id, "d", to_json(Disconnect(at=1.0)))
        assert await all_of(opened) == [Disconnect(at=1.0)] * 2


async def test_a_reaped_entry_stands_for_each_member_of_its_receipts(redis_server: EmbeddedRedis) -> None:
    async with open_layer("default") as opened:
        channels = [f"specific.{PROCESS}!{number:032x}" for number in range(250)]
        layer = opened.layer
        for channel in channels:
            await layer.group_add("room", channel)
        await remove(opened, opened.home, "run-1", channels)
        await record_ends(opened, [Disconnect(at=1.0)])
        await append_reaped(opened, "run-1", 2.0, {PROCESS: 250, "b" * 32: 0}, LOG_LENGTH)
        await append_reaped(opened, "run-2-whose-receipts-are-gone", 3.0, {PROCESS: 3}, LOG_LENGTH)
        assert await opened.home.client.xlen(opened.keyspace.disconnects) == 3
        first, *reaped = await all_of(opened)
    assert first == Disconnect(at=1.0)
    with_channel, without = reaped[:250], reaped[250:]
    assert {one.channel for one in with_channel} == set(channels)
    assert {(one.at, one.cause, one.source, one.process, one.groups) for one in with_channel} == {
        (2.0, "process_died", "reaper", PROCESS, ("room",))
    }
    assert [(one.at, one.channel, one.process) for one in without] == [(3.0, None, PROCESS)] * 3


async def test_receipts_that_cannot_be_read_are_a_problem_of_their_shard_and_the_others_are_read(
    start_redis: StartRedis, settings: LazySettings
) -> None:
    servers = [start_redis(), start_redis()]
    settings.CHANNEL_LAYERS = layer_of(*(server.url for server in servers))
    channels = [f"specific.{PROCESS}!{number:032x}" for number in range(6)]
    async with open_layer("default") as opened:
        for shard, part in zip(opened.shards, (channels[:4], channels[4:]), strict=True):
            await shard.client.zadd(opened.keyspace.group("room"), dict.fromkeys(part, 1.0))
            await remove(opened, shard, "run-1", part)
        await append_reaped(opened, "run-1", 2.0, {PROCESS: 6}, LOG_LENGTH)
        await record_ends(opened, [Disconnect(at=3.0)])
        assert len(await all_of(opened)) == 7
        servers[1].kill()
        assert {one.channel for one in await all_of(opened)} == {*channels[:4], None}
        assert [shard.problem is None for shard in opened.shards] == [True, False]


async def remove(opened: Any, shard: Shard, run_id: str, channels: list[str]) -> None:
    """As a run does."""
    key = opened.keyspace.group("room")
    names = [channel.encode() for channel in channels]
    scores = [await shard.client.zscore(key, name) for name in names]
    async with shard.wire() as wire:
        judgement = Judgement(opened, run_id, NoLock())
        purge = journal.Remover(wire, shard, opened.keyspace.journal(run_id), 60, judgement)
        await purge.load()
        await purge.remove(key, names, scores)
        assert (await purge.finish()).removed == len(channels)
