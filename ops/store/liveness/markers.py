"""Markers: what the next run knows a silent process by, whether it was alive in between.

A marker is a message for no channel, like a probe, but it lies in the process's in-flight key. No sender looks there,
so it takes no message's place and does not expire with them, and a connection that was waiting when the process froze
cannot be given it. A process of the stock layer that is alive empties that key each time it waits for a message (the
clean-up script of ``_brpop_with_clean``), and takes the marker from its inbox without any consumer noticing. The one
that it takes is back in the key until it is acknowledged, so there are two: both still there mean that the process has
not waited for a message since; one that is gone, that it has.

None are left if the layer encrypts, because a marker could not be read any more when it is taken, and none if an inbox
holds fewer than SMALLEST_CAPACITY messages, because a marker is in the inbox for a moment when it is taken.
"""

import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ops import compat
from ops.model.keys import MESSAGES_BELOW, MESSAGES_FROM
from ops.store.connection.scripts import call_script
from ops.store.connection.shards import OpenLayer

T = TypeVar("T")

SMALLEST_CAPACITY = 20
MARKERS = 2  # for each inbox and shard
KEYS_AT_ONCE = 200

Inboxes = Mapping[str, Iterable[str]]
"""Process -> names of its inboxes."""


@dataclass(frozen=True, slots=True)
class Placed:
    """By process, how many markers it has ``now``, and in which ``inboxes``.

    By inbox, how many of an earlier look were there ``before``.
    """

    now: Counter[str] = field(default_factory=Counter)
    inboxes: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    before: Counter[str] = field(default_factory=Counter)


async def place_markers(opened: OpenLayer, inboxes: Inboxes, lifetime_seconds: float) -> Placed:
    """Leave markers for each process in each of its inboxes on every shard."""
    placed = Placed()
    if compat.encrypts(opened.layer):
        return placed
    wanted = [one for one in _by_name(inboxes) if opened.layer.get_capacity(one[1]) >= SMALLEST_CAPACITY]
    args = [int(lifetime_seconds * 1000), *(_marker(opened) for _ in range(MARKERS))]
    for shard in opened.answering:
        for batch in _in_batches(wanted):
            keys = [opened.keyspace.inflight(name) for _, name in batch]
            replies = await call_script(shard, "place_markers", keys, args)
            for (process, name), before in zip(batch, replies, strict=True):
                if before >= 0:
                    placed.before[name] += before
                    placed.now[process] += max(before, MARKERS)
                    placed.inboxes[process].add(name)
    return placed


def _marker(opened: OpenLayer) -> bytes:
    message = {"__asgi_channel__": [], "type": "ops.marker", "id": uuid.uuid4().hex}
    serialized: bytes = opened.layer.serialize(message)
    return serialized


async def count_markers(opened: OpenLayer, inboxes: Inboxes) -> Counter[str]:
    """How many markers of each process are still there."""
    found: Counter[str] = Counter()
    for shard in opened.answering:
        for batch in _in_batches(_by_name(inboxes)):
            commands = [("ZCOUNT", opened.keyspace.inflight(name), "+inf", "+inf") for _, name in batch]
            for (process, _), reply in zip(batch, await shard.pipeline(commands), strict=True):
                found[process] += reply if isinstance(reply, int) else 0
    return found


async def remove_markers(opened: OpenLayer, inboxes: Iterable[str]) -> None:
    """Take the markers of these inboxes away again."""
    for shard in opened.answering:
        for batch in _in_batches(sorted(inboxes)):
            await shard.pipeline([("ZREMRANGEBYSCORE", opened.keyspace.inflight(n), "+inf", "+inf") for n in batch])


async def expire_markers(opened: OpenLayer, inboxes: Iterable[str], lifetime_seconds: float) -> None:
    """Have those that hold nothing but probes and markers expire, if they would not. Raises ShardError."""
    keyspace, args = opened.keyspace, [int(lifetime_seconds * 1000), MESSAGES_FROM, MESSAGES_BELOW]
    for shard in opened.answering:
        for batch in _in_batches(sorted(inboxes)):
            keys = [key for name in batch for key in (keyspace.inbox(name), keyspace.inflight(name))]
            await call_script(shard, "expire_markers", keys, args)


async def without_messages(opened: OpenLayer, inboxes: Iterable[str]) -> set[str]:
    """Those of the inboxes that hold nothing but what the toolkit put there: probes and markers."""
    names = sorted(inboxes)
    holding: set[str] = set()
    for shard in opened.answering:
        for batch in _in_batches(names):
            keys = [key for name in batch for key in (opened.keyspace.inbox(name), opened.keyspace.inflight(name))]
            replies = await shard.pipeline([("ZCOUNT", key, MESSAGES_FROM, MESSAGES_BELOW) for key in keys])
            for at, name in enumerate(batch):
                if any(reply for reply in replies[2 * at : 2 * at + 2] if isinstance(reply, int)):
                    holding.add(name)
    return set(names) - holding


def _by_name(inboxes: Inboxes) -> list[tuple[str, str]]:
    return [(process, name) for process, names in inboxes.items() for name in sorted(names)]


def _in_batches(wanted: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(wanted), KEYS_AT_ONCE):
        yield wanted[start : start + KEYS_AT_ONCE]
