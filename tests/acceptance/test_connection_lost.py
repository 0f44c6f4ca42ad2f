"""What docs/connection-lost.md says of lost connections to Redis, and of what can be done about them."""

from __future__ import annotations

import asyncio
import itertools

import pytest
import redis
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from redis.asyncio import ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError

from project.embedded_redis import EmbeddedRedis
from project.sockets import FleetSocket, SocketFleet
from project.workers import WITH_OPS_MIDDLEWARE, Worker
from tests.acceptance.two_layers import DROP_IN, STOCK, TwoLayers
from tests.conftest import StartRedis, StartWorker
from tests.waiting import until

THE_ERROR = "Error UNKNOWN while writing to socket. Connection lost."
COMES_ABOUT_WITHIN_SECONDS = 20.0
PLACES = ("/ws/room/lobby/", "/ws/careful/lobby/", "/ws/announcements/")


def cut_connections(client: redis.Redis, kind: str = "normal") -> None:
    """What a load balancer does to connections that were idle for too long; ours stays."""
    client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


async def test_the_error_is_of_a_write_to_redis_where_the_other_side_has_closed(
    redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    pool = ConnectionPool.from_url(redis_server.url)
    connection = await pool.get_connection()
    await connection.send_command("PING")
    assert await connection.read_response() == b"PONG"
    cut_connections(redis_client)

    async def write_on() -> None:
        # The first write after the end goes through: nobody knows yet.
        while True:
            await connection.send_command("PING")
            await asyncio.sleep(0.001)

    with pytest.raises(RedisConnectionError) as raised:
        await asyncio.wait_for(write_on(), COMES_ABOUT_WITHIN_SECONDS)
    assert str(raised.value) == THE_ERROR
    reason = raised.value.__context__
    # No error number, hence UNKNOWN.
    assert isinstance(reason, ConnectionResetError)
    assert reason.args == ("Connection lost",)
    await connection.disconnect()
    await pool.disconnect()


async def test_with_the_publish_subscribe_layer_a_consumer_meets_it_when_it_joins_a_group(
    redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    layer = RedisPubSubChannelLayer(hosts=[redis_server.url])
    channel = await layer.new_channel()
    await layer.group_add("room", channel)

    async def join_on() -> None:
        for number in itertools.count():
            if number % 10 == 0:
                cut_connections(redis_client, "pubsub")
            await layer.group_add(f"another-{number}", channel)
            await asyncio.sleep(0)

    with pytest.raises(RedisConnectionError) as raised:
        await asyncio.wait_for(join_on(), COMES_ABOUT_WITHIN_SECONDS)
    assert str(raised.value) == THE_ERROR
    # The layer connects again by itself; this one call was lost.
    await layer.group_add("another", channel)
    await layer.flush()


async def test_with_the_stock_layer_a_call_fails_once_for_each_pooled_connection_that_was_cut(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, channel_layer: RedisChannelLayer
) -> None:
    channel = await channel_layer.new_channel()
    await channel_layer.group_add("room", channel)
    cut_connections(redis_client)
    with pytest.raises(RedisConnectionError):
        await channel_layer.group_add("another", channel)
    await channel_layer.group_add("another", channel)


@pytest.fixture
def two_layers(start_worker: StartWorker, sockets: SocketFleet) -> TwoLayers:
    return TwoLayers(start_worker, sockets)


async def open_all(fleet: SocketFleet, worker: Worker) -> list[FleetSocket]:
    """A socket of each consumer: ordinary, careful, and with groups that Channels leaves by itself."""
    return await fleet.open_urls([worker.ws_url + place for place in PLACES])


def members(client: redis.Redis, layer: str) -> set[str]:
    keys = (f"{layer}:group:room.lobby", f"{layer}:group:announcements")
    return {channel.decode() for key in keys for channel in client.zrange(key, 0, -1)}


async def test_cut_connections_end_consumers_of_the_stock_layer_and_only_the_mixin_has_disconnect_run(
    two_layers: TwoLayers, redis_client: redis.Redis
) -> None:
    two_layers.start("uvicorn")
    [stock], [drop_in] = two_layers.workers[STOCK], two_layers.workers[DROP_IN]
    ordinary, careful, automatic = ended = await open_all(two_layers.fleet, stock)
    kept = await open_all(two_layers.fleet, drop_in)

    # Only one consumer of a process waits at Redis at a time, and the next one must have begun to.
    for left in range(len(ended) - 1, -1, -1):
        while len(await two_layers.fleet.await_closed(ended, 0.3)) < len(ended) - left:
            cut_connections(redis_client)
    assert "Connection closed by server." in stock.output()
    await until(lambda: careful.channel not in members(redis_client, STOCK))
    assert members(redis_client, STOCK) == {ordinary.channel, automatic.channel}
    assert "was told of its end" not in stock.output()

    assert all(socket.is_open for socket in kept)
    await until(lambda: members(redis_client, DROP_IN) == {socket.channel for socket in kept})
    await kept[1].send({"text": "still here"})
    assert await two_layers.fleet.await_received("still here", among=kept[:2]) == kept[:2]


async def test_with_ops_middleware_consumers_of_the_stock_layer_that_die_of_it_leave_their_groups(
    start_worker: StartWorker, sockets: SocketFleet, redis_client: redis.Redis
) -> None:
    worker = start_worker("uvicorn", asgi=WITH_OPS_MIDDLEWARE)
    opened = await open_all(sockets, worker)
    assert members(redis_client, "asgi") == {socket.channel for socket in opened}
    while len(await sockets.await_closed(opened, 0.3)) < len(opened):
        cut_connections(redis_client)
    await until(lambda: not members(redis_client, "asgi"))
    assert "Connection closed by server." in worker.output()


async def test_while_redis_is_away_no_group_can_be_left_and_a_careful_consumer_says_so(
    start_redis: StartRedis, start_worker: StartWorker, sockets: SocketFleet
) -> None:
    server = start_redis()
    worker = start_worker("uvicorn", redis=server, CHANNEL_BACKEND="ops.layers.RedisChannelLayer")
    ordinary, careful, automatic = opened = await open_all(sockets, worker)
    server.kill()
    await careful.send({"text": "lost?"})
    await until(lambda: bool(careful.received), COMES_ABOUT_WITHIN_SECONDS)
    assert careful.received == [{"type": "error", "reason": "This may not have been sent. Try again?"}]
    assert "a message to room.lobby may be lost" in worker.output()
    assert all(socket.is_open for socket in opened)

    for socket in (careful, automatic):
        await socket.connection.close()
    await until(lambda: f"{careful.channel} stays in room.lobby" in worker.output(), COMES_ABOUT_WITHIN_SECONDS)
    # Channels leaves the groups that are declared first; where that fails, disconnect never runs.
    await until(lambda: "Exception in ASGI application" in worker.output(), COMES_ABOUT_WITHIN_SECONDS)
    assert f"{automatic.channel} was told of its end" not in worker.output()
    assert ordinary.is_open


async def test_groups_that_are_declared_are_left_where_all_is_well(
    start_worker: StartWorker, sockets: SocketFleet, redis_client: redis.Redis
) -> None:
    worker = start_worker("uvicorn")
    opened = await open_all(sockets, worker)
    await until(lambda: members(redis_client, "asgi") == {socket.channel for socket in opened})
    for socket in opened:
        await socket.connection.close()
    await until(lambda: not members(redis_client, "asgi"))
    await until(lambda: f"{opened[2].channel} was told of its end, with 1000" in worker.output())
