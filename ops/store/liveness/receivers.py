"""Connections that processes of the layer have, as the servers list them."""

from collections.abc import Mapping
from typing import Any

from ops.exceptions import ShardError
from ops.store.connection.addresses import is_direct
from ops.store.connection.shards import OpenLayer, Shard

IDLE_SECONDS = 10.0  # BZPOPMIN waits for five
LEFT_BY_A_LAYER = frozenset(
    [
        "bzpopmin",
        "zadd",
        "zpopmin",
        "eval",
        "evalsha",
        "expire",
        "zrem",
        "zremrangebyscore",
        "zcount",
        "zrange",
        "del",
        "exec",
    ]
)
"""What the connections of a layer were used for last. A process that blocks in the handler of a message has none that
waits: it has taken the message with one of them, and may have used that one for anything since."""


async def count_idle_connections(opened: OpenLayer) -> int | None:
    """How many connections stand idle whose last command is one that layers send; None if that cannot be known.

    A process that is frozen, blocked or cut off keeps such a connection; one that was killed or stopped has none left.
    A healthy process that has been quiet may have one as well: then the stop goes on, which is the safe mistake. Behind
    a proxy the server sees the proxy's connections instead, and cannot tell. Neither can a server that closes idle
    connections itself (``timeout``), or that does not say whether it does.
    """
    try:
        for shard in opened.answering:
            if not await is_direct(shard) or await _closes_idle_connections(shard):
                return None
        listed = [line for shard in opened.answering for line in await shard.execute("CLIENT LIST")]
    except ShardError:
        return None
    return sum(map(_is_idle_of_a_layer, listed))


async def _closes_idle_connections(shard: Shard) -> bool:
    """Raises ShardError if it may not be asked."""
    reply = dict(await shard.execute("CONFIG GET", "timeout"))
    return list(reply.values()) not in (["0"], [b"0"])


def _is_idle_of_a_layer(line: Any) -> bool:
    if not isinstance(line, Mapping) or str(line.get("cmd", "")).lower() not in LEFT_BY_A_LAYER:
        return False
    try:
        return float(line.get("idle", 0)) > IDLE_SECONDS
    except ValueError:
        return True
