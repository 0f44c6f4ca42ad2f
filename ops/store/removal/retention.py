"""How long the keys of a run are kept, also on a server that evicts what has an expiry.

There they get none. They are listed in ``kept`` beside them, with the time until which they are kept, and any later run
deletes those whose time is over.
"""

import asyncio
import math
from collections.abc import Mapping
from typing import Any

from ops.exceptions import PermissionMissing, ShardError
from ops.model.eviction import Eviction
from ops.model.keys import Keyspace
from ops.model.text import visible
from ops.store.connection.shards import OpenLayer, Shard

KEYS_AT_ONCE = 1000


class Retention:
    """How long this run's keys are kept on each shard. ``notes``: what to know before anything is removed."""

    def __init__(
        self, opened: OpenLayer, journal_seconds: float, evictions: Mapping[int, Eviction], notes: list[str]
    ) -> None:
        self.journal_seconds = math.ceil(journal_seconds)
        self.notes = notes
        self._kept = opened.keyspace.kept
        self._message_seconds = math.ceil(opened.layer.expiry)
        self._evictions = evictions

    async def of_receipts(self, shard: Shard, key: bytes) -> int:
        """The expiry to give ``key``, which holds receipts or the record of a run; 0: none. Raises ShardError."""
        return await self._expiry(shard, key, self.journal_seconds)

    async def of_messages(self, shard: Shard, key: bytes) -> int:
        """The same for messages, which nobody may act on after the layer's ``expiry``."""
        return await self._expiry(shard, key, self._message_seconds)

    async def _expiry(self, shard: Shard, key: bytes, seconds: int) -> int:
        if not self._evictions[shard.index].spares_keys_without_expiry:
            return seconds
        await shard.execute("ZADD", self._kept, await shard.now() + seconds, key)
        return 0


async def read_retention(opened: OpenLayer, journal_seconds: float) -> Retention:
    """Ask each shard what it evicts. Raises ShardError."""
    found = await asyncio.gather(*(_read_eviction(shard) for shard in opened.shards))
    notes = [note for _, note in found if note is not None]
    evictions = {shard.index: eviction for shard, (eviction, _) in zip(opened.shards, found, strict=True)}
    return Retention(opened, journal_seconds, evictions, notes)


async def _read_eviction(shard: Shard) -> tuple[Eviction, str | None]:
    client: Any = shard.client
    try:
        info = await shard.ask(client.info("memory"))
    except PermissionMissing as refusal:
        return Eviction(), f"whether receipts may be evicted is not known: {refusal}"
    limit = info.get("maxmemory")
    eviction = Eviction(visible(str(info.get("maxmemory_policy", ""))), limit if isinstance(limit, int) else 0)
    return eviction, eviction.warning and f"shard {shard.index} ({shard.address}) {eviction.warning}"


async def delete_what_is_over(opened: OpenLayer) -> list[str]:
    """Delete the keys of runs that were kept without an expiry until now; returns why, where that failed."""
    failures = await asyncio.gather(*(_delete_on(shard, opened.keyspace) for shard in opened.shards))
    return [failure for failure in failures if failure is not None]


async def _delete_on(shard: Shard, keyspace: Keyspace) -> str | None:
    kept, first = keyspace.kept, ("LIMIT", 0, KEYS_AT_ONCE)
    try:
        now = await shard.now()
        while over := await shard.execute("ZRANGE", kept, "-inf", now, "BYSCORE", *first):
            # Anything may have been written there.
            if ours := [key for key in over if keyspace.is_of_a_run(key)]:
                await shard.execute("UNLINK", *ours)
            await shard.execute("ZREM", kept, *over)
    except ShardError as error:
        return f"keys of runs whose time is over were not deleted: {error}"
    return None
