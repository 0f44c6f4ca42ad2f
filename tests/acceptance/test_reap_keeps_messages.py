"""What is sent to a process that a run finds silent arrives when it wakes, as if no run had looked."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from channels.exceptions import ChannelFull
from channels_redis.core import RedisChannelLayer

from project.embedded_redis import EmbeddedRedis
from project.owned_process import OwnedProcess
from project.sockets import SocketFleet
from project.workers import REPOSITORY
from tests.acceptance.reach import open_layer_on
from tests.acceptance.runs import StartWorkers, frozen, reap, states, worker_starter
from tests.conftest import StartWorker
from tests.waiting import COMES_ABOUT_WITHIN_SECONDS, POLL_SECONDS, until

OPTIONS = ("--confirm-after", "600", "--probe-timeout", "2")
UNSEEN = "unseen"
"""The prefix of a layer that no run looks at."""


@pytest.fixture
def start_workers(start_worker: StartWorker) -> StartWorkers:
    return worker_starter(start_worker)


class Receiver:
    """A process with the stock layer, and a layer to send to it with the same configuration."""

    def __init__(self, server: EmbeddedRedis, log_path: Path, prefix: str, capacity: int) -> None:
        hosts = [{"address": server.url, "socket_timeout": None}]
        config = {"hosts": hosts, "prefix": prefix, "capacity": capacity}
        argv = [sys.executable, "-m", "tests.acceptance.receiving_process", json.dumps(config)]
        self.process = OwnedProcess(argv, log_path=log_path, cwd=REPOSITORY)
        self.layer = RedisChannelLayer(**config)
        self.sent: list[str] = []

    @property
    def _lines(self) -> list[str]:
        return self.process.output().splitlines()

    @property
    def received(self) -> list[str]:
        return self._lines[1:]

    @property
    def channel(self) -> str:
        return self._lines[0]

    async def wait_ready(self) -> None:
        await until(lambda: self._lines)
        assert await self.send("ready")
        await self.wait_for_all()

    async def send(self, text: str) -> bool:
        """Whether it was taken."""
        try:
            await self.layer.send(self.channel, {"type": "message", "text": text})
        except ChannelFull:
            return False
        self.sent.append(text)
        return True

    async def send_when_there_is_room(self, text: str) -> None:
        """A message takes a place until the stock layer has acknowledged it, a little after it was received."""
        deadline = time.monotonic() + COMES_ABOUT_WITHIN_SECONDS
        while not await self.send(text):
            assert time.monotonic() < deadline, "there is no room"
            await asyncio.sleep(POLL_SECONDS)

    async def fill(self, name: str) -> int:
        """Send as many as fit; returns how many."""
        count = 0
        while await self.send(f"{name} {count}"):
            count += 1
        return count

    async def wait_for_all(self) -> None:
        await until(lambda: len(self.received) >= len(self.sent))


StartReceiver = Callable[[str, int], Receiver]


@pytest.fixture
def start_receiver(redis_server: EmbeddedRedis, tmp_path: Path) -> Iterator[StartReceiver]:
    """`start_receiver(prefix, capacity)`"""
    started: list[Receiver] = []

    def start(prefix: str, capacity: int) -> Receiver:
        started.append(Receiver(redis_server, tmp_path / f"{len(started)}.log", prefix, capacity))
        return started[-1]

    yield start
    for receiver in started:
        receiver.process.kill()


@pytest.mark.parametrize("capacity", [1, 2, 5, 20])
async def test_all_that_fits_into_the_inbox_of_a_frozen_process_arrives_once_and_in_order(
    capacity: int, start_receiver: StartReceiver, redis_client: Any
) -> None:
    """The first run finds an inbox that is empty, one with a message and a full one; the second finds them full."""
    places = ("asgi", UNSEEN)
    empty, some, full = ([start_receiver(prefix, capacity) for prefix in places] for _ in range(3))
    receivers = [*empty, *some, *full]
    for receiver in receivers:
        await receiver.wait_ready()
    ready = {receiver: len(receiver.sent) for receiver in receivers}

    for receiver in receivers:
        receiver.process.freeze()
    for receiver in some:
        assert await receiver.send("before")
    for receiver in full:
        await receiver.fill("before")
    assert states(await reap(*OPTIONS)) == {"suspect": 3}
    for receiver in receivers:
        await receiver.fill("after the first run")
    assert states(await reap(*OPTIONS)) == {"suspect": 3}
    for receiver in receivers:
        await receiver.fill("after the second run")
        assert len(receiver.sent) - ready[receiver] >= capacity
    for receiver in receivers:
        receiver.process.thaw()
        await receiver.wait_for_all()
        await receiver.send_when_there_is_room("at last")
        await receiver.wait_for_all()
    # Nothing that was left for them waits any more, and could arrive for a second time.
    await until(lambda: not redis_client.keys("*!*"))

    for receiver in receivers:
        assert receiver.received == receiver.sent
    assert states(await reap(*OPTIONS)) == {"live": 3}


async def test_a_stream_of_messages_arrives_once_and_in_order_though_its_process_stalls_at_every_look(
    start_receiver: StartReceiver, redis_client: Any
) -> None:
    """It is frozen at any moment, between taking a message and acknowledging it as well."""
    looked_at, unseen = receivers = [start_receiver(prefix, 20) for prefix in ("asgi", UNSEEN)]
    for receiver in receivers:
        await receiver.wait_ready()
    streaming = True

    async def stream(receiver: Receiver) -> None:
        number = 0
        while streaming:
            number += await receiver.send(f"message {number}")
            await asyncio.sleep(0)

    streams = [asyncio.create_task(stream(receiver)) for receiver in receivers]
    try:
        for _ in range(3):
            for receiver in receivers:
                receiver.process.freeze()
            assert states(await reap(*OPTIONS)) == {"suspect": 1}
            wanted = [(receiver, len(receiver.received) + 100) for receiver in receivers]
            for receiver in receivers:
                receiver.process.thaw()
            await until(lambda wanted=wanted: all(len(receiver.received) > count for receiver, count in wanted))
    finally:
        streaming = False
        await asyncio.gather(*streams)
    for receiver in receivers:
        await receiver.wait_for_all()
    await until(lambda: not redis_client.keys("*!*"))

    assert looked_at.received == looked_at.sent
    assert unseen.received == unseen.sent


async def test_the_websockets_of_a_worker_that_stalls_at_every_look_hear_all_once_and_in_order(
    start_workers: StartWorkers, sockets: SocketFleet, redis_server: EmbeddedRedis
) -> None:
    capacity = 20
    [worker] = start_workers("uvicorn", CHANNEL_LAYER_OPTIONS=json.dumps({"capacity": capacity}))
    opened = await sockets.open(worker, "lobby", 3)
    texts = [f"message {number}" for number in range(3 * capacity)]

    async with open_layer_on([redis_server], "asgi") as layer:
        for start in range(0, len(texts), capacity):
            with frozen(worker):
                assert states(await reap(*OPTIONS)) == {"suspect": 1}
                for text in texts[start : start + capacity]:
                    await layer.group_send("room.lobby", {"type": "room.message", "text": text})
            last = texts[start + capacity - 1]
            assert await sockets.await_received(last, among=opened) == opened

    for socket in opened:
        assert [message["text"] for message in socket.received] == texts
