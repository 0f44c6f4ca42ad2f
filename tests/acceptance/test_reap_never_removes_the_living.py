"""The first promise: whatever a living process goes through, its members stay."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis
from channels_redis.core import RedisChannelLayer
from django.conf import LazySettings

from ops.model.liveness.evidence import ProbesTaken
from ops.model.liveness.stops import IDLE_SHOWS_AFTER_SECONDS
from ops.store.connection.scripts import script
from ops.store.connection.shards import open_layer
from ops.store.liveness.probes import probe_processes
from project.embedded_redis import EmbeddedRedis
from project.sockets import SocketFleet
from project.workers import Kind, Worker
from tests.acceptance.bare_project import BareProject, desk_urls
from tests.acceptance.held_up import holding_up
from tests.acceptance.interrupted_command import Interruptible
from tests.acceptance.memberships import channels, in_redis, of_sockets, process_of, suspects
from tests.acceptance.reach import assert_all_hear, open_layer_on
from tests.acceptance.runs import reap, report_of, states
from tests.conftest import RunCommand, StartRedis, StartWorker
from tests.layer_builders import layer_of, let_time_pass
from tests.waiting import until

KINDS: tuple[Kind, ...] = ("uvicorn", "daphne", "uvicorn")
BOTH = pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
MERCILESS = ("--confirm-after", "1", "--probe-timeout", "1")
"""Two runs in a row that get no answer within a second, and the members go."""
NO_STOP = ("--max-share", "1")
"""For those that are known to be gone, or taken for dead on purpose."""
PATIENT = ("--confirm-after", "0.001", "--probe-timeout", "10")
"""Whoever was silent in the last run and does not answer now goes; there is time to answer even on a busy machine."""
HASTY = ("--confirm-after", "0.001", "--probe-timeout", "1")
HELD_UP_SECONDS = 3.0  # by far longer than the probe timeout
WITHIN_SECONDS = 30.0


@asynccontextmanager
async def talking(layer: RedisChannelLayer, group: str) -> AsyncIterator[Counter[str]]:
    """Messages to a group, one after the other without a pause; yields how many so far."""
    counted: Counter[str] = Counter()

    async def talk() -> None:
        while True:
            await layer.group_send(group, {"type": "room.message", "text": "chatter"})
            counted["messages"] += 1

    task = asyncio.create_task(talk())
    try:
        yield counted
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_neither_a_busy_process_nor_an_idle_one_loses_a_member_while_a_dead_one_does(
    start_worker: StartWorker,
    sockets: SocketFleet,
    redis_server: EmbeddedRedis,
    redis_client: Any,
    channel_layer: RedisChannelLayer,
    run_command: RunCommand,
) -> None:
    busy, idle, dead = ready(*(start_worker(kind, wait=False) for kind in KINDS))
    living = [*await sockets.open(busy, "busy", 10), *await sockets.open(idle, "idle", 10)]
    orphans = [*await sockets.open(dead, "busy", 5), *await sockets.open(dead, "idle", 5)]
    dead.kill()

    removed = runs = all_seen_live = 0
    async with talking(channel_layer, "room.busy") as counted:
        while runs < 4 or not removed or not all_seen_live:
            assert runs < 12
            # A machine that starves the reaper too makes it stop (3), which is right, and no subject of this test.
            argv = ("reap_stale", "--format", "json", *MERCILESS)
            report = report_of(await asyncio.to_thread(run_command, *argv), exits=(0, 3))
            runs, removed = runs + 1, removed + report["removed"]
            all_seen_live += states(report)["live"] == 2
            present = channels(in_redis(redis_client))
            assert all(members <= present[group] for group, members in of_sockets(living).items())
    assert channels(in_redis(redis_client)) == of_sockets(living)
    assert removed == len(orphans)
    assert counted["messages"] > 100
    await assert_all_hear(sockets, living, redis_server)


def ready(*workers: Worker) -> tuple[Worker, ...]:
    for worker in workers:
        worker.wait_ready()
    return workers


@BOTH
async def test_a_process_frozen_for_less_than_the_confirm_time_is_suspected_and_then_cleared(
    kind: Kind,
    start_worker: StartWorker,
    sockets: SocketFleet,
    redis_server: EmbeddedRedis,
    redis_client: Any,
) -> None:
    worker = start_worker(kind)
    opened = await sockets.open(worker, "lobby", 5)
    worker.freeze()
    report = await reap(*MERCILESS)
    assert (report["suspects"], report["removed"]) == (5, 0)
    assert list(suspects(redis_client)) == [process_of(opened[0])]
    worker.thaw()
    report = await reap(*PATIENT)
    assert (states(report), report["removed"]) == ({"live": 1}, 0)
    assert suspects(redis_client) == {}
    assert channels(in_redis(redis_client)) == of_sockets(opened)
    await assert_all_hear(sockets, opened, redis_server)


# A blocked event loop


@pytest.fixture
def holding(tmp_path: Path) -> Path:
    """A FIFO for the process that is told to block (see `tests.acceptance.held_up`)."""
    fifo = tmp_path / "holding"
    os.mkfifo(fifo)
    return fifo


@BOTH
async def test_a_process_whose_event_loop_is_blocked_is_suspected_and_then_cleared(
    kind: Kind,
    bare_project: BareProject,
    sockets: SocketFleet,
    redis_server: EmbeddedRedis,
    redis_client: Any,
    holding: Path,
) -> None:
    worker = bare_project.start_worker(kind)
    opened = await sockets.open_urls(desk_urls(worker, "north,south", 3))
    await opened[0].send({"type": "block", "holding": str(holding)})
    async with holding_up(holding):
        report = report_of(await asyncio.to_thread(bare_project.manage, "reap_stale", "--format", "json", *MERCILESS))
    assert (states(report), report["removed"]) == ({"suspect": 1}, 0)
    report = report_of(await asyncio.to_thread(bare_project.manage, "reap_stale", "--format", "json", *PATIENT))
    assert (states(report), report["removed"]) == ({"live": 1}, 0)
    assert channels(in_redis(redis_client, "office")) == of_sockets(opened)
    await assert_all_hear(sockets, opened, redis_server, prefix="office")


@BOTH
async def test_a_run_that_waits_clears_a_process_whose_event_loop_was_blocked_at_the_first_look(
    kind: Kind,
    bare_project: BareProject,
    sockets: SocketFleet,
    redis_server: EmbeddedRedis,
    redis_client: Any,
    holding: Path,
) -> None:
    worker = bare_project.start_worker(kind)
    opened = await sockets.open_urls(desk_urls(worker, "north,south", 3))
    await opened[0].send({"type": "block", "holding": str(holding)})
    options = ("--wait", "--confirm-after", "2", "--probe-timeout", "1")
    async with holding_up(holding):
        run = asyncio.create_task(asyncio.to_thread(bare_project.manage, "reap_stale", "--format", "json", *options))
        await until(lambda: suspects(redis_client, "office"))
    report = report_of(await run)
    assert (states(report), report["removed"]) == ({"live": 1}, 0)
    assert channels(in_redis(redis_client, "office")) == of_sockets(opened)
    await assert_all_hear(sockets, opened, redis_server, prefix="office")


# Joining again


@pytest.mark.parametrize("how", ["the same channel again", "a new channel"])
async def test_a_process_that_joined_between_two_silences_has_the_whole_confirm_time_again(
    how: str, bare_project: BareProject, sockets: SocketFleet, redis_server: EmbeddedRedis, redis_client: Any
) -> None:
    worker = bare_project.start_worker("uvicorn")
    [opened] = await sockets.open_urls(desk_urls(worker, "north"))

    async def run_while_frozen(*options: str) -> dict[str, Any]:
        worker.freeze()
        done = await asyncio.to_thread(bare_project.manage, "reap_stale", "--format", "json", *options)
        worker.thaw()
        return report_of(done)

    await run_while_frozen(*HASTY)
    if how == "a new channel":
        await sockets.open_urls(desk_urls(worker, "south"))
    else:
        await opened.send({"type": "join", "group": "north"})
        assert await sockets.await_received("joined north", WITHIN_SECONDS)
    report = await run_while_frozen(*HASTY)
    assert (states(report), report["removed"]) == ({"suspect": 1}, 0)
    assert "joined a group" in " ".join(report["processes"][0]["evidence"])
    assert channels(in_redis(redis_client, "office")) == of_sockets(sockets.sockets)
    await assert_all_hear(sockets, sockets.sockets, redis_server, prefix="office")


async def test_a_member_that_joins_again_when_the_verdict_has_been_reached_stays_all_the_same(
    bare_project: BareProject, sockets: SocketFleet, redis_server: EmbeddedRedis, redis_client: Any
) -> None:
    worker = bare_project.start_worker("uvicorn")
    again, orphan = await sockets.open_urls(desk_urls(worker, "north", 2))
    worker.freeze()
    async with Interruptible(REDIS_URL=redis_server.url, CHANNELS_PREFIX="office") as commands:
        await commands.run("reap_stale", *HASTY)
        await commands.run_until_stopped(
            "reap_stale", "--format", "json", *HASTY, *NO_STOP, words=script("purge_members").sha.decode()
        )
        worker.thaw()
        await again.send({"type": "join", "group": "north"})
        assert await sockets.await_received("joined north", WITHIN_SECONDS, among=[again])
        report = json.loads((await commands.go_on()).out)
    assert (states(report), report["removed"], report["kept"]) == ({"dead": 1}, 1, 1)
    assert channels(in_redis(redis_client, "office")) == {"north": {again.channel}}
    await assert_all_hear(sockets, [again], redis_server, prefix="office")
    assert orphan.is_open


# A machine that stands still


async def test_a_process_that_was_held_up_together_with_the_reaper_is_given_time_to_answer(
    bare_project: BareProject, sockets: SocketFleet, redis_server: EmbeddedRedis, redis_client: Any
) -> None:
    worker = bare_project.start_worker("uvicorn")
    opened = await sockets.open_urls(desk_urls(worker, "north", 2))
    worker.freeze()
    report: dict[str, Any] = {"stopped": "not yet run"}
    async with Interruptible(REDIS_URL=redis_server.url, CHANNELS_PREFIX="office") as commands:
        await commands.run("reap_stale", *HASTY)
        # Where the reaper's own receiver was too slow as well, the run stops before it comes to what is tested here.
        while report["stopped"]:
            worker.freeze()
            # Some looks for answers have gone by, and the receiver has given its.
            await commands.run_until_stopped("reap_stale", "--format", "json", *HASTY, words="ZSCORE", nth=11)
            await asyncio.sleep(HELD_UP_SECONDS)
            worker.thaw()
            report = json.loads((await commands.go_on()).out)
            assert report["removed"] == 0
    assert states(report) == {"live": 1}
    await assert_all_hear(sockets, opened, redis_server, prefix="office")


# Who cannot be judged


async def test_members_whose_process_nobody_can_know_stay(
    start_worker: StartWorker, sockets: SocketFleet, redis_client: Any
) -> None:
    worker = start_worker("uvicorn")
    orphans = await sockets.open(worker, "lobby", 3)
    worker.kill()
    unknown = {
        name: float(n)
        for n, name in enumerate(
            [
                b"thumbnails",
                b"",
                b"!",
                b"specific.!",
                b"specific." + uuid4().hex.encode(),
                b"specific." + uuid4().hex[:-1].encode() + b"!" + uuid4().hex.encode(),
                b"specific." + uuid4().hex.upper().encode() + b"A!x",
                b"\xff\x00\x1b[2J." + b"!",
                orphans[0].channel.replace("!", "?").encode(),
            ],
            start=1,
        )
    }
    redis_client.zadd("asgi:group:room.lobby", unknown)
    await reap(*MERCILESS)
    let_time_pass(redis_client, IDLE_SHOWS_AFTER_SECONDS)
    report = await reap(*MERCILESS)
    assert report["removed"] == len(orphans)
    assert dict(redis_client.zrange("asgi:group:room.lobby", 0, -1, withscores=True)) == unknown


# A shard that does not answer


@pytest.mark.parametrize("how", ["frozen", "stopped"])
@pytest.mark.parametrize("silent", [0, 1])
async def test_while_one_shard_does_not_answer_nothing_is_removed_on_any(
    how: str,
    silent: int,
    start_redis: StartRedis,
    start_worker: StartWorker,
    sockets: SocketFleet,
    settings: LazySettings,
) -> None:
    shards = [start_redis(), start_redis()]
    urls = [server.url for server in shards]
    settings.CHANNEL_LAYERS = layer_of(*urls)
    async with open_layer_on(shards, "asgi") as layer:
        rooms = [
            next(name for name in map("room{}".format, count()) if layer.consistent_hash(f"room.{name}") == shard)
            for shard in (0, 1)
        ]
    worker = start_worker("uvicorn", redis=shards[0], REDIS_URL=" ".join(urls))
    orphans = await sockets.open_many([(worker, room) for room in rooms * 3])
    worker.kill()

    def present() -> dict[str, set[str]]:
        return {group: members for server in shards for group, members in members_on(server).items()}

    await reap(*MERCILESS, *NO_STOP)
    if how == "frozen":
        shards[silent].pause()
    else:
        shards[silent].save()
        shards[silent].kill()
    report = await reap(*MERCILESS, *NO_STOP, exits=(1,))
    assert (report["complete"], report["removed"]) == (False, 0)
    assert members_on(shards[1 - silent])
    if how == "frozen":
        shards[silent].resume()
    else:
        shards[silent].start()
    assert present() == of_sockets(orphans)

    # What a restart may have done to living connections needs a confirm time of its own.
    report = await reap(*MERCILESS, *NO_STOP, exits=(0,) if how == "frozen" else (3,))
    if how == "stopped":
        assert report["stopped"].startswith("restart")
        assert present() == of_sockets(orphans)
        report = await reap(*MERCILESS, *NO_STOP)
    assert report["removed"] == len(orphans)
    assert present() == {}


def members_on(server: EmbeddedRedis) -> dict[str, set[str]]:
    with redis.Redis.from_url(server.url) as client:
        return channels(in_redis(client))


# What consumers notice of it


async def test_hundreds_of_probes_reach_no_consumer_and_cost_no_message(
    start_worker: StartWorker,
    sockets: SocketFleet,
    redis_server: EmbeddedRedis,
    redis_client: Any,
    channel_layer: RedisChannelLayer,
) -> None:
    workers = ready(start_worker("uvicorn", wait=False), start_worker("daphne", wait=False))
    opened = await sockets.open_many([(worker, "lobby") for worker in workers for _ in range(3)])
    inboxes = {process_of(socket): {socket.channel.partition("!")[0] + "!"} for socket in opened}
    assert len(inboxes) == 2
    texts = [f"message {n}" for n in range(200)]
    async with open_layer("default") as layer:
        for text in texts:
            await channel_layer.group_send("room.lobby", {"type": "room.message", "text": text})
            evidence = await probe_processes(layer, inboxes, WITHIN_SECONDS, leases={})
            assert {type(fact) for fact in evidence.values()} == {ProbesTaken}
    assert await sockets.await_received(texts[-1], WITHIN_SECONDS, among=opened) == opened
    for socket in opened:
        assert [message["text"] for message in socket.received] == texts
    await until(lambda: redis_client.keys() == [b"asgi:group:room.lobby"])
    for worker in workers:
        assert "Traceback" not in worker.output()
    await assert_all_hear(sockets, opened, redis_server)
