"""What a process with OpsMiddleware on the stock layer says of itself, and what it leaves behind when it ends."""

from __future__ import annotations

import json
import socket

import pytest
import redis
from channels_redis.core import RedisChannelLayer

from project.sockets import SocketFleet
from project.workers import Kind, Worker
from tests.acceptance.busy_application import ROOM
from tests.acceptance.test_busy_room import APPLICATION, GROUP, SERVERS, talked_to
from tests.conftest import RunCommand, StartWorker
from tests.waiting import until

SOCKETS = 30
MOST_SOCKETS = 500


def lease_of(channel: str) -> str:
    return f"asgi:ops:lease:{channel.partition('!')[0].rpartition('.')[2]}"


@pytest.mark.parametrize("kind", SERVERS)
async def test_it_says_who_it_is_and_leaves_nothing_at_sigterm(
    kind: Kind,
    start_worker: StartWorker,
    sockets: SocketFleet,
    channel_layer: RedisChannelLayer,
    redis_client: redis.Redis,
    run_command: RunCommand,
) -> None:
    worker: Worker = start_worker(kind, asgi=APPLICATION, WITH_OPS="1")
    opened = await sockets.open_urls([f"{worker.ws_url}/"] * SOCKETS)
    await until(lambda: redis_client.exists(lease_of(opened[0].channel)) == 1)
    [process] = json.loads(run_command("channels_groups", "--format", "json").out)["processes"]
    assert (process["state"], process["host"], process["pid"]) == ("live", socket.gethostname(), str(opened[0].pid))
    assert process["server"].split()[0] == kind
    assert process["evidence"][0].startswith("renewed its lease")
    async with talked_to(channel_layer):
        assert redis_client.zcard(GROUP) == SOCKETS
        worker.terminate(30)
        assert redis_client.zcard(GROUP) == 0


async def test_with_preload_each_worker_of_gunicorn_has_a_name_of_its_own(
    start_worker: StartWorker, sockets: SocketFleet, channel_layer: RedisChannelLayer, redis_client: redis.Redis
) -> None:
    """With one name for both, each got half of the messages."""
    worker = start_worker(
        "gunicorn", asgi=APPLICATION, arguments=("--preload", "-w", "2"), WITH_OPS="1", MAKE_LAYER_AT_IMPORT="1"
    )
    opened = []
    while len({one.pid for one in opened}) < 2:  # Either may take a connection.
        assert len(opened) < MOST_SOCKETS
        opened += await sockets.open_urls([f"{worker.ws_url}/"])
    assert len({lease_of(one.channel) for one in opened}) == 2
    for number in range(20):
        await channel_layer.group_send(ROOM, {"type": "said", "text": str(number)})
    await until(lambda: all(len(one.texts) == 20 for one in opened))
