"""`send_heartbeat`: who can answer is asked, nobody else; what cannot be known is said; and nothing is left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgpack
import pytest
import redis
from django.conf import LazySettings

from ops.layers import RedisChannelLayer
from ops.store.heartbeats import FULLEST_SHARE, KEPT_SECONDS
from project.embedded_redis import EmbeddedRedis
from tests.conftest import REPOSITORY, CommandResult
from tests.in_process_commands import run_beside
from tests.integration.test_layer_answers_heartbeats import Consumer
from tests.layer_builders import (
    ASGI,
    AppProcess,
    MakeLayer,
    StartProcess,
    add_members,
    channels_of,
    has_a_lease,
    keeper_of,
    new_process_name,
)
from tests.waiting import until

TIMEOUT = ("--timeout", "2")
SHORT = ("--timeout", "0.3")


async def beat(*argv: str) -> tuple[CommandResult, dict[str, Any]]:
    done = await run_beside("send_heartbeat", "--format", "json", *argv)
    return done, json.loads(done.out)


def counts(group: dict[str, Any]) -> tuple[int, int, int, int, int]:
    names = ("members", "sent", "answered", "not_capable", "skipped")
    assert group["sent"] == group["answered"] + len(group["silent"])
    return tuple(group[name] for name in names)


async def live_layer(make: MakeLayer, server: EmbeddedRedis, *groups: str, **config: Any) -> list[Consumer]:
    """A process with the drop-in layer, and a consumer in each of the groups."""
    layer = make(server, **config)
    consumers = [await Consumer(layer).start(group) for group in groups]
    await has_a_lease(layer)
    return consumers


def pings(answer: bool) -> Callable[[], Awaitable[bool]]:
    async def ping() -> bool:
        return answer

    return ping


async def never() -> bool:
    await asyncio.Event().wait()
    return True


# Who answers


async def test_a_mixed_group_is_counted_member_by_member_at_each_depth(
    each_redis_server: EmbeddedRedis, make_layer: MakeLayer, start_process: StartProcess
) -> None:
    stock = await (await start_process()).live()
    [stock_channel] = await stock.join("room")
    await stock.live(stock_channel)
    consumers = await live_layer(make_layer, each_redis_server, *["room"] * 5)
    layer = consumers[0].layer
    layer.set_client_ping(consumers[0].channel, pings(True))
    layer.set_client_ping(consumers[1].channel, pings(False))
    expected: dict[str, Any] = {"process": (6, 6, 6, 0, 0), "channel": (6, 5, 5, 1, 0), "client": (6, 2, 1, 4, 0)}
    for depth, wanted in expected.items():
        done, document = await beat("room", "--depth", depth, *TIMEOUT)
        [group] = document["groups"]
        assert counts(group) == wanted, done
        assert done.returncode == (3 if depth == "client" else 0)
        assert group["silent"] == ([consumers[1].channel] if depth == "client" else [])
        assert 0 < group["rtt_ms"]["min"] <= group["rtt_ms"]["p99"] <= group["rtt_ms"]["max"] < 2000
        processes = {found["process"]: found for found in document["processes"]}
        assert processes[layer.client_prefix]["pid"] == str(os.getpid())
        assert processes[stock.name]["host"] is None
    assert stock.received == []
    with redis.Redis.from_url(each_redis_server.url) as client:
        assert client.keys("asgi:ops:ack:*") == []
    for consumer in consumers:
        await consumer.hears("still here")


async def test_members_that_no_message_can_be_sent_to_are_not_able(
    redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    odd = ["general-channel", "no.process!here", b"specific." + b"a" * 32 + b"!\xff"]
    add_members(redis_client, "room", odd)
    for depth in ("process", "channel", "client"):
        done, document = await beat("room", "--depth", depth, *TIMEOUT)
        assert counts(document["groups"][0]) == (3, 0, 0, 3, 0)
        assert document["groups"][0]["rtt_ms"] == {"min": 0, "p50": 0, "p95": 0, "p99": 0, "max": 0}
        assert (done.returncode, document["complete"]) == (3, True)
        assert done.err.startswith(f"nobody was asked: no member can answer at depth {depth}")
    assert [key for key in redis_client.keys("*") if b":group:" not in key] == []


async def test_a_group_that_does_not_exist_is_said_to(redis_server: EmbeddedRedis) -> None:
    for depth in ("process", "channel"):
        done, document = await beat("nobody", "--depth", depth)
        assert counts(document["groups"][0]) == (0, 0, 0, 0, 0)
        assert (done.returncode, done.err.count("no such group: 'nobody'")) == (0, 1)


async def test_all_groups_are_asked_and_a_channel_counts_in_each_of_its_groups(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, make_layer: MakeLayer
) -> None:
    consumers = await live_layer(make_layer, redis_server, *["a"] * 3)
    names = [f"g{number}" for number in range(150)]
    for name in names:
        add_members(redis_client, name, [consumer.channel for consumer in consumers])
    add_members(redis_client, "large", channels_of(consumers[0].layer.client_prefix, 1500))
    for depth, silent in (("process", 0), ("channel", 1500)):
        done, document = await beat("--all", "--depth", depth, *TIMEOUT)
        found = {group["group"]: group for group in document["groups"]}
        assert len(document["groups"]) == len(found) == 152
        assert all(counts(found[name]) == (3, 3, 3, 0, 0) for name in ("a", *names))
        assert len(found["large"]["silent"]) == silent
        assert (document["totals"]["members"], document["totals"]["silent"]) == (1953, silent)
        assert done.returncode == (3 if silent else 0)
        [process] = document["processes"]
        assert process["sent"] == 1953
    _, document = await beat("--match", "g1?", *TIMEOUT)
    assert {group["group"] for group in document["groups"]} == {f"g1{number}" for number in range(10)}


async def test_at_depth_process_each_process_is_probed_once_however_many_groups_it_is_in(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, start_process: StartProcess
) -> None:
    process = await start_process("a", live=True)
    dead = channels_of(new_process_name(), 1)

    async def scripts_for(*argv: str) -> int:
        redis_client.config_resetstat()
        done, document = await beat(*argv, "--depth", "process", *TIMEOUT)
        assert done.returncode == 3, done
        answers = {found["process"]: found["answered"] for found in document["processes"]}
        assert answers[process.name] == len(document["groups"])
        stats = redis_client.info("commandstats")
        return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval"))

    add_members(redis_client, "a", dead)
    await scripts_for("a")  # Loads the script.
    one = await scripts_for("a")
    for number in range(100):
        add_members(redis_client, f"more-{number}", [*channels_of(process.name, 1), *dead])
    assert await scripts_for("--all") == one
    assert redis_client.zcard(ASGI.inbox(dead[0].partition("!")[0] + "!")) == 0


async def test_a_process_that_takes_one_probe_only_is_silent(
    redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    """As one that was stopped: Redis hands the first probe to a BZPOPMIN that was waiting already."""
    [channel] = channels_of(new_process_name(), 1)
    add_members(redis_client, "room", [channel])
    inbox = ASGI.inbox(channel.partition("!")[0] + "!")

    def take_one() -> Any:
        with redis.Redis.from_url(redis_server.url) as client:
            return client.bzpopmin(inbox, timeout=10)

    took, (done, document) = await asyncio.gather(
        asyncio.to_thread(take_one), beat("room", "--depth", "process", *TIMEOUT)
    )
    assert took is not None
    assert (done.returncode, document["groups"][0]["silent"]) == (3, [channel])


# What an inbox must not suffer


async def not_reading(make: MakeLayer, server: EmbeddedRedis, **config: Any) -> Consumer:
    """A consumer of a process that says that it answers heartbeats and reads nothing any more."""
    [consumer] = await live_layer(make, server, "room", **{"lease_seconds": 30, **config})
    await keeper_of(consumer.layer).stop()
    consumer.task.cancel()
    await asyncio.wait([consumer.task])
    await consumer.layer.close_pools()
    return consumer


@pytest.mark.parametrize(("over", "skipped"), [(0, 0), (1, 1)])
async def test_an_inbox_near_its_capacity_gets_no_heartbeat_and_is_named(
    over: int, skipped: int, redis_server: EmbeddedRedis, redis_client: redis.Redis, make_layer: MakeLayer
) -> None:
    consumer = await not_reading(make_layer, redis_server)
    inbox = consumer.channel.partition("!")[0] + "!"
    held = int(FULLEST_SHARE * 100) - 1 + over
    redis_client.zadd(ASGI.inbox(inbox), {f"message {number}": time.time() for number in range(held)})
    done, document = await beat("room", *SHORT)
    [group], [process] = document["groups"], document["processes"]
    assert counts(group) == (1, 1 - skipped, 0, 0, skipped)
    assert group["skipped_inboxes"] == ({inbox: 1} if skipped else {})
    assert process["skipped_why"] == ("its inbox is near capacity" if skipped else None)
    assert done.returncode == 3
    assert redis_client.zcard(ASGI.inbox(inbox)) == held
    if skipped:
        told = await run_beside("send_heartbeat", "room", *SHORT)
        assert "1 member not asked: its inbox is near capacity" in " ".join(told.out.split())


async def test_many_heartbeats_that_nobody_reads_fill_no_inbox(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, make_layer: MakeLayer, settings: LazySettings
) -> None:
    """Nor do they get so many that the last of them would be skipped for the first."""
    settings.CHANNEL_LAYERS["default"]["CONFIG"]["capacity"] = 10
    consumer = await not_reading(make_layer, redis_server, capacity=10)
    inbox = ASGI.inbox(consumer.channel.partition("!")[0] + "!")
    add_members(redis_client, "large", channels_of(consumer.layer.client_prefix, 100))
    most = 0
    # Five members in each message, 20 messages a second.
    command = asyncio.create_task(beat("large", "--rate", "100", "--timeout", "0.5"))
    while not command.done():
        most = max(most, redis_client.zcard(inbox))
        await asyncio.sleep(0.01)
    _, document = await command
    assert 1 < most <= 5
    assert counts(document["groups"][0]) == (100, 100, 0, 0, 0)
    assert redis_client.zcard(inbox) == 0


async def test_a_host_whose_clock_is_wrong_does_no_harm(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = await not_reading(make_layer, redis_server)
    inbox = ASGI.inbox(consumer.channel.partition("!")[0] + "!")
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() - 86400)
    command = asyncio.create_task(beat("room", "--timeout", "3"))
    await until(lambda: redis_client.zcard(inbox) == 1)
    [(_, score)] = redis_client.zrange(inbox, 0, -1, withscores=True)
    seconds, _ = redis_client.time()
    assert seconds - 5 < score <= seconds + 1
    await command


async def test_a_key_that_is_no_inbox_is_left_alone(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, make_layer: MakeLayer
) -> None:
    consumer = await not_reading(make_layer, redis_server)
    redis_client.set(ASGI.inbox(consumer.channel.partition("!")[0] + "!"), "else")
    done, document = await beat("room", *SHORT)
    assert counts(document["groups"][0]) == (1, 0, 0, 0, 1)
    assert "cannot be read" in document["processes"][0]["skipped_why"]
    assert done.returncode == 3


# Rounds


async def test_rounds_are_told_one_by_one_and_summed_up(redis_server: EmbeddedRedis, make_layer: MakeLayer) -> None:
    consumers = await live_layer(make_layer, redis_server, "room", "room")
    told = await run_beside("send_heartbeat", "room", "--count", "3", "--interval", "0.01", *TIMEOUT)
    lines = told.out.splitlines()
    assert [line.partition(" of ")[0] for line in lines[:3]] == [f"round {n}: 2 members" for n in (1, 2, 3)]
    assert lines[-1] == "3 rounds, 6 heartbeats: 6 answered, 0 silent, 0 not able, 0 skipped"
    assert told.returncode == 0
    consumers[0].layer.set_client_ping(consumers[0].channel, pings(False))
    done, document = await beat("room", "--depth", "client", "--count", "2", "--interval", "0.01", *SHORT)
    assert [(group["round"], group["silent"]) for group in document["groups"]] == [
        (number, [consumers[0].channel]) for number in (1, 2)
    ]
    assert (document["rounds"], document["totals"]["silent"], done.returncode) == (2, 2, 3)


async def test_the_rate_is_kept(redis_server: EmbeddedRedis, redis_client: redis.Redis, make_layer: MakeLayer) -> None:
    consumers = await live_layer(make_layer, redis_server, *["room"] * 60)
    began = time.monotonic()
    done, document = await beat("room", "--rate", "100", *TIMEOUT)
    # 12 pieces of 5: the last of them may go out 11/20 of a second after the first.
    assert time.monotonic() - began > 0.5
    assert (counts(document["groups"][0]), done.returncode) == ((60, 60, 60, 0, 0), 0)
    assert len(consumers) == 60


@pytest.mark.parametrize(("answer", "code"), [(True, 0), (False, 3)])
async def test_ctrl_c_ends_the_rounds_with_a_summary(
    answer: bool, code: int, redis_server: EmbeddedRedis, redis_client: redis.Redis, make_layer: MakeLayer
) -> None:
    [consumer] = await live_layer(make_layer, redis_server, "room")
    consumer.layer.set_client_ping(consumer.channel, pings(answer))
    command = await start_command("room", "--depth", "client", "--interval", "0.05", *TIMEOUT)
    try:
        assert command.stdout is not None
        for number in (1, 2):
            line = await asyncio.wait_for(command.stdout.readline(), 30)
            assert line.startswith(f"round {number}: 1 member of 1 group".encode())
        command.send_signal(signal.SIGINT)
        rest, _ = await asyncio.wait_for(command.communicate(), 30)
    finally:
        await end(command)
    assert b" rounds, " in rest.splitlines()[-1]
    assert command.returncode == code
    assert redis_client.keys("asgi:ops:ack:*") == []


async def start_command(*argv: str) -> asyncio.subprocess.Process:
    url = redis_url_of_settings()
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "manage.py", "send_heartbeat", *argv),
        cwd=REPOSITORY,
        env={**os.environ, "REDIS_URL": url},
        stdout=asyncio.subprocess.PIPE,
    )


def redis_url_of_settings() -> str:
    from django.conf import settings

    [host] = settings.CHANNEL_LAYERS["default"]["CONFIG"]["hosts"]
    return str(host["address"])


async def end(command: asyncio.subprocess.Process) -> None:
    if command.returncode is None:
        command.kill()
        await command.wait()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_command_leaves_nothing(
    sign: signal.Signals, redis_server: EmbeddedRedis, redis_client: redis.Redis, make_layer: MakeLayer
) -> None:
    [silent] = await live_layer(make_layer, redis_server, "room")
    dead = await not_reading(make_layer, redis_server)
    silent.layer.set_client_ping(silent.channel, never)
    inbox = ASGI.inbox(dead.channel.partition("!")[0] + "!")
    command = await start_command("room", "--depth", "client", "--timeout", "60", "--format", "json")
    try:
        await until(lambda: redis_client.zcard(inbox) == 1 and bool(silent.layer._heartbeats._pinging))
        [key] = redis_client.keys("asgi:ops:ack:*")
        assert 60 < redis_client.ttl(key) <= 60 + KEPT_SECONDS
        # Whoever was not asked does not count, nor does what is no acknowledgement.
        redis_client.rpush(key, b"\xc1", msgpack.packb([1, True, ["specific.x!y"]]), msgpack.packb([1, True, 5]))
        await until(lambda: redis_client.llen(key) == 1)
        command.send_signal(sign)
        out, _ = await asyncio.wait_for(command.communicate(), 30)
        assert command.returncode == 128 + sign
    finally:
        await end(command)
    assert json.loads(out)["complete"] is False
    assert redis_client.keys("asgi:ops:ack:*") == []
    assert redis_client.zcard(inbox) == 0


# A Redis that fails


async def two_shards(
    start_redis: Callable[..., EmbeddedRedis], make: MakeLayer, settings: LazySettings
) -> tuple[list[EmbeddedRedis], list[RedisChannelLayer], dict[str, int]]:
    """Two servers; a process with its inbox on each; groups with a member of each process; group -> shard."""
    servers = [start_redis(), start_redis()]
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {"hosts": [{"address": server.url, "socket_timeout": None} for server in servers]},
        }
    }
    layers, groups = [], ["lobby", "support", "news", "team-1", "team-2", "room-17"]
    for index in range(2):
        layer = make(*servers, lease_seconds=30)
        while layer.consistent_hash(f"specific.{layer.client_prefix}!") != index:
            layer.client_prefix = new_process_name()
        for group in groups:
            await Consumer(layer).start(group)
        await has_a_lease(layer)
        layers.append(layer)
    on = {group: layers[0].consistent_hash(group) for group in groups}
    assert set(on.values()) == {0, 1}
    return servers, layers, on


async def test_groups_and_inboxes_on_several_shards_are_reached(
    start_redis: Callable[..., EmbeddedRedis], make_layer: MakeLayer, settings: LazySettings
) -> None:
    _, _, on = await two_shards(start_redis, make_layer, settings)
    for depth in ("process", "channel"):
        done, document = await beat("--all", "--depth", depth, *TIMEOUT)
        assert {group["group"]: counts(group) for group in document["groups"]} == dict.fromkeys(on, (2, 2, 2, 0, 0))
        assert (done.returncode, done.err, document["complete"]) == (0, "", True)


@pytest.mark.parametrize("down", [0, 1])
async def test_a_shard_that_is_down_is_named_and_the_others_are_asked(
    down: int, start_redis: Callable[..., EmbeddedRedis], make_layer: MakeLayer, settings: LazySettings
) -> None:
    servers, layers, on = await two_shards(start_redis, make_layer, settings)
    servers[down].kill()
    # The first shard keeps the acknowledgements: without it nobody can know who answers at depth channel.
    answering = {"process": 1, "channel": 0 if down == 0 else 1}
    for depth, answered in answering.items():
        done, document = await beat("--all", "--depth", depth, *TIMEOUT)
        found = {group["group"]: counts(group) for group in document["groups"]}
        there = [group for group, shard in on.items() if shard != down]
        assert found == dict.fromkeys(there, (2, answered, answered, 0, 2 - answered))
        assert (done.returncode, document["complete"]) == (1, False)
        assert [line[:8] for line in done.err.splitlines()] == [f"shard {down} "]
        assert [line[:8] for line in document["problems"]] == [f"shard {down} "]
        skipped = {process["process"]: process["skipped_why"] for process in document["processes"]}
        assert skipped[layers[down].client_prefix]
        assert (skipped[layers[1 - down].client_prefix] is None) == (answered == 1)
    table = await run_beside("send_heartbeat", "--all", *TIMEOUT)
    assert there[0] in table.out


@pytest.mark.parametrize("killed", [True, False])
async def test_acknowledgements_that_are_lost_midway_make_nobody_silent(
    killed: bool, start_redis: Callable[..., EmbeddedRedis], make_layer: MakeLayer, settings: LazySettings
) -> None:
    server = start_redis()
    settings.CHANNEL_LAYERS["default"]["CONFIG"]["hosts"] = [{"address": server.url, "socket_timeout": None}]
    answers, silent = await live_layer(make_layer, server, "room", "room", lease_seconds=30)
    answers.layer.set_client_ping(answers.channel, pings(True))
    silent.layer.set_client_ping(silent.channel, never)
    command = asyncio.create_task(beat("room", "--depth", "client", "--timeout", "60"))
    await until(lambda: bool(silent.layer._heartbeats._pinging))
    if killed:
        server.kill()
    else:
        with redis.Redis.from_url(server.url) as client:
            client.flushall()
    done, document = await asyncio.wait_for(command, 30)
    [group] = document["groups"]
    assert (group["silent"], document["complete"], done.returncode) == ([], False, 1)
    assert group["skipped"] + group["answered"] == 2
    assert ("shard 0 (" if killed else "lost") in done.err


async def test_a_shard_that_is_back_is_asked_again_in_the_next_round(
    start_redis: Callable[..., EmbeddedRedis], make_layer: MakeLayer, settings: LazySettings
) -> None:
    servers, _, on = await two_shards(start_redis, make_layer, settings)
    there = {group for group, shard in on.items() if shard == 0}
    servers[1].kill()
    command = asyncio.create_task(beat("--all", "--depth", "process", "--count", "5", "--interval", "1", *TIMEOUT))
    await until(lambda: bool(scans(servers[0])))
    servers[1].start()
    done, document = await command
    answered = {(group["round"], group["answered"]) for group in document["groups"] if group["group"] in there}
    # The other process reads its inbox again as soon as it notices that it can.
    assert (1, 1) in answered
    assert (5, 2) in answered
    assert done.returncode == 1  # It was not there in all rounds.


def scans(server: EmbeddedRedis) -> int:
    with redis.Redis.from_url(server.url) as client:
        return int(client.info("commandstats").get("cmdstat_scan", {"calls": 0})["calls"])


# Publish/subscribe


@pytest.fixture
def pubsub(redis_server: EmbeddedRedis, settings: LazySettings) -> None:
    settings.CHANNEL_LAYERS["default"]["BACKEND"] = "channels_redis.pubsub.RedisPubSubChannelLayer"


@pytest.mark.usefixtures("pubsub")
async def test_subscriptions_of_a_publish_subscribe_layer_are_heartbeats_of_depth_process(
    redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    processes = [AppProcess(), AppProcess()]
    consumers = []
    for process in processes:
        channel = await process.layer.new_channel()
        consumers.append(asyncio.create_task(process.layer.receive(channel)))
        await process.layer.group_add("lobby", channel)
    name = b"asgi__group__lobby"
    await until(lambda: dict(redis_client.pubsub_numsub(name))[name] == 2)
    done, document = await beat("lobby", "nobody", "--depth", "process", *TIMEOUT)
    found = {group["group"]: group for group in document["groups"]}
    assert counts(found["lobby"]) == (2, 2, 2, 0, 0)
    assert 0 < found["lobby"]["rtt_ms"]["min"] < 2000
    assert counts(found["nobody"]) == (0, 0, 0, 0, 0)
    assert (done.returncode, document["complete"], document["findings"]) == (0, True, [])
    assert "publish/subscribe" in document["notes"][0]
    for depth in ("channel", "client"):
        done, document = await beat("--all", "--depth", depth, *TIMEOUT)
        assert [counts(group) for group in document["groups"]] == [(2, 0, 0, 2, 0)]
        assert done.returncode == 3
    assert not any(task.done() for task in consumers), "a consumer was sent something"
    assert redis_client.keys("*") == []
    for consumer in consumers:
        consumer.cancel()
    await asyncio.gather(*consumers, return_exceptions=True)
    for process in processes:
        await process.layer.flush()


@pytest.mark.usefixtures("pubsub")
async def test_a_subscriber_that_reads_nothing_is_found(redis_server: EmbeddedRedis, redis_client: redis.Redis) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", redis_client.connection_pool.connection_kwargs["port"])
    writer.write(b"SUBSCRIBE asgi__group__lobby\r\n")
    assert await reader.readline()
    writer.transport.pause_reading()
    address = "{}:{}".format(*writer.get_extra_info("sockname"))
    for _ in range(16):  # What the kernel's buffers hold, and more.
        redis_client.publish("asgi__group__lobby", b"x" * (1 << 20))
    done = await run_beside("send_heartbeat", "lobby", "--depth", "process", *SHORT)
    assert done.returncode == 3
    assert f"{address} does not read what it is sent" in done.err
    writer.close()
