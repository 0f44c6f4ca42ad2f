"""Undo and history: what a run took can be had back, and damage to the journal does no harm."""

from __future__ import annotations

import json
import time
from typing import Any

import msgpack
import pytest
import redis
from django.conf import LazySettings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ops.exceptions import RunNotFound, ShardError
from ops.model.runs import RunRecord, UndoReport
from ops.operations.reaping.undo import read_history, undo
from ops.output import documents
from ops.store.connection.shards import open_layer
from ops.store.liveness.leases import STOCK, renew_lease
from ops.store.removal import journal
from project.embedded_redis import EmbeddedRedis
from tests.conftest import StartRedis
from tests.layer_builders import (
    ASGI,
    StartProcess,
    add_members,
    channels_of,
    dump,
    layer_of,
    members_of,
    new_process_name,
    receipts,
    run_reap,
    suspect_everybody,
    suspected,
)


async def run_undo(run_id: str) -> UndoReport:
    async with open_layer("default") as opened:
        return await undo(opened, run_id)


async def history() -> list[RunRecord]:
    async with open_layer("default") as opened:
        return await read_history(opened)


def groups_in(client: redis.Redis) -> dict[bytes, list[tuple[bytes, float]]]:
    return {key: client.zrange(key, 0, -1, withscores=True) for key in client.keys("asgi:group:*")}


async def test_undo_brings_back_every_member_with_its_score(redis_client: redis.Redis) -> None:
    for number in range(30):
        add_members(redis_client, f"g{number}", channels_of(new_process_name(), 40), joined_at=1000.25 + number)
    groups = groups_in(redis_client)
    await suspect_everybody()
    report = await run_reap()
    assert report.removed == 1200
    assert redis_client.keys("asgi:group:*") == []

    undone = await run_undo(report.run_id)

    assert (undone.undone_run_id, undone.restored, undone.already_present) == (report.run_id, 1200, 0)
    assert groups_in(redis_client) == groups


@pytest.mark.parametrize("lapsed", [False, True])
async def test_what_a_process_with_a_lease_has_left_since_does_not_come_back(
    redis_client: redis.Redis, lapsed: bool
) -> None:
    """It lost its lease together with its members, and has put back itself what it was still in."""
    stock, drop_in = new_process_name(), new_process_name()
    for process in (stock, drop_in):
        add_members(redis_client, "g", channels_of(process, 3), joined_at=1000)
    await suspect_everybody()
    report = await run_reap()
    assert report.removed == 6
    async with open_layer("default") as opened:
        client, keyspace = opened.home.client, opened.keyspace
        await renew_lease(client, keyspace, drop_in, {"lease_seconds": "30"}, 60)
        # A process with the stock layer does not put back anything, though it holds a lease.
        await renew_lease(client, keyspace, stock, {"lease_seconds": "30", "layer": STOCK}, 60)
    if lapsed:  # It is blocked just now, and will not look again.
        redis_client.hset(ASGI.lease(drop_in), "renewed_at", time.time() - 50)

    undone = await run_undo(report.run_id)

    assert (undone.restored, undone.already_present) == (3, 0)
    assert undone.notes == ("3 members were left to their processes, which came back and put theirs back themselves",)
    assert {stock in channel for channel in members_of(redis_client, "g")} == {True}


async def test_undo_twice_changes_nothing_more(redis_client: redis.Redis, start_process: StartProcess) -> None:
    await start_process("room", count=3)
    await suspect_everybody()
    report = await run_reap()
    await run_undo(report.run_id)
    before = dump(redis_client, without=[b"asgi:ops:run:"])

    again = await run_undo(report.run_id)

    assert (again.restored, again.already_present) == (0, 3)
    assert dump(redis_client, without=[b"asgi:ops:run:"]) == before


async def test_undo_does_not_bring_back_who_joined_again_with_an_old_score(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    process = await start_process()
    (channel,) = await process.join("room")
    await suspect_everybody()
    report = await run_reap()
    redis_client.zadd(ASGI.group("room"), {channel: 5e9})

    undone = await run_undo(report.run_id)

    assert (undone.restored, undone.already_present) == (0, 1)
    assert members_of(redis_client, "room") == {channel: 5e9}


GLOBS = (None, "room", "r*", "[r]oo\\m", "*")


@pytest.mark.parametrize("glob", [None, "room"])
async def test_what_came_back_has_a_whole_confirm_time_again(
    redis_client: redis.Redis, start_process: StartProcess, glob: str | None
) -> None:
    """Whatever glob the run that was undone had, and whatever glob the next one has."""
    await start_process("room", count=3)
    await suspect_everybody()
    report = await run_reap(glob=glob)
    assert report.removed == 3
    assert suspected(redis_client)

    await run_undo(report.run_id)

    assert not suspected(redis_client)
    for other in GLOBS:
        assert (await run_reap(glob=other)).removed == 0


async def test_a_run_whose_record_is_lost_is_undone_by_its_receipts(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    """The record is on the first shard, which may have failed over; receipts are on the shard of their group."""
    await start_process("room", count=3)
    before = groups_in(redis_client)
    await suspect_everybody()
    report = await run_reap()
    redis_client.delete(ASGI.run(report.run_id))

    undone = await run_undo(report.run_id)

    assert undone.restored == 3
    assert groups_in(redis_client) == before


async def test_undo_of_a_run_that_nobody_knows_says_so(redis_client: redis.Redis) -> None:
    for run_id in ("20260102T030405Z-abcdef", "", "\x1b[31m", "*", "../x"):
        with pytest.raises(RunNotFound) as problem:
            await run_undo(run_id)
        assert "--history" in str(problem.value)
        assert "\x1b" not in str(problem.value)
    assert redis_client.keys("*") == []


async def test_messages_of_a_process_that_came_back_are_not_overwritten_by_undo(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    process = await start_process()
    (channel,) = await process.join("room")
    await process.layer.send(channel, {"type": "old"})
    await suspect_everybody()
    report = await run_reap()
    await process.layer.send(channel, {"type": "new"})
    messages = redis_client.zrange(process.inbox_key, 0, -1)

    undone = await run_undo(report.run_id)

    assert (undone.restored, undone.keys_restored) == (1, 0)
    assert redis_client.zrange(process.inbox_key, 0, -1) == messages
    assert redis_client.exists(ASGI.aside(report.run_id, process.inbox_key)), "it waits for the way to be free"


async def test_messages_that_have_expired_since_do_not_come_back(
    redis_client: redis.Redis, start_process: StartProcess, settings: LazySettings
) -> None:
    """A sender would have removed them from the inbox, and whoever comes back must not act on them days later."""
    settings.CHANNEL_LAYERS["default"]["CONFIG"]["expiry"] = 30
    process = await start_process("room")
    now, new = time.time(), process.layer.serialize({"type": "new"})
    for key in (process.inbox_key, process.inflight_key):
        redis_client.zadd(key, {b"a probe": -1.0, b"of last week": now - 6 * 86400, b"old": now - 31, new: now + 5})
    await suspect_everybody()
    report = await run_reap()
    assert len(report.leftovers) == 2

    undone = await run_undo(report.run_id)

    assert (undone.restored, undone.keys_restored, undone.notes) == (1, 2, ())
    assert redis_client.zrange(process.inbox_key, 0, -1) == [new]
    assert 0 < redis_client.ttl(process.inbox_key) <= 30
    assert redis_client.zrange(process.inflight_key, 0, -1) == [new]
    assert redis_client.ttl(process.inflight_key) == -1, "as channels_redis leaves it"


async def test_where_every_message_has_expired_the_undo_is_done_all_the_same(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    process = await start_process("room")
    for key in (process.inbox_key, process.inflight_key):
        redis_client.zadd(key, {process.layer.serialize({"type": "old"}): time.time() - 61})
    await suspect_everybody()
    report = await run_reap()
    assert len(report.leftovers) == 2

    undone = await run_undo(report.run_id)

    assert (undone.restored, undone.keys_restored, undone.notes) == (1, 0, ())
    assert not [key for key in redis_client.keys("*") if process.inbox_key in key]
    assert [run.state for run in await history()] == ["undone"]


# History


async def test_history_lists_the_runs_that_removed_something_the_latest_first(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    assert await history() == []
    expected = []
    for count in (1, 2):
        dead = await start_process("room", count=count)
        await dead.layer.send((await dead.join("room"))[0], {"type": "lost"})
        await suspect_everybody()
        expected.insert(0, await run_reap(glob="r*" if count == 2 else None))
    await run_reap()  # removes nothing

    found = await history()

    assert [(run.run_id, run.removed) for run in found] == [(report.run_id, report.removed) for report in expected]
    assert [(run.state, run.match, run.set_aside) for run in found] == [("done", "r*", 0), ("done", None, 1)]
    assert all(run.processes == 1 and abs(run.started_at - time.time()) < 60 for run in found)
    assert all(run.expires_at and run.expires_at > time.time() + 6 * 86400 for run in found)
    await run_undo(found[1].run_id)
    assert [run.state for run in await history()] == ["done", "undone"]


async def test_a_run_that_was_interrupted_is_listed_with_what_its_receipts_say_and_can_be_undone(
    redis_client: redis.Redis, start_process: StartProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start_process("room", count=700)
    await suspect_everybody()

    class Killed(BaseException):
        """Stands for the end of the process at this point: no handler of the toolkit knows it."""

    send = journal.Remover._send
    calls: list[int] = []

    async def send_twice_then_die(purge: journal.Remover) -> None:
        calls.append(len(purge._batch))
        if len(calls) == 3:
            await purge._collect(len(purge._under_way))
            raise Killed
        await send(purge)

    monkeypatch.setattr(journal.Remover, "_send", send_twice_then_die)
    with pytest.raises(Killed):
        await run_reap()
    monkeypatch.undo()

    (run,) = await history()
    removed = 700 - len(members_of(redis_client, "room"))
    assert removed > 0
    assert (run.state, run.removed) == ("interrupted", removed)
    assert sum(map(len, receipts(redis_client, run.run_id).values())) == removed
    undone = await run_undo(run.run_id)
    assert (undone.restored, undone.already_present) == (removed, 0)
    assert len(members_of(redis_client, "room")) == 700


async def test_runs_whose_receipts_have_expired_are_forgotten(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    await start_process("room")
    await suspect_everybody()
    report = await run_reap(journal_seconds=100)
    redis_client.zadd(ASGI.runs, {"long ago": time.time() - 101})
    redis_client.zadd(ASGI.runs, {"without record": time.time()})
    assert [run.run_id for run in await history()] == [report.run_id]
    assert 0 < redis_client.ttl(ASGI.run(report.run_id)) <= 100
    await start_process("room")
    await suspect_everybody()
    await run_reap(journal_seconds=100)
    assert redis_client.zscore(ASGI.runs, "long ago") is None


async def test_a_host_that_keeps_receipts_for_less_time_takes_no_run_of_others_off_the_list(
    redis_client: redis.Redis,
) -> None:
    runs = []
    for journal_seconds in (7 * 86400, 100):
        add_members(redis_client, "room", channels_of(new_process_name(), 3), joined_at=1000)
        await suspect_everybody()
        runs.append((await run_reap(journal_seconds=journal_seconds)).run_id)
        for run_id in runs:  # An hour has passed.
            redis_client.zincrby(ASGI.runs, -3600, run_id)

    add_members(redis_client, "room", channels_of(new_process_name(), 3), joined_at=1000)
    await suspect_everybody()
    runs.append((await run_reap(journal_seconds=100)).run_id)

    assert {run.run_id for run in await history()} == set(runs)
    assert redis_client.ttl(ASGI.runs) > 6 * 86400


@pytest.mark.parametrize("interrupted", [False, True])
async def test_runs_of_hosts_that_list_the_shards_in_another_order_are_listed_and_undone(
    start_redis: StartRedis, settings: LazySettings, interrupted: bool
) -> None:
    """Each has its runs on the shard that it calls the first."""
    servers = [start_redis(), start_redis()]
    clients = [redis.Redis.from_url(server.url) for server in servers]
    urls = [server.url for server in servers]
    run_ids = []
    for order in (urls, urls[::-1]):
        settings.CHANNEL_LAYERS = layer_of(*order)
        for client in clients:
            add_members(client, "room", channels_of(new_process_name(), 3), joined_at=1000)
        await suspect_everybody()
        report = await run_reap(max_share=1.0)
        assert report.removed == 6
        run_ids.append(report.run_id)
    if interrupted:
        for client in clients:
            client.hdel(ASGI.run(run_ids[0]), "ended")

    for order in (urls, urls[::-1]):
        settings.CHANNEL_LAYERS = layer_of(*order)
        found = {run.run_id: (run.state, run.removed) for run in await history()}
        assert found == {run_ids[0]: ("interrupted" if interrupted else "done", 6), run_ids[1]: ("done", 6)}

    assert (await run_undo(run_ids[0])).restored == 6
    for order in (urls, urls[::-1]):
        settings.CHANNEL_LAYERS = layer_of(*order)
        assert {run.run_id: run.state for run in await history()} == {run_ids[0]: "undone", run_ids[1]: "done"}
    assert [client.exists(ASGI.run(run_ids[0])) for client in clients] == [1, 0], "its record is in one place"
    for client in clients:
        client.close()


# Damage


async def test_undo_and_history_of_an_incomplete_layer_change_nothing(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, start_process: StartProcess
) -> None:
    await start_process("room")
    await suspect_everybody()
    report = await run_reap()
    redis_server.kill()
    with pytest.raises(ShardError, match="nothing was changed"):
        await run_undo(report.run_id)
    with pytest.raises(ShardError, match="cannot be used"):
        await history()


scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.binary(max_size=9)
values = st.recursive(
    scalars | st.text(max_size=9).map(lambda text: text.encode("utf-8", "replace")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=4), inner, max_size=3),
    max_leaves=12,
)
members = st.lists(st.binary(max_size=20), max_size=4)
group_keys = st.binary(max_size=9).map(ASGI.group_prefix.__add__)
groups = st.lists(st.tuples(group_keys, members | values) | values, max_size=4)
damaged = st.binary(max_size=40) | (st.tuples(groups | values, st.lists(st.floats()) | values) | values).map(
    lambda value: msgpack.packb(value, use_bin_type=False)
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(garbage=st.lists(damaged, max_size=4))
async def test_damaged_receipts_do_not_keep_the_others_from_being_restored(
    redis_server: EmbeddedRedis, garbage: list[bytes]
) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
        good = msgpack.packb([[[ASGI.group("room"), [b"a.member"]]], [12.5]], use_bin_type=False)
        client.rpush(ASGI.journal("run"), *garbage, good, *garbage)
        client.hset(ASGI.run("run"), mapping={"started_at": "1.0"})
        client.set("sessions", "untouched")

        undone = await run_undo("run")

        assert undone.restored >= 1
        assert client.zscore(ASGI.group("room"), "a.member") == 12.5
        assert client.get("sessions") == b"untouched"
        assert all(key.startswith((b"asgi:group:", b"asgi:ops:", b"sessions")) for key in client.keys("*"))


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
summaries = (
    st.binary(max_size=20)
    | json_values.map(json.dumps)
    | st.fixed_dictionaries({"removed": json_values, "processes": json_values, "set_aside": json_values}).map(
        json.dumps
    )
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    record=st.dictionaries(
        st.sampled_from(["started_at", "expires_at", "undone_at", "ended", "match", "other"]),
        summaries | st.sampled_from(["nan", "inf", "-1e999", "1e400", ""]),
        min_size=1,
    )
)
async def test_a_damaged_record_of_a_run_is_shown_as_far_as_it_can_be_read(
    redis_server: EmbeddedRedis, record: dict[str, Any]
) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
        client.hset(ASGI.run("damaged"), mapping=record)
        client.zadd(ASGI.runs, {"damaged": 1, b"\xff\n": 2, "": 3})
        client.hset(ASGI.run("\udcff\n"), "started_at", "1")

        found = await history()

        assert found[0].run_id == "\udcff\n"
        assert (
            json.loads(documents.dump(documents.history_document("default", found)))["runs"][0]["run_id"] == "\\xff\\n"
        )
