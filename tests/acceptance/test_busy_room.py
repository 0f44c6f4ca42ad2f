"""Clients that leave a room while it is talked to leave no member behind, on any server, with one line in asgi.py."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
from channels_redis.core import RedisChannelLayer

from project.sockets import SocketFleet
from project.workers import Kind
from tests.acceptance.busy_application import EVENTS, ROOM
from tests.conftest import StartWorker
from tests.waiting import until

SERVERS: list[Kind] = ["uvicorn", "gunicorn", "daphne", "hypercorn", "granian"]
APPLICATION = "tests.acceptance.busy_application:application"
TALK_SECONDS = float(os.environ.get("BUSY_ROOM_SECONDS", "8"))
SAY_EVERY_SECONDS = 0.02
AT_ONCE = 10
GROUP = f"asgi:group:{ROOM}"


@asynccontextmanager
async def talked_to(layer: Any, group: str = ROOM, kind: str = "said") -> AsyncIterator[None]:
    """Meanwhile, ``group`` gets a message of that type 50 times a second."""

    async def talk() -> None:
        while True:
            saying = asyncio.create_task(layer.group_send(group, {"type": kind, "text": "x" * 1000}))
            await asyncio.sleep(SAY_EVERY_SECONDS)
            await saying

    talking = asyncio.create_task(talk())
    try:
        yield
    finally:
        talking.cancel()
        await asyncio.wait([talking])


async def come_and_go(url: str, seconds: float) -> int:
    """Half of the clients close their socket, the others are gone without a word; returns how many there were."""
    draw, came, deadline = random.Random(1), 0, time.monotonic() + seconds
    async with SocketFleet() as fleet:
        while time.monotonic() < deadline:
            for socket in await fleet.open_urls([url] * AT_ONCE):
                came += 1
                if draw.random() < 0.5:
                    socket.abort()
                else:
                    await socket.connection.close()
    return came


def events(client: redis.Redis) -> Counter[str]:
    return Counter(raw.split()[0].decode() for raw in client.lrange(EVENTS, 0, -1))


@pytest.mark.parametrize("kind", SERVERS)
async def test_clients_that_leave_while_they_are_sent_to_leave_nothing_behind(
    kind: Kind,
    start_worker: StartWorker,
    sockets: SocketFleet,
    channel_layer: RedisChannelLayer,
    redis_client: redis.Redis,
) -> None:
    worker = start_worker(kind, asgi=APPLICATION, WITH_OPS="1")
    [streamed] = await sockets.open_urls([f"{worker.ws_url}/"])
    await streamed.send({"stream": True})
    async with talked_to(channel_layer):
        await asyncio.sleep(0.2)
        streamed.abort()
        came = await come_and_go(f"{worker.ws_url}/", TALK_SECONDS)
        await until(lambda: redis_client.zcard(GROUP) == 0, within_seconds=3)
    await until(lambda: events(redis_client)["disconnect"] == came + 1)
    assert events(redis_client) == {"connect": came + 1, "disconnect": came + 1, "streamed": 1}
    assert "Traceback" not in worker.output()


async def test_without_the_middleware_uvicorn_leaves_members_behind(
    start_worker: StartWorker, channel_layer: RedisChannelLayer, redis_client: redis.Redis
) -> None:
    worker = start_worker("uvicorn", asgi=APPLICATION)
    async with talked_to(channel_layer):
        came = await come_and_go(f"{worker.ws_url}/", TALK_SECONDS)
    await until(lambda: redis_client.zcard(GROUP) == came - events(redis_client)["disconnect"])
    assert redis_client.zcard(GROUP) > 0
