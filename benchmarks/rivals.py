"""What the commands are compared with: ``python -m benchmarks.rivals WHAT URL LAYOUT`` prints its seconds.

``pages``    count the members of each process with redis-py: SCAN, and each page's groups in a pipeline of ZRANGE
``zrem``     remove members that are already known, in pipelines of ZREM: the least that a removal can cost
``discard``  remove some of these members with the layer's own ``group_discard``, one after the other
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter

import redis

from benchmarks.keyspace import GROUP_PREFIX, Layout, write

SCAN_COUNT = 1000
COMMANDS_AT_ONCE = 1000
DISCARDS = 20_000


def pages(url: str, layout: Layout) -> dict[str, float]:
    client = redis.Redis.from_url(url)
    began = time.perf_counter()
    processes: Counter[bytes] = Counter()
    cursor = 0
    while True:
        cursor, keys = client.scan(cursor, match=GROUP_PREFIX + b"*", count=SCAN_COUNT)
        pipe = client.pipeline(transaction=False)
        for key in keys:
            pipe.zrange(key, 0, -1)
        for members in pipe.execute():
            processes.update([member[: member.index(b"!")] for member in members])
        if cursor == 0:
            break
    seconds = time.perf_counter() - began
    if processes.total() < layout.members:
        sys.exit(f"{processes.total():,} members were counted instead of {layout.members:,}")
    return {"seconds": seconds, "members": processes.total()}


def zrem(url: str, layout: Layout) -> dict[str, float]:
    client = redis.Redis.from_url(url)
    groups = list(layout.read(layout.dead))
    doomed = [(key, [name for name, _ in members]) for key, members in groups]
    began = time.perf_counter()
    removed = 0
    for start in range(0, len(doomed), COMMANDS_AT_ONCE):
        pipe = client.pipeline(transaction=False)
        for key, names in doomed[start : start + COMMANDS_AT_ONCE]:
            pipe.zrem(key, *names)
        removed += sum(pipe.execute())
    seconds = time.perf_counter() - began
    if write(url, groups) != removed:
        sys.exit("not everything that was removed could be put back")
    return {"seconds": seconds, "members": removed}


def discard(url: str, layout: Layout) -> dict[str, float]:
    return asyncio.run(_discard(url, layout))


async def _discard(url: str, layout: Layout) -> dict[str, float]:
    # Imported here, so that counting with redis-py need not wait for it.
    from channels_redis.core import RedisChannelLayer

    from project.settings import channel_layer

    layer = RedisChannelLayer(**channel_layer("", [url], None)["CONFIG"])
    groups = _sample(layout)
    doomed = [(key[len(GROUP_PREFIX) :].decode(), name.decode()) for key, members in groups for name, _ in members]
    began = time.perf_counter()
    for group, channel in doomed:
        await layer.group_discard(group, channel)
    seconds = time.perf_counter() - began
    await layer.close_pools()
    if write(url, groups) != len(doomed):
        sys.exit("not everything that was removed could be put back")
    return {"seconds": seconds, "members": len(doomed)}


def _sample(layout: Layout) -> list[tuple[bytes, list[tuple[bytes, float]]]]:
    """Some of the dead members, spread evenly over all of the groups."""
    groups = list(layout.read(layout.dead))
    every = max(1, sum(len(members) for _, members in groups) // DISCARDS)
    sampled = []
    seen = 0
    for key, members in groups:
        if chosen := members[-seen % every :: every]:
            sampled.append((key, chosen))
        seen += len(members)
    return sampled


WHAT = {"pages": pages, "zrem": zrem, "discard": discard}


def main(what: str, url: str, layout: str) -> None:
    print(json.dumps(WHAT[what](url, Layout.parse(layout))))


if __name__ == "__main__":
    main(*sys.argv[1:])
