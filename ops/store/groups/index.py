"""The index of a process with the drop-in layer: which channels of it are in which groups, on each shard.

It is written in the same step as the membership, and makes the removal of a dead process cost what that process had.
It may name too much (a worker with the stock layer took a channel out) or too little (one put it in, or the process
died before it said how long its index is), so who reads it asks the groups themselves, and counts.
"""

from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any

from ops.model.keys import Keyspace, parse_index_entry
from ops.model.liveness.lease import Lease
from ops.store.connection.scripts import call_script
from ops.store.connection.shards import Shard
from ops.store.groups.census import GroupSlice

PARTS_AT_ONCE = 50
MOST_PARTS = 10_000  # of 1.3 million channels; anybody may have written how many there are
SCORES_AT_ONCE = 500


async def read_indexed(
    shard: Shard, keyspace: Keyspace, leases: Sequence[Lease]
) -> AsyncGenerator[list[GroupSlice], None]:
    """What the processes of ``leases`` are members of still, with their scores, in batches."""
    for lease in leases:
        for keys in keyspace.index_in_parts(lease.process, _newest_parts(lease), PARTS_AT_ONCE):
            pairs = await _read_parts(shard, keyspace, lease.process, keys)
            for at in range(0, len(pairs), SCORES_AT_ONCE):
                yield await _with_scores(shard, pairs[at : at + SCORES_AT_ONCE])


def _newest_parts(lease: Lease) -> range:
    """Those of the latest channels. Members that only older parts name are found in the groups."""
    return range(max(0, lease.index_parts - MOST_PARTS), lease.index_parts)


async def _read_parts(
    shard: Shard, keyspace: Keyspace, process: str, keys: Iterable[bytes]
) -> list[tuple[bytes, bytes]]:
    """Group keys and channels, by group, each once."""
    parts = await shard.pipeline([("LRANGE", key, 0, -1) for key in keys])
    entries = (entry for part in parts if isinstance(part, list) for entry in part)
    found = {parse_index_entry(process, entry) for entry in entries} - {None}
    return sorted((keyspace.group_prefix + pair[0], pair[1]) for pair in found if pair)


async def _with_scores(shard: Shard, pairs: Sequence[tuple[bytes, bytes]]) -> list[GroupSlice]:
    scores: list[Any] = await shard.pipeline([("ZSCORE", key, channel) for key, channel in pairs])
    slices: dict[bytes, GroupSlice] = {}
    for (key, channel), score in zip(pairs, scores, strict=True):
        if score is not None and not isinstance(score, Exception):
            members = slices.setdefault(key, GroupSlice(key, [], [], last=True))
            members.members.append(channel)
            members.scores.append(float(score))
    return list(slices.values())


async def forget_index(shard: Shard, keyspace: Keyspace, leases: Sequence[Lease]) -> None:
    """Delete the indexes of processes that were found dead, and hold no lease any more. Raises ShardError."""
    for lease in leases:
        for keys in keyspace.index_in_parts(lease.process, _newest_parts(lease), PARTS_AT_ONCE):
            await call_script(shard, "forget_index", [keyspace.lease(lease.process), *keys], [])
