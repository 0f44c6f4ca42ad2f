"""Reading the newest messages of inboxes, to learn whether their processes use the settings of this layer."""

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ops import compat
from ops.model.liveness.evidence import OtherSettings, ProbeWithheld
from ops.model.liveness.lease import Lease
from ops.model.liveness.readability import (
    KEY_THAT_IS_NO_TEXT,
    SentBetween,
    Unreadable,
    can_read,
    packs_only,
    telling_messages,
    why_withheld,
)
from ops.store.connection.shards import OpenLayer, Shard
from ops.store.liveness.leases import reading_of

INBOXES_AT_ONCE = 200

Inboxes = Mapping[str, Iterable[str]]
"""Process -> the names of its inboxes."""


async def read_doubts(
    opened: OpenLayer, inboxes: Inboxes, leases: Mapping[str, Lease], own: Collection[str] = ()
) -> dict[str, ProbeWithheld]:
    """Which of these processes may not be able to read a probe, and why. Raises ShardError.

    ``own``: processes of this command, which have its settings.
    """
    told = {process: reads_ours(opened.layer, leases.get(process)) for process in inboxes if process not in own}
    doubts: dict[str, ProbeWithheld] = {process: OtherSettings() for process, able in told.items() if able is False}
    unknown = [process for process, able in told.items() if able is None]
    several_keys = bool(unknown) and compat.has_several_keys(opened.layer)
    # With several keys nothing is sent to these, whatever can be read.
    others = {} if several_keys or not unknown else {one: inboxes[one] for one in inboxes if one not in doubts}
    doubt = why_withheld(several_keys=several_keys, unreadable=await find_unreadable(opened, others))
    return doubts if doubt is None else doubts | dict.fromkeys(unknown, doubt)


def reads_ours(layer: Any, lease: Lease | None) -> bool | None:
    """Whether the holder of the lease can read what ``layer`` sends; None if that is not known."""
    return None if lease is None else can_read(lease.reads, reading_of(layer, lease.process))


async def find_unreadable(opened: OpenLayer, inboxes: Inboxes) -> list[Unreadable]:
    """The processes to which a message was sent that cannot be read here, each once; two commands for each inbox.

    Reads the newest message of each inbox and of each in-flight key on every shard that answers, since a process may
    have other hosts than this configuration. Raises ShardError.
    """
    wanted = [(process, name) for process, names in inboxes.items() for name in sorted(names)]
    found = await asyncio.gather(*(_find_on(opened, shard, wanted) for shard in opened.answering))
    by_process = {one.process: one for unreadable in reversed(found) for one in reversed(unreadable)}
    return [by_process[process] for process in inboxes if process in by_process]


async def _find_on(opened: OpenLayer, shard: Shard, wanted: Sequence[tuple[str, str]]) -> list[Unreadable]:
    keyspace = opened.keyspace
    found: list[Unreadable] = []
    for start in range(0, len(wanted), INBOXES_AT_ONCE):
        batch = wanted[start : start + INBOXES_AT_ONCE]
        keys = [
            (process, in_flight, key)
            for process, name in batch
            for in_flight, key in ((False, keyspace.inbox(name)), (True, keyspace.inflight(name)))
        ]
        sent = {in_flight: _telling(opened.layer, in_flight=in_flight) for in_flight in (False, True)}
        replies = await shard.pipeline([_newest(key, sent[in_flight]) for _, in_flight, key in keys])
        for (process, in_flight, _), reply in zip(keys, replies, strict=True):
            # An error: the key holds something else, and is no inbox.
            why = None if isinstance(reply, Exception) or not reply else _why_unreadable(opened.layer, reply[0])
            if why is not None:
                found.append(Unreadable(process, in_flight, why, packs_only=why == KEY_THAT_IS_NO_TEXT))
    return found


def _telling(layer: Any, *, in_flight: bool) -> SentBetween:
    return telling_messages(
        now=time.time(),  # Decryption compares with the clock of this host.
        expiry_seconds=float(layer.expiry),
        encrypts=compat.encrypts(layer),
        in_flight=in_flight,
    )


def _newest(key: bytes, sent: SentBetween) -> tuple[Any, ...]:
    return ("ZRANGE", key, repr(sent.newest), repr(sent.oldest), "BYSCORE", "REV", "LIMIT", 0, 1)


def _why_unreadable(layer: Any, message: bytes) -> str | None:
    try:
        read = layer.deserialize(message)
    except Exception as error:  # whatever the serializer of the project's choice may raise
        return KEY_THAT_IS_NO_TEXT if packs_only(str(error)) else type(error).__name__
    return None if isinstance(read, dict) else f"it holds a {type(read).__name__}"
