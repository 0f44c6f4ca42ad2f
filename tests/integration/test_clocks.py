"""Clocks that are set, and servers that become the master again, make no silence longer and none endless."""

from __future__ import annotations

import time

import pytest
import redis
from django.conf import LazySettings

from ops.store.connection.shards import open_layer
from tests.conftest import StartRedis
from tests.layer_builders import (
    ASGI,
    CONFIRM_AFTER_SECONDS,
    AppProcess,
    StartProcess,
    layer_of,
    let_time_pass,
    run_reap,
    suspected,
)
from tests.waiting import until

DAY = 86400.0
CONFIRM_SHORTLY = 10.0
SHORTLY = {"confirm_after_seconds": CONFIRM_SHORTLY, "probe_timeout_seconds": 0.5}


def let_lease_say(client: redis.Redis, process: AppProcess, renewed_seconds_ago: float) -> None:
    """As the lease of a process with the drop-in layer that last renewed it then, by Redis' clock of today."""
    lease = {"renewed_at": f"{time.time() - renewed_seconds_ago:.3f}", "lease_seconds": 4, "host": "web", "pid": 1}
    client.hset(ASGI.lease(process.name), mapping=lease)


# Redis' clock is set forward


async def test_a_step_of_redis_clock_between_two_runs_confirms_nothing(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    """Two runs within one stall of a few seconds, between which the clock is set two minutes ahead."""
    await start_process("lobby", live=True)
    stalled = await start_process("room")
    await run_reap()
    let_time_pass(redis_client, 120, boots=False)

    assert (await run_reap()).removed == 0
    assert suspected(redis_client) == {stalled.name}
    let_time_pass(redis_client, CONFIRM_AFTER_SECONDS + 1)
    assert (await run_reap()).removed == 1, "what is dead goes when the time is really over"


@pytest.mark.parametrize("was_set", [True, False])
async def test_a_step_of_redis_clock_lets_no_lease_lapse(
    redis_client: redis.Redis, start_process: StartProcess, was_set: bool
) -> None:
    await start_process("lobby", live=True)
    stalled = await start_process("room")
    let_lease_say(redis_client, stalled, renewed_seconds_ago=0)
    # No lease has lapsed for longer than its server is up.
    await until(lambda: redis_client.info("server")["uptime_in_seconds"] >= 6)
    await run_reap()
    if was_set:
        let_time_pass(redis_client, 124, boots=False)
    let_lease_say(redis_client, stalled, renewed_seconds_ago=124)

    assert (await run_reap(confirm_after_seconds=5.0)).removed == (0 if was_set else 1)


async def test_nor_do_the_runs_after_the_one_that_saw_the_step_take_it_for_silence(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    """A process that stands still for two seconds, in which three runs look at it, and the clock is set once."""
    await start_process("lobby", live=True)
    stalled = await start_process("room")
    # No lease has lapsed for longer than its server is up.
    await until(lambda: redis_client.info("server")["uptime_in_seconds"] >= CONFIRM_SHORTLY)
    let_lease_say(redis_client, stalled, renewed_seconds_ago=4)
    await run_reap(**SHORTLY)
    let_time_pass(redis_client, 124, boots=False)
    let_lease_say(redis_client, stalled, renewed_seconds_ago=128)

    assert [(await run_reap(**SHORTLY)).removed for _ in range(2)] == [0, 0]
    let_time_pass(redis_client, CONFIRM_SHORTLY)
    assert (await run_reap(**SHORTLY)).removed == 1, "what is dead goes when the time is really over"


# Redis' clock was ahead, and is set right


async def test_a_suspicion_from_the_future_begins_again_and_the_dead_go(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    await start_process("lobby", live=True)
    await start_process("room", count=2)
    await run_reap()
    let_time_pass(redis_client, -DAY, boots=False)

    assert (await run_reap()).removed == 0
    let_time_pass(redis_client, CONFIRM_AFTER_SECONDS + 1)
    assert (await run_reap()).removed == 2


async def test_a_lease_from_the_future_is_no_sign_of_life_and_the_dead_go_in_three_runs(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    await start_process("lobby", live=True)
    dead = await start_process("room")
    let_lease_say(redis_client, dead, renewed_seconds_ago=-DAY)

    removed = 0
    for _ in range(3):
        removed += (await run_reap()).removed
        let_time_pass(redis_client, CONFIRM_AFTER_SECONDS + 1)
    assert removed == 1


async def test_a_lease_from_the_future_does_not_keep_a_live_process_from_answering(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    live = await start_process("room", live=True)
    let_lease_say(redis_client, live, renewed_seconds_ago=-DAY)
    report = await run_reap()
    assert [(process.process, process.state) for process in report.processes] == [(live.name, "live")]


# A server that is the master again


async def test_a_failover_to_another_server_and_back_starts_the_confirm_time_again(
    start_redis: StartRedis, settings: LazySettings, start_process: StartProcess
) -> None:
    """The server's run id is the same as before; what it missed meanwhile may have been a sign of life."""
    first, second = start_redis(), start_redis()
    settings.CHANNEL_LAYERS = layer_of(first.url)
    await start_process("room")
    await run_reap(max_share=1.0)
    with redis.Redis.from_url(first.url) as one, redis.Redis.from_url(second.url) as two:
        before = await epoch_and_run_id(one)
        for master, replica in ((one, two), (two, one)):
            await follow(replica, master)
            replica.replicaof("NO", "ONE")
        let_time_pass(one, CONFIRM_AFTER_SECONDS + 1)
        after = await epoch_and_run_id(one)
        assert (after[0] != before[0], after[1]) == (True, before[1])

        report = await run_reap(max_share=1.0)

        assert report.removed == 0
        assert report.stopped
        assert report.stopped.startswith("restart: Redis restarted or failed over since 1 silent process was")
        let_time_pass(one, CONFIRM_AFTER_SECONDS + 1)
        assert (await run_reap(max_share=1.0)).removed == 1


async def epoch_and_run_id(client: redis.Redis) -> tuple[str, str]:
    async with open_layer("default") as opened:
        return opened.epoch, client.info("server")["run_id"]


async def follow(replica: redis.Redis, master: redis.Redis) -> None:
    """Return when the replica has all that the master has."""
    options = master.connection_pool.connection_kwargs
    replica.replicaof(options["host"], options["port"])

    def is_in_step() -> bool:
        said = replica.info("replication")
        return said.get("master_link_status") == "up" and said["master_repl_offset"] > 0

    await until(is_in_step)
