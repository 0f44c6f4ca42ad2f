"""The registry of open websockets, and requests to close some: on the first shard, for each process that tracks them.

A zset lists the processes by when they last said that they track. Each has a hash with an entry for each channel, and
one of its own under an empty name, and a list of requests. Both expire unless it renews them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ops.model.keys import Keyspace, encode_name
from ops.model.tracking import CloseRequest, parse_close_request

KEPT_SECONDS = 60
OWN_ENTRY = b""

Change = tuple[str, str | None]
"""A channel, and its entry; None if it is not open any more."""


async def write_changes(client: Any, keyspace: Keyspace, process: str, changes: Sequence[Change]) -> None:
    """Apply the changes in their order."""
    key, pipe = keyspace.connections(process), client.pipeline(transaction=False)
    for channel, entry in changes:
        if entry is None:
            pipe.hdel(key, encode_name(channel))
        else:
            pipe.hset(key, encode_name(channel), entry)
    pipe.expire(key, KEPT_SECONDS)
    await pipe.execute()


async def renew_tracking(
    client: Any, keyspace: Keyspace, process: str, description: Mapping[str, Any], now: float
) -> bool:
    """Say that the process tracks its websockets; returns whether its entries were there. ``now``: of its host."""
    key, pipe = keyspace.connections(process), client.pipeline(transaction=False)
    pipe.exists(key)
    pipe.hset(key, OWN_ENTRY, json.dumps(description))
    pipe.expire(key, KEPT_SECONDS)
    pipe.zadd(keyspace.tracking, {process: now})
    pipe.expire(keyspace.tracking, KEPT_SECONDS)
    was_there, *_ = await pipe.execute()
    return bool(was_there)


async def forget_tracking(client: Any, keyspace: Keyspace, process: str) -> None:
    """The process ends."""
    pipe = client.pipeline(transaction=False)
    pipe.delete(keyspace.connections(process), keyspace.control(process))
    pipe.zrem(keyspace.tracking, process)
    await pipe.execute()


async def take_request(client: Any, keyspace: Keyspace, process: str, wait_seconds: float) -> CloseRequest | None:
    """The next request to close websockets of the process; None if none comes in time, or if it is none."""
    taken = await client.blpop([keyspace.control(process)], timeout=wait_seconds)
    return None if taken is None else parse_close_request(taken[1])


async def ask_to_close(
    client: Any, keyspace: Keyspace, process: str, channels: Iterable[str], code: int, reason: str
) -> None:
    """Leave a request for the process, which takes it within a second, or never if it has ended."""
    request = json.dumps({"channels": list(channels), "code": code, "reason": reason})
    pipe = client.pipeline(transaction=False)
    pipe.rpush(keyspace.control(process), request)
    pipe.expire(keyspace.control(process), KEPT_SECONDS)
    await pipe.execute()
