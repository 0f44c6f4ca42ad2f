"""The third promise: two runs from cron, and what dead processes left behind is gone, and nothing else."""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from channels_redis.core import RedisChannelLayer

from ops.model.liveness.stops import IDLE_SHOWS_AFTER_SECONDS
from project.embedded_redis import EmbeddedRedis
from project.sockets import FleetSocket, SocketFleet
from project.workers import Worker
from tests.acceptance.crontab import run_as_cron
from tests.acceptance.memberships import (
    channels,
    groups_of,
    in_redis,
    let_confirm_time_pass,
    process_of,
    without,
)
from tests.acceptance.reach import assert_all_hear
from tests.conftest import REPOSITORY, CommandResult, StartWorker
from tests.layer_builders import let_time_pass

SENT_AT = 9e9
CONFIRM_AFTER_SECONDS = 1
OPTIONS = ("--confirm-after", str(CONFIRM_AFTER_SECONDS), "--probe-timeout", "2")
GENERAL = {"thumbnails": 12345.5}

Cron = Callable[..., Coroutine[Any, Any, CommandResult]]


@pytest.fixture
def cron(redis_server: EmbeddedRedis) -> Cron:
    """`await cron("reap_stale", …)`: a command of the demo project as a line of a crontab runs it."""

    async def run(*argv: str) -> CommandResult:
        command = shlex.join([sys.executable, "manage.py", *argv])
        line = f"cd {shlex.quote(str(REPOSITORY))} && REDIS_URL={redis_server.url} {command}"
        return await asyncio.to_thread(run_as_cron, line)

    return run


def document(done: CommandResult) -> dict[str, Any]:
    assert done.returncode == 0, done
    assert not done.err
    read: dict[str, Any] = json.loads(done.out)
    return read


async def open_some(fleet: SocketFleet, workers: list[Worker], room: str) -> None:
    """Each worker serves members of a room of its own, of the lobby where all are, and of two groups at once."""
    await fleet.open_many([(worker, name) for worker in workers for name in ("lobby", f"{room}-{worker.port}") * 4])
    await fleet.open_urls([f"{worker.ws_url}/ws/groups/?groups=both,{room}" for worker in workers for _ in range(3)])


async def test_two_runs_from_cron_remove_the_members_of_dead_processes_and_nothing_else(
    start_worker: StartWorker,
    sockets: SocketFleet,
    redis_server: EmbeddedRedis,
    redis_client: Any,
    channel_layer: RedisChannelLayer,
    cron: Cron,
) -> None:
    kinds = ("uvicorn", "daphne", "daphne", "uvicorn", "daphne")
    workers = [start_worker(kind, wait=False) for kind in kinds]
    for worker in workers:
        worker.wait_ready()
    killed_uvicorn, killed_daphne, stopped_daphne, *living = workers
    await open_some(sockets, [killed_uvicorn, killed_daphne, stopped_daphne], "doomed")
    await open_some(sockets, living, "safe")
    for group in ("room.lobby", "general"):
        redis_client.zadd(f"asgi:group:{group}", GENERAL)

    assert killed_uvicorn.kill() == -signal.SIGKILL
    assert killed_daphne.kill() == -signal.SIGKILL
    stopped_daphne.terminate()
    orphans = [socket for worker in workers[:3] for socket in sockets.of_worker(worker)]
    survivors = [socket for worker in living for socket in sockets.of_worker(worker)]
    assert await sockets.await_closed(orphans) == orphans
    leftovers = await leave_messages(orphans, channel_layer, redis_client)
    before = in_redis(redis_client)
    gone = {socket.channel for socket in orphans}
    assert gone == set().union(*channels(before).values()) - {socket.channel for socket in survivors} - set(GENERAL)

    first = document(await cron("reap_stale", "--format", "json", *OPTIONS))
    assert (first["removed"], first["suspects"]) == (0, memberships_of(orphans).total())
    assert in_redis(redis_client) == before
    await asyncio.to_thread(let_confirm_time_pass, redis_client, CONFIRM_AFTER_SECONDS)
    second = document(await cron("reap_stale", "--format", "json", *OPTIONS))

    # Exactly the dead, exactly as many as the sockets know of, and not a score of another one touched.
    removed = {process["process"]: process["removed"] for process in second["processes"] if process["removed"]}
    assert removed == memberships_of(orphans)
    assert second["removed"] == memberships_of(orphans).total()
    states = {process["process"]: process["state"] for process in second["processes"]}
    assert states == {process_of(s): "dead" for s in orphans} | {process_of(s): "live" for s in survivors}
    assert in_redis(redis_client) == without(before, gone)
    assert not redis_client.exists(*leftovers)
    await assert_all_hear(sockets, survivors, redis_server)
    assert not redis_client.exists(*leftovers)

    undone = document(await cron("reap_stale", "--format", "json", "--undo", second["run_id"]))
    assert (undone["restored"], undone["already_present"]) == (second["removed"], 0)
    assert in_redis(redis_client) == before
    assert {key: redis_client.zrange(key, 0, -1, withscores=True) for key in leftovers} == leftovers
    undone = document(await cron("reap_stale", "--format", "json", "--undo", second["run_id"]))
    assert (undone["restored"], undone["already_present"]) == (0, second["removed"])
    assert in_redis(redis_client) == before
    await assert_all_hear(sockets, survivors, redis_server)


def memberships_of(sockets: list[FleetSocket]) -> Counter[str]:
    """Process -> in how many groups its channels are, all told."""
    return Counter(process_of(socket) for socket in sockets for _ in groups_of(socket))


async def leave_messages(orphans: list[FleetSocket], layer: RedisChannelLayer, client: Any) -> dict[bytes, Any]:
    """What nobody will read any more: messages to the dead, and of one some which it had taken but not acknowledged."""
    await layer.group_send("room.lobby", {"type": "room.message", "text": "is anybody there?"})
    inboxes = sorted({f"asgi{socket.channel.partition('!')[0]}!".encode() for socket in orphans})
    client.zadd(
        inboxes[0] + b"$inflight",
        {layer.serialize({"type": kind}): at for kind, at in (("taken", 1.5), ("not.acknowledged", 2.5))},
    )
    keys = [*inboxes, inboxes[0] + b"$inflight"]
    for key in keys:  # They will not have expired, however long the runs take: an undo leaves out what has.
        client.zadd(key, {message: SENT_AT + number for number, message in enumerate(client.zrange(key, 0, -1))})
    messages = {key: client.zrange(key, 0, -1, withscores=True) for key in keys}
    assert all(messages.values())
    return messages


async def test_what_cron_prints_is_plain_text_that_names_the_dead(
    start_worker: StartWorker, sockets: SocketFleet, redis_client: Any, cron: Cron
) -> None:
    worker = start_worker("uvicorn")
    [orphan] = await sockets.open(worker, "lobby")
    worker.kill()
    await cron("reap_stale", *OPTIONS)
    let_time_pass(redis_client, IDLE_SHOWS_AFTER_SECONDS)
    for command in (("channels_groups",), ("reap_stale", *OPTIONS), ("reap_stale", "--history")):
        done = await cron(*command)
        assert done.returncode == 0, done
        assert "\x1b" not in done.out
        assert not done.err
        if "--history" not in command:
            assert process_of(orphan)[:8] in done.out
    assert in_redis(redis_client) == {}
