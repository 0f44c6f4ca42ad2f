"""A reply that is lost on its way to a process with the drop-in layer: what it said has to be found out again."""

from __future__ import annotations

import asyncio
import contextlib

import redis

from ops.layers import RedisChannelLayer
from project.embedded_redis import EmbeddedRedis
from project.proxy import Link, Proxy
from tests.layer_builders import ASGI, close_layer, members_of
from tests.waiting import until


async def test_members_are_put_back_though_nobody_heard_that_the_lease_had_been_gone(
    redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    """The reaper took the process for dead; the renewal that would have told it so took a new lease, unheard."""
    async with Proxy(redis_server.port) as proxy:
        layer = RedisChannelLayer(hosts=[proxy.url], lease_seconds=1.5)
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        receiving = asyncio.create_task(layer.receive(channel))
        lease = ASGI.lease(layer.client_prefix)
        await until(lambda: bool(redis_client.exists(lease)))
        renewed_at = redis_client.hget(lease, "renewed_at")
        await until(lambda: redis_client.hget(lease, "renewed_at") != renewed_at)
        await layer.connection(0).ping()  # The renewal has been answered by then, and the next is half a second away.
        await proxy.set_link(Link.NO_REPLIES)
        redis_client.delete(lease, ASGI.group("room"))
        await until(lambda: bool(redis_client.exists(lease)))
        assert members_of(redis_client, "room") == {}
        proxy.reset()
        await proxy.set_link(Link.OPEN)
        await until(lambda: set(members_of(redis_client, "room")) == {channel})
        receiving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await receiving
        await close_layer(layer)
