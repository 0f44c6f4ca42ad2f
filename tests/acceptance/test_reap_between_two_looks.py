"""A process that is silent whenever a run looks, and alive in between, keeps its members; a dead one does not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from ops.store.liveness.markers import MARKERS
from project.embedded_redis import EmbeddedRedis
from project.sockets import FleetSocket, SocketFleet
from project.workers import Kind
from tests.acceptance.memberships import channels, in_redis, let_confirm_time_pass, of_sockets, process_of, suspects
from tests.acceptance.reach import assert_all_hear
from tests.acceptance.runs import (
    StartWorkers,
    frozen,
    markers,
    reap,
    report_of,
    state_of,
    until_alive_in_between,
    worker_starter,
)
from tests.conftest import RunCommand, StartWorker
from tests.waiting import until

CONFIRM_AFTER_SECONDS = 4.0
OPTIONS = ("--confirm-after", str(CONFIRM_AFTER_SECONDS), "--probe-timeout", "2")


@pytest.fixture
def start_workers(start_worker: StartWorker) -> StartWorkers:
    return worker_starter(start_worker)


def present(client: Any, sockets: Iterable[FleetSocket]) -> dict[str, set[str]]:
    """Group -> which channels of these sockets are in it."""
    theirs = {socket.channel for socket in sockets}
    found = {group: members & theirs for group, members in channels(in_redis(client)).items()}
    return {group: members for group, members in found.items() if members}


# Stalls


async def test_a_process_that_stalls_at_every_look_and_lives_in_between_keeps_its_members(
    start_workers: StartWorkers, sockets: SocketFleet, redis_server: EmbeddedRedis, redis_client: Any
) -> None:
    uvicorn, daphne, dead, live = start_workers("uvicorn", "daphne", "uvicorn", "daphne")
    stalling = [*await sockets.open(uvicorn, "lobby", 3), *await sockets.open(daphne, "lobby", 3)]
    living = [*stalling, *await sockets.open(live, "lobby")]
    orphans = await sockets.open(dead, "lobby", 2)
    dead.kill()
    removed = []

    for _ in range(3):
        with frozen(uvicorn, daphne):
            report = await reap(*OPTIONS)
        removed.append(report["removed"])
        assert present(redis_client, living) == of_sockets(living)
        assert {state_of(report, socket) for socket in stalling} == {"suspect"}
        # They live in between: they pass on what is said, and nobody joins.
        await assert_all_hear(sockets, living, redis_server)
        await until_alive_in_between(redis_client, CONFIRM_AFTER_SECONDS, *stalling)

    assert removed == [0, len(orphans), 0]
    assert channels(in_redis(redis_client)) == of_sockets(living)
    await assert_all_hear(sockets, living, redis_server)


async def test_a_process_that_lives_for_a_moment_while_it_is_probed_keeps_its_members(
    start_workers: StartWorkers,
    sockets: SocketFleet,
    redis_server: EmbeddedRedis,
    redis_client: Any,
    run_command: RunCommand,
) -> None:
    """It takes one probe and its markers, and stalls again before there is a second probe."""
    stalling, dead, live = start_workers("uvicorn", "uvicorn", "daphne")
    living = await sockets.open_many([(stalling, "lobby"), (live, "lobby")])
    orphans = await sockets.open(dead, "lobby", 2)
    dead.kill()
    inbox = f"asgi{living[0].channel.partition('!')[0]}!"

    with frozen(stalling):
        await reap(*OPTIONS)
        await asyncio.to_thread(let_confirm_time_pass, redis_client, CONFIRM_AFTER_SECONDS)
        # A process of its own: this one watches without a pause.
        run = asyncio.create_task(asyncio.to_thread(run_command, "reap_stale", "--format", "json", *OPTIONS))
        await until(lambda: redis_client.zcount(inbox, "-inf", "(0"))
        stalling.thaw()
        while markers(redis_client, living[0]) == MARKERS and not run.done():
            pass  # so that it stalls at once
        stalling.freeze()
        report = report_of(await run)

    assert present(redis_client, living) == of_sockets(living)
    # If it was given the time to take a second probe, it has been seen to live.
    assert state_of(report, living[0]) in {"suspect", "live"}
    assert report["removed"] == len(orphans)
    assert channels(in_redis(redis_client)) == of_sockets(living)
    await assert_all_hear(sockets, living, redis_server)


@pytest.mark.parametrize("kind", ["uvicorn", "daphne"])
async def test_a_run_that_waits_keeps_who_lives_between_its_looks_and_removes_the_dead(
    kind: Kind,
    start_workers: StartWorkers,
    sockets: SocketFleet,
    redis_server: EmbeddedRedis,
    redis_client: Any,
    run_command: RunCommand,
) -> None:
    stalling, live, dead = start_workers(kind, "uvicorn", kind)
    [stalled, *_] = living = await sockets.open_many([(stalling, "lobby"), (stalling, "lobby"), (live, "lobby")])
    orphans = await sockets.open(dead, "lobby", 3)
    dead.kill()
    options = ("--wait", "--confirm-after", "8", "--probe-timeout", "2", "--format", "json")

    stalling.freeze()
    run = asyncio.create_task(asyncio.to_thread(run_command, "reap_stale", *options))
    await until(lambda: markers(redis_client, stalled))
    first = suspects(redis_client)
    assert set(first) == {process_of(stalled), process_of(orphans[0])}
    stalling.thaw()
    await until(lambda: not markers(redis_client, stalled))
    stalling.freeze()
    # The second look remembers it anew, or removes its members.
    await until(lambda: run.done() or suspects(redis_client).get(process_of(stalled)) != first[process_of(stalled)])
    stalling.thaw()
    report = report_of(await run)

    assert present(redis_client, living) == of_sockets(living)
    assert report["removed"] == len(orphans)
    assert channels(in_redis(redis_client)) == of_sockets(living)
    await assert_all_hear(sockets, living, redis_server)


async def test_a_run_that_waits_removes_the_members_of_a_killed_process_and_of_no_other(
    start_workers: StartWorkers, sockets: SocketFleet, redis_server: EmbeddedRedis, redis_client: Any
) -> None:
    live, dead = start_workers("daphne", "uvicorn")
    living, orphans = await sockets.open(live, "lobby", 3), await sockets.open(dead, "lobby", 3)
    dead.kill()

    report = await reap("--wait", *OPTIONS)

    assert report["removed"] == len(orphans)
    assert channels(in_redis(redis_client)) == of_sockets(living)
    await assert_all_hear(sockets, living, redis_server)


# Joins that a run does not look for


async def test_a_process_that_joins_a_group_which_a_run_is_not_to_touch_has_the_whole_confirm_time_again(
    start_workers: StartWorkers, sockets: SocketFleet, redis_server: EmbeddedRedis, redis_client: Any
) -> None:
    stalling, dead, live = start_workers("uvicorn", "daphne", "daphne")
    living = await sockets.open_many([(stalling, "a1"), (stalling, "a2"), (live, "a1")])
    orphans = await sockets.open(dead, "a1", 2)
    elsewhere = await sockets.open(dead, "b1")
    dead.kill()

    with frozen(stalling):
        await reap(*OPTIONS, "--match", "room.a*")
    living += await sockets.open(stalling, "b1")
    await until_alive_in_between(redis_client, CONFIRM_AFTER_SECONDS, living[0])
    with frozen(stalling):
        report = await reap(*OPTIONS, "--match", "room.a*")

    assert present(redis_client, living) == of_sockets(living)
    [words] = [found["evidence"] for found in report["processes"] if found["process"] == process_of(living[0])]
    assert "joined a group" in " ".join(words)
    assert report["removed"] == len(orphans)
    assert channels(in_redis(redis_client)) == of_sockets([*living, *elsewhere])
    await assert_all_hear(sockets, living, redis_server)


WRONG_CLOCK = """
import os, pathlib, time

right, skew = time.time, pathlib.Path(os.environ["CLOCK_SKEW"])
time.time = lambda: right() + float(skew.read_text())
"""


async def test_a_join_by_a_clock_that_was_set_back_is_a_sign_of_life_too(
    tmp_path: Path,
    start_workers: StartWorkers,
    sockets: SocketFleet,
    redis_server: EmbeddedRedis,
    redis_client: Any,
) -> None:
    """The newest join of the process stays the one from before, however often it joins."""
    (tmp_path / "sitecustomize.py").write_text(WRONG_CLOCK)
    skew = tmp_path / "skew"
    skew.write_text("3600")
    [set_back] = start_workers("uvicorn", PYTHONPATH=str(tmp_path), CLOCK_SKEW=str(skew))
    live, dead = start_workers("daphne", "uvicorn")
    living = await sockets.open_many([(set_back, "lobby"), (set_back, "news"), (live, "lobby")])
    orphans = await sockets.open(dead, "lobby", 2)
    dead.kill()

    with frozen(set_back):
        await reap(*OPTIONS)
    skew.write_text("0")
    [later] = await sockets.open(set_back, "lobby")
    living.append(later)
    scores = in_redis(redis_client)["room.lobby"]
    assert scores[later.channel] < scores[living[0].channel]
    await until_alive_in_between(redis_client, CONFIRM_AFTER_SECONDS, later)
    with frozen(set_back):
        report = await reap(*OPTIONS)

    assert present(redis_client, living) == of_sockets(living)
    assert report["removed"] == len(orphans)
    assert channels(in_redis(redis_client)) == of_sockets(living)
    await assert_all_hear(sockets, living, redis_server)
