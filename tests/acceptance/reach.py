"""Whether a `group_send` still reaches everybody that it should."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from channels_redis.core import RedisChannelLayer

from project.embedded_redis import EmbeddedRedis
from project.sockets import FleetSocket, SocketFleet
from tests.acceptance.memberships import of_sockets

HEARD_WITHIN_SECONDS = 30.0


@asynccontextmanager
async def open_layer_on(
    servers: Sequence[EmbeddedRedis], prefix: str, **config: Any
) -> AsyncIterator[RedisChannelLayer]:
    hosts = [{"address": server.url, "socket_timeout": None} for server in servers]
    layer = RedisChannelLayer(hosts, prefix=prefix, **config)
    try:
        yield layer
    finally:
        await layer.close_pools()


async def assert_all_hear(
    fleet: SocketFleet, sockets: Sequence[FleetSocket], *servers: EmbeddedRedis, prefix: str = "asgi", **config: Any
) -> None:
    """A message to each group of these sockets reaches each of them, and none has been closed.

    ``config``: further options of the layer that sends.
    """
    text = uuid4().hex
    async with open_layer_on(servers, prefix, **config) as layer:
        for group in of_sockets(sockets):
            await layer.group_send(group, {"type": "room.message", "text": text})
        heard = await fleet.await_received(text, HEARD_WITHIN_SECONDS, among=sockets)
    assert [socket for socket in sockets if socket not in heard] == []
    assert [socket for socket in sockets if not socket.is_open] == []
