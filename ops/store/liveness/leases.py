"""Leases: a process with the drop-in layer or OpsMiddleware says on every shard, again and again, who and that it is.

The record outlives the lease: a lapsed one dates the last sign of life of its process. It is gone when its holder ended
it, when the reaper took the process for dead, or when the shard lost its data; a holder with the drop-in layer that
finds it gone puts its memberships back.
"""

import hmac
import importlib.metadata
import math
import os
import platform
import re
import socket
import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ops import compat
from ops.model.keys import Keyspace, decode_name
from ops.model.liveness.lease import LEASE_COUNTS, Lease, shard_of_hosts
from ops.model.liveness.stops import OtherHosts
from ops.store.connection.scripts import run_script
from ops.store.connection.shards import OpenLayer, Shard

LEASES_AT_ONCE = 500
RECORDED_VERSIONS = ("django", "channels", "channels-redis", "redis", "channels-ops")
FIELDS = (
    "renewed_at",
    "lease_seconds",
    "ended",
    "host",
    "pid",
    "started_at",
    "version",
    "index_parts",
    "heartbeats",
    "server_run",
    "layer",
    "server",
    "shard",
    "reads",
    "shared",
    *LEASE_COUNTS,
)
STOCK = "stock"
MOST_READS = 100
_WHOLE = re.compile(rb"\d{1,9}")
_NUMBER = re.compile(rb"\d{1,12}(\.\d{1,9})?")


def describe_process(layer: Any, lease_seconds: float, server: str) -> dict[str, str]:
    """What a lease says of its holder. Nothing in it is secret. ``server``: the ASGI server, empty if not known."""
    versions = (f"{name} {_version(name)}" for name in RECORDED_VERSIONS)
    return {
        "host": socket.gethostname(),
        "pid": str(os.getpid()),
        "started_at": f"{time.time():.3f}",
        "lease_seconds": f"{lease_seconds:g}",
        "version": ", ".join([f"python {platform.python_version()}", *versions]),
        "server": server and f"{server} {_version(server)}",
        "reads": " ".join(reading_of(layer, layer.client_prefix)),
        # After a fork two processes may have one name. Neither may then say that it has ended.
        "holder": uuid.uuid4().hex,
    }


def reading_of(layer: Any, process: str) -> list[str]:
    """What ``layer`` reads: its serializer, and a hash of each encryption key, the first of which encrypts.

    Empty if that is not known. The hash is an HMAC of the process's name, so equal keys do not look equal in the leases
    of two processes.
    """
    keys = compat.encryption_keys(layer)
    if keys is None:
        return []
    hashes = (hmac.new(key, process.encode(), "sha256").hexdigest()[:32] for key in keys)
    return [compat.serializer_name(layer), *hashes]


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


# The holder's side: on a client of the layer itself


class Renewal(NamedTuple):
    """What a shard said when a lease was renewed. ``history``: of which run and replication history of the server;
    ``at``: unix seconds of the shard; ``taken_out``: index entries of whom other processes took out of groups."""

    was_there: bool
    history: bytes
    at: float
    taken_out: list[bytes]


async def renew_lease(
    client: Any, keyspace: Keyspace, process: str, description: dict[str, str], keep_seconds: float
) -> Renewal:
    """Renew the lease, or take it."""
    keys = [keyspace.lease(process), keyspace.taken_out(process), keyspace.leases]
    fields = [text for name, value in description.items() if name != "holder" for text in (name, value)]
    args = [math.ceil(keep_seconds), process, description.get("holder", process), *fields]
    was_there, history, at, taken_out = await run_script(client, "renew_lease", keys, args)
    return Renewal(bool(was_there), history, float(at), taken_out)


async def read_run_since(client: Any, keyspace: Keyspace, at: float) -> str | None:
    """The latest run of the reaper that removed members and began after ``at``, unix seconds of the shard."""
    latest = await client.zrevrangebyscore(keyspace.runs, "+inf", f"({at}", start=0, num=1)
    return decode_name(latest[0]) if latest else None


async def mark_lease_ended(client: Any, keyspace: Keyspace, process: str, keep_seconds: float) -> None:
    """Say that the process is leaving, before its memberships are taken away."""
    pipe = client.pipeline(transaction=False)
    pipe.hset(keyspace.lease(process), "ended", "1")
    pipe.expire(keyspace.lease(process), math.ceil(keep_seconds))
    await pipe.execute()


async def delete_lease(client: Any, keyspace: Keyspace, process: str) -> None:
    """Leave no record: the process has taken everything with it, or cannot promise to renew."""
    pipe = client.pipeline(transaction=False)
    pipe.delete(keyspace.lease(process), keyspace.taken_out(process))
    pipe.zrem(keyspace.leases, process)
    await pipe.execute()


# The commands' side


async def read_leases(shard: Shard, keyspace: Keyspace, processes: Iterable[str]) -> dict[str, Lease]:
    """The leases of those processes that have one. A record that cannot be read counts as none."""
    names = list(processes)
    found: dict[str, Lease] = {}
    for start in range(0, len(names), LEASES_AT_ONCE):
        batch = names[start : start + LEASES_AT_ONCE]
        replies = await shard.pipeline([("HMGET", keyspace.lease(name), *FIELDS) for name in batch])
        for name, reply in zip(batch, replies, strict=True):
            lease = None if isinstance(reply, Exception) else _parse(name, reply)
            if lease is not None:
                found[name] = lease
    return found


async def find_other_hosts(opened: OpenLayer, leases: Iterable[Lease]) -> list[OtherHosts]:
    """The holders of these leases of the first shard whose hosts are not those of ``opened``. Raises ShardError.

    Leases that do not tell on which shard they are, as those of older versions, are passed over.
    """
    telling = [lease for lease in leases if lease.shard]
    found: list[tuple[Lease, Shard, str | None]] = []
    at_home = _expected(opened, opened.home)
    found += [(lease, opened.home, lease.shard) for lease in telling if lease.shard not in at_home]
    same = [lease for lease in telling if lease.shard in at_home]
    for shard in opened.answering:
        if shard is not opened.home:
            said = await _shards_said(shard, opened.keyspace, same)
            found += [(lease, shard, told) for lease, told in said if told not in _expected(opened, shard)]
    return [
        OtherHosts(f"{lease.host} pid {lease.pid}", shard.where, said, _expected(opened, shard)[0])
        for lease, shard, said in found
    ]


def _expected(opened: OpenLayer, shard: Shard) -> list[str]:
    """A database that is there more than once has the lease that was written last."""
    return [shard_of_hosts(index, len(opened.shards)) for index in opened.indexes_of(shard)]


async def _shards_said(shard: Shard, keyspace: Keyspace, leases: Sequence[Lease]) -> list[tuple[Lease, str | None]]:
    found: list[tuple[Lease, str | None]] = []
    for start in range(0, len(leases), LEASES_AT_ONCE):
        batch = leases[start : start + LEASES_AT_ONCE]
        replies = await shard.pipeline([("HGET", keyspace.lease(lease.process), "shard") for lease in batch])
        found += [
            (lease, None if reply is None or isinstance(reply, Exception) else _text(reply))
            for lease, reply in zip(batch, replies, strict=True)
        ]
    return found


async def forget_leases(shard: Shard, keyspace: Keyspace, processes: Sequence[str]) -> None:
    """Delete the leases of processes that were found dead. Raises ShardError."""
    for start in range(0, len(processes), LEASES_AT_ONCE):
        keys = [keyspace.lease(process) for process in processes[start : start + LEASES_AT_ONCE]]
        await shard.execute("UNLINK", *keys)


def _parse(process: str, reply: Sequence[bytes | None]) -> Lease | None:
    renewed_at, lease_seconds, ended, host, pid, started_at, version, index_parts, heartbeats, *rest = reply
    server_run, layer, server, shard, reads, shared, *counts = rest
    if not (_is_number(renewed_at) and _is_number(lease_seconds)):
        return None
    return Lease(
        process=process,
        renewed_at=float(renewed_at or 0),
        lease_seconds=float(lease_seconds or 0),
        ended=ended is not None and shared is None,
        host=_text(host),
        pid=_text(pid),
        started_at=float(started_at or 0) if _is_number(started_at) else 0.0,
        version=_text(version),
        index_parts=_whole(index_parts),
        heartbeats=heartbeats == b"1" and layer is None,  # The stock layer hands heartbeats to consumers.
        server_run=_text(server_run),
        restores=layer is None,
        server=_text(server),
        shard=_text(shard),
        reads=tuple((reads or b"").decode("ascii", "replace").split()[:MOST_READS]),
        counts=tuple(zip(LEASE_COUNTS, map(_whole, counts), strict=True)),
    )


def _whole(raw: bytes | None) -> int:
    return int(raw) if raw is not None and _WHOLE.fullmatch(raw) else 0


def _is_number(raw: bytes | None) -> bool:
    return raw is not None and _NUMBER.fullmatch(raw) is not None


def _text(raw: bytes | None) -> str:
    return decode_name(raw or b"")[:200]
