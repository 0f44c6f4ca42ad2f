"""Messages through the layer itself: its own ``send()`` and ``receive()``, on a channel that nobody else knows."""

import contextlib
import time
from typing import Any

from redis.exceptions import RedisError

from ops.exceptions import ShardError
from ops.store.probes import channel_on, remove_inboxes
from ops.store.shards import OpenLayer, Shard, close_layer, make_layer
from ops.store.waiting import within

ROUND_TRIPS = 5
ROUND_TRIP_SECONDS = 5.0


async def measure_round_trip(opened: OpenLayer, shard: Shard) -> float:
    """Milliseconds of the fastest of a few messages by way of ``shard``. Raises ShardError."""
    layer = make_layer(opened.alias)
    mine: dict[int, tuple[str, str]] = {}
    try:
        with shard.naming_failures():
            channel = await _channel(opened, layer, shard)
            if not opened.is_pubsub:
                mine[shard.index] = (layer.client_prefix, layer.non_local_name(channel))
            return min([await _once(layer, channel) for _ in range(ROUND_TRIPS)])
    finally:
        with contextlib.suppress(RedisError, OSError):
            await close_layer(layer)
        with contextlib.suppress(ShardError):
            await remove_inboxes(opened, mine)


async def _channel(opened: OpenLayer, layer: Any, shard: Shard) -> str:
    """A channel that is sent to and received from on ``shard``: the stock layer hashes two different names."""
    if opened.is_pubsub:
        loop_layer = layer._get_layer()
        while True:
            name: str = await layer.new_channel()
            if loop_layer._get_shard(name) is loop_layer._shards[shard.index]:
                return name
    while True:
        name = await channel_on(layer, shard.index)
        if layer.consistent_hash(name) == shard.index:
            return name


async def _once(layer: Any, channel: str) -> float:
    started = time.monotonic()
    await within(ROUND_TRIP_SECONDS, layer.send(channel, {"type": "ops.round_trip"}))
    await within(ROUND_TRIP_SECONDS, layer.receive(channel))
    return (time.monotonic() - started) * 1000
