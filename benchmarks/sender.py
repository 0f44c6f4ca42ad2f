"""An application that sends to a small group all the time: ``python -m benchmarks.sender URL GROUP FILE``.

Each send is a line of FILE: when it began (monotonic clock, which all processes of a machine share) and the seconds
that it took. A send does not wait for the one before it, as those of different consumers do not: otherwise the worst
moments would have the fewest sends.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path

from channels_redis.core import RedisChannelLayer

from project.settings import channel_layer

SENDS_PER_SECOND = 200


async def send_forever(url: str, group: str, path: Path) -> None:
    layer = RedisChannelLayer(**channel_layer("", [url], None)["CONFIG"])
    under_way: set[asyncio.Task[None]] = set()
    due = time.monotonic()
    with path.open("w", buffering=1) as lines:

        async def send() -> None:
            began = time.monotonic()
            await layer.group_send(group, {"type": "chat.message", "text": "hello"})
            lines.write(f"{began!r} {time.monotonic() - began!r}\n")

        while True:
            due = max(due + 1 / SENDS_PER_SECOND, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
            task = asyncio.create_task(send())
            under_way.add(task)
            task.add_done_callback(_ended(under_way))


def _ended(under_way: set[asyncio.Task[None]]) -> Callable[[asyncio.Task[None]], None]:
    def end(task: asyncio.Task[None]) -> None:
        under_way.discard(task)
        task.result()

    return end


def main(url: str, group: str, path: str) -> None:
    asyncio.run(send_forever(url, group, Path(path)))


if __name__ == "__main__":
    main(*sys.argv[1:])
