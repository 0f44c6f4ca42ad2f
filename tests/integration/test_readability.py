"""Who may not be able to read a probe is sent none, and nothing is removed on a silence that was not asked for."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import redis
from django.conf import LazySettings

from ops.layer_settings import layer_settings
from ops.model.doctor.facts import Missing
from ops.model.liveness.evidence import NotProbed, ProbeUnanswered, SeveralKeys, UnreadableMessages
from ops.model.runs import ReapReport
from ops.operations.doctor.collect import collect
from ops.store.connection.shards import open_layer
from ops.store.liveness.probes import probe_processes
from ops.store.liveness.readability import find_unreadable
from project.embedded_redis import EmbeddedRedis
from tests.conftest import StartRedis
from tests.in_process_commands import run_beside
from tests.layer_builders import (
    ASGI,
    CONFIRM_AFTER_SECONDS,
    PROBE_TIMEOUT_SECONDS,
    AppProcess,
    StartProcess,
    dump,
    layer_of,
    let_time_pass,
    members_of,
    new_process_name,
    run_reap,
    suspect_everybody,
    suspected,
)

ONE_KEY: dict[str, Any] = {"symmetric_encryption_keys": ["ours"]}
OTHER_SETTINGS: list[dict[str, Any]] = [
    {"symmetric_encryption_keys": ["theirs"]},
    {"serializer_format": "json"},
    {},
]


async def send(process: AppProcess, key: bytes, client: redis.Redis, *, at: float | None = None) -> None:
    """Put a message as `process` writes it under `key`."""
    message = process.layer.serialize({"type": "a.message", "__asgi_channel__": []})
    client.zadd(key, {message: time.time() if at is None else at})


def states(report: ReapReport) -> set[str]:
    return {process.state for process in report.processes}


# Messages that cannot be read


@pytest.mark.parametrize("theirs", OTHER_SETTINGS, ids=str)
@pytest.mark.parametrize("in_flight", [False, True], ids=["inbox", "in flight"])
async def test_a_message_that_cannot_be_read_stops_the_run_and_nobody_is_probed(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    settings: LazySettings,
    start_process: StartProcess,
    theirs: dict[str, Any],
    in_flight: bool,
) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, **theirs)
    live, dead = await start_process("room", live=True), await start_process("room", count=2)
    await send(dead, dead.inflight_key if in_flight else dead.inbox_key, redis_client)
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, **ONE_KEY)
    await suspect_everybody()
    before = dump(redis_client, without=[b"asgi:ops:"])

    report = await run_reap()

    where = "in flight to" if in_flight else "in the inbox of"
    assert (report.stopped or "").startswith(f"unreadable: a message {where} process {dead.name} cannot be read with")
    assert "another serializer or encryption key is in use" in (report.stopped or "")
    assert (report.removed, report.complete, states(report)) == (0, True, {"suspect"})
    assert dump(redis_client, without=[b"asgi:ops:"]) == before
    assert not any(task.done() for task in live.tasks)
    # A day of such runs makes no silence of the one that there was.
    let_time_pass(redis_client, 86400)
    redis_client.delete(dead.inbox_key, dead.inflight_key)
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, **theirs)
    report = await run_reap()
    assert (report.stopped, report.removed) == (None, 0)
    assert suspected(redis_client) == {dead.name}


async def test_nothing_is_left_for_a_suspect_that_could_not_be_asked(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    silent = await start_process("room")
    await suspect_everybody()
    redis_client.zadd(silent.inbox_key, {b"not MessagePack": time.time()})

    report = await run_reap()

    assert (report.stopped or "").startswith("unreadable: ")
    assert suspected(redis_client) == {silent.name}
    assert redis_client.zcount(silent.inflight_key, "+inf", "+inf") == 0


async def test_without_a_message_that_cannot_be_read_the_dead_member_goes(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, settings: LazySettings, start_process: StartProcess
) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, **ONE_KEY)
    dead = await start_process("room", count=2)
    await send(dead, dead.inbox_key, redis_client)
    await send(dead, dead.inflight_key, redis_client)
    await suspect_everybody()
    report = await run_reap()
    assert (report.stopped, report.removed) == (None, 2)


async def test_encrypted_messages_that_expired_or_are_from_the_future_tell_nothing(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, settings: LazySettings, start_process: StartProcess
) -> None:
    """Nobody can read them, whatever the key is."""
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, symmetric_encryption_keys=["theirs"])
    dead, now = await start_process("room"), time.time()
    for key in (dead.inbox_key, dead.inflight_key):
        await send(dead, key, redis_client, at=now - 61)
        await send(dead, key, redis_client, at=now + 120)
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, **ONE_KEY)
    await suspect_everybody()
    assert (await run_reap()).removed == 1


async def test_a_message_that_can_be_read_does_not_hide_behind_one_from_the_future(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, settings: LazySettings, start_process: StartProcess
) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, symmetric_encryption_keys=["theirs"])
    dead, now = await start_process("room"), time.time()
    await send(dead, dead.inbox_key, redis_client, at=now + 120)
    await send(dead, dead.inbox_key, redis_client)
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, **ONE_KEY)
    assert ((await run_reap()).stopped or "").startswith("unreadable: ")


@pytest.mark.parametrize(("age_seconds", "stops"), [(3500, True), (3700, False)])
async def test_what_has_long_been_in_flight_tells_of_a_process_that_is_gone(
    redis_client: redis.Redis, start_process: StartProcess, age_seconds: float, stops: bool
) -> None:
    """Its key never expires: otherwise no run would ever remove anything again after a change of the serializer."""
    dead = await start_process("room")
    redis_client.zadd(dead.inflight_key, {b"rubbish": time.time() - age_seconds})
    await suspect_everybody()
    report = await run_reap()
    assert (bool(report.stopped), report.removed) == (stops, 0 if stops else 1)


async def test_probes_of_another_run_and_keys_that_are_no_inboxes_stop_nobody(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    dead, odd = await start_process("room"), await start_process("room")
    for key in (dead.inbox_key, dead.inflight_key):
        redis_client.zadd(key, {b"a probe of a newer release": -1.0})
    redis_client.set(odd.inflight_key, "x")
    redis_client.rpush(odd.inbox_key, "x")
    await suspect_everybody()
    report = await run_reap()
    assert (report.stopped, report.removed, report.complete) == (None, 1, True)
    assert {process.state for process in report.processes if process.process == odd.name} == {"suspect"}


async def test_a_message_on_a_shard_where_nobody_would_look_for_it_stops_too(
    start_redis: StartRedis, settings: LazySettings, start_process: StartProcess
) -> None:
    """A probe is put on every shard, since a process may have other hosts."""
    servers = [start_redis(), start_redis()]
    settings.CHANNEL_LAYERS = layer_of(*(server.url for server in servers))
    silent = await start_process()
    async with open_layer("default") as opened:
        elsewhere = 1 - opened.shard_of_inbox(silent.inbox).index
        with redis.Redis.from_url(servers[elsewhere].url) as client:
            client.zadd(silent.inbox_key, {b"rubbish": time.time()})
            found = await probe_processes(opened, {silent.name: {silent.inbox}}, PROBE_TIMEOUT_SECONDS, leases={})
            assert isinstance(found[silent.name], UnreadableMessages)
            client.delete(silent.inbox_key)
            found = await probe_processes(opened, {silent.name: {silent.inbox}}, PROBE_TIMEOUT_SECONDS, leases={})
    assert isinstance(found[silent.name], ProbeUnanswered)


async def test_it_takes_two_commands_for_each_inbox(redis_server: EmbeddedRedis, redis_client: redis.Redis) -> None:
    inboxes = {name: {f"specific.{name}!", f"chat.{name}!"} for name in (new_process_name() for _ in range(450))}
    async with open_layer("default") as opened:
        redis_client.config_resetstat()
        assert await find_unreadable(opened, inboxes) == []
        stats = redis_client.info("commandstats")
    assert stats["cmdstat_zrange"]["calls"] == 2 * 2 * 450
    assert {name for name in stats if "config" not in name} == {"cmdstat_zrange"}


async def test_monitoring_is_told_that_nobody_could_be_judged(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    dead = await start_process("room")
    redis_client.zadd(dead.inbox_key, {b"rubbish": time.time()})
    done = await run_beside("channels_groups", "--check")
    assert done.returncode == 3
    assert done.out.startswith("CHANNELS_GROUPS UNKNOWN - 1 member of 1 process could not be judged: not probed: ")
    assert "a message in the inbox of process " in done.out


# Several keys


async def test_with_several_keys_nobody_is_removed_on_silence_that_was_not_asked_for(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, settings: LazySettings, start_process: StartProcess
) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, **ONE_KEY)
    dead = await start_process("room", count=2)
    await suspect_everybody()
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, symmetric_encryption_keys=["new", "ours"])

    report = await run_reap()

    assert (report.stopped or "").startswith("keys: 1 process with 2 members were not probed: there are several")
    assert (report.removed, states(report)) == (0, {"suspect"})
    assert not redis_client.exists(dead.inbox_key)
    # The keys are rotated, and the suspicion of before counts, for it was not renewed and is not old yet.
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, symmetric_encryption_keys=["new"])
    assert (await run_reap()).removed == 2


async def test_a_suspicion_of_before_a_rotation_that_took_long_counts_no_more(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, settings: LazySettings, start_process: StartProcess
) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, **ONE_KEY)
    await start_process("room", count=2)
    await suspect_everybody()
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, symmetric_encryption_keys=["new", "ours"])
    for _ in range(4):  # a run each four minutes
        assert (await run_reap()).removed == 0
        let_time_pass(redis_client, 240)
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, symmetric_encryption_keys=["new"])
    for _ in range(2):  # and no marker can be left
        assert (await run_reap()).removed == 0
        let_time_pass(redis_client, CONFIRM_AFTER_SECONDS + 1)
    assert (await run_reap()).removed == 2


def leave_lease(client: redis.Redis, process: AppProcess, **fields: str) -> None:
    client.hset(ASGI.lease(process.name), mapping={"lease_seconds": "10", "host": "web-1", "pid": "7", **fields})


async def test_with_several_keys_the_members_of_a_process_that_said_that_it_left_go(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, settings: LazySettings, start_process: StartProcess
) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, symmetric_encryption_keys=["new", "old"])
    left, fresh = await start_process("room", count=2), await start_process("room")
    leave_lease(redis_client, left, renewed_at=str(int(time.time()) - 60), ended="1")
    leave_lease(redis_client, fresh, renewed_at=str(int(time.time())))

    report = await run_reap()

    assert (report.stopped, report.removed) == (None, 2)
    assert {process.process: process.state for process in report.processes} == {left.name: "dead", fresh.name: "live"}
    assert len(members_of(redis_client, "room")) == 1


async def test_with_several_keys_a_lapsed_lease_is_not_enough(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, settings: LazySettings, start_process: StartProcess
) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, symmetric_encryption_keys=["new", "old"])
    lapsed, left = await start_process("room"), await start_process("room")
    leave_lease(redis_client, lapsed, renewed_at=str(int(time.time()) - 600))
    leave_lease(redis_client, left, renewed_at=str(int(time.time()) - 60), ended="1")

    report = await run_reap()

    assert (report.stopped or "").startswith("keys: 1 process with 1 member were not probed")
    assert report.removed == 0
    assert suspected(redis_client) == {left.name}, "the other was not asked"


async def test_an_inbox_without_members_is_no_reason_to_stop_for_several_keys(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, settings: LazySettings, start_process: StartProcess
) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, symmetric_encryption_keys=["new", "old"])
    gone = await start_process()
    await send(gone, gone.inflight_key, redis_client)
    report = await run_reap()
    assert (report.stopped, states(report)) == (None, {"unknown"})
    assert redis_client.exists(gone.inflight_key)


async def test_the_same_key_twice_is_one_key(
    redis_server: EmbeddedRedis, settings: LazySettings, start_process: StartProcess
) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, symmetric_encryption_keys=["ours", "ours"])
    await start_process("room")
    await suspect_everybody()
    assert (await run_reap()).removed == 1


async def test_the_doctor_says_that_processes_were_not_probed_for_several_keys(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, settings: LazySettings, start_process: StartProcess
) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, symmetric_encryption_keys=["new", "old"])
    process = await start_process("room")
    chosen = layer_settings("default")
    assert chosen is not None
    async with open_layer("default") as opened:
        facts = await collect(opened, chosen)
        assert facts.processes == Missing(f"processes are {SeveralKeys().words}")
        leave_lease(redis_client, process, renewed_at=str(int(time.time()) - 60), ended="1")
        facts = await collect(opened, chosen)
    assert isinstance(facts.processes, tuple)
    assert [(found.process, found.silent) for found in facts.processes] == [(process.name, True)]


async def test_a_heartbeat_says_why_nobody_was_asked(
    redis_server: EmbeddedRedis, settings: LazySettings, start_process: StartProcess
) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, symmetric_encryption_keys=["new", "old"])
    await start_process("room", count=3)
    done = await run_beside("send_heartbeat", "room", "--depth", "process", "--format", "json")
    document = json.loads(done.out)
    assert (document["totals"]["members"], document["totals"]["skipped"], document["totals"]["sent"]) == (3, 3, 0)
    assert document["processes"][0]["skipped_why"] == SeveralKeys().reason
    assert f"nobody was asked: {SeveralKeys().reason}" in done.err
    assert done.returncode == 3
    assert isinstance(SeveralKeys(), NotProbed)
