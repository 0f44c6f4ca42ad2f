"""Where a connection comes from, as the server sees it and as we do."""

import re

from ops.model.keys import decode_name
from ops.store.connection.shards import Shard
from ops.store.connection.wire import checked, pack

_OUR_ADDRESS = re.compile(rb"(?:^| )addr=(\S+)")


async def read_addresses(shard: Shard) -> tuple[str, str]:
    """Where one of our connections comes from: as the server sees it, and as we do. They differ behind a proxy."""
    async with shard.wire() as wire:
        ours = wire.local_address
        with shard.naming_failures(asked="CLIENT INFO"):
            await wire.send(pack(b"CLIENT", b"INFO"))
            [reply] = await wire.replies(1)
            said = _OUR_ADDRESS.search(checked(reply))
        seen = decode_name(said[1])[:100].replace("::ffff:", "") if said else ours
    if not ours:  # Over a unix socket, the server has a path for us.
        return ("" if seen.startswith("/") or not said else seen), ours
    return seen, ours


async def is_direct(shard: Shard) -> bool:
    """Whether nothing stands between us and the server that makes connections of its own. Raises ShardError."""
    seen, ours = await read_addresses(shard)
    return seen == ours
