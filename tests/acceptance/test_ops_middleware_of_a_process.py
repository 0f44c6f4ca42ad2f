"""What a process with OpsMiddleware on the stock layer says of itself, and what it leaves behind when it ends."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest
import redis
from channels_redis.core import RedisChannelLayer

from ops.store.doctor import readers
from project.sockets import FleetSocket, SocketFleet
from project.workers import Kind, Worker
from tests.acceptance.busy_application import ROOM
from tests.acceptance.test_busy_room import APPLICATION, GROUP, SERVERS, events, talked_to
from tests.acceptance.test_drop_in_stops_under_broadcasts import CRASHES
from tests.conftest import StartWorker
from tests.in_process_commands import run_beside
from tests.waiting import until

SOCKETS = 30
MOST_SOCKETS = 500


def lease_of(channel: str) -> str:
    return f"asgi:ops:lease:{channel.partition('!')[0].rpartition('.')[2]}"


def inbox_of(channel: str) -> str:
    return f"asgi{channel.partition('!')[0]}!"


@pytest.mark.parametrize("kind", SERVERS)
async def test_it_says_who_it_is_and_leaves_nothing_at_sigterm(
    kind: Kind,
    start_worker: StartWorker,
    sockets: SocketFleet,
    channel_layer: RedisChannelLayer,
    redis_client: redis.Redis,
) -> None:
    worker: Worker = start_worker(kind, asgi=APPLICATION, WITH_OPS="1")
    opened = await sockets.open_urls([f"{worker.ws_url}/"] * SOCKETS)
    await until(lambda: redis_client.exists(lease_of(opened[0].channel)) == 1)
    [process] = json.loads((await run_beside("channels_groups", "--format", "json")).out)["processes"]
    assert (process["state"], process["host"], process["pid"]) == ("live", socket.gethostname(), str(opened[0].pid))
    assert process["server"].split()[0] == kind
    assert process["evidence"][0].startswith("renewed its lease")
    for _ in range(CRASHES):
        async with talked_to(channel_layer):
            assert redis_client.zcard(GROUP) == SOCKETS
            worker.terminate(30)
        if "panicked at" not in worker.output():
            break
        redis_client.flushall()
        worker = start_worker(kind, asgi=APPLICATION, WITH_OPS="1")
        await sockets.open_urls([f"{worker.ws_url}/"] * SOCKETS)
    assert redis_client.zcard(GROUP) == 0


@pytest.mark.parametrize("kind", SERVERS)
async def test_its_open_websockets_are_registered_and_can_be_closed_from_outside(
    kind: Kind, start_worker: StartWorker, sockets: SocketFleet, redis_client: redis.Redis
) -> None:
    worker = start_worker(kind, asgi=APPLICATION, WITH_OPS="1", TRACK="1")
    kept, closed, streaming = await sockets.open_urls([f"{worker.ws_url}/"] * 3)
    await streaming.send({"stream": True})
    process = lease_of(closed.channel).rpartition(":")[2]
    key = f"asgi:ops:connections:{process}"

    def registered() -> dict[str, Any]:
        return {name.decode(): json.loads(raw) for name, raw in redis_client.hgetall(key).items()}

    await until(lambda: set(registered()) == {"", kept.channel, closed.channel, streaming.channel})
    assert registered()[""] == {"host": socket.gethostname(), "pid": closed.pid, "server": kind}
    entry = registered()[closed.channel]
    assert (entry["path"], entry["consumer"]) == ("/", "tests.acceptance.busy_application.BusyConsumer")
    assert abs(entry["since"] - time.time()) < 60

    request = {
        "channels": [closed.channel, streaming.channel, "unknown"],
        "code": 4403,
        "reason": "you were asked to go",
    }
    redis_client.rpush(f"asgi:ops:control:{process}", "[damaged", json.dumps(request))
    await sockets.await_closed([closed, streaming])
    reason = "" if kind == "daphne" else "you were asked to go"  # Daphne sends none.
    assert [(one.close_code, one.close_reason) for one in (closed, streaming)] == [(4403, reason)] * 2
    # The handler that streams ends 5 s later.
    await until(lambda: set(registered()) == {"", kept.channel})
    assert events(redis_client) == {"connect": 3, "disconnect": 2, "streamed": 1}
    assert kept.is_open
    assert "Traceback" not in worker.output()
    redis_client.flushall()  # It comes back.
    await until(lambda: set(registered()) == {"", kept.channel})
    worker.terminate(30)
    assert set(registered()) <= {""}


@pytest.mark.parametrize(
    "settings_of_worker",
    [{"WITH_OPS": "1"}, {"CHANNEL_BACKEND": "ops.layers.RedisChannelLayer"}, {}],
    ids=["OpsMiddleware", "drop-in layer", "stock layer"],
)
async def test_a_process_whose_consumers_are_all_busy_lives_as_its_lease_tells(
    settings_of_worker: dict[str, str],
    start_worker: StartWorker,
    sockets: SocketFleet,
    channel_layer: RedisChannelLayer,
    redis_client: redis.Redis,
) -> None:
    """None of them waits for a message, so no probe is taken. Without a lease, the process looks dead."""
    worker = start_worker("uvicorn", asgi=APPLICATION, **settings_of_worker)
    opened = await sockets.open_urls([f"{worker.ws_url}/"] * 2)
    for one in opened:
        await one.send({"stream": True})
    await until(lambda: all(len(one.received) > 3 for one in opened))
    await until(lambda: not settings_of_worker or redis_client.exists(lease_of(opened[0].channel)))
    # Each has one that it will look at when it is done.
    await channel_layer.group_send(ROOM, {"type": "said"})
    await until(lambda: redis_client.zcard(inbox_of(opened[0].channel)) == 0)
    merciless = ("--confirm-after", "0.001", "--probe-timeout", "1", "--max-share", "1")
    for _ in range(3):
        await run_beside("reap_stale", *merciless)
    assert redis_client.zcard(GROUP) == (2 if settings_of_worker else 0)
    assert all(one.is_open for one in opened)


async def served_by_two(worker: Worker, sockets: SocketFleet) -> list[FleetSocket]:
    opened: list[FleetSocket] = []
    while len({one.pid for one in opened}) < 2:  # Either may take a connection.
        assert len(opened) < MOST_SOCKETS
        opened += await sockets.open_urls([f"{worker.ws_url}/"])
    return opened


PRELOAD: dict[str, Any] = {"asgi": APPLICATION, "arguments": ("--preload", "-w", "2"), "MAKE_LAYER_AT_IMPORT": "1"}


async def test_with_preload_each_worker_of_gunicorn_has_a_name_of_its_own(
    start_worker: StartWorker, sockets: SocketFleet, channel_layer: RedisChannelLayer, redis_client: redis.Redis
) -> None:
    """With one name for both, each got half of the messages."""
    worker = start_worker("gunicorn", WITH_OPS="1", **PRELOAD)
    opened = await served_by_two(worker, sockets)
    assert len({lease_of(one.channel) for one in opened}) == 2
    for number in range(20):
        await channel_layer.group_send(ROOM, {"type": "said", "text": str(number)})
    await until(lambda: all(len(one.texts) == 20 for one in opened))
    worker.terminate(30)  # It is gunicorn that ends its workers.


async def test_without_it_the_doctor_sees_two_connections_at_one_inbox(
    start_worker: StartWorker, sockets: SocketFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "GIVEN_UP_SECONDS", 0.2)
    worker = start_worker("gunicorn", **PRELOAD)
    opened = await served_by_two(worker, sockets)
    assert len({lease_of(one.channel) for one in opened}) == 1
    done = await run_beside("channels_doctor", "--format", "json", "--only", "ops.E414")
    [finding] = json.loads(done.out)["findings"]
    assert "at least 2 connections waited for its messages at once" in finding["evidence"][0]
    assert all(one.is_open and one.received == [] for one in opened)
    worker.terminate(30)
