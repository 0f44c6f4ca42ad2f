"""The consumer mixin on real servers: clients that are gone without a word are noticed, and nobody else is."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import redis
from channels.layers import channel_layers
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from ops.model.heartbeats.client_pings import HEARTBEAT_TIMEOUT, PING, PONG
from ops.model.heartbeats.message import Heartbeat
from ops.model.keys import Keyspace
from project.front import Front
from project.sockets import FleetSocket, SocketFleet
from project.workers import Kind, Worker
from tests.acceptance.two_layers import BACKENDS, DROP_IN
from tests.conftest import StartWorker
from tests.waiting import until

CONSUMERS = ["async", "async-json", "sync", "sync-json"]
TEXT_CONSUMERS = ["async", "sync"]
KINDS: Any = pytest.mark.parametrize("kind", ["uvicorn", "daphne"])
LAYERS: Any = pytest.mark.parametrize("layer", BACKENDS)

# Far more than interval and time-out together: waiting ends when it comes about.
NOTICED_WITHIN_SECONDS = 30.0
FLOOD_MESSAGES, FLOOD_SIZE = 60, 1_000_000

Disconnects = dict[str, list[int]]
"""Channel -> the codes with which its `disconnect` ran."""


def start_beating(start_worker: StartWorker, kind: Kind, layer: str = DROP_IN, **env: Any) -> Worker:
    application = "tests.acceptance.heartbeat_application:application"
    return start_worker(kind, asgi=application, CHANNEL_BACKEND=BACKENDS[layer], **env)


def disconnects(client: redis.Redis) -> Disconnects:
    found: Disconnects = {}
    for raw in client.lrange("disconnects", 0, -1):
        _, channel, code = json.loads(raw)
        found.setdefault(channel, []).append(code)
    return found


def members(client: redis.Redis) -> Counter[str]:
    """Channel -> in how many of its two groups it is."""
    return Counter(
        channel.decode() for group in ("declared", "joined") for channel in client.zrange(f"asgi:group:{group}", 0, -1)
    )


async def open_each(sockets: SocketFleet, where: Worker | Front, names: list[str] = CONSUMERS) -> list[FleetSocket]:
    return await sockets.open_urls([f"{where.ws_url}/ws/beat/{name}/" for name in names])


async def all_answer(sockets: list[FleetSocket], rounds: int = 3) -> None:
    """Return when each has been pinged that many times more; none may be closed meanwhile."""
    wanted = {socket: socket.pings + rounds for socket in sockets}
    await until(lambda: all(s.pings >= n or not s.is_open for s, n in wanted.items()), NOTICED_WITHIN_SECONDS)
    assert all(socket.is_open for socket in sockets), [(s.url, s.close_code) for s in sockets]


@pytest_asyncio.fixture
async def fronts() -> AsyncIterator[list[Front]]:
    opened: list[Front] = []
    yield opened
    for front in opened:
        await front.__aexit__(None, None, None)


async def put_before(worker: Worker, fronts: list[Front]) -> Front:
    fronts.append(await Front([worker]).__aenter__())
    return fronts[-1]


async def test_a_ping_may_come_before_what_a_sync_consumer_says_first(
    start_worker: StartWorker, sockets: SocketFleet
) -> None:
    """Its `connect` accepts in a thread, and may be held up there."""
    worker = start_beating(start_worker, "uvicorn", HEARTBEAT_INTERVAL="0.001")
    opened = await open_each(sockets, worker, ["sync"] * 30)
    assert all("channel" in socket.welcome for socket in opened)


@KINDS
@LAYERS
async def test_a_half_open_connection_is_noticed_its_groups_are_left_and_disconnect_runs_once(
    kind: Kind,
    layer: str,
    start_worker: StartWorker,
    sockets: SocketFleet,
    fronts: list[Front],
    redis_client: redis.Redis,
) -> None:
    worker = start_beating(start_worker, kind, layer)
    front = await put_before(worker, fronts)
    kept = await open_each(sockets, worker)
    lost = await open_each(sockets, front)
    assert members(redis_client) == {socket.channel: 2 for socket in kept + lost}
    await all_answer(kept + lost)

    front.fall_silent()

    await until(lambda: len(disconnects(redis_client)) == len(lost), NOTICED_WITHIN_SECONDS)
    await until(lambda: len(members(redis_client)) == len(kept), NOTICED_WITHIN_SECONDS)
    await all_answer(kept)
    assert members(redis_client) == {socket.channel: 2 for socket in kept}
    assert disconnects(redis_client) == {socket.channel: [HEARTBEAT_TIMEOUT] for socket in lost}
    assert "Traceback" not in worker.output()


@KINDS
async def test_a_client_that_answers_nothing_is_closed_with_the_documented_code(
    kind: Kind, start_worker: StartWorker, sockets: SocketFleet, redis_client: redis.Redis
) -> None:
    worker = start_beating(start_worker, kind)
    frozen = await open_each(sockets, worker)
    for socket in frozen:
        socket.answers_pings = False
    assert await sockets.await_closed(frozen, NOTICED_WITHIN_SECONDS) == frozen
    assert {socket.close_code for socket in frozen} == {HEARTBEAT_TIMEOUT}
    assert disconnects(redis_client) == {socket.channel: [HEARTBEAT_TIMEOUT] for socket in frozen}
    assert not members(redis_client)


@KINDS
async def test_a_write_that_nobody_takes_does_not_hold_a_consumer_for_ever(
    kind: Kind, start_worker: StartWorker, sockets: SocketFleet, fronts: list[Front], redis_client: redis.Redis
) -> None:
    """uvicorn waits in `send` until the client takes more, which a half-open connection never does."""
    worker = start_beating(start_worker, kind)
    front = await put_before(worker, fronts)
    lost = await open_each(sockets, front)
    await all_answer(lost, 1)
    front.fall_silent()
    layer = channel_layers.make_backend("default")
    for _ in range(FLOOD_MESSAGES):
        await layer.group_send("declared", {"type": "send.flood", "size": FLOOD_SIZE})
    await layer.close_pools()

    await until(lambda: not members(redis_client), NOTICED_WITHIN_SECONDS)
    assert disconnects(redis_client) == {socket.channel: [HEARTBEAT_TIMEOUT] for socket in lost}
    # Neither are the sync consumers of others held up, which all share one thread.
    [other] = await open_each(sockets, worker, ["sync"])
    await all_answer([other], 1)


@KINDS
async def test_what_is_no_right_answer_harms_nobody_and_answers_never_reach_a_consumer(
    kind: Kind, start_worker: StartWorker, sockets: SocketFleet, redis_client: redis.Redis
) -> None:
    worker = start_beating(start_worker, kind)
    opened = await open_each(sockets, worker)
    nonsense: list[Any] = [{"type": PONG}, {"type": PONG, "id": 7}, {"type": PONG, "id": "forged"}]
    for socket in opened:
        for answer in nonsense:
            await socket.send(answer)
            await socket.send(answer)
        oversized = {"type": PONG, "id": "x" * 100_000, "text": "oversized"}
        await socket.send(oversized)
        await socket.send({"text": "last"})
    await all_answer(opened)

    def echoed(socket: FleetSocket) -> list[str]:
        texts = [message["text"] for message in socket.received if message["type"] == "echo"]
        return ["last" if "last" in text else "oversized" if "oversized" in text else text for text in texts]

    await until(lambda: all("last" in echoed(socket) for socket in opened))
    # What is too long to be an answer is a message like any other.
    assert [echoed(socket) for socket in opened] == [["oversized", "last"]] * len(opened)
    assert not disconnects(redis_client)


@KINDS
async def test_binary_frames_pass(kind: Kind, start_worker: StartWorker) -> None:
    worker = start_beating(start_worker, kind, HEARTBEAT_INTERVAL="600")
    for name in TEXT_CONSUMERS:
        frame = bytes(range(256)) + b'{"type": "ops.pong"}'
        url = f"{worker.ws_url}/ws/beat/{name}/"
        async with connect(url, origin=worker.http_url, proxy=None) as connection:
            await connection.recv()
            await connection.send(frame)
            assert await asyncio.wait_for(connection.recv(), NOTICED_WITHIN_SECONDS) == frame


async def test_the_frames_can_be_those_of_a_client_that_was_there_before(
    start_worker: StartWorker, redis_client: redis.Redis
) -> None:
    worker = start_beating(start_worker, "uvicorn")
    url = f"{worker.ws_url}/ws/beat/legacy/"
    async with connect(url, origin=worker.http_url, proxy=None) as connection:
        await connection.recv()
        for _ in range(3):
            assert await asyncio.wait_for(connection.recv(), NOTICED_WITHIN_SECONDS) == "ping"
            await connection.send("pong")
        # From here on it is silent. What it was asked and said has not reached the consumer, which would echo it.
        with contextlib.suppress(ConnectionClosed):
            while True:
                assert await asyncio.wait_for(connection.recv(), NOTICED_WITHIN_SECONDS) == "ping"
        assert connection.close_code == HEARTBEAT_TIMEOUT
    assert list(disconnects(redis_client).values()) == [[HEARTBEAT_TIMEOUT]]


async def test_a_consumer_without_a_channel_layer_has_heartbeats_too(
    start_worker: StartWorker, redis_client: redis.Redis
) -> None:
    worker = start_beating(start_worker, "uvicorn")
    url = f"{worker.ws_url}/ws/beat/lonely/"
    async with connect(url, origin=worker.http_url, proxy=None) as connection:
        ping = json.loads(await asyncio.wait_for(connection.recv(), NOTICED_WITHIN_SECONDS))
        assert ping["type"] == PING
        await asyncio.wait_for(connection.wait_closed(), NOTICED_WITHIN_SECONDS)
        assert connection.close_code == HEARTBEAT_TIMEOUT
    assert disconnects(redis_client) == {"": [HEARTBEAT_TIMEOUT]}


@KINDS
async def test_a_consumer_that_is_busy_does_not_make_its_client_silent(
    kind: Kind, start_worker: StartWorker, sockets: SocketFleet, redis_client: redis.Redis
) -> None:
    """The answer waits behind what the client had said before, while nobody reads."""
    worker = start_beating(start_worker, kind)
    [socket] = await open_each(sockets, worker, ["async"])
    await socket.connection.send("busy")
    await until(lambda: any(message.get("text") == "busy" for message in socket.received), NOTICED_WITHIN_SECONDS)
    await all_answer([socket])
    assert not disconnects(redis_client)


@KINDS
async def test_a_busy_consumer_of_a_client_that_is_gone_notices_afterwards(
    kind: Kind, start_worker: StartWorker, sockets: SocketFleet, fronts: list[Front], redis_client: redis.Redis
) -> None:
    worker = start_beating(start_worker, kind)
    front = await put_before(worker, fronts)
    [socket] = await open_each(sockets, front, ["async"])
    await socket.connection.send("busy")
    await socket.connection.send("second")
    await all_answer([socket], 1)
    front.fall_silent()
    await until(lambda: bool(disconnects(redis_client)), NOTICED_WITHIN_SECONDS)
    assert disconnects(redis_client) == {socket.channel: [HEARTBEAT_TIMEOUT]}


@KINDS
@pytest.mark.parametrize("ending", ["client", "abort", "application"])
async def test_disconnect_runs_once_however_the_connection_ends_at_the_moment_of_the_time_out(
    kind: Kind, ending: str, start_worker: StartWorker, sockets: SocketFleet, redis_client: redis.Redis
) -> None:
    worker = start_beating(start_worker, kind, HEARTBEAT_TIMEOUT="0.4")
    opened = await open_each(sockets, worker, ["async"] * 30 if ending == "application" else CONSUMERS * 8)
    for socket in opened:
        socket.answers_pings = False

    async def end_at_the_time_out(socket: FleetSocket, after_seconds: float) -> None:
        await until(lambda: socket.pings > 0 or not socket.is_open)
        await asyncio.sleep(after_seconds)
        if ending == "abort":
            socket.abort()
        elif ending == "client":
            await socket.connection.close(4000)
        else:
            with contextlib.suppress(ConnectionClosed):
                await socket.connection.send("close")

    # Spread around the time-out, so that some of them meet it.
    spread = [0.38 + 0.04 * number / len(opened) for number in range(len(opened))]
    await asyncio.gather(*(end_at_the_time_out(socket, after) for socket, after in zip(opened, spread, strict=True)))
    assert await sockets.await_closed(opened, NOTICED_WITHIN_SECONDS) == opened
    await until(lambda: len(disconnects(redis_client)) == len(opened), NOTICED_WITHIN_SECONDS)
    assert {len(codes) for codes in disconnects(redis_client).values()} == {1}
    await until(lambda: not members(redis_client))
    assert "Traceback" not in worker.output()


@KINDS
async def test_disconnect_runs_once_where_the_server_cancels_its_applications(
    kind: Kind, start_worker: StartWorker, sockets: SocketFleet, redis_client: redis.Redis
) -> None:
    """Daphne cancels them when it ends: without the mixin, no `disconnect` runs (see test_workers)."""
    worker = start_beating(start_worker, kind, "stock")
    opened = await open_each(sockets, worker)
    # Daphne 4.2 cancels none if there was a new connection within the last second.
    await all_answer(opened, 5)
    await asyncio.to_thread(worker.terminate)
    assert disconnects(redis_client) == {socket.channel: [1012] for socket in opened}
    assert not members(redis_client)


@KINDS
async def test_disconnect_runs_once_where_a_message_has_no_handler(
    kind: Kind, start_worker: StartWorker, sockets: SocketFleet, redis_client: redis.Redis
) -> None:
    worker = start_beating(start_worker, kind, "stock")
    opened = await open_each(sockets, worker)
    layer = channel_layers.make_backend("default")
    await layer.group_send("joined", {"type": "nobody.knows"})
    await layer.close_pools()
    await until(lambda: len(disconnects(redis_client)) == len(opened), NOTICED_WITHIN_SECONDS)
    assert disconnects(redis_client) == {socket.channel: [1011] for socket in opened}
    await until(lambda: not members(redis_client))
    assert await sockets.await_closed(opened) == opened
    assert "No handler for message type nobody.knows" in worker.output()


@KINDS
async def test_writing_to_a_socket_that_is_gone_is_no_error(
    kind: Kind, start_worker: StartWorker, sockets: SocketFleet, redis_client: redis.Redis
) -> None:
    """The consumer still works on messages when the client goes, and writes after it has closed the socket itself."""
    worker = start_beating(start_worker, kind, HEARTBEAT_INTERVAL="600")
    opened = await open_each(sockets, worker, [*CONSUMERS, "async"])
    *gone, closed = opened
    layer = channel_layers.make_backend("default")
    await closed.connection.send("close")
    for socket in gone:
        socket.abort()
    for _ in range(FLOOD_MESSAGES):
        await layer.group_send("declared", {"type": "send.flood", "size": 10_000})
    await layer.close_pools()
    await until(lambda: len(disconnects(redis_client)) == len(opened), NOTICED_WITHIN_SECONDS)
    assert {len(codes) for codes in disconnects(redis_client).values()} == {1}
    await until(lambda: not members(redis_client))
    assert closed.close_code == 4001
    assert "Traceback" not in worker.output()


@KINDS
async def test_a_consumer_that_learns_of_the_end_from_its_own_write_is_disconnected_like_any_other(
    kind: Kind, start_worker: StartWorker, sockets: SocketFleet, redis_client: redis.Redis
) -> None:
    """The client goes while the consumer works on what it said, and reads nothing."""
    worker = start_beating(start_worker, kind, HEARTBEAT_INTERVAL="600")
    [socket] = await open_each(sockets, worker, ["async"])
    await socket.connection.send("wait")
    await socket.connection.close(4002)
    redis_client.rpush("go on", 1)
    await until(lambda: bool(disconnects(redis_client)), NOTICED_WITHIN_SECONDS)
    assert disconnects(redis_client) == {socket.channel: [4002]}
    await until(lambda: not members(redis_client))
    assert "Traceback" not in worker.output()


async def test_writing_while_daphne_closes_is_no_error(
    start_worker: StartWorker, sockets: SocketFleet, fronts: list[Front], redis_client: redis.Redis
) -> None:
    """Daphne closes a socket that is too old, and passes on autobahn's error to who writes before the client agrees."""
    worker = start_beating(start_worker, "daphne", arguments=["--websocket_timeout", "1"], HEARTBEAT_INTERVAL="600")
    front = await put_before(worker, fronts)
    opened = await open_each(sockets, front)
    front.fall_silent()
    layer = channel_layers.make_backend("default")

    async def write_on() -> None:
        while len(disconnects(redis_client)) < len(opened):
            await layer.group_send("joined", {"type": "send.flood", "size": 10})
            await asyncio.sleep(0.01)

    await asyncio.wait_for(write_on(), NOTICED_WITHIN_SECONDS)
    await layer.close_pools()
    codes = list(disconnects(redis_client).values())
    assert {len(of_one) for of_one in codes} == {1}
    assert [1011] not in codes, "a consumer died of it"
    await until(lambda: not members(redis_client))
    assert "Traceback" not in worker.output()


@KINDS
async def test_a_heartbeat_of_depth_client_is_answered_by_those_whose_client_answers(
    kind: Kind, start_worker: StartWorker, sockets: SocketFleet, redis_client: redis.Redis
) -> None:
    worker = start_beating(start_worker, kind, HEARTBEAT_INTERVAL="600")
    opened = await open_each(sockets, worker)
    frozen = await open_each(sockets, worker)
    for socket in frozen:
        socket.answers_pings = False
    run = "b" * 32
    key = Keyspace("asgi").acknowledgements(run)
    redis_client.rpush(key, "open")
    layer = channel_layers.make_backend("default")
    await layer.group_send("joined", Heartbeat(run, 0, "client").message())
    await layer.close_pools()

    def said() -> bytes:
        return b"".join(redis_client.lrange(key, 1, -1))

    await until(lambda: all(socket.channel.encode() in said() for socket in opened), NOTICED_WITHIN_SECONDS)
    await until(lambda: all(socket.pings for socket in frozen))
    assert not [socket for socket in frozen if socket.channel.encode() in said()]
    assert all(socket.is_open for socket in opened + frozen), "a heartbeat closed a socket"
    assert PING not in json.dumps([socket.received for socket in opened])
