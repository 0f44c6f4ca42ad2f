"""The drop-in layer answers heartbeats below its consumers, and nothing that is written as one can harm it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgpack
import pytest
import redis

from ops.application.layer.acknowledgements import Acknowledger
from ops.layers import RedisChannelLayer
from ops.model.heartbeats.message import Heartbeat
from project.embedded_redis import EmbeddedRedis
from tests.layer_builders import ASGI, MakeLayer
from tests.waiting import until

RUN = "a" * 32
KEY = ASGI.acknowledgements(RUN)


class Consumer:
    """Waits on a channel in a group and keeps what it gets."""

    def __init__(self, layer: RedisChannelLayer) -> None:
        self.layer = layer
        self.received: list[Any] = []

    async def start(self, group: str = "room") -> Consumer:
        self.channel = await self.layer.new_channel()
        await self.layer.group_add(group, self.channel)
        self.task = asyncio.create_task(self._consume())
        return self

    async def _consume(self) -> None:
        while True:
            self.received.append(await self.layer.receive(self.channel))

    async def hears(self, text: str) -> None:
        await self.layer.group_send("room", {"type": "chat", "text": text})
        await until(lambda: any(message.get("text") == text for message in self.received))


def acknowledged(client: redis.Redis) -> list[tuple[int, bool, str]]:
    return [
        (number, answer, channel)
        for raw in client.lrange(KEY, 0, -1)
        if raw != b"open"
        for number, answer, channels in [msgpack.unpackb(raw)]
        for channel in channels
    ]


async def beat(layer: RedisChannelLayer, depth: str, number: int = 0) -> None:
    await layer.group_send("room", Heartbeat(RUN, number, depth).message())


async def test_a_heartbeat_is_answered_for_each_channel_and_reaches_no_consumer(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    make_layer: MakeLayer,
) -> None:
    layer = make_layer(redis_server)
    consumers = [await Consumer(layer).start() for _ in range(20)]
    redis_client.rpush(KEY, "open")
    await beat(layer, "channel", 7)
    await until(lambda: len(acknowledged(redis_client)) >= 20)
    assert sorted(acknowledged(redis_client)) == sorted((7, True, consumer.channel) for consumer in consumers)
    for consumer in consumers:
        await consumer.hears("still here")
        assert [message["type"] for message in consumer.received].count("ops.heartbeat") == 0


async def test_nothing_is_written_where_nobody_waits(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    make_layer: MakeLayer,
) -> None:
    consumer = await Consumer(make_layer(redis_server)).start()
    await beat(consumer.layer, "channel")
    await consumer.hears("after it")
    await until(lambda: not consumer.layer._heartbeats._tasks)
    assert not redis_client.exists(KEY)


async def test_the_client_is_pinged_where_the_consumer_can_and_its_answer_is_the_acknowledgement(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    make_layer: MakeLayer,
) -> None:
    layer = make_layer(redis_server)
    answers, silent, broken, unable = [await Consumer(layer).start() for _ in range(4)]
    asked: list[str] = []

    async def ping(answer: bool) -> bool:
        asked.append("")
        return answer

    async def fail() -> bool:
        asked.append("")
        raise OSError("gone")

    layer.set_client_ping(answers.channel, lambda: ping(True))
    layer.set_client_ping(silent.channel, lambda: ping(False))
    layer.set_client_ping(broken.channel, fail)
    redis_client.rpush(KEY, "open")
    await beat(layer, "client")
    await until(lambda: len(asked) == 3 and len(acknowledged(redis_client)) >= 2)
    expected = [(0, True, answers.channel), (0, False, unable.channel)]
    assert sorted(acknowledged(redis_client)) == sorted(expected)
    layer.set_client_ping(answers.channel, None)
    await beat(layer, "client", 1)
    await until(lambda: (1, False, answers.channel) in acknowledged(redis_client))
    for consumer in (answers, silent, broken, unable):
        await consumer.hears("still here")


@pytest.mark.parametrize(
    "hostile",
    [
        {},
        {"run": "../../x", "number": 1, "depth": "channel"},
        {"run": RUN, "number": "1", "depth": "channel"},
        {"run": RUN, "number": -1, "depth": "client"},
        {"run": RUN, "number": 1, "depth": ["channel"]},
        {"run": [RUN], "number": 1, "depth": "channel"},
    ],
)
async def test_what_only_looks_like_a_heartbeat_is_dropped(
    hostile: dict[str, Any],
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    make_layer: MakeLayer,
) -> None:
    consumer = await Consumer(make_layer(redis_server)).start()
    redis_client.rpush(KEY, "open")
    await consumer.layer.group_send("room", {"type": "ops.heartbeat", **hostile})
    await consumer.hears("still here")
    assert acknowledged(redis_client) == []


async def test_an_acknowledgement_that_fails_harms_nobody(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    make_layer: MakeLayer,
) -> None:
    consumer = await Consumer(make_layer(redis_server)).start()
    redis_client.set(KEY, "no list")
    await beat(consumer.layer, "channel")
    await consumer.hears("still here")
    redis_client.delete(KEY)
    redis_client.rpush(KEY, "open")
    await beat(consumer.layer, "channel", 1)
    await until(lambda: acknowledged(redis_client) == [(1, True, consumer.channel)])


async def test_heartbeats_that_a_busy_consumer_leaves_waiting_cost_no_message_its_place(
    redis_server: EmbeddedRedis,
    make_layer: MakeLayer,
) -> None:
    layer = make_layer(redis_server, capacity=10)
    busy, other = await layer.new_channel(), await Consumer(layer).start()
    await layer.group_add("room", busy)
    await other.hears("first")
    for number in range(20):
        await beat(layer, "channel", number)
    for number in range(5):
        await other.hears(f"number {number}")
    texts = []
    while len(texts) < 6:
        texts.append((await layer.receive(busy))["text"])
    assert texts == ["first", *(f"number {number}" for number in range(5))]


async def test_the_ping_goes_with_its_channel(redis_server: EmbeddedRedis, make_layer: MakeLayer) -> None:
    consumer = await Consumer(make_layer(redis_server)).start()
    answers: Acknowledger = consumer.layer._heartbeats

    async def ping() -> bool:
        return True

    consumer.layer.set_client_ping(consumer.channel, ping)
    await consumer.hears("anything")
    assert answers._pings
    await consumer.layer.group_discard("room", consumer.channel)
    consumer.task.cancel()
    await asyncio.wait([consumer.task])
    assert not answers._pings
