"""Groups of ``RedisPubSubChannelLayer``: subscriptions, which end with their connection. Redis only counts them."""

from ops.model.keys import decode_name, encode_name, escape_glob
from ops.store.shards import OpenLayer, Shard

NAMES_AT_ONCE = 500


async def count_subscribers(
    opened: OpenLayer, shard: Shard, names: tuple[str, ...], glob: str | None
) -> dict[str, int]:
    """Group -> how many connections are subscribed to it on ``shard``: those named, or that match, or all."""
    prefix = encode_name(f"{opened.keyspace.prefix}__group__")
    if names:
        channels = [prefix + encode_name(name) for name in dict.fromkeys(names)]
    else:
        pattern = escape_glob(prefix) + (b"*" if glob is None else encode_name(glob))
        channels = list(await shard.execute("PUBSUB", "CHANNELS", pattern))
    counts: dict[str, int] = {}
    for start in range(0, len(channels), NAMES_AT_ONCE):
        replies = await shard.execute("PUBSUB", "NUMSUB", *channels[start : start + NAMES_AT_ONCE])
        for channel, subscribers in _pairs(replies):
            counts[decode_name(channel[len(prefix) :])] = int(subscribers)
    return {name: count for name, count in counts.items() if count}


def _pairs(reply: list[object] | list[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
    """The reply to NUMSUB: redis-py makes pairs of it, or leaves it flat."""
    if reply and isinstance(reply[0], tuple):
        return list(reply)  # type: ignore[arg-type]  # the first element told
    return list(zip(reply[0::2], reply[1::2], strict=True))  # type: ignore[arg-type]
