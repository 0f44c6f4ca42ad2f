"""A consumer that died inside a living process leaves members that no probe can see. The disconnect log knows them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from project.sockets import SocketFleet
from project.workers import Kind
from tests.acceptance.recorded_ends import ENDING, STREAM
from tests.conftest import CommandResult, StartWorker
from tests.in_process_commands import run_beside
from tests.layer_builders import members_of
from tests.waiting import until

DOOMED, SPARED = 5, 4


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_exactly_the_orphans_of_handlers_that_raised_are_removed_under_the_stock_layer(
    kind: Kind, start_worker: StartWorker, sockets: SocketFleet, redis_client: redis.Redis
) -> None:
    worker = start_worker(kind, asgi=ENDING)
    urls = [f"{worker.ws_url}/ws/some-{number}/" for number in range(DOOMED + SPARED)]
    opened = await sockets.open_urls(urls)
    doomed, spared = opened[:DOOMED], opened[DOOMED:]
    for socket in doomed:
        await socket.send({})
    assert len(await sockets.await_closed(doomed, 15)) == DOOMED
    await until(lambda: redis_client.xlen(STREAM) == DOOMED)
    assert set(members_of(redis_client, "ending")) == {socket.channel for socket in opened}

    async def manage(*argv: str) -> tuple[CommandResult, dict[str, Any]]:
        done = await run_beside(*argv, "--format", "json")
        return done, json.loads(done.out)

    reaped, report = await manage("reap_stale", "--wait", "--confirm-after", "1", "--probe-timeout", "2")
    assert (reaped.returncode, report["removed"], report["suspects"]) == (0, 0, 0)

    dry, would = await manage("replay_disconnects", "--cleanup", "--dry-run")
    assert (dry.returncode, would["removed"]) == (3, DOOMED), dry
    done, cleaned = await manage("replay_disconnects", "--cleanup", "--resume")
    assert (done.returncode, cleaned["removed"], cleaned["kept"]) == (0, DOOMED, 0), done
    assert set(members_of(redis_client, "ending")) == {socket.channel for socket in spared}

    again, nothing = await manage("replay_disconnects", "--cleanup", "--resume")
    assert (again.returncode, nothing["records"], nothing["removed"]) == (0, 0, 0)
    assert all(socket.is_open for socket in spared)
    back, undone = await manage("reap_stale", "--undo", cleaned["run_id"])
    assert (back.returncode, undone["restored"]) == (0, DOOMED)
