"""The index that a process keeps of its memberships on each shard, as the process itself reads and deletes it."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ops import compat
from ops.application.layer.protocol import DropInLayer
from ops.application.layer.repairs import MEMBERS_AT_ONCE, Member, execute
from ops.model.keys import Keyspace, parse_index_entry

PARTS_AT_ONCE = 100


def _index_parts(layer: DropInLayer) -> Iterator[list[bytes]]:
    """The keys of this process's index: one that made a million channels has thousands, most of them empty."""
    parts = layer.memberships.index_parts
    return Keyspace(layer.prefix).index_in_parts(layer.client_prefix, range(parts), PARTS_AT_ONCE)


async def has_index(layer: DropInLayer, connection: Any) -> bool:
    for keys in _index_parts(layer):
        if await connection.exists(*keys):
            return True
    return False


async def read_index(layer: DropInLayer, connection: Any) -> list[Member]:
    """What the shard has as this process's memberships. What cannot be read is passed over; what is no list goes."""
    found: list[Member] = []
    for keys in _index_parts(layer):
        pipe = connection.pipeline(transaction=False)
        for key in keys:
            pipe.lrange(key, 0, -1)
        for key, entries in zip(keys, await pipe.execute(raise_on_error=False), strict=True):
            if isinstance(entries, Exception):
                if "WRONGTYPE" not in str(entries):
                    raise entries
                await connection.unlink(key)
                continue
            found.extend(members_in(layer.client_prefix, entries))
    return found


def members_in(process: str, entries: Iterable[bytes]) -> Iterator[Member]:
    for entry in entries:
        with contextlib.suppress(UnicodeDecodeError):
            if (pair := parse_index_entry(process, entry)) is not None:
                yield pair[0].decode(), pair[1].decode()


async def take_out_all(layer: DropInLayer, connection: Any, members: Sequence[Member]) -> None:
    for start in range(0, len(members), MEMBERS_AT_ONCE):
        pipe = connection.pipeline(transaction=False)
        for group, channel in members[start : start + MEMBERS_AT_ONCE]:
            pipe.zrem(compat.group_key(layer, group), channel)
        await execute(pipe)


async def forget_index(layer: DropInLayer, connection: Any) -> None:
    for keys in _index_parts(layer):
        await connection.unlink(*keys)
