"""Probes: a live process answers them, no consumer ever sees one, and nothing stays behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
from django.conf import LazySettings
from redis import asyncio as aioredis

from ops.exceptions import ShardError
from ops.model.liveness.evidence import Evidence, InboxDrained, InboxStuck, NotProbed, ProbesTaken, ProbeUnanswered
from ops.store.connection import waiting
from ops.store.connection.shards import OpenLayer, open_layer
from ops.store.liveness.probes import control_receivers, probe_processes
from project.embedded_redis import EmbeddedRedis
from tests.conftest import StartRedis
from tests.layer_builders import (
    PROBE_TIMEOUT_SECONDS,
    AppProcess,
    StartProcess,
    add_members,
    dump,
    layer_of,
    new_process_name,
    run_reap,
    suspect_everybody,
)
from tests.waiting import until

DROP_IN = "ops.layers.RedisChannelLayer"
# Long enough for whoever lives, however busy the machine is; nobody waits for all of it.
LONG_SECONDS = 30.0


async def probe(*processes: AppProcess, timeout_seconds: float = PROBE_TIMEOUT_SECONDS) -> list[Evidence]:
    async with open_layer("default") as opened:
        inboxes = {process.name: {process.inbox} for process in processes}
        evidence = await probe_processes(opened, inboxes, timeout_seconds, leases={})
    return [evidence[process.name] for process in processes]


# Who answers


async def test_a_live_process_takes_two_probes_and_a_silent_one_none(
    each_redis_server: EmbeddedRedis, start_process: StartProcess
) -> None:
    live, silent = await start_process(live=True), await start_process()

    (of_live,), (of_silent,) = await probe(live, timeout_seconds=LONG_SECONDS), await probe(silent)

    assert isinstance(of_live, ProbesTaken)
    assert 0 < of_live.round_trip_ms < LONG_SECONDS * 1000
    assert isinstance(of_silent, ProbeUnanswered)
    assert of_silent.taken == 0
    assert of_silent.waited_seconds >= PROBE_TIMEOUT_SECONDS


async def test_a_round_in_which_all_answer_does_not_wait_for_the_timeout(
    redis_server: EmbeddedRedis, start_process: StartProcess
) -> None:
    processes = [await start_process(live=True) for _ in range(5)]
    started = time.monotonic()

    assert all(isinstance(found, ProbesTaken) for found in await probe(*processes, timeout_seconds=LONG_SECONDS))

    assert time.monotonic() - started < LONG_SECONDS / 2


async def test_one_probe_taken_proves_no_life(redis_client: redis.Redis, start_process: StartProcess) -> None:
    """Redis gives the first to a BZPOPMIN that has been waiting, even when the process froze since."""
    frozen = await start_process()

    # What a frozen process leaves in Redis: a connection that waits for one message, and does no more.
    def take_one() -> None:
        redis_client.bzpopmin(frozen.inbox_key, timeout=5)

    waiting = asyncio.create_task(asyncio.to_thread(take_one))
    await until(lambda: any(client["cmd"] == "bzpopmin" for client in redis_client.client_list()))

    (evidence,) = await probe(frozen)

    await waiting
    assert isinstance(evidence, ProbeUnanswered)
    assert evidence.taken == 1


async def test_a_process_with_two_inboxes_lives_if_it_reads_either(
    redis_server: EmbeddedRedis, start_process: StartProcess
) -> None:
    """It polls one of them at a time, so a probe to the other stays where it is."""
    process = await start_process()
    await process.live(await process.layer.new_channel("first"))
    await process.live(await process.layer.new_channel("second"))
    async with open_layer("default") as opened:
        inboxes = {process.name: {f"first.{process.name}!", f"second.{process.name}!", process.inbox}}
        evidence = await probe_processes(opened, inboxes, LONG_SECONDS, leases={})
    assert isinstance(evidence[process.name], ProbesTaken)


@pytest.mark.parametrize(
    "config",
    [
        {"symmetric_encryption_keys": ["secret"]},
        {"serializer_format": "json"},
        {"random_prefix_length": 0},
        {"random_prefix_length": 0, "serializer_format": "json", "symmetric_encryption_keys": ["secret"]},
        {"prefix": "ünï*?[x]"},
        {"expiry": 1},
        {"channel_capacity": {"specific.*": 5}},
    ],
    ids=str,
)
async def test_probes_are_written_as_the_layer_is_configured(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    settings: LazySettings,
    start_process: StartProcess,
    config: dict[str, Any],
) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, **config)
    live, silent = await start_process(live=True), await start_process()

    (of_live,), (of_silent,) = await probe(live, timeout_seconds=LONG_SECONDS), await probe(silent)

    assert (type(of_live), type(of_silent)) == (ProbesTaken, ProbeUnanswered)
    assert live.received == []
    assert all(not task.done() for task in live.tasks), "the consumer goes on"
    await until(lambda: redis_client.keys("*") == [])


@pytest.mark.parametrize("ahead_seconds", [-3600, 3600])
async def test_a_host_whose_clock_is_wrong_sends_no_encrypted_probe(
    redis_server: EmbeddedRedis,
    settings: LazySettings,
    start_process: StartProcess,
    monkeypatch: pytest.MonkeyPatch,
    ahead_seconds: float,
) -> None:
    """Whoever took it would raise InvalidToken."""
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, symmetric_encryption_keys=["secret"])
    process = await start_process(live=True)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + ahead_seconds)
    with pytest.raises(
        ShardError, match=r"this host's clock is 3600 s (ahead of|behind) Redis', and the layer encrypts"
    ):
        await probe(process)
    monkeypatch.setattr(time, "time", now)
    assert isinstance((await probe(process, timeout_seconds=LONG_SECONDS))[0], ProbesTaken)
    assert not any(task.done() for task in process.tasks), "the consumer goes on"


@pytest.mark.parametrize("protocol", [2, 3])
async def test_probes_work_with_both_protocols(
    each_redis_server: EmbeddedRedis, settings: LazySettings, start_process: StartProcess, protocol: int
) -> None:
    settings.CHANNEL_LAYERS = layer_of({"address": each_redis_server.url, "socket_timeout": None, "protocol": protocol})
    full = await start_process()
    await fill(full, 100)
    found = await probe(await start_process(live=True), await start_process(), full)
    assert [type(evidence) for evidence in found] == [ProbesTaken, ProbeUnanswered, InboxStuck]


async def test_many_processes_are_probed_at_once(redis_client: redis.Redis, start_process: StartProcess) -> None:
    live = [await start_process(live=True) for _ in range(10)]
    silent = [new_process_name() for _ in range(1000)]
    async with open_layer("default") as opened:
        inboxes = {name: {f"specific.{name}!"} for name in [*silent, *(process.name for process in live)]}
        evidence = await probe_processes(opened, inboxes, 3 * PROBE_TIMEOUT_SECONDS, leases={})

    assert all(isinstance(evidence[process.name], ProbesTaken) for process in live)
    assert all(isinstance(evidence[name], ProbeUnanswered) for name in silent)
    await until(lambda: redis_client.keys("*") == [])


# What it costs others: nothing


async def test_no_consumer_ever_sees_a_probe_and_messages_arrive_as_ever(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    process = await start_process()
    channels = await process.join("room", count=3)
    for channel in channels:
        await process.live(channel)

    for number in range(20):
        await asyncio.gather(
            probe(process), process.layer.send(channels[number % 3], {"type": "a.message", "number": number})
        )
    await process.layer.group_send("room", {"type": "a.message", "number": 20})

    await until(lambda: len(process.received) == 23)
    assert sorted(message["number"] for message in process.received) == [*range(20), 20, 20, 20]
    assert {message["type"] for message in process.received} == {"a.message"}
    assert not process.layer.receive_buffer or all(queue.empty() for queue in process.layer.receive_buffer.values())


async def test_probes_leave_no_key_behind(redis_client: redis.Redis, start_process: StartProcess) -> None:
    await probe(await start_process(live=True), await start_process())
    # The process itself acknowledges what it took a moment later.
    await until(lambda: redis_client.keys("*") == [])


async def test_an_unanswered_probe_leaves_the_messages_of_the_inbox_alone(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    silent = await start_process()
    (channel,) = await silent.join("room")
    for number in range(5):
        await silent.layer.send(channel, {"type": "a.message", "number": number})
    before = dump(redis_client)

    await probe(silent)

    assert dump(redis_client) == before


async def test_probes_are_taken_back_when_the_round_is_cancelled(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    silent = await start_process()
    task = asyncio.create_task(probe(silent, timeout_seconds=30))
    await until(lambda: redis_client.zcard(silent.inbox_key) == 1)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert redis_client.keys("*") == []


async def test_a_probe_outlives_its_round_in_redis_and_then_expires(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    """An inbox that expired would look like one that was read; one whose prober was killed must not stay for ever."""
    silent, waiting = await start_process(), await start_process()
    (channel,) = await waiting.join("room")
    await waiting.layer.send(channel, {"type": "a.message"})
    redis_client.expire(waiting.inbox_key, 1)
    task = asyncio.create_task(probe(silent, waiting, timeout_seconds=1.3))
    await until(lambda: redis_client.zcard(waiting.inbox_key) == 2)

    assert 3 < redis_client.ttl(silent.inbox_key) <= 60
    assert 3 < redis_client.ttl(waiting.inbox_key) <= 60
    assert [type(found) for found in await task] == [ProbeUnanswered, ProbeUnanswered]


@pytest.mark.parametrize("layer", ["channels_redis.core.RedisChannelLayer", "ops.layers.RedisChannelLayer"])
async def test_no_sender_trims_a_probe_or_has_it_expire(
    redis_server: EmbeddedRedis, settings: LazySettings, start_process: StartProcess, layer: str
) -> None:
    """With an expiry as short as this, each send to a group of the dead removes all that is a second old."""
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, backend=layer, expiry=1)
    silent, sender = await start_process(), await start_process()
    (channel,) = await silent.join("room")
    task = asyncio.create_task(probe(silent, timeout_seconds=4))
    for send in (sender.layer.group_send, sender.layer.send):
        await asyncio.sleep(1.2)  # longer than the expiry
        await send("room" if send == sender.layer.group_send else channel, {"type": "a.message"})
    (evidence,) = await task
    assert isinstance(evidence, ProbeUnanswered)
    assert evidence.taken == 0


async def test_a_process_with_a_long_backlog_lives(redis_client: redis.Redis, start_process: StartProcess) -> None:
    """It reads, but would not come to what is behind its messages before the round is over."""
    process = await start_process()
    await fill(process, 60, age_seconds=20)
    async with again_and_again(lambda: redis_client.zpopmin(process.inbox_key), each_seconds=0.1):
        (evidence,) = await probe(process, timeout_seconds=3)
    assert isinstance(evidence, ProbesTaken)


# Full inboxes


async def fill(process: AppProcess, messages: int, *, age_seconds: float = 0) -> None:
    async with open_layer("default") as opened:
        now = await opened.home.now() - age_seconds
        message = {"__asgi_channel__": [], "type": "a.message"}
        scores = {process.layer.serialize({**message, "number": n}): now + n / 1000 for n in range(messages)}
        await opened.home.client.zadd(process.inbox_key, scores)


async def test_a_full_inbox_gets_no_probe(redis_client: redis.Redis, start_process: StartProcess) -> None:
    silent = await start_process()
    await fill(silent, 100, age_seconds=12)
    before = dump(redis_client)
    task = asyncio.create_task(probe(silent))
    while not task.done():
        assert redis_client.zcard(silent.inbox_key) == 100
        await asyncio.sleep(0.02)

    (evidence,) = await task

    assert isinstance(evidence, InboxStuck)
    assert evidence.messages == 100
    assert 11 < evidence.oldest_age_seconds < 20
    assert dump(redis_client) == before


@pytest.mark.parametrize("messages", [98, 99, 100, 250])
async def test_a_process_that_drains_a_full_inbox_lives(
    redis_server: EmbeddedRedis, start_process: StartProcess, messages: int
) -> None:
    process = await start_process()
    await fill(process, messages)
    await process.live()

    (evidence,) = await probe(process, timeout_seconds=LONG_SECONDS)

    assert isinstance(evidence, (InboxDrained, ProbesTaken))


async def test_a_full_inbox_that_is_drained_slowly_is_a_sign_of_life(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    process = await start_process()
    await fill(process, 150)
    stop = asyncio.Event()

    async def drain() -> None:
        while not stop.is_set():
            redis_client.zpopmin(process.inbox_key)
            await asyncio.sleep(0.05)

    draining = asyncio.create_task(drain())
    (evidence,) = await probe(process, timeout_seconds=LONG_SECONDS)
    stop.set()
    await draining

    assert isinstance(evidence, InboxDrained)
    assert evidence.messages >= 140


@asynccontextmanager
async def again_and_again(do: Callable[[], object], each_seconds: float = 0.02) -> AsyncIterator[None]:
    """`do` is called that often while the block runs."""

    async def go_on() -> None:
        while True:
            do()
            await asyncio.sleep(each_seconds)

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        await waiting.end(task)


@pytest.mark.parametrize("age_seconds", [59.9, 30])
async def test_messages_that_senders_trim_by_age_are_no_sign_of_life(
    redis_client: redis.Redis, start_process: StartProcess, age_seconds: float
) -> None:
    """Each send removes what is older than the expiry: the inbox of a dead process moves, too."""
    silent = await start_process()
    await fill(silent, 150, age_seconds=age_seconds)

    def trim() -> None:
        redis_client.zremrangebyscore(silent.inbox_key, 0, time.time() - 60)

    async with again_and_again(trim):
        (evidence,) = await probe(silent)

    assert isinstance(evidence, (InboxStuck, ProbeUnanswered))


async def test_a_full_inbox_of_old_messages_that_is_read_slowly_is_a_sign_of_life(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    """Each of its messages could have been trimmed by a sender, so only a probe can tell."""
    process = await start_process()
    await fill(process, 150, age_seconds=57)

    async with again_and_again(lambda: redis_client.zpopmin(process.inbox_key)):
        (evidence,) = await probe(process, timeout_seconds=1.5)

    assert isinstance(evidence, ProbesTaken)


async def test_messages_from_a_host_whose_clock_is_ahead_are_no_sign_of_life(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    """What such a host sends removes each message of the others, as expired by its clock."""
    silent = await start_process()
    message = silent.layer.serialize({"type": "a.message"})

    def send_from_the_future() -> None:
        now = time.time() + 3600
        redis_client.zremrangebyscore(silent.inbox_key, 0, now - 60)
        redis_client.zadd(silent.inbox_key, {message: now})

    async with again_and_again(send_from_the_future):
        (evidence,) = await probe(silent)

    assert isinstance(evidence, ProbeUnanswered)


async def test_a_full_inbox_that_expires_as_a_whole_is_no_sign_of_life(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    silent = await start_process()
    await fill(silent, 100, age_seconds=60)
    redis_client.pexpire(silent.inbox_key, 100)

    (evidence,) = await probe(silent, timeout_seconds=0.5)

    assert not isinstance(evidence, (InboxDrained, ProbesTaken))


# Inboxes that are none


@pytest.mark.parametrize("command", ["SET {} x", "RPUSH {} x", "SADD {} x"])
async def test_an_inbox_of_another_type_is_no_evidence_and_is_left_alone(
    redis_client: redis.Redis, start_process: StartProcess, command: str
) -> None:
    odd, live, silent = await start_process(), await start_process(live=True), await start_process()
    redis_client.execute_command(*command.format(odd.inbox_key.decode()).split())
    before = dump(redis_client)

    found = await probe(odd, live, silent)

    assert [type(evidence) for evidence in found] == [NotProbed, ProbesTaken, ProbeUnanswered]
    await until(lambda: dump(redis_client) == before)


async def test_an_inbox_that_becomes_something_else_meanwhile_is_no_sign_of_life(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    silent = await start_process()
    task = asyncio.create_task(probe(silent))
    await until(lambda: redis_client.exists(silent.inbox_key) == 1)
    redis_client.delete(silent.inbox_key)
    redis_client.set(silent.inbox_key, "something else")

    (evidence,) = await task

    assert not isinstance(evidence, (ProbesTaken, InboxDrained))
    assert redis_client.get(silent.inbox_key) == b"something else"


# Shards, and receivers of the reaper's own


@asynccontextmanager
async def two_shards(start_redis: StartRedis, settings: LazySettings) -> AsyncIterator[tuple[OpenLayer, list[Any]]]:
    servers = [start_redis(), start_redis()]
    settings.CHANNEL_LAYERS = layer_of(*(server.url for server in servers))
    async with open_layer("default") as opened:
        yield opened, servers


async def test_inboxes_are_probed_on_the_shard_where_they_are(
    start_redis: StartRedis, settings: LazySettings, start_process: StartProcess
) -> None:
    async with two_shards(start_redis, settings) as (opened, _):
        live = [await start_process(live=True) for _ in range(8)]
        assert {opened.shard_of_inbox(process.inbox).index for process in live} == {0, 1}
        assert all(isinstance(found, ProbesTaken) for found in await probe(*live, timeout_seconds=LONG_SECONDS))


async def test_a_process_that_still_has_the_hosts_of_before_lives(
    start_redis: StartRedis, settings: LazySettings, start_process: StartProcess
) -> None:
    """They are changed for the reaper first: where the process reads, this configuration would not look for it."""
    first, second = start_redis(), start_redis()
    settings.CHANNEL_LAYERS = layer_of(first.url, second.url)
    processes = [await start_process(live=True) for _ in range(4)]
    silent = await start_process()
    for hosts in ([second.url, first.url], [start_redis().url, first.url, second.url]):
        settings.CHANNEL_LAYERS = layer_of(*hosts)
        found = await probe(*processes, timeout_seconds=LONG_SECONDS)
        assert [type(evidence) for evidence in found] == [ProbesTaken] * 4
        (evidence,) = await probe(silent)
        assert isinstance(evidence, ProbeUnanswered)
    for server in (first, second):
        with redis.Redis.from_url(server.url) as client:
            await until(lambda client=client: client.keys("*") == [])


async def test_a_process_that_reads_an_inbox_that_is_in_no_group_lives(
    redis_server: EmbeddedRedis, start_process: StartProcess
) -> None:
    """The stock layer reads one of a process's inboxes at a time: here not the one of its members."""
    process = await start_process()
    await process.join("room", prefix="chat")
    await process.live()
    await suspect_everybody()
    report = await run_reap()
    assert (report.removed, [found.state for found in report.processes]) == (0, ["live"])


async def test_the_toolkit_takes_no_lease_and_needs_no_right_to(
    start_redis: StartRedis, settings: LazySettings
) -> None:
    """Its receivers are layers of the configuration, which may be the drop-in layer, but no application's."""
    server = start_redis()
    settings.CHANNEL_LAYERS = layer_of(server.url, backend=DROP_IN)
    with redis.Redis.from_url(server.url) as client:
        add_members(client, "room", [f"specific.{'a' * 32}!x"])
        client.config_resetstat()
        report = await run_reap(dry_run=True)
        assert report.complete
        assert report.suspects == 1
        assert "cmdstat_hset" not in client.info("commandstats")


async def test_there_is_a_control_on_each_shard_and_it_answers(
    start_redis: StartRedis, settings: LazySettings, start_process: StartProcess
) -> None:
    async with two_shards(start_redis, settings) as (opened, servers):
        async with control_receivers(opened) as controls:
            assert {opened.shard_of_inbox(inbox).index: shard for shard, (_, inbox) in controls.items()} == {0: 0, 1: 1}
            mine: dict[str, Awaitable[Any] | set[str]] = {process: {inbox} for process, inbox in controls.values()}
            evidence = await probe_processes(opened, mine, LONG_SECONDS, leases={})
            assert all(isinstance(found, ProbesTaken) for found in evidence.values())
        for server in servers:
            with redis.Redis.from_url(server.url) as client:
                assert client.keys("*") == []
                await until(lambda: not any(found["cmd"] == "bzpopmin" for found in client.client_list()))


async def test_the_reapers_own_receivers_end_while_connections_break(
    redis_server: EmbeddedRedis, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Python 3.12, redis-py loses every now and then a cancellation that comes while it writes."""
    monkeypatch.setattr(waiting, "CANCEL_AGAIN_SECONDS", 0.05)
    settings.CHANNEL_LAYERS = layer_of({"address": redis_server.url, "socket_timeout": 5})

    async def break_connections() -> None:
        async with aioredis.Redis.from_url(redis_server.url) as client:
            while True:
                await client.client_kill_filter(_type="normal", skipme=True)
                await asyncio.sleep(0.001)

    async with open_layer("default") as opened:
        breaking = asyncio.create_task(break_connections())
        for round_ in range(100):
            receivers = control_receivers(opened)
            await receivers.__aenter__()
            await asyncio.sleep(0.0005 * (round_ % 20))
            await asyncio.wait_for(receivers.__aexit__(None, None, None), 30)
        await waiting.end(breaking)
