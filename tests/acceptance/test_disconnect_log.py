"""Each kind of end is recorded with its reason: real servers, real sockets, on each layer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import redis
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from ops.model.disconnects.record import parse_json
from ops.store.connection.shards import open_layer
from ops.store.disconnects.log import read_disconnects
from project.embedded_redis import EmbeddedRedis
from project.front import Front
from project.sockets import FleetSocket, SocketFleet
from project.workers import Kind, Worker
from tests.acceptance.recorded_ends import ENDING, IMPATIENT, STREAM, records_in
from tests.conftest import RunCommand, StartRedis, StartWorker
from tests.waiting import until

CONSUMERS = {"rejecting": "RejectingConsumer", "beating/frozen": "BeatingConsumer", "beating/raised": "BeatingConsumer"}
LAYERS = {
    "stock": "channels_redis.core.RedisChannelLayer",
    "drop-in": "ops.layers.RedisChannelLayer",
    "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
}
BOTH: Any = pytest.mark.parametrize("kind", ["daphne", "uvicorn"])

Asked = dict[str, Any] | None

# What ends it -> cause, who closed it, the code, whether its group still has it
ENDS: dict[str, tuple[str, str, int | None, bool]] = {
    "normal": ("normal", "client", 1000, False),
    "coded": ("closed_with_code", "client", 3001, False),
    "killed-tab": ("no_close_frame", "client", 1006, False),
    "idle-proxy": ("no_close_frame", "client", 1006, False),
    "frozen": ("no_close_frame", "client", 1006, False),
    "app-closed": ("closed_with_code", "application", 4001, False),
    "beating/frozen": ("heartbeat_timeout", "application", 4408, False),
    "beating/raised": ("handler_exception", "application", None, False),
    "raised": ("handler_exception", "application", None, True),
    "no-handler": ("no_handler", "application", None, True),
    "rejecting": ("rejected", "application", 1000, False),
}
# Daphne cancels the consumers when it ends, but none of them where one has just raised (`kill_all_applications`).
STAYS: dict[str, list[tuple[str, str, int | None, bool]]] = {
    "daphne": [("shutdown_cancelled", "shutdown", None, True), ("process_exit", "shutdown", None, True)],
    "uvicorn": [("service_restart", "shutdown", 1012, False)],
}
# What each server knows of an end by the client. Hypercorn says 1006 of each, and Granian 1005 without a code.
SERVERS: list[Kind] = ["uvicorn", "gunicorn", "daphne", "hypercorn", "granian"]
ENDS_BY_THE_CLIENT: dict[str, tuple[str, str, int | None]] = {
    "coded": ("closed_with_code", "client", 4001),
    "normal": ("normal", "client", 1000),
    "no-code": ("normal", "client", 1005),
    "cut": ("no_close_frame", "client", 1006),
}
UNKNOWN = ("unknown", "unknown", None)
KNOWS_LESS = {
    "hypercorn": dict.fromkeys(ENDS_BY_THE_CLIENT, UNKNOWN),
    "granian": {"no-code": UNKNOWN, "cut": UNKNOWN},
}
CLOSE_FRAME_WITHOUT_A_CODE = b"\x88\x80\0\0\0\0"
CANCELLED, EXITED = ("shutdown_cancelled", "shutdown", None), ("process_exit", "shutdown", None)
SHUTDOWN: dict[str, list[tuple[str, str, int | None]]] = {
    "uvicorn": [("service_restart", "shutdown", 1012)],
    "gunicorn": [("service_restart", "shutdown", 1012)],
    "daphne": [CANCELLED, EXITED],
    "hypercorn": [CANCELLED],
    "granian": [EXITED, UNKNOWN],  # it may send 1005
}
IDLE_SECONDS = 2.0  # less than until the first ping of the server, which ends the idling (see IMPATIENT)
FROZEN = ("frozen", "beating/frozen")


async def end_all(worker: Worker, sockets: SocketFleet, front: Front) -> dict[str, FleetSocket]:
    """Open a socket for each kind of end, and have each end so; one more stays open."""
    names = [*(name for name in ENDS if name != "rejecting"), "stays"]
    fronts = {"idle-proxy": front.ws_url}
    urls = [f"{fronts.get(name, worker.ws_url)}/ws/{name}/?token=abc" for name in names]
    opened = dict(zip(names, await sockets.open_urls(urls), strict=True))
    with pytest.raises(InvalidStatus):
        async with connect(f"{worker.ws_url}/ws/rejecting/", proxy=None):
            pass
    for name in FROZEN:
        opened[name].connection.transport.pause_reading()
    await opened["normal"].connection.close()
    await opened["coded"].connection.close(code=3001)
    opened["killed-tab"].abort()
    await opened["app-closed"].send({"close": 4001})
    await opened["raised"].send({})
    await opened["beating/raised"].send({})
    while opened["no-handler"].is_open:  # The stock layer loses a message when the consumer that waits for it ends.
        await opened["no-handler"].send({"send": "no.such.type"})
        await sockets.await_closed([opened["no-handler"]], 1)
    return opened


@BOTH
@pytest.mark.parametrize("layer", LAYERS)
async def test_each_end_is_recorded_with_its_reason(
    kind: Kind, layer: str, start_worker: StartWorker, sockets: SocketFleet, redis_client: redis.Redis
) -> None:
    worker = start_worker(kind, asgi=ENDING, arguments=IMPATIENT[kind], CHANNEL_BACKEND=LAYERS[layer])
    async with Front([worker], idle_seconds=IDLE_SECONDS) as front:
        opened = await end_all(worker, sockets, front)
        await until(lambda: len(records_in(redis_client)) >= len(ENDS))
        await asyncio.to_thread(worker.terminate)
        for name in FROZEN:
            opened[name].abort()  # It would not answer its own closing handshake.
    found = records_in(redis_client)
    seen = {name: (one.cause, one.closed_by, one.code, one.groups == ("ending",)) for name, one in found.items()}
    assert seen.pop("stays") in STAYS[kind]
    assert seen == ENDS
    for name, one in found.items():
        assert (one.pid, one.layer, one.source) == (worker.pid, "default", "middleware")
        assert (one.client, one.user, one.query) == (None, None, None)
        assert one.lived_seconds is not None
        assert 0 <= one.lived_seconds < 60
        assert (one.process is None) == (layer == "pubsub")
        consumer = CONSUMERS.get(name, "EndingConsumer")
        assert one.consumer == f"tests.acceptance.ending_application.{consumer}"
        if name != "rejecting":
            assert one.channel == opened[name].channel
    assert found["raised"].exception == ("KeyError: 'redis://***@example.org/ is not what was asked for'",)
    assert found["no-handler"].exception == ("ValueError: No handler for message type no.such.type",)
    assert found["normal"].exception == ()
    assert found["idle-proxy"].lived_seconds is not None
    assert found["idle-proxy"].lived_seconds >= IDLE_SECONDS


@BOTH
async def test_redis_that_restarts_under_the_stock_layer_is_named_and_the_records_are_not_lost(
    kind: Kind, start_worker: StartWorker, start_redis: StartRedis, sockets: SocketFleet
) -> None:
    server = start_redis()
    worker = start_worker(kind, redis=server, asgi=ENDING)
    opened = await sockets.open_urls([f"{worker.ws_url}/ws/{number}/" for number in range(5)])
    server.kill()
    await sockets.await_closed(opened)
    server.start()
    with redis.Redis.from_url(server.url) as client:
        await until(lambda: len(records_in(client)) == 5)
        assert {(one.cause, one.closed_by) for one in records_in(client).values()} == {
            ("redis_connection_lost", "application")
        }
    assert worker.output().count("the disconnect log cannot be written") <= 1


async def test_sockets_that_die_of_a_time_out_of_redis_are_named(
    start_worker: StartWorker, sockets: SocketFleet, redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    # What redis-py 8 does after 5 s, unless it is told otherwise, it does after 1 s here.
    options = json.dumps({"hosts": [{"address": redis_server.url, "socket_timeout": 1}]})
    worker = start_worker("uvicorn", asgi=ENDING, CHANNEL_LAYER_OPTIONS=options)
    await sockets.open_urls([f"{worker.ws_url}/ws/{number}/" for number in range(3)])
    await until(lambda: len(records_in(redis_client)) == 3)
    for one in records_in(redis_client).values():
        assert (one.cause, one.closed_by, one.groups) == ("redis_timeout", "application", ("ending",))
        assert one.lived_seconds is not None
        assert one.lived_seconds >= 1


async def test_what_a_run_reaps_is_in_the_log(
    start_worker: StartWorker, sockets: SocketFleet, redis_server: EmbeddedRedis, run_command: RunCommand
) -> None:
    worker = start_worker("uvicorn", asgi=ENDING)
    opened = await sockets.open_urls([f"{worker.ws_url}/ws/{number}/" for number in range(5)])
    worker.kill()
    await sockets.await_closed(opened)
    argv = ("reap_stale", "--wait", "--confirm-after", "1", "--probe-timeout", "1", "--max-share", "1")
    dry = await asyncio.to_thread(run_command, *argv, "--dry-run")
    assert dry.returncode == 3, dry
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.xlen(STREAM) == 0
        done = await asyncio.to_thread(run_command, *argv)
        assert done.returncode == 0, done
        assert client.xlen(STREAM) == 1
    async with open_layer("default") as reading:
        found = [one async for page in read_disconnects(reading) for one in page.disconnects]
    assert {one.channel for one in found} == {socket.channel for socket in opened}
    assert {(one.cause, one.source, one.groups) for one in found} == {("process_died", "reaper", ("ending",))}


@pytest.mark.parametrize("kind", SERVERS)
async def test_no_more_is_recorded_than_the_server_knows(
    kind: Kind, start_worker: StartWorker, sockets: SocketFleet, redis_client: redis.Redis
) -> None:
    worker = start_worker(kind, asgi=ENDING)
    names = [*ENDS_BY_THE_CLIENT, "shutdown"]
    coded, normal, without_code, cut, _ = await sockets.open_urls([f"{worker.ws_url}/ws/{name}/" for name in names])
    await coded.connection.close(code=4001)
    await normal.connection.close()
    without_code.connection.transport.write(CLOSE_FRAME_WITHOUT_A_CODE)
    cut.abort()
    await until(lambda: len(records_in(redis_client)) == len(ENDS_BY_THE_CLIENT))
    await asyncio.to_thread(worker.terminate)
    await until(lambda: len(records_in(redis_client)) == len(names))
    found = {name: (one.cause, one.closed_by, one.code) for name, one in records_in(redis_client).items()}
    assert found.pop("shutdown") in SHUTDOWN[kind]
    assert found == {**ENDS_BY_THE_CLIENT, **KNOWS_LESS.get(kind, {})}


async def test_who_writes_to_a_client_that_left_is_not_to_blame(
    start_worker: StartWorker, sockets: SocketFleet, redis_client: redis.Redis
) -> None:
    worker = start_worker("uvicorn", asgi=ENDING)
    left, cut = await sockets.open_urls([f"{worker.ws_url}/ws/{name}/" for name in ("left", "cut")])
    await asyncio.gather(left.send({"talk": True}), cut.send({"talk": True}))
    cut.abort()
    await left.connection.close(code=1001)
    await until(lambda: len(records_in(redis_client)) == 2)
    found = {name: (one.cause, one.closed_by, one.code) for name, one in records_in(redis_client).items()}
    assert found == {"left": ("going_away", "client", 1001), "cut": ("no_close_frame", "client", 1006)}
    assert {one.groups for one in records_in(redis_client).values()} == {("ending",)}


async def test_personal_data_and_lines_of_json_are_there_when_asked_for(
    start_worker: StartWorker, sockets: SocketFleet, redis_client: redis.Redis
) -> None:
    worker = start_worker("uvicorn", asgi=ENDING, DJANGO_SETTINGS_MODULE="tests.acceptance.recording_settings")
    [socket] = await sockets.open_urls([f"{worker.ws_url}/ws/known/?token=abc"])
    await socket.connection.close()
    await until(lambda: len(records_in(redis_client)) == 1)
    one = records_in(redis_client)["known"]
    assert one.client is not None
    assert one.client.startswith("127.0.0.1:")
    assert (one.user, one.query) == ("42", "token=abc")
    written = [parse_json(line) for line in worker.output().splitlines() if line.startswith('{"schema_version"')]
    assert written == [one]
