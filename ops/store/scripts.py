"""The Lua scripts: a file each in ``lua/``, a wrapper each where it is used.

``call_script`` sends a script by its SHA; redis-py loads it where the server does not know it (NOSCRIPT).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from ops.store.shards import Shard


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script with the SHA1 by which Redis knows it once it is loaded."""

    source: bytes
    sha: bytes


@cache
def script(name: str) -> Script:
    """The script in ``lua/{name}.lua``."""
    source = resources.files("ops.store").joinpath("lua").joinpath(f"{name}.lua").read_bytes()
    return Script(source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())


async def call_script(shard: Shard, name: str, keys: Sequence[bytes], args: Sequence[Any]) -> Any:
    """Run ``lua/{name}.lua`` on ``shard``; ``register_script`` reloads it when the server lost it."""
    registered = shard.client.register_script(script(name).source)
    return await shard.ask(registered(keys=keys, args=args))
