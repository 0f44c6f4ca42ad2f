"""A deploy while a room is talked to: whatever the server does with consumers, the drop-in layer leaves no member."""

from __future__ import annotations

import asyncio
from typing import get_args

import pytest
import redis

from project.sockets import SocketFleet
from project.workers import Kind
from tests.acceptance.memberships import in_redis
from tests.acceptance.reach import open_layer_on
from tests.acceptance.test_busy_room import talked_to
from tests.acceptance.two_layers import BACKENDS, DROP_IN, STOCK, count_members
from tests.conftest import StartRedis, StartWorker
from tests.waiting import until

SOCKETS = 30
CRASHES = 6
"""Some stops of Granian 2.8 under broadcasts end in SIGABRT, with either layer. That is as SIGKILL: repeated."""
GROUP = "room.lobby"


async def left_by(
    layer: str, kind: Kind, start_redis: StartRedis, start_worker: StartWorker, fleet: SocketFleet
) -> int:
    """How many members are left when that server has ended by SIGTERM, with all sockets open."""
    for _ in range(CRASHES):
        left, output = await _stop(layer, kind, start_redis, start_worker, fleet)
        if "panicked at" not in output:
            return left
    raise AssertionError(f"{kind} crashes at every stop")


async def _stop(
    layer: str, kind: Kind, start_redis: StartRedis, start_worker: StartWorker, fleet: SocketFleet
) -> tuple[int, str]:
    server = await asyncio.to_thread(start_redis)
    worker = await asyncio.to_thread(
        start_worker, kind, redis=server, CHANNEL_BACKEND=BACKENDS[layer], CHANNELS_PREFIX=layer
    )
    opened = await fleet.open(worker, "lobby", SOCKETS)
    with redis.Redis.from_url(server.url) as client:
        async with open_layer_on([server], layer) as sender, talked_to(sender, GROUP, "room.message"):
            await until(lambda: all(len(socket.received) > 10 for socket in opened))
            assert count_members(in_redis(client, layer)) == SOCKETS
            await asyncio.to_thread(worker.terminate, 30)
        return count_members(in_redis(client, layer)), worker.output()


@pytest.mark.parametrize("kind", get_args(Kind))
async def test_no_server_leaves_members_when_it_is_stopped_under_broadcasts(
    kind: Kind, start_redis: StartRedis, start_worker: StartWorker, sockets: SocketFleet
) -> None:
    assert await left_by(DROP_IN, kind, start_redis, start_worker, sockets) == 0


@pytest.mark.parametrize("kind", ["daphne", "hypercorn"])
async def test_the_stock_layer_leaves_all_of_them(
    kind: Kind, start_redis: StartRedis, start_worker: StartWorker, sockets: SocketFleet
) -> None:
    """So does Granian, mostly."""
    assert await left_by(STOCK, kind, start_redis, start_worker, sockets) == SOCKETS
