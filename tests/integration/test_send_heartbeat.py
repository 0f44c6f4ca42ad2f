"""`send_heartbeat` on a group with members of both layers: who can is asked, nobody else, and nothing is left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

import msgpack
import pytest
import redis

from ops.store.heartbeats import KEPT_SECONDS
from project.embedded_redis import EmbeddedRedis
from tests.conftest import REPOSITORY, CommandResult, RunCommand
from tests.integration import test_drop_in_keeps_members
from tests.integration.test_drop_in_keeps_members import MakeLayer, has_a_lease
from tests.integration.test_layer_answers_heartbeats import Consumer
from tests.layer_builders import StartProcess, until

make_layer = test_drop_in_keeps_members.make_layer


async def test_a_mixed_group_is_counted_member_by_member_at_each_depth(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    make_layer: MakeLayer,
    start_process: StartProcess,
    run_command: RunCommand,
) -> None:
    layer = make_layer(redis_server)
    stock = await (await start_process()).live()
    [stock_channel] = await stock.join("room")
    await stock.live(stock_channel)
    consumers = [await Consumer(layer).start() for _ in range(5)]
    await has_a_lease(layer)

    async def ping(answer: bool) -> bool:
        return answer

    layer.set_client_ping(consumers[0].channel, lambda: ping(True))
    layer.set_client_ping(consumers[1].channel, lambda: ping(False))

    async def beat(depth: str) -> tuple[CommandResult, dict[str, Any]]:
        argv = ("send_heartbeat", "room", "--depth", depth, "--format", "json", "--timeout", "2")
        done = await asyncio.to_thread(run_command, *argv)
        [group] = json.loads(done.out)["groups"]
        return done, group

    expected = {"process": (6, 6, [], 0, 0), "channel": (5, 5, [], 1, 0)}
    expected["client"] = (2, 1, [consumers[1].channel], 4, 3)  # type: ignore[assignment]
    for depth, (sent, answered, silent, not_capable, code) in expected.items():
        done, group = await beat(depth)
        counted = (group["sent"], group["answered"], group["silent"], group["not_capable"], done.returncode)
        assert counted == (sent, answered, silent, not_capable, code), done
        assert group["members"] == 6
    assert stock.received == []
    assert redis_client.keys("asgi:ops:ack:*") == []
    for consumer in consumers:
        await consumer.hears("still here")


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_command_leaves_nothing(
    sign: signal.Signals, redis_server: EmbeddedRedis, redis_client: redis.Redis, make_layer: MakeLayer
) -> None:
    layer = make_layer(redis_server)
    silent = await Consumer(layer).start()
    await has_a_lease(layer)

    async def never() -> bool:
        await asyncio.Event().wait()
        return True

    layer.set_client_ping(silent.channel, never)
    argv = ("manage.py", "send_heartbeat", "room", "--depth", "client", "--timeout", "60")
    env = {**os.environ, "REDIS_URL": redis_server.url}
    command = await asyncio.create_subprocess_exec(sys.executable, *argv, cwd=REPOSITORY, env=env)
    try:
        await until(lambda: bool(redis_client.keys("asgi:ops:ack:*")) and bool(layer._heartbeats._pinging), 20)
        [key] = redis_client.keys("asgi:ops:ack:*")
        assert 60 < redis_client.ttl(key) <= 60 + KEPT_SECONDS
        # Whoever was not asked does not count, nor does what is no acknowledgement.
        redis_client.rpush(key, b"\xc1", msgpack.packb([1, True, ["specific.x!y"]]), msgpack.packb([1, True, 5]))
        await until(lambda: redis_client.llen(key) == 1)
        command.send_signal(sign)
        assert await asyncio.wait_for(command.wait(), 20) == 128 + sign
    finally:
        if command.returncode is None:
            command.kill()
            await command.wait()
    assert redis_client.keys("asgi:ops:ack:*") == []
