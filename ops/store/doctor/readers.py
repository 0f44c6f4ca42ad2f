"""How many connections wait for the messages of one inbox at the same moment.

A process waits on one connection at a time, so two of them show that a second process reads the same inbox. Redis does
not list who waits for which key. But it hands messages to all that wait for them before it runs the next command: two
probes are put into the inbox, and the next command of the same connection counts how many are gone. A process that
waits alone takes one, and needs several commands of its own before it can take the other. The time on the server shows
that it had none for that.

A connection that was given up waits for up to five seconds more if its end does not reach Redis. So one is counted only
if it is seen in three rounds that are further apart.
"""

import asyncio
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from ops.exceptions import ShardError
from ops.store.connection.shards import OpenLayer, Shard, suppressing_outages

ROUNDS = 3
TRIES = 5  # A process that gets many messages does not wait all the time.
TRY_SECONDS = 0.05
GIVEN_UP_SECONDS = 6.0  # BZPOPMIN of a connection that was given up has ended by then.
LONGEST_GAP_SECONDS = 0.0003  # A process that took a probe needs longer than that to wait again.
SMALLEST_CAPACITY = 20  # A smaller inbox gets no probes that could cost a message its place.


async def find_shared(opened: OpenLayer, inboxes: Mapping[str, Iterable[str]]) -> frozenset[str]:
    """Of the processes (process -> names of its inboxes) those with an inbox that two connections waited for at once.

    Only for processes that can read a probe. Takes two round trips for each inbox, and 12 s more if one is shared.
    """
    left = {
        (process, name)
        for process, names in inboxes.items()
        for name in names
        if opened.layer.get_capacity(name) >= SMALLEST_CAPACITY
    }
    for round_ in range(ROUNDS):
        if round_ and left:
            await asyncio.sleep(GIVEN_UP_SECONDS)
        left = {(process, name) for process, name in left if await _is_shared(opened, name, TRIES if round_ else 1)}
    return frozenset(process for process, _ in left)


async def _is_shared(opened: OpenLayer, name: str, tries: int) -> bool:
    shard, key = opened.shard_of_inbox(name), opened.keyspace.inbox(name)
    for _ in range(tries):
        if await _two_wait(opened, shard, key):
            return True
        if tries > 1:
            await asyncio.sleep(TRY_SECONDS)
    return False


async def _two_wait(opened: OpenLayer, shard: Shard, key: bytes) -> bool:
    first, second = (
        opened.layer.serialize({"__asgi_channel__": [], "type": "ops.probe", "id": uuid.uuid4().hex}) for _ in range(2)
    )
    front = repr(-time.time())
    commands: list[tuple[Any, ...]] = [
        ("TIME",),
        ("ZADD", key, front, first, front, second),
        ("ZSCORE", key, first),
        ("ZSCORE", key, second),
        ("TIME",),
        ("EXPIRE", key, int(opened.layer.expiry)),  # as each message does
    ]
    try:
        before, added, *scores, after, _ = await shard.pipeline(commands)
    finally:
        with suppressing_outages():
            await shard.execute("ZREM", key, first, second)
    if isinstance(added, Exception):
        raise ShardError(f"{shard.where}: an inbox cannot be written to")
    return scores == [None, None] and _seconds(after) - _seconds(before) <= LONGEST_GAP_SECONDS


def _seconds(reply: Any) -> float:
    return int(reply[0]) + int(reply[1]) / 1e6
