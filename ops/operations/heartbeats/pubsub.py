"""Heartbeats on a publish/subscribe layer: what can be proved there without a message that a consumer would see.

Members are subscribed connections. Redis says how many there are, a message of our own shows that a shard hands over
what is published, and a connection that does not read what it was sent shows in the server's list.
"""

from collections.abc import AsyncGenerator

from ops.model.heartbeats.tally import GroupTally, RunTally
from ops.model.text import visible
from ops.operations.observe import Look
from ops.store.connection.shards import OpenLayer, Shard
from ops.store.groups.pubsub import count_subscribers, delivery_ms, stalled_subscribers

NOTE = (
    "publish/subscribe: a member is a subscribed connection, and answered means that its shard delivers to it; "
    "what its process does with that cannot be asked"
)


async def count_subscriptions(
    opened: OpenLayer, look: Look, depth: str, timeout_seconds: float, tally: RunTally
) -> AsyncGenerator[GroupTally, None]:
    """At depth process the subscriptions of each group, at others as many members that cannot answer."""
    tally.notes[NOTE] = None
    absent = dict.fromkeys(look.names)
    for shard in opened.answering:
        with shard.noting_failure():
            counts = await count_subscribers(opened, shard, look.names, look.glob)
            took_ms = await delivery_ms(opened, shard, timeout_seconds) if depth == "process" else None
            if depth == "process":
                await _note_stalled(shard, timeout_seconds, tally)
            for name, subscribers in counts.items():
                absent.pop(name, None)
                yield _found(name, subscribers, took_ms, asked=depth == "process")
    if opened.complete:
        for name in absent:
            yield GroupTally(name)


def _found(name: str, subscribers: int, took_ms: float | None, *, asked: bool) -> GroupTally:
    found = GroupTally(name)
    found.counts.members = subscribers
    if not asked:
        found.counts.not_capable = subscribers
    elif took_ms is None:
        found.counts.sent = found.counts.silent = subscribers
    else:
        for _ in range(subscribers):
            found.counts.note_answer(took_ms)
    return found


async def _note_stalled(shard: Shard, timeout_seconds: float, tally: RunTally) -> None:
    for address in await stalled_subscribers(shard, timeout_seconds):
        said = f"shard {shard.index}: the subscribed connection {visible(address)} does not read what it is sent"
        tally.findings[said] = None
