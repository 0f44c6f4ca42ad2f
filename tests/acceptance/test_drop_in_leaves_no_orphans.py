"""What makes members of nobody: the stock layer leaves them, the drop-in layer takes them away or has them reaped."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
from django.conf import LazySettings

from project.embedded_redis import EmbeddedRedis
from project.sockets import SocketFleet
from project.workers import Kind
from tests.acceptance.held_up import holding_up
from tests.acceptance.memberships import in_redis
from tests.acceptance.reach import assert_all_hear, open_layer_on
from tests.acceptance.two_layers import (
    BACKENDS,
    DROP_IN,
    STOCK,
    TwoLayers,
    all_are_members,
    count_members,
    members,
    seconds_until,
)
from tests.conftest import RunCommand, StartRedis, StartWorker
from tests.in_process_commands import run_beside
from tests.layer_builders import layer_of

CONFIRM_AFTER_SECONDS = 2
LEASE_SECONDS = 1.0
BOTH: Any = pytest.mark.parametrize("kind", ["uvicorn", "daphne"])


@pytest.fixture
def two_layers(start_worker: StartWorker, sockets: SocketFleet) -> TwoLayers:
    return TwoLayers(start_worker, sockets)


class Reaper:
    """`reap_stale` for one layer or the other, which the settings have under its name."""

    def __init__(self, server: EmbeddedRedis, settings: LazySettings) -> None:
        settings.CHANNEL_LAYERS = {
            layer: layer_of(server.url, backend=backend, prefix=layer)["default"] for layer, backend in BACKENDS.items()
        }

    async def run(self, layer: str, *arguments: str) -> dict[str, Any]:
        options = ("--confirm-after", str(CONFIRM_AFTER_SECONDS), "--probe-timeout", "1", "--layer", layer)
        done = await run_beside("reap_stale", "--format", "json", *options, *arguments)
        assert done.returncode in (0, 3), done
        report: dict[str, Any] = json.loads(done.out)
        return report

    async def run_both(self, *arguments: str) -> dict[str, dict[str, Any]]:
        return {layer: await self.run(layer, *arguments) for layer in BACKENDS}


@pytest.fixture
def reaper(redis_server: EmbeddedRedis, settings: LazySettings) -> Reaper:
    return Reaper(redis_server, settings)


async def lease_is_older_than(client: redis.Redis, seconds: float) -> None:
    [key] = client.keys(f"{DROP_IN}:ops:lease:*")

    def is_older() -> bool:
        now, micros = client.time()
        return bool(now + micros / 1e6 - float(client.hget(key, "renewed_at")) > seconds)

    await seconds_until(is_older, 4 * seconds)


# Ordinary ends


@BOTH
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
async def test_an_ordinary_deploy_leaves_no_member(
    kind: Kind, sign: signal.Signals, two_layers: TwoLayers, redis_client: Any
) -> None:
    two_layers.start(kind)
    await two_layers.open(5)
    for worker in two_layers.all_workers:
        worker.process._popen.send_signal(sign)
    for worker in two_layers.all_workers:
        worker.process.wait(15)
    left = {layer: count_members(in_redis(redis_client, layer)) for layer in BACKENDS}
    assert left == {STOCK: 5 if kind == "daphne" else 0, DROP_IN: 0}
    if kind == "daphne" or sign == signal.SIGINT:
        log = f"{DROP_IN}:ops:disconnects".encode()
        kept = [key for key in redis_client.keys(f"{DROP_IN}*") if not key.endswith(b"!") and key != log]
    else:  # uvicorn ends itself with the signal in the middle of its loop: of an empty process, the lease is left.
        kept = redis_client.keys(f"{DROP_IN}:ops:index:*")
    assert kept == []
    assert "Traceback" not in two_layers.log(DROP_IN)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
async def test_members_of_consumers_that_uvicorn_does_not_wait_for_go_at_once_or_with_the_first_run(
    sign: signal.Signals, two_layers: TwoLayers, redis_client: Any, reaper: Reaper
) -> None:
    two_layers.start(
        "uvicorn",
        asgi="tests.acceptance.difficult_application:application",
        arguments=("--timeout-graceful-shutdown", "1"),
        lease_seconds=LEASE_SECONDS,
    )
    await two_layers.open(5, "stubborn")
    for worker in two_layers.all_workers:
        worker.process._popen.send_signal(sign)
    for worker in two_layers.all_workers:
        worker.process.wait(15)
    left = {layer: count_members(in_redis(redis_client, layer)) for layer in BACKENDS}
    assert left == {STOCK: 5, DROP_IN: 5 if sign == signal.SIGTERM else 0}
    if left[DROP_IN]:
        await lease_is_older_than(redis_client, CONFIRM_AFTER_SECONDS)
        reports = await reaper.run_both()
        assert {layer: report["removed"] for layer, report in reports.items()} == {STOCK: 0, DROP_IN: 5}


@pytest.mark.parametrize(("kind", "away"), [("uvicorn", "kill"), ("daphne", "kill"), ("daphne", "pause")])
async def test_a_process_that_ends_while_redis_is_away_ends_soon_and_quietly(
    kind: Kind, away: str, two_layers: TwoLayers, start_redis: StartRedis
) -> None:
    server = start_redis()
    two_layers.start(kind, redis=server)
    await two_layers.open(2)
    getattr(server, away)()
    [worker] = two_layers.workers[DROP_IN]
    took = -time.monotonic()
    await asyncio.to_thread(worker.terminate, 20)
    took += time.monotonic()
    server.resume()
    assert took < 9.5
    noise = ("Task was destroyed", "never retrieved", "Exception ignored", "atexit")
    assert [line for line in worker.output().splitlines() if any(words in line for words in noise)] == []


# Ends without a word


@BOTH
async def test_one_run_removes_the_members_of_a_killed_process(
    kind: Kind, two_layers: TwoLayers, redis_client: Any, reaper: Reaper
) -> None:
    two_layers.start(kind, lease_seconds=LEASE_SECONDS)
    await two_layers.open(5)
    for worker in two_layers.all_workers:
        worker.kill()
    await lease_is_older_than(redis_client, CONFIRM_AFTER_SECONDS)
    reports = await reaper.run_both()
    assert {layer: report["removed"] for layer, report in reports.items()} == {STOCK: 0, DROP_IN: 5}
    assert {layer: count_members(members(redis_client, layer)) for layer in BACKENDS} == {STOCK: 5, DROP_IN: 0}
    assert redis_client.keys(f"{DROP_IN}:ops:lease:*") == redis_client.keys(f"{DROP_IN}:ops:index:*") == []


def assert_redis_was_not_away(log: str) -> None:
    """On a busy machine, a time limit of redis-py may be the first thing that rings when a process wakes."""
    assert log.count("is away (TimeoutError") == log.count("is back after 0."), log
    assert "is away (ConnectionError" not in log


async def test_a_process_that_was_stopped_and_reaped_puts_its_members_back_by_itself(
    two_layers: TwoLayers, redis_client: Any, redis_server: EmbeddedRedis, reaper: Reaper
) -> None:
    two_layers.start("uvicorn", lease_seconds=LEASE_SECONDS)
    await two_layers.open(5)
    for worker in two_layers.all_workers:
        worker.freeze()
    await lease_is_older_than(redis_client, CONFIRM_AFTER_SECONDS)
    reports = await reaper.run_both("--wait", "--max-share", "1")  # as if they were known to be gone
    assert {layer: report["removed"] for layer, report in reports.items()} == {STOCK: 5, DROP_IN: 5}
    for worker in two_layers.all_workers:
        worker.thaw()
    sockets = two_layers.sockets(DROP_IN)
    await seconds_until(lambda: all_are_members(redis_client, DROP_IN, sockets), 30)
    await assert_all_hear(two_layers.fleet, sockets, redis_server, prefix=DROP_IN)
    assert members(redis_client, STOCK) == {}
    said = f"reap_stale took it for dead (run {reports[DROP_IN]['run_id']}); 5 were put back"
    await seconds_until(lambda: said in two_layers.log(DROP_IN), 30)
    log = two_layers.log(DROP_IN)
    assert "may have lost memberships" not in log
    assert_redis_was_not_away(log)
    report = await reaper.run(DROP_IN)
    assert (report["removed"], report["suspects"]) == (0, 0)


async def test_a_frozen_process_is_silent_to_whoever_asks_though_its_lease_is_fresh(
    two_layers: TwoLayers, redis_client: Any, redis_server: EmbeddedRedis, run_command: RunCommand
) -> None:
    async def ask(*argv: str) -> dict[str, Any]:
        env = {"CHANNEL_BACKEND": BACKENDS[DROP_IN], "CHANNELS_PREFIX": DROP_IN}
        done = await asyncio.to_thread(run_command, *argv, "--format", "json", env=env)
        document: dict[str, Any] = json.loads(done.out)
        return document

    two_layers.start("uvicorn", lease_seconds=15)
    await two_layers.open(3)
    for worker in two_layers.all_workers:
        worker.freeze()
    await lease_is_older_than(redis_client, 6.5)
    [process] = (await ask("channels_groups"))["processes"]
    assert process["state"] == "live"
    assert any("late" in words for words in process["evidence"]), process
    beat = await ask("send_heartbeat", "--all", "--depth", "process", "--timeout", "1")
    assert (beat["totals"]["answered"], beat["totals"]["silent"]) == (0, 3)
    doctor = await ask("channels_doctor")
    [hung] = [finding for finding in doctor["findings"] if finding["id"] == "ops.E402"]
    assert "took no probe" in str(hung["evidence"])  # The one before was given to the BZPOPMIN that it had sent.
    for worker in two_layers.all_workers:
        worker.thaw()
    await assert_all_hear(two_layers.fleet, two_layers.sockets(DROP_IN), redis_server, prefix=DROP_IN)
    assert_redis_was_not_away(two_layers.log(DROP_IN))


async def test_a_blocked_event_loop_is_at_most_suspected_and_heals_itself(
    two_layers: TwoLayers, redis_client: Any, redis_server: EmbeddedRedis, reaper: Reaper, tmp_path: Path
) -> None:
    two_layers.start("uvicorn", lease_seconds=LEASE_SECONDS, asgi="tests.acceptance.difficult_application:application")
    await two_layers.open(3)
    [worker] = two_layers.workers[DROP_IN]
    holding = tmp_path / "holding"
    os.mkfifo(holding)
    url = f"{worker.http_url}/block?holding={quote(str(holding))}"
    block = asyncio.create_task(asyncio.to_thread(urllib.request.urlopen, url))
    async with holding_up(holding):
        await lease_is_older_than(redis_client, LEASE_SECONDS)
        report = await reaper.run(DROP_IN, "--confirm-after", "60")
    assert ([process["state"] for process in report["processes"]], report["removed"]) == (["suspect"], 0)
    (await block).close()
    sockets = two_layers.sockets(DROP_IN)
    assert all_are_members(redis_client, DROP_IN, sockets)
    await assert_all_hear(two_layers.fleet, sockets, redis_server, prefix=DROP_IN)
    report = await reaper.run(DROP_IN, "--confirm-after", "60")
    assert ([process["state"] for process in report["processes"]], report["removed"]) == (["live"], 0)


# Members of a process that lives


@BOTH
async def test_the_members_of_consumers_that_died_of_an_exception_are_discarded(
    kind: Kind, two_layers: TwoLayers, redis_client: Any, redis_server: EmbeddedRedis
) -> None:
    two_layers.start(kind, lease_seconds=3600)
    await two_layers.open(5, "doomed")
    await two_layers.open(5, "safe")
    doomed = [socket for socket in two_layers.fleet.sockets if socket.room == "doomed"]
    for layer in BACKENDS:
        async with open_layer_on([redis_server], layer) as sender:
            await sender.group_send("room.doomed", {"type": "nobody.handles.this"})
    assert len(await two_layers.fleet.await_closed(doomed)) == 10
    safe = [socket for socket in two_layers.sockets(DROP_IN) if socket.room == "safe"]
    # At once, not with the next renewal: none is due before that.
    await seconds_until(lambda: all_are_members(redis_client, DROP_IN, safe), 9)
    assert count_members(members(redis_client, STOCK)) == 10
    assert two_layers.log(DROP_IN).count("the consumer of") == 5
    await assert_all_hear(two_layers.fleet, safe, redis_server, prefix=DROP_IN)


async def test_a_socket_that_is_open_for_longer_than_the_group_expiry_still_receives(
    two_layers: TwoLayers, redis_server: EmbeddedRedis, redis_client: Any
) -> None:
    two_layers.start("uvicorn", "daphne", options={"group_expiry": 3}, lease_seconds=30)
    await two_layers.open(4)
    await seconds_until(lambda: not redis_client.exists(f"{STOCK}:group:room.lobby"), 10)
    assert members(redis_client, STOCK) == {}
    await assert_all_hear(two_layers.fleet, two_layers.sockets(DROP_IN), redis_server, prefix=DROP_IN)
    for layer in BACKENDS:
        await two_layers.sockets(layer)[0].send({"text": "after the expiry"})
    heard = await two_layers.fleet.await_received("after the expiry", 2)
    assert set(heard) == set(two_layers.sockets(DROP_IN))
