"""One alarm for all commands of a connection, and a server that stands still is noticed as soon as ever."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
import redis
from redis import asyncio as aioredis
from redis.exceptions import DataError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ops.layers import RedisChannelLayer
from project.embedded_redis import EmbeddedRedis
from tests.conftest import StartRedis
from tests.waiting import until

LIMIT = 0.4
LARGE = b"x" * 20_000_000


async def test_many_commands_set_one_alarm(start_redis: StartRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = RedisChannelLayer(hosts=[start_redis().url])
    loop, timers = asyncio.get_running_loop(), []

    def call_at(*args: Any, **options: Any) -> asyncio.TimerHandle:
        timers.append(args)
        return original(*args, **options)

    client = layer.connection(0)
    await client.ping()
    original = loop.call_at
    monkeypatch.setattr(loop, "call_at", call_at)
    for number in range(100):
        assert await client.set("key", number)
        assert await client.get("key") == b"%d" % number
    assert len(timers) <= 1
    await layer.close_pools()


@pytest.mark.parametrize("used", [True, False], ids=["busy", "idle"])
async def test_an_alarm_that_rang_in_time_is_set_again(start_redis: StartRedis, used: bool) -> None:
    server = start_redis()
    layer = RedisChannelLayer(hosts=[{"address": server.url, "socket_timeout": LIMIT}])
    client = layer.connection(0)
    await client.ping()
    first_alarm = asyncio.get_running_loop().time() + LIMIT
    while asyncio.get_running_loop().time() <= first_alarm + 0.05:
        if used:
            await client.ping()
        else:
            await asyncio.sleep(LIMIT)
    server.pause()
    try:
        with pytest.raises(RedisTimeoutError, match="Timeout reading from 127"):
            await asyncio.wait_for(client.ping(), LIMIT * 20)
    finally:
        server.resume()
    assert await client.ping()
    await layer.close_pools()


async def test_a_message_that_came_while_the_process_was_blocked_is_received(
    start_redis: StartRedis,
) -> None:
    """Its alarm rings in the same turn in which the answer is read: Redis has given the message away by then."""
    server = start_redis()
    layer = RedisChannelLayer(hosts=[{"address": server.url, "socket_timeout": LIMIT}])
    channel = await layer.new_channel()
    receiving = asyncio.create_task(layer.receive(channel))

    def send() -> None:
        async def main() -> None:
            sender = RedisChannelLayer(hosts=[server.url])
            await sender.send(channel, {"type": "said"})
            await sender.close_pools()

        asyncio.run(main())

    with redis.Redis.from_url(server.url) as client:
        await until(lambda: client.info("clients")["blocked_clients"] == 1)
    sending = threading.Thread(target=send)
    sending.start()
    # The event loop has to stand still for longer than the time-out: that is the case under test, not a wait for
    # something. So it is a blocking call in a coroutine, against ASYNC251.
    time.sleep(LIMIT * 3)  # noqa: ASYNC251  # the loop has to stand still
    sending.join()
    assert (await asyncio.wait_for(receiving, 30))["type"] == "said"
    await layer.close_pools()


HELD_UP = LIMIT + 1.2


async def test_an_empty_answer_that_came_while_the_process_stood_still_is_no_outage(start_redis: StartRedis) -> None:
    """As after SIGCONT: Redis was never away."""
    server = start_redis()
    layer = RedisChannelLayer(hosts=[{"address": server.url, "socket_timeout": LIMIT}])
    waiting = asyncio.create_task(layer.connection(0).bzpopmin("nothing", timeout=LIMIT / 2))
    with redis.Redis.from_url(server.url) as client:
        await until(lambda: client.info("clients")["blocked_clients"] == 1)
    # The process has to stand still while the answer comes, as under SIGSTOP. Waiting for a condition would let it run,
    # and a clock of the test's own would not stop the event loop's.
    time.sleep(HELD_UP)  # noqa: ASYNC251  # the loop has to stand still
    assert await waiting is None
    await layer.close_pools()


async def test_a_server_that_stands_still_is_noticed_in_a_loop_that_is_always_held_up(start_redis: StartRedis) -> None:
    server = start_redis()
    layer = RedisChannelLayer(hosts=[{"address": server.url, "socket_timeout": LIMIT}])
    client = layer.connection(0)
    await client.ping()
    server.pause()
    try:
        waiting = asyncio.create_task(client.ping())
        for _ in range(5):
            # Held up again and again: each time for longer than the alarm allows, or it would not be put off.
            time.sleep(HELD_UP + 1)  # noqa: ASYNC251  # the loop has to stand still
            await asyncio.sleep(0.01)
            if waiting.done():
                break
        with pytest.raises(RedisTimeoutError):
            waiting.result()
    finally:
        server.resume()
    await layer.close_pools()


async def test_what_redis_py_refuses_to_send_is_refused(redis_server: EmbeddedRedis) -> None:
    layer = RedisChannelLayer(hosts=[redis_server.url])
    with pytest.raises(DataError):
        await layer.connection(0).set("key", True)
    assert await layer.connection(0).execute_command("CONFIG GET", "port")
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
    assert await client.set("key", b"small")
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
