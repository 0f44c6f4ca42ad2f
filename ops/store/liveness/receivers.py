"""Connections on which receivers of the layer wait for messages, as the servers list them."""

from collections.abc import Mapping
from typing import Any

from ops.exceptions import ShardError
from ops.store.connection.addresses import is_direct
from ops.store.connection.shards import OpenLayer, Shard

IDLE_SECONDS = 10.0  # BZPOPMIN waits for five
RECEIVING = "bzpopmin"


async def count_idle_receivers(opened: OpenLayer) -> int | None:
    """How many connections stand idle whose last command only a receiver sends; None if that cannot be known.

    A process that is frozen or cut off keeps such a connection; of one that was killed or stopped none is left. Behind
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
    return sum(map(_is_idle_receiver, listed))


async def _closes_idle_connections(shard: Shard) -> bool:
    """Raises ShardError if it may not be asked."""
    reply = dict(await shard.execute("CONFIG GET", "timeout"))
    return list(reply.values()) not in (["0"], [b"0"])


def _is_idle_receiver(line: Any) -> bool:
    if not isinstance(line, Mapping) or str(line.get("cmd", "")).lower() != RECEIVING:
        return False
    try:
        return float(line.get("idle", 0)) > IDLE_SECONDS
    except ValueError:
        return True
