"""Processes that live: ``python -m benchmarks.fleet URL PREFIX[=CHANNELS] …``.

Each is a stock layer with the given ``client_prefix`` and its consumers waiting in ``receive()``, which is all that
Redis can see of a worker. They share one interpreter: a hundred would need more memory than the benchmark is about.
"""

from __future__ import annotations

import asyncio
import sys

from channels_redis.core import RedisChannelLayer

from project.settings import channel_layer


async def serve(url: str, prefixes: dict[str, int]) -> None:
    config = channel_layer("", [url], None)["CONFIG"]
    consumers = []
    for prefix, channels in prefixes.items():
        layer = RedisChannelLayer(**config)
        layer.client_prefix = prefix
        consumers += [consume(layer, channel_name(prefix, number)) for number in range(channels)]
    await asyncio.gather(*consumers)


def channel_name(prefix: str, number: int) -> str:
    """The name of a consumer's channel, as long as those of ``new_channel()``."""
    return f"specific.{prefix}!{number:032x}"


async def consume(layer: RedisChannelLayer, channel: str) -> None:
    while True:
        await layer.receive(channel)


def main(url: str, *prefixes: str) -> None:
    parts = [prefix.partition("=") for prefix in prefixes]
    asyncio.run(serve(url, {prefix: int(channels or 1) for prefix, _, channels in parts}))


if __name__ == "__main__":
    main(*sys.argv[1:])
