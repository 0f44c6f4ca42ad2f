"""Groups of ``RedisPubSubChannelLayer``: subscriptions, which end with their connection. Redis only counts them."""

import asyncio
import re
import time
import uuid
from collections.abc import Sequence
from typing import Any

from ops.model.keys import decode_name, encode_name, escape_glob
from ops.store.connection.shards import OpenLayer, Shard
from ops.store.connection.waiting import within

NAMES_AT_ONCE = 500
LOOK_AGAIN_SECONDS = 0.1
_UNSENT = re.compile(rb"\b(?:obl|oll)=[1-9]")
_ADDRESS = re.compile(rb"\baddr=(\S{1,100})")


async def count_subscribers(
    opened: OpenLayer, shard: Shard, names: tuple[str, ...], glob: str | None
) -> dict[str, int]:
    """Group -> how many connections are subscribed to it on ``shard``: those named, or that match, or all."""
    prefix = opened.keyspace.pubsub_group_prefix
    if names:
        channels = [prefix + encode_name(name) for name in dict.fromkeys(names)]
    else:
        pattern = escape_glob(prefix) + (b"*" if glob is None else encode_name(glob))
        channels = list(await shard.execute("PUBSUB", "CHANNELS", pattern))
    counts: dict[str, int] = {}
    for start in range(0, len(channels), NAMES_AT_ONCE):
        replies = await shard.execute("PUBSUB", "NUMSUB", *channels[start : start + NAMES_AT_ONCE])
        for channel, subscribers in _pairs(replies):
            counts[decode_name(channel[len(prefix) :])] = int(subscribers)
    return {name: count for name, count in counts.items() if count}


def _pairs(reply: Sequence[Any]) -> list[tuple[bytes, int]]:
    """The reply to NUMSUB: redis-py makes pairs of it, or leaves it flat."""
    if reply and isinstance(reply[0], tuple):
        return list(reply)
    return list(zip(reply[0::2], reply[1::2], strict=True))


async def delivery_ms(opened: OpenLayer, shard: Shard, timeout_seconds: float) -> float | None:
    """How long a message takes from publishing to a subscriber of our own; None where it does not come in time.

    The second of two in a row, so that no connecting is in it. Raises ShardError.
    """
    channel = opened.keyspace.acknowledgements(uuid.uuid4().hex)
    subscription: Any = shard.client.pubsub()
    try:
        await shard.ask(subscription.subscribe(channel))
        for expected in (b"1", b"2"):
            began = time.monotonic()
            await shard.execute("PUBLISH", channel, expected)
            with shard.naming_failures():
                try:
                    await within(timeout_seconds, _await_message(subscription, expected))
                except asyncio.TimeoutError:
                    return None
        return (time.monotonic() - began) * 1000
    finally:
        await subscription.aclose()


async def _await_message(subscription: Any, expected: bytes) -> None:
    while True:
        message = await subscription.get_message(ignore_subscribe_messages=True, timeout=LOOK_AGAIN_SECONDS)
        if message is not None and message["data"] == expected:
            return


async def stalled_subscribers(shard: Shard, timeout_seconds: float) -> list[str]:
    """The addresses of subscribed connections for which the server holds messages that they do not read, all through
    ``timeout_seconds``. Looks once where there are none. Raises ShardError."""
    stalled = await _with_unsent(shard)
    until = time.monotonic() + timeout_seconds
    while stalled and time.monotonic() < until:
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
        stalled &= await _with_unsent(shard)
    return sorted(map(decode_name, stalled))


async def _with_unsent(shard: Shard) -> set[bytes]:
    listed: bytes = await shard.execute("CLIENT", "LIST", "TYPE", "pubsub")
    lines = [line for line in listed.splitlines() if _UNSENT.search(line)]
    return {found[1] for line in lines if (found := _ADDRESS.search(line))}
