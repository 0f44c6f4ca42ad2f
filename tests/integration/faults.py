"""Twenty faults of real systems, each made for real: what a person would see, and the finding that must come first."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import channels_redis.core
import redis
from channels.layers import channel_layers
from channels_redis.core import RedisChannelLayer
from django.conf import LazySettings
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ops.model.disconnects.conclusions import cause_of_exception, describe_exception
from ops.model.disconnects.record import Disconnect
from ops.store.connection.shards import close_layer, open_layer
from ops.testing import override_redis_config
from project.embedded_redis import EmbeddedRedis
from project.proxy import Proxy
from project.sockets import SocketFleet
from project.workers import Worker
from tests.conftest import StartRedis, StartWorker
from tests.layer_builders import ASGI, AppProcess, SlowLayer, StartProcess, layer_of, record_ends
from tests.waiting import until

PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"
KEPT = {"socket_timeout": None}
SLOW_MICROSECONDS = 300_000


@dataclass
class System:
    """A healthy layer on an empty Redis, and what it takes to make it ill."""

    settings: LazySettings
    server: EmbeddedRedis
    client: redis.Redis
    start_process: StartProcess
    start_worker: StartWorker
    start_redis: StartRedis
    sockets: SocketFleet

    def use(self, *hosts: Any, **config: Any) -> None:
        self.settings.CHANNEL_LAYERS = layer_of(*(hosts or (self.server.url,)), **config)

    def database(self, number: int) -> str:
        """A second shard that costs no second server."""
        return f"{self.server.url}/{number}"


Inject = Callable[[System], AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """``number``: of the list that the doctor must know."""

    number: str
    what: str
    expected: str
    inject: Inject


FAULTS: list[Fault] = []


def fault(number: str, what: str, expected: str) -> Callable[[Callable[[System], AsyncIterator[None]]], Inject]:
    def register(inject: Callable[[System], AsyncIterator[None]]) -> Inject:
        made = asynccontextmanager(inject)
        FAULTS.append(Fault(number, what, expected, made))
        return made

    return register


# Settings and servers


@fault("1", "a host without `socket_timeout` under redis-py 8", "ops.W202")
async def no_socket_timeout(system: System) -> AsyncIterator[None]:
    # What redis-py 8 does by itself, other versions are told to do.
    host = {"address": system.server.url}
    system.use(host if redis.__version__.startswith("8.") else {**host, "socket_timeout": 5})
    yield


@fault("1", "websockets that die of it after 5 s, by the disconnect log", "ops.E401")
async def five_second_storm(system: System) -> AsyncIterator[None]:
    system.use({"address": system.server.url, "socket_timeout": 5})
    processes = [await system.start_process() for _ in range(3)]
    await _log(list(await asyncio.gather(*map(_end_of_consumer, processes))))
    system.use()
    yield


async def _end_of_consumer(process: AppProcess) -> Disconnect:
    """A consumer that waits in ``receive()`` until that raises, and the record of its end."""
    [channel] = await process.join("room")
    started = time.monotonic()
    try:
        await process.layer.receive(channel)
    except redis.RedisError as error:
        chain = describe_exception(error)
    lived = time.monotonic() - started
    await process.layer.group_discard("room", channel)
    return Disconnect(
        time.time(),
        cause_of_exception(chain),
        "application",
        lived_seconds=lived,
        exception=chain,
        channel=channel,
        process=process.name,
    )


async def _log(records: list[Disconnect]) -> None:
    async with open_layer("default") as opened:
        assert await record_ends(opened, records) == len(records)


@fault("2", "`timeout` closes idle connections", "ops.W307")
async def idle_timeout(system: System) -> AsyncIterator[None]:
    with override_redis_config(system.client, timeout=300):
        yield


@fault("3", "a proxy in between, and hosts without retry, health check and keepalive", "ops.W207")
async def proxy_in_between(system: System) -> AsyncIterator[None]:
    async with Proxy(system.server.port) as proxy:
        system.use({"address": proxy.url, "socket_keepalive": False, **KEPT})
        yield


@fault("4", "a subscriber of a publish/subscribe layer that does not keep up", "ops.E308")
async def subscriber_behind(system: System) -> AsyncIterator[None]:
    system.use(backend=PUBSUB)
    worker = await asyncio.to_thread(system.start_worker, "uvicorn", CHANNEL_BACKEND=PUBSUB)
    await system.sockets.open(worker, "lobby")
    await asyncio.to_thread(worker.freeze)
    with override_redis_config(system.client, client_output_buffer_limit="pubsub 256mb 1mb 600"):
        layer = channel_layers.make_backend("default")
        while max(int(line["omem"]) for line in system.client.client_list()) < 2_000_000:
            await layer.group_send("room.lobby", {"type": "room.message", "text": "x" * 500_000})
        await close_layer(layer)
        yield


@fault("5", "`maxclients` reached", "ops.E305")
async def no_connections_left(system: System) -> AsyncIterator[None]:
    with (
        override_redis_config(system.client, maxclients=len(system.client.client_list()) + 20),
        _crowd(system) as crowd,
    ):
        for client in crowd[:15]:
            client.close()
        yield


@contextmanager
def _crowd(system: System) -> Iterator[list[redis.Redis]]:
    """As many connections as the server lets in, until it turned one away."""
    crowd: list[redis.Redis] = []
    try:
        while not system.client.info("stats")["rejected_connections"]:
            crowd.append(redis.Redis.from_url(system.server.url, single_connection_client=False))
            try:
                crowd[-1].ping()
            except redis.RedisError:
                continue
        yield crowd
    finally:
        for client in crowd:
            client.close()


@fault("5", "`maxclients` near", "ops.W306")
async def few_connections_left(system: System) -> AsyncIterator[None]:
    crowd = [redis.Redis.from_url(system.server.url) for _ in range(100)]
    try:
        for client in crowd:
            client.ping()
        with override_redis_config(system.client, maxclients=120):
            yield
    finally:
        for client in crowd:
            client.close()


@fault("6", "keys evicted under `allkeys-lru`", "ops.E303")
async def evictions(system: System) -> AsyncIterator[None]:
    used = system.client.info("memory")["used_memory"]
    with override_redis_config(system.client, maxmemory_policy="allkeys-lru", maxmemory=used + 1_000_000):
        process = await system.start_process()
        number = 0
        while not system.client.info("stats")["evicted_keys"]:
            for _ in range(200):
                number += 1
                system.client.zadd(ASGI.group(f"room.{number}"), {f"general-{number}-{'x' * 60}": time.time()})
        await process.live()
        yield


@fault("6", "a `maxmemory-policy` that may evict", "ops.W304")
async def may_evict(system: System) -> AsyncIterator[None]:
    with override_redis_config(system.client, maxmemory_policy="volatile-lru", maxmemory="500mb"):
        yield


@fault("7", "out of memory under `noeviction`", "ops.E302")
async def out_of_memory(system: System) -> AsyncIterator[None]:
    await system.start_process("room", live=True)
    with override_redis_config(system.client, maxmemory_policy="noeviction", maxmemory="512kb"):
        yield


@fault("8", "Redis restarted under live workers", "ops.W309")
async def restarted(system: System) -> AsyncIterator[None]:
    server = await asyncio.to_thread(system.start_redis)
    system.use(server.url)
    worker = await asyncio.to_thread(system.start_worker, "uvicorn", redis=server)
    fleet = await system.sockets.open(worker, "lobby", 3)
    with redis.Redis.from_url(server.url) as client:
        _let_members_age(client, "room.lobby", 60)
    await asyncio.to_thread(server.save)
    await asyncio.to_thread(server.kill)
    # Not before: each consumer dies of its own attempt, and whoever tried when it is back would live on.
    await until(lambda: not any(socket.is_open for socket in fleet))
    await asyncio.to_thread(server.start)
    await _open_again(system, worker)
    yield


async def _open_again(system: System, worker: Worker) -> None:
    """As a browser does; the first attempts meet connections that were cut."""
    while True:
        try:
            await system.sockets.open(worker, "lobby")
            return
        except (InvalidStatus, ConnectionClosed):
            await asyncio.sleep(0.05)


@fault("8", "Redis failed over to a replica under live workers", "ops.W309")
async def failed_over(system: System) -> AsyncIterator[None]:
    first = await asyncio.to_thread(system.start_redis)
    second = await asyncio.to_thread(system.start_redis, replicaof=f"127.0.0.1 {first.port}")
    with redis.Redis.from_url(second.url) as client:
        await until(lambda: client.info("replication")["master_link_status"] == "up")
        async with Proxy(first.port) as proxy:
            system.use({"address": proxy.url, "socket_keepalive": True, **KEPT})
            worker = await asyncio.to_thread(system.start_worker, "uvicorn", REDIS_URL=proxy.url)
            fleet = await system.sockets.open(worker, "lobby", 3)
            await asyncio.to_thread(first.kill)
            client.replicaof("NO", "ONE")
            await proxy.follow(second.port)
            # The others find the new primary there already.
            await until(lambda: not all(socket.is_open for socket in fleet))
            await until(lambda: client.xlen(ASGI.disconnects) > 0)
            yield


def _let_members_age(client: redis.Redis, group: str, seconds: float) -> None:
    key = ASGI.group(group)
    for member, score in client.zrange(key, 0, -1, withscores=True):
        client.zadd(key, {member: score - seconds})


@fault("9", "a replica among the hosts", "ops.E301")
async def replica(system: System) -> AsyncIterator[None]:
    second = await asyncio.to_thread(system.start_redis, replicaof=f"127.0.0.1 {system.server.port}")
    with redis.Redis.from_url(second.url) as client:
        await until(lambda: client.info("replication")["master_link_status"] == "up")
    system.use(second.url)
    yield


# Processes


@fault("10", "a worker ended with `kill -9`", "ops.W403")
async def killed(system: System) -> AsyncIterator[None]:
    worker = await asyncio.to_thread(system.start_worker, "uvicorn")
    await system.sockets.open(worker, "lobby", 3)
    await asyncio.to_thread(worker.kill)
    yield


@fault("10", "consumers that died of a message without a handler, in a worker that lives on", "ops.W403")
async def no_handler(system: System) -> AsyncIterator[None]:
    worker = await asyncio.to_thread(system.start_worker, "uvicorn")
    fleet = await system.sockets.open(worker, "lobby", 3)
    await system.sockets.open(worker, "support")
    sender = await system.start_process()
    await sender.layer.group_send("room.lobby", {"type": "nobody.handles"})
    await until(lambda: not any(socket.is_open for socket in fleet))
    await until(lambda: system.client.xlen(ASGI.disconnects) >= 3)
    yield


@fault("11", "a worker that is connected and stands still", "ops.E402")
async def hung(system: System) -> AsyncIterator[None]:
    worker = await asyncio.to_thread(system.start_worker, "uvicorn")
    await system.sockets.open(worker, "lobby", 3)
    await asyncio.to_thread(worker.freeze)
    sender = await system.start_process()
    for _ in range(3):
        await sender.layer.group_send("room.lobby", {"type": "room.message"})
    yield
    await asyncio.to_thread(worker.thaw)


@fault("12", "inboxes at capacity", "ops.E405")
async def full_inbox(system: System) -> AsyncIterator[None]:
    system.use(capacity=10)
    process = AppProcess()
    process.layer = SlowLayer(hosts=[{"address": system.server.url, **KEPT}], capacity=10)
    process.layer.pause_seconds = 0.05
    [channel] = await process.join("lobby")
    await process.live(channel)

    async def fill() -> None:
        sender = await system.start_process()
        while True:
            await sender.layer.group_send("lobby", {"type": "x"})
            await asyncio.sleep(0.002)

    filling = asyncio.create_task(fill())
    await until(lambda: system.client.zcard(process.inbox_key) >= 10)
    yield
    filling.cancel()
    await asyncio.gather(filling, return_exceptions=True)
    await process.die()


@fault("13", "two hosts with the stock layer's `send()`", "ops.W206")
async def two_hosts(system: System) -> AsyncIterator[None]:
    system.use(system.server.url, system.database(1))
    await system.start_process("room", live=True)
    yield


@fault("14", "live members that are nearly as old as `group_expiry`", "ops.W411")
async def near_expiry(system: System) -> AsyncIterator[None]:
    # Short, since members that are older than the server would show that it restarted.
    system.use(group_expiry=4)
    process = await system.start_process()
    [channel] = await process.join("room")
    await process.live(channel)
    _let_members_age(system.client, "room", 3.5)
    yield


@fault("15", "processes with another prefix", "ops.W408")
async def other_prefix(system: System) -> AsyncIterator[None]:
    await system.start_process("room", live=True)
    system.use(prefix="chat")
    await system.start_process("room", live=True)
    yield


@fault("15", "processes with the hosts in another order", "ops.E407")
async def other_order(system: System) -> AsyncIterator[None]:
    hosts = (system.server.url, system.database(1))
    drop_in = "ops.layers.RedisChannelLayer"
    system.use(*reversed(hosts), backend=drop_in)
    process = await system.start_process(live=True)
    await process.join("lobby", "support")
    system.use(*hosts, backend=drop_in)
    yield


@fault("15", "processes with another encryption key", "ops.E406")
async def other_key(system: System) -> AsyncIterator[None]:
    system.use(symmetric_encryption_keys=["old"])
    sender = await system.start_process()
    system.use(symmetric_encryption_keys=["new"])
    process = await system.start_process()
    [channel] = await process.join("room")
    # The first message kills the only consumer, the next waits for nobody.
    await process.live(channel)
    [consumer] = process.tasks
    while not consumer.done():
        await sender.layer.group_send("room", {"type": "x"})
        await asyncio.wait([consumer], timeout=0.1)
    assert type(consumer.exception()).__name__ == "InvalidToken"
    await sender.layer.group_send("room", {"type": "x"})
    yield


class _ClockAhead:
    """``time`` as a host sees it whose clock is ahead."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def time(self) -> float:
        return time.time() + self._seconds


@fault("16", "a host whose clock is ahead", "ops.W409")
async def clock_ahead(system: System) -> AsyncIterator[None]:
    process = await system.start_process()
    channels_redis.core.time = _ClockAhead(3600)
    try:
        [channel] = await process.join("room")
    finally:
        channels_redis.core.time = time
    await process.live(channel)
    yield


@fault("17", "an ordinary deploy under Daphne", "ops.W404")
async def daphne_deploy(system: System) -> AsyncIterator[None]:
    worker = await asyncio.to_thread(system.start_worker, "daphne")
    await system.sockets.open(worker, "lobby", 3)
    await asyncio.to_thread(worker.terminate)
    yield


@fault("18", "a command that holds the server up", "ops.W310")
async def slow_server(system: System) -> AsyncIterator[None]:
    # Twice as many steps each time: within a script, no clock goes on since Redis 7.2, and in Valkey.
    steps = 1_000_000
    while not any(entry["duration"] >= SLOW_MICROSECONDS for entry in system.client.slowlog_get()):
        await asyncio.to_thread(system.client.eval, "for step = 1, tonumber(ARGV[1]) do end", 0, steps)
        steps *= 2
    yield


@fault("19", "messages in flight of a process that is gone", "ops.W410")
async def leaked_in_flight(system: System) -> AsyncIterator[None]:
    process = await system.start_process()
    channel = await process.layer.new_channel()
    await process.layer.send(channel, {"type": "x"})
    # As far as a worker gets that dies between taking a message and acknowledging it.
    assert await process.layer._brpop_with_clean(0, process.inbox_key.decode(), timeout=1)
    await process.die()
    yield


@fault("20", "one layer in two event loops", "ops.E412")
async def two_loops(system: System) -> AsyncIterator[None]:
    layer = RedisChannelLayer(hosts=[{"address": system.server.url, **KEPT}])
    channel = await layer.new_channel()
    first = asyncio.create_task(layer.receive(channel))
    await until(lambda: layer.receive_count == 1)
    chains: list[tuple[str, ...]] = []

    def receive_elsewhere() -> None:
        try:
            asyncio.run(layer.receive(channel))
        except RuntimeError as error:
            chains.append(describe_exception(error))

    thread = threading.Thread(target=receive_elsewhere)
    thread.start()
    await asyncio.to_thread(thread.join)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await close_layer(layer)
    [chain] = chains
    await _log([Disconnect(time.time(), cause_of_exception(chain), "application", exception=chain, channel=channel)])
    yield


@fault("20", "`InMemoryChannelLayer` in production", "ops.W205")
async def in_memory(system: System) -> AsyncIterator[None]:
    system.settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    yield
