"""Small writes have no time limit, since they do not wait; everything that can wait has it still."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis import asyncio as aioredis
from redis.exceptions import TimeoutError as RedisTimeoutError

from ops.layers import RedisChannelLayer
from tests.conftest import StartRedis

LIMIT = 0.4
LARGE = b"x" * 20_000_000


async def test_a_small_write_is_not_put_under_a_limit(start_redis: StartRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = RedisChannelLayer(hosts=[start_redis().url])
    client = layer.connection(0)
    await client.ping()

    def forbidden(*_: object) -> None:
        raise AssertionError("a write was put under a limit")

    monkeypatch.setattr(asyncio, "wait_for", forbidden)
    assert await client.set("key", "value")
    assert await client.get("key") == b"value"
    monkeypatch.undo()
    await layer.close_pools()


@pytest.mark.parametrize("value", [b"small", LARGE], ids=["small", "large"])
async def test_a_server_that_stands_still_is_noticed(start_redis: StartRedis, value: bytes) -> None:
    server = start_redis()
    layer = RedisChannelLayer(hosts=[{"address": server.url, "socket_timeout": LIMIT}])
    client = layer.connection(0)
    await client.ping()
    server.pause()
    began = time.monotonic()
    try:
        with pytest.raises(RedisTimeoutError):
            await client.set("key", value)
    finally:
        server.resume()
    assert LIMIT * 0.9 <= time.monotonic() - began < LIMIT * 10
    assert await client.set("key", value)
    await layer.close_pools()


async def test_a_new_connection_that_gets_no_answer_is_given_up(start_redis: StartRedis) -> None:
    server = start_redis(requirepass="secret")  # so that it has something to ask first
    layer = RedisChannelLayer(hosts=[{"address": server.url, "socket_timeout": LIMIT}])
    client: aioredis.Redis = layer.connection(0)
    server.pause()
    try:
        with pytest.raises(RedisTimeoutError):
            await asyncio.wait_for(client.ping(), LIMIT * 20)
    finally:
        server.resume()
    await layer.close_pools()
