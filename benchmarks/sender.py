"""An application that sends to a small group all the time: ``python -m benchmarks.sender URL GROUP FILE``.

Each send is a line of FILE: when it was due (monotonic clock, which all processes of a machine share) and the seconds
until it was done. A send that a slow one before it held up counts from when it was due, or else the worst moments would
have the fewest sends.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from channels_redis.core import RedisChannelLayer

from project.settings import channel_layer

SENDS_PER_SECOND = 200


async def send_forever(url: str, group: str, path: Path) -> None:
    layer = RedisChannelLayer(**channel_layer("", [url], None)["CONFIG"])
    due = time.monotonic()
    with path.open("w", buffering=1) as lines:
        while True:
            due += 1 / SENDS_PER_SECOND
            early = due - time.monotonic()
            if early > 0:
                await asyncio.sleep(early)
            # The timer's own delay is not the layer's.
            began = time.monotonic() if early > 0 else due
            await layer.group_send(group, {"type": "chat.message", "text": "hello"})
            lines.write(f"{began!r} {time.monotonic() - began!r}\n")


def main(url: str, group: str, path: str) -> None:
    asyncio.run(send_forever(url, group, Path(path)))


if __name__ == "__main__":
    main(*sys.argv[1:])
