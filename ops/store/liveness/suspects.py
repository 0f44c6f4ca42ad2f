"""What reap runs remember of processes between one another, on the first shard: who was silent, who was live."""

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from ops.model.keys import decode_name, encode_name
from ops.model.liveness.suspicion import Suspicion
from ops.store.connection.shards import OpenLayer

MEMORY_SECONDS = 7 * 86400
FIELDS_AT_ONCE = 1000
_NUMBER = re.compile(rb"\d+(\.\d+)?")


async def read_suspicions(opened: OpenLayer, glob: str | None = None) -> dict[str, Suspicion]:
    """Process -> the suspicion of earlier runs with the same ``glob``. An entry that cannot be read counts as none.

    Runs with different globs see different members of a process, so what one knows is not for the other.
    """
    stored = await _read_hash(opened, opened.keyspace.suspects(glob))
    suspicions = (_parse(decode_name(process), raw) for process, raw in stored)
    return {suspicion.process: suspicion for suspicion in suspicions if suspicion}


def _parse(process: str, raw: bytes) -> Suspicion | None:
    try:
        stored = json.loads(raw)
        times = [float(stored[name]) for name in ("since", "renewed_at", "newest_joined_at")]
        epoch = stored["epoch"]
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    # A score can be infinite, a clock cannot.
    if not all(map(math.isfinite, times[:2])) or math.isnan(times[2]) or not isinstance(epoch, str):
        return None
    return Suspicion(process, times[0], times[1], epoch, times[2])


async def record_suspicions(opened: OpenLayer, suspicions: Collection[Suspicion], glob: str | None = None) -> None:
    """Remember exactly ``suspicions``, in place of all earlier ones with the same ``glob``."""
    key = opened.keyspace.suspects(glob)
    values = {suspicion.process: _format(suspicion) for suspicion in suspicions}
    await _replace_hash(opened, key, values)


async def forget_suspicions(opened: OpenLayer) -> None:
    """Forget those of every glob."""
    # By type, too: a layer whose prefix begins as these keys do has its groups there.
    async for keys in opened.home.scan(opened.keyspace.suspects_pattern, "TYPE", "hash"):
        if keys:
            await opened.home.execute("UNLINK", *keys)


def _format(suspicion: Suspicion) -> str:
    values = asdict(suspicion)
    del values["process"]
    return json.dumps(values)


async def read_seen_live(opened: OpenLayer) -> dict[str, float]:
    """Process -> when a run last saw it live (unix seconds of the first shard)."""
    stored = await _read_hash(opened, opened.keyspace.seen)
    seen = {decode_name(process): float(raw) for process, raw in stored if _NUMBER.fullmatch(raw)}
    return {process: when for process, when in seen.items() if math.isfinite(when)}


async def record_seen_live(opened: OpenLayer, seen: Mapping[str, float]) -> None:
    """Remember exactly ``seen``, in place of what was remembered."""
    await _replace_hash(opened, opened.keyspace.seen, {process: repr(when) for process, when in seen.items()})


async def _replace_hash(opened: OpenLayer, key: bytes, values: Mapping[str, str]) -> None:
    """Delete and write in one transaction, so that a run that dies here leaves the old or the new, nothing between."""
    pipe = opened.home.client.pipeline(transaction=True)
    pipe.delete(key)
    names = sorted(values)
    for start in range(0, len(names), FIELDS_AT_ONCE):
        pipe.hset(key, mapping={encode_name(name): values[name] for name in names[start : start + FIELDS_AT_ONCE]})
    if names:
        pipe.expire(key, MEMORY_SECONDS)
    await opened.home.ask(pipe.execute())


async def _read_hash(opened: OpenLayer, key: bytes) -> list[tuple[bytes, bytes]]:
    client: Any = opened.home.client
    stored: dict[bytes, bytes] = await opened.home.ask(client.hgetall(key))
    return list(stored.items())
