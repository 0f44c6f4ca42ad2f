"""What the stock layer does not deliver, or late, and what both deliver to each other."""

from __future__ import annotations

from uuid import uuid4

import pytest
from django.utils.module_loading import import_string

from project.embedded_redis import EmbeddedRedis
from project.sockets import FleetSocket, SocketFleet
from project.workers import Worker
from tests.acceptance.memberships import channels as channels_of
from tests.acceptance.memberships import in_redis, of_sockets
from tests.acceptance.reach import assert_all_hear
from tests.acceptance.two_layers import BACKENDS, DROP_IN, STOCK, TwoLayers
from tests.conftest import StartRedis, StartWorker

SOCKETS = 20
AT_ONCE_SECONDS = 1.5


@pytest.fixture
def two_layers(start_worker: StartWorker, sockets: SocketFleet) -> TwoLayers:
    return TwoLayers(start_worker, sockets)


async def send_to_each(layer: str, servers: list[EmbeddedRedis], sockets: list[FleetSocket]) -> str:
    """A message to the channel of each of them, as another process with that layer sends it; returns its text."""
    hosts = [{"address": server.url, "socket_timeout": None} for server in servers]
    sender = import_string(BACKENDS[layer])(hosts=hosts, prefix=layer)
    text = uuid4().hex
    for socket in sockets:
        await sender.send(socket.channel, {"type": "room.message", "text": text})
    await sender.close_pools()
    return text


async def test_direct_messages_arrive_wherever_redis_has_two_hosts(
    two_layers: TwoLayers, start_redis: StartRedis
) -> None:
    servers = [start_redis(), start_redis()]
    hosts = [{"address": server.url, "socket_timeout": None} for server in servers]
    two_layers.start("uvicorn", redis=servers[0], options={"hosts": hosts})
    await two_layers.open(SOCKETS)
    sockets = {layer: two_layers.sockets(layer) for layer in BACKENDS}
    texts = {layer: await send_to_each(layer, servers, sockets[layer]) for layer in BACKENDS}
    heard = {
        layer: len(await two_layers.fleet.await_received(texts[layer], 2, among=sockets[layer])) for layer in BACKENDS
    }
    assert heard[DROP_IN] == SOCKETS
    assert 0 < heard[STOCK] < SOCKETS, "by chance: a half"


async def test_consumers_with_two_kinds_of_channels_hear_at_once(
    two_layers: TwoLayers, redis_server: EmbeddedRedis
) -> None:
    two_layers.start("uvicorn", asgi="tests.acceptance.difficult_application:application")
    await two_layers.open(1)
    workers = [worker for layer in BACKENDS for worker in two_layers.workers[layer]]
    others = await two_layers.fleet.open_urls([f"{worker.ws_url}/ws/other/" for worker in workers])
    for layer, other in zip(BACKENDS, others, strict=True):
        [first] = [socket for socket in two_layers.sockets(layer) if socket is not other]
        text = await send_to_each(layer, [redis_server], [other])
        heard = await two_layers.fleet.await_received(text, AT_ONCE_SECONDS, among=[other])
        # The stock layer reads one inbox until a message has come there.
        assert heard == ([other] if layer == DROP_IN else [])
        to_the_first = await send_to_each(layer, [redis_server], [first])
        assert await two_layers.fleet.await_received(to_the_first, among=[first]) == [first]
        assert await two_layers.fleet.await_received(text, among=[other]) == [other]


async def test_a_project_switches_to_it_and_back_while_workers_of_both_kinds_run(
    start_worker: StartWorker, sockets: SocketFleet, redis_server: EmbeddedRedis, redis_client: object
) -> None:
    async def start(layer: str) -> Worker:
        worker = start_worker("uvicorn", CHANNEL_BACKEND=BACKENDS[layer])
        await sockets.open(worker, "lobby", 3)
        return worker

    old, new = await start(STOCK), await start(DROP_IN)
    for worker in (old, new):
        text = uuid4().hex
        await sockets.of_worker(worker)[0].send({"text": text})
        assert len(await sockets.await_received(text)) == 6
    old.terminate(10)
    assert channels_of(in_redis(redis_client)) == of_sockets(sockets.of_worker(new))
    back = await start(STOCK)
    for worker in (back, new):
        text = uuid4().hex
        await sockets.of_worker(worker)[0].send({"text": text})
        assert len(await sockets.await_received(text)) == 6
    new.terminate(10)
    assert channels_of(in_redis(redis_client)) == of_sockets(sockets.of_worker(back))
    await assert_all_hear(sockets, sockets.of_worker(back), redis_server)
