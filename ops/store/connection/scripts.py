"""The Lua scripts: a file each in ``lua/``, a wrapper each where it is used."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from ops.store.connection.permissions import refusal_of_script
from ops.store.connection.shards import Shard


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


async def run_script(client: Any, name: str, keys: Sequence[Any], args: Sequence[Any]) -> Any:
    """Run ``lua/{name}.lua`` by its SHA on a redis-py client; in full where the server does not know it yet."""
    wanted = script(name)
    try:
        try:
            return await client.evalsha(wanted.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await client.eval(wanted.source, len(keys), *keys, *args)
    except ResponseError as error:
        refusal = refusal_of_script(error, wanted.source)
        if refusal is None:
            raise
        raise refusal from None


async def call_script(shard: Shard, name: str, keys: Sequence[bytes], args: Sequence[Any]) -> Any:
    """Run ``lua/{name}.lua`` on ``shard``. Raises ShardError."""
    return await shard.ask(run_script(shard.client, name, keys, args))
