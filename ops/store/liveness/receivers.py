"""Connections of processes that may stand still, as the servers list them."""

from collections.abc import Collection, Mapping
from typing import Any

from ops.exceptions import ShardError
from ops.model.liveness.stops import LastUse
from ops.store.connection.addresses import is_direct
from ops.store.connection.shards import OpenLayer, Shard

IDLE_SECONDS = 10.0  # BZPOPMIN waits for five

Connections = Mapping[int, Any]
"""Index of a shard -> one connection to it, as the server describes it."""


async def read_own_connections(opened: OpenLayer) -> Connections | None:
    """Our first connection to each shard; None if a server refuses to tell. Call it before there are others."""
    try:
        return {shard.index: await shard.execute("CLIENT INFO") for shard in opened.answering}
    except (ShardError, ValueError):  # A client may have a name that redis-py cannot read.
        return None


async def count_idle_connections(opened: OpenLayer, own: Connections | None, uses: Collection[LastUse]) -> int | None:
    """The number of connections that stand idle and may be those of a silent process; None if it cannot be known.

    A process that is frozen, blocked or cut off keeps such a connection, whatever it sent last; one that was killed or
    stopped has none left. ``uses``: when the silent last used theirs. The connection of a healthy process or of another
    program that was last used then, too, counts as well: the stop goes on, which is the safe mistake. Left out are
    other databases of the server, and our own connections: those after ``own``.

    Behind a proxy the server sees the proxy's connections instead, and cannot tell. Neither can a server that closes
    idle connections itself (``timeout``), or that does not say whether it does.
    """
    if own is None:
        return None
    idle = 0
    try:
        for shard in opened.answering:
            if not await is_direct(shard) or await _closes_idle_connections(shard):
                return None
            listed = await shard.execute("CLIENT LIST")
            idle += sum(_may_be_of_the_silent(line, own[shard.index], uses) for line in listed)
    except (ShardError, KeyError, ValueError):
        return None
    return idle


async def _closes_idle_connections(shard: Shard) -> bool:
    """Raises ShardError if it may not be asked."""
    reply = dict(await shard.execute("CONFIG GET", "timeout"))
    return list(reply.values()) not in (["0"], [b"0"])


def _may_be_of_the_silent(line: Any, own: Any, uses: Collection[LastUse]) -> bool:
    """A line that cannot be understood counts. A connection is in database 0 until it has chosen one."""
    try:
        idle, age = float(line["idle"]), float(line["age"])
        if int(line["id"]) >= int(own["id"]) or line["db"] not in (str(own["db"]), "0"):
            return False
        if 0 <= idle <= IDLE_SECONDS:
            return False
        if idle < 0 or age < 0:  # The clock was set back.
            return True
    except (TypeError, KeyError, ValueError):
        return True
    return any(use.may_be_of(idle_seconds=idle, age_seconds=age) for use in uses)
