"""Putting memberships back into Redis and taking doubtful ones out, while their channels go on joining and leaving.

A repair writes what was decided a moment ago. Whoever joins or leaves in the meantime waits until that is written, and
has the last word; whoever cannot wait, in another event loop, is looked after when it is done.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ops import compat
from ops.application.layer.protocol import DropInLayer
from ops.model.keys import index_entry
from ops.store.connection.failures import will_pass

MEMBERS_AT_ONCE = 100  # of one transaction: some 1 ms of the server's time

Member = tuple[str, str]
"""Group and channel."""


@dataclass(frozen=True, slots=True, eq=False)
class _UnderWay:
    members: frozenset[Member]
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Repairs:
    """The repairs of one layer instance's memberships."""

    def __init__(self) -> None:
        self.in_doubt: set[Member] = set()
        # Who is joining now -> how many times
        self.joining: Counter[Member] = Counter()
        self._unanswered: set[Member] = set()
        self._under_way: set[_UnderWay] = set()

    @property
    def unsettled(self) -> set[Member]:
        """Who may be in a group and is perhaps not known to be."""
        return self.in_doubt.union(self._unanswered, *(repair.members for repair in tuple(self._under_way)))

    def join_begins(self, member: Member) -> None:
        """Until it ends, what Redis says of ``member`` may be older than the join."""
        self.joining[member] += 1

    def join_ends(self, member: Member) -> None:
        self.joining[member] -= 1
        if self.joining[member] <= 0:
            del self.joining[member]

    def doubt(self, member: Member) -> None:
        """Redis did not say whether it did as it was asked: look again whether the group has what it should.

        Twice: at once, where something is settled at once, Redis may not have read yet what it was asked.
        """
        self.in_doubt.add(member)
        self._unanswered.add(member)

    def doubt_again(self) -> None:
        """Redis has done by now whatever it was asked before."""
        self.in_doubt.update(self._unanswered)
        self._unanswered.clear()

    async def have_written(self, member: Member) -> None:
        """Wait while what was decided of ``member`` before is being written."""
        while repair := next((repair for repair in tuple(self._under_way) if member in repair.members), None):
            if repair.loop is not asyncio.get_running_loop():
                return
            await repair.ended.wait()

    async def join(self, layer: DropInLayer, shard: int, members: Sequence[Member], *, anew: bool) -> None:
        """Give channels the score of now in their groups; who leaves meanwhile is taken out again.

        ``anew``: also those that are not there. Otherwise whom another process has taken out stays out.
        """
        memberships, connection = layer.memberships, layer.connection(shard)
        for start in range(0, len(members), MEMBERS_AT_ONCE):
            # In one go: no snapshot may have a member that its process's index does not name.
            now, pipe = time.time(), connection.pipeline(transaction=anew)
            batch = [member for member in members[start : start + MEMBERS_AT_ONCE] if memberships.is_member(*member)]
            for group, channel in batch:
                part = layer.index_key(channel)
                pipe.zadd(compat.group_key(layer, group), {channel: now}, xx=not anew)
                pipe.expire(compat.group_key(layer, group), layer.group_expiry)
                if anew:
                    pipe.lrem(part, 0, index_entry(group, channel))
                    pipe.rpush(part, index_entry(group, channel))
                pipe.expire(part, layer.group_expiry)
            self.in_doubt.update(batch)
            await self._write(batch, pipe)
            for group, channel in batch:
                if memberships.is_member(group, channel):
                    memberships.joined(group, channel, now)
        await self.settle(layer, shard)

    async def settle(self, layer: DropInLayer, shard: int) -> None:
        """Take out who is in doubt and no member; who joins while that is under way goes in again.

        Those of another repair are left to its end: only then can be said who left meanwhile.
        """
        others = frozenset().union(*(repair.members for repair in tuple(self._under_way)))
        doubtful = on_shard(layer, shard, self.in_doubt - others)
        gone = [member for member in doubtful if not layer.memberships.is_member(*member)]
        # Before Redis is asked: what comes into doubt meanwhile is in doubt afterwards.
        self.in_doubt.difference_update(doubtful)
        for start in range(0, len(gone), MEMBERS_AT_ONCE):
            batch = gone[start : start + MEMBERS_AT_ONCE]
            try:
                await self._take_out(layer, shard, batch)
            except BaseException:
                self.in_doubt.update(gone[start:])
                raise

    async def _take_out(self, layer: DropInLayer, shard: int, members: Sequence[Member]) -> None:
        pipe = layer.connection(shard).pipeline(transaction=False)
        for group, channel in members:
            pipe.zrem(compat.group_key(layer, group), channel)
            if layer.memberships.knows(channel):
                pipe.lrem(layer.index_key(channel), 0, index_entry(group, channel))
        await self._write(members, pipe)
        back = [member for member in members if layer.memberships.is_member(*member)]
        if back:
            await self.join(layer, shard, back, anew=True)

    async def forget(self, layer: DropInLayer, client: Any, member: Member) -> None:
        """Another process has taken ``member`` out of its group, and left word of it."""
        group, channel = member
        entry, pipe = index_entry(group, channel), client.pipeline(transaction=False)
        if layer.memberships.knows(channel):
            pipe.lrem(layer.index_key(channel), 0, entry)
            layer.memberships.left(group, channel)
        # One: it may have been taken out a second time.
        pipe.lrem(layer.taken_out_key(channel), 1, entry)
        await self._write([member], pipe)

    async def _write(self, members: Iterable[Member], pipe: Any) -> None:
        repair = _UnderWay(frozenset(members))
        self._under_way.add(repair)
        try:
            await execute(pipe)
        finally:
            self._under_way.discard(repair)
            repair.ended.set()


async def execute(pipe: Any) -> None:
    """Run a pipeline to its end; a group that is no group does not keep the others from what they need."""
    for reply in await pipe.execute(raise_on_error=False):
        if isinstance(reply, Exception) and will_pass(reply):
            raise reply


def on_shard(layer: DropInLayer, shard: int, members: Iterable[Member]) -> list[Member]:
    """Those of ``members`` whose group is there."""
    return [member for member in members if layer.consistent_hash(member[0]) == shard]
