"""A process of the stock layer that writes what it receives: `python -m tests.acceptance.receiving_process`.

Its argument is the configuration of the layer, as JSON. The first line that it writes is the name of its channel, which
has joined the group "room"; each other line is the text of a message. A message "block" holds it up in its handler,
"count and block" when it has asked Redis something first.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys

from channels_redis.core import RedisChannelLayer


async def receive_all() -> None:
    layer = RedisChannelLayer(**json.loads(sys.argv[1]))
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    sys.stdout.write(f"{channel}\n")
    sys.stdout.flush()
    while True:
        text = (await layer.receive(channel))["text"]
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
        if text == "count and block":
            async with layer.connection(0) as connection:
                await connection.zcard("asgi:group:room")
        if text.endswith("block"):
            os.kill(os.getpid(), signal.SIGSTOP)


if __name__ == "__main__":
    asyncio.run(receive_all())
