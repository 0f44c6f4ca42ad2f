"""Many processes that fall silent at once: they go if they have ended, and stay as long as they may only be frozen."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from ops.model.liveness.stops import IDLE_SHOWS_AFTER_SECONDS
from project.embedded_redis import EmbeddedRedis
from project.owned_process import OwnedProcess
from project.sockets import SocketFleet
from project.workers import REPOSITORY, Kind, Worker
from tests.acceptance.memberships import channels, in_redis, let_confirm_time_pass, of_sockets
from tests.acceptance.reach import assert_all_hear, open_layer_on
from tests.acceptance.runs import StartWorkers, frozen, reap, states, worker_starter
from tests.conftest import StartWorker
from tests.layer_builders import let_time_pass
from tests.waiting import until

CONFIRM_AFTER_SECONDS = 4.0
OPTIONS = ("--confirm-after", str(CONFIRM_AFTER_SECONDS), "--probe-timeout", "2")
ANYHOW = (0, 3)
RUNS_AT_MOST = 3
FIVE: tuple[Kind, ...] = ("uvicorn", "daphne", "daphne", "uvicorn", "daphne")


@pytest.fixture
def start_workers(start_worker: StartWorker) -> StartWorkers:
    return worker_starter(start_worker)


def idle_receivers(client: Any) -> int:
    """Connections on which nothing has happened for longer than a live receiver waits for a message."""
    return sum(line["cmd"] == "bzpopmin" and int(line["idle"]) > 10 for line in client.client_list())


def idle_connections(client: Any) -> int:
    return sum(int(line["idle"]) > 10 for line in client.client_list())


async def let_the_confirm_time_pass(client: Any) -> None:
    await asyncio.to_thread(let_confirm_time_pass, client, CONFIRM_AFTER_SECONDS)


async def run_until_removed(client: Any, removed: int) -> list[dict[str, Any]]:
    """Runs until so many members are gone, RUNS_AT_MOST of them: far enough apart for a frozen receiver to be idle."""
    reports: list[dict[str, Any]] = []
    while sum(report["removed"] for report in reports) < removed and len(reports) < RUNS_AT_MOST:
        if reports:
            let_time_pass(client, IDLE_SHOWS_AFTER_SECONDS)
        reports.append(await reap(*OPTIONS, exits=ANYHOW))
    return reports


# Everybody at the first run ever


async def test_if_all_are_frozen_at_the_first_run_ever_nothing_is_removed(
    start_workers: StartWorkers, sockets: SocketFleet, redis_server: EmbeddedRedis, redis_client: Any
) -> None:
    workers = start_workers("uvicorn", "daphne")
    opened = await sockets.open_many([(worker, "lobby") for worker in workers * 2])

    with frozen(*workers):
        await until(lambda: idle_receivers(redis_client) == len(workers))
        first = await reap(*OPTIONS)
        assert states(first) == {"suspect": 2}
        for _ in range(2):
            await let_the_confirm_time_pass(redis_client)
            report = await reap(*OPTIONS, exits=(3,))
            assert channels(in_redis(redis_client)) == of_sockets(opened)
            assert report["stopped"].startswith("nobody live")
            assert (states(report), report["removed"]) == ({"dead": 2}, 0)

    report = await reap(*OPTIONS)
    assert (states(report), report["stopped"]) == ({"live": 2}, None)
    assert channels(in_redis(redis_client)) == of_sockets(opened)
    await assert_all_hear(sockets, opened, redis_server)


async def test_if_all_froze_right_before_the_first_run_ever_nothing_is_removed(
    start_workers: StartWorkers, sockets: SocketFleet, redis_client: Any
) -> None:
    """Their connections are not listed as idle by any of these runs, whose confirm time is short."""
    workers = start_workers("uvicorn", "daphne")
    opened = await sockets.open_many([(worker, "lobby") for worker in workers * 2])
    with frozen(*workers):
        for _ in range(RUNS_AT_MOST):
            report = await reap(*OPTIONS, exits=ANYHOW)
            assert channels(in_redis(redis_client)) == of_sockets(opened), report
            await let_the_confirm_time_pass(redis_client)


@pytest.mark.parametrize("text", ["block", "count and block"])
async def test_if_all_block_in_the_handler_of_one_broadcast_nothing_is_removed(
    text: str, redis_server: EmbeddedRedis, redis_client: Any, tmp_path: Path
) -> None:
    """They have taken the message, and so no connection of theirs waits for one."""
    config = {"hosts": [{"address": redis_server.url, "socket_timeout": None}]}
    argv = [sys.executable, "-m", "tests.acceptance.receiving_process", json.dumps(config)]
    fleet = [OwnedProcess(argv, log_path=tmp_path / f"{at}.log", cwd=REPOSITORY) for at in range(3)]
    try:
        await until(lambda: all(process.output() for process in fleet))
        joined = channels(in_redis(redis_client))
        assert states(await reap(*OPTIONS)) == {"live": 3}
        async with open_layer_on([redis_server], "asgi") as layer:
            await layer.group_send("room", {"type": "message", "text": text})
        await until(lambda: all(text in process.output() for process in fleet))
        for _ in range(RUNS_AT_MOST):
            await until(lambda: idle_connections(redis_client) >= len(fleet))
            report = await reap(*OPTIONS, exits=ANYHOW)
            assert channels(in_redis(redis_client)) == joined, report
            let_time_pass(redis_client, IDLE_SHOWS_AFTER_SECONDS)
        assert report["stopped"].startswith("share: 3 of 3")
    finally:
        for process in fleet:
            process.kill()


async def test_if_all_were_killed_before_the_first_run_ever_their_members_go(
    start_workers: StartWorkers, sockets: SocketFleet, redis_client: Any
) -> None:
    workers = start_workers("uvicorn", "daphne")
    opened = await sockets.open_many([(worker, "lobby") for worker in workers * 2])
    for worker in workers:
        worker.kill()

    reports = await run_until_removed(redis_client, len(opened))

    assert channels(in_redis(redis_client)) == {}, [report["stopped"] for report in reports]


# Fewer than before


def kill(workers: Iterable[Worker]) -> None:
    for worker in workers:
        worker.kill()


def stop(workers: Iterable[Worker]) -> None:
    for worker in workers:
        worker.terminate()


@pytest.mark.parametrize(
    ("kind", "end"), [("uvicorn", kill), ("daphne", stop)], ids=["killed uvicorn", "stopped daphne"]
)
async def test_after_a_deploy_to_fewer_workers_the_members_of_the_old_ones_go(
    kind: Kind,
    end: Callable[[Iterable[Worker]], None],
    start_workers: StartWorkers,
    sockets: SocketFleet,
    redis_server: EmbeddedRedis,
    redis_client: Any,
) -> None:
    old = start_workers(kind, kind, kind)
    orphans = await sockets.open_many([(worker, "lobby") for worker in old * 2])
    assert states(await reap(*OPTIONS)) == {"live": 3}
    end(old)
    new = start_workers(kind, kind)
    living = await sockets.open_many([(worker, "lobby") for worker in new * 2])

    reports = await run_until_removed(redis_client, len(orphans))

    assert channels(in_redis(redis_client)) == of_sockets(living), [report["stopped"] for report in reports]
    await assert_all_hear(sockets, living, redis_server)


async def test_when_four_workers_of_five_were_killed_their_members_go(
    start_workers: StartWorkers, sockets: SocketFleet, redis_server: EmbeddedRedis, redis_client: Any
) -> None:
    left, *others = workers = start_workers(*FIVE)
    await sockets.open_many([(worker, "lobby") for worker in workers])
    assert states(await reap(*OPTIONS)) == {"live": 5}
    kill(others)

    reports = await run_until_removed(redis_client, len(others))

    living = sockets.of_worker(left)
    assert channels(in_redis(redis_client)) == of_sockets(living), [report["stopped"] for report in reports]
    await assert_all_hear(sockets, living, redis_server)


async def test_when_four_workers_of_five_are_frozen_their_members_stay(
    start_workers: StartWorkers, sockets: SocketFleet, redis_server: EmbeddedRedis, redis_client: Any
) -> None:
    _, *others = workers = start_workers(*FIVE)
    opened = await sockets.open_many([(worker, "lobby") for worker in workers])
    assert states(await reap(*OPTIONS)) == {"live": 5}

    with frozen(*others):
        await until(lambda: idle_receivers(redis_client) == len(others))
        await reap(*OPTIONS)
        for _ in range(2):
            await let_the_confirm_time_pass(redis_client)
            report = await reap(*OPTIONS, exits=(3,))
            assert (states(report), report["removed"]) == ({"live": 1, "dead": 4}, 0)
            assert report["stopped"].startswith("share: 4 of 5")
            assert "--max-share 1" in report["stopped"]

    assert channels(in_redis(redis_client)) == of_sockets(opened)
    report = await reap(*OPTIONS)
    assert (states(report), report["stopped"]) == ({"live": 5}, None)
    await assert_all_hear(sockets, opened, redis_server)
