"""Messages through the layer itself: its own ``send()`` and ``receive()``, on a channel that nobody else knows.

On a publish/subscribe layer they go through a channel of the toolkit's: the layer's own would need rights to publish to
its consumers, and its receiver logs a traceback for each second in which it may not subscribe.
"""

import contextlib
import time
from typing import Any

from redis.exceptions import RedisError

from ops.exceptions import ShardError
from ops.model.text import visible, without_secrets
from ops.store.connection.shards import OpenLayer, Shard, close_layer, make_layer
from ops.store.connection.waiting import within
from ops.store.groups.pubsub import delivery_ms
from ops.store.liveness.probes import channel_on, remove_inboxes

ROUND_TRIPS = 5
ROUND_TRIP_SECONDS = 5.0


async def measure_round_trip(opened: OpenLayer, shard: Shard) -> float:
    """Milliseconds of the fastest of a few messages by way of ``shard``. Raises ShardError."""
    if not opened.backend.keeps_members:
        return await _published(opened, shard)
    layer = make_layer(opened.alias)
    mine: dict[int, tuple[str, str]] = {}
    try:
        with shard.naming_failures():
            channel = await _channel(layer, shard)
            mine[shard.index] = (layer.client_prefix, layer.non_local_name(channel))
            return min([await _once(layer, channel) for _ in range(ROUND_TRIPS)])
    except ShardError:
        raise
    except Exception as error:  # whatever the layer of the project's choice may raise
        raise ShardError(raised_by_layer(shard, error)) from error
    finally:
        with contextlib.suppress(RedisError, OSError):
            await close_layer(layer)
        with contextlib.suppress(ShardError):
            await remove_inboxes(opened, mine)


def raised_by_layer(shard: Shard, error: Exception) -> str:
    """An error that is not Redis', in one line without secrets."""
    return f"{shard.where}: {type(error).__name__}: {visible(without_secrets(str(error)))[:200]}"


async def _published(opened: OpenLayer, shard: Shard) -> float:
    took_ms = await delivery_ms(opened, shard, ROUND_TRIP_SECONDS)
    if took_ms is None:
        raise ShardError(f"{shard.address} did not hand over what was published within {ROUND_TRIP_SECONDS:g} s")
    return took_ms


async def _channel(layer: Any, shard: Shard) -> str:
    """A channel that is sent to and received from on ``shard``: the stock layer hashes two different names."""
    while True:
        name = await channel_on(layer, shard.index)
        if layer.consistent_hash(name) == shard.index:
            return name


async def _once(layer: Any, channel: str) -> float:
    started = time.monotonic()
    await within(ROUND_TRIP_SECONDS, layer.send(channel, {"type": "ops.round_trip"}))
    await within(ROUND_TRIP_SECONDS, layer.receive(channel))
    return (time.monotonic() - started) * 1000
