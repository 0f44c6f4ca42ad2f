"""Sending heartbeats to channels, and reading what acknowledges them."""

import asyncio
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgpack

from ops.exceptions import ShardError
from ops.model.heartbeats import GroupHeartbeat, Heartbeat
from ops.model.keys import encode_name
from ops.store.shards import OpenLayer, Shard, suppressing_outages

INBOXES_AT_ONCE = 200
KEPT_SECONDS = 60  # beyond the wait: a command that is killed leaves its key no longer than that
FIRST_LOOK_SECONDS = 0.001
LONGEST_LOOK_SECONDS = 0.02
FULLEST_SHARE = 0.75  # an inbox that holds more of its capacity gets no heartbeat


class Asker:
    """One run's heartbeats. Its key exists for as long as somebody waits."""

    def __init__(self, opened: OpenLayer, timeout_seconds: float) -> None:
        self._opened = opened
        self._timeout_seconds = timeout_seconds
        self._run = uuid.uuid4().hex
        self._number = 0
        self.key = opened.keyspace.acknowledgements(self._run)

    async def open(self) -> None:
        await self._opened.home.execute("RPUSH", self.key, "open")
        await self._keep()

    async def _keep(self) -> None:
        await self._opened.home.execute("EXPIRE", self.key, int(self._timeout_seconds) + KEPT_SECONDS)

    async def ask(self, depth: str, inboxes: Mapping[str, Sequence[str]], found: GroupHeartbeat) -> None:
        """Send to the channels of each inbox, wait, and note in ``found`` who answered. Raises ShardError."""
        self._number += 1
        await self._keep()
        heartbeat = Heartbeat(self._run, self._number, depth)
        placed: list[tuple[Shard, bytes, bytes]] = []
        waiting: dict[str, float] = {}
        try:
            for shard, names in self._by_shard(inboxes).items():
                for start in range(0, len(names), INBOXES_AT_ONCE):
                    await self._place(
                        shard, names[start : start + INBOXES_AT_ONCE], inboxes, heartbeat, placed, waiting
                    )
            found.sent = len(waiting)
            found.skipped = sum(map(len, inboxes.values())) - found.sent
            await self._await_answers(waiting, found)
        finally:
            await _take_back(placed)
        found.silent = sorted(waiting)

    def _by_shard(self, inboxes: Mapping[str, Sequence[str]]) -> dict[Shard, list[str]]:
        by_shard: dict[Shard, list[str]] = defaultdict(list)
        for name in inboxes:
            shard = self._opened.shard_of_inbox(name)
            if shard.problem is None:
                by_shard[shard].append(name)
        return by_shard

    async def _place(
        self,
        shard: Shard,
        names: Sequence[str],
        inboxes: Mapping[str, Sequence[str]],
        heartbeat: Heartbeat,
        placed: list[tuple[Shard, bytes, bytes]],
        waiting: dict[str, float],
    ) -> None:
        layer = self._opened.layer
        keys = {name: self._opened.keyspace.inbox(name) for name in names}
        held = await shard.pipeline([("ZCARD", keys[name]) for name in names])
        commands: list[tuple[Any, ...]] = []
        for name, messages in zip(names, held, strict=True):
            if isinstance(messages, Exception) or messages + 1 > FULLEST_SHARE * layer.get_capacity(name):
                continue
            message = layer.serialize({**heartbeat.message(), "__asgi_channel__": list(inboxes[name])})
            placed.append((shard, keys[name], message))
            commands += [("ZADD", keys[name], time.time(), message), ("EXPIRE", keys[name], int(layer.expiry))]
            waiting.update(dict.fromkeys(inboxes[name], time.monotonic()))
        await shard.pipeline(commands)

    async def _await_answers(self, waiting: dict[str, float], found: GroupHeartbeat) -> None:
        until, pause = time.monotonic() + self._timeout_seconds, FIRST_LOOK_SECONDS
        while waiting and time.monotonic() < until:
            await asyncio.sleep(pause)
            read, *_ = await self._opened.home.pipeline([("LRANGE", self.key, 1, -1)])
            if isinstance(read, Exception):
                raise ShardError(f"acknowledgements cannot be read: {type(read).__name__}")
            if read:
                # What was pushed since then stays.
                await self._opened.home.pipeline([("LTRIM", self.key, len(read), -1)])
            for raw in read:
                self._note(raw, waiting, found)
            pause = FIRST_LOOK_SECONDS if read else min(pause * 1.5, LONGEST_LOOK_SECONDS)

    def _note(self, raw: bytes, waiting: dict[str, float], found: GroupHeartbeat) -> None:
        """Anybody may have written it: only a channel that was asked, and has not answered yet, counts."""
        try:
            number, answered, channels = msgpack.unpackb(raw)
            if number != self._number or not isinstance(channels, list):
                return
            named = [channel for channel in channels if isinstance(channel, str)]
        except Exception:
            return
        for channel in named:
            asked_at = waiting.pop(channel, None)
            if asked_at is None:
                continue
            if answered is True:
                found.answered += 1
                found.rtts_ms.append((time.monotonic() - asked_at) * 1000)
            else:
                found.sent -= 1
                found.not_capable += 1

    async def close(self) -> None:
        with suppressing_outages():
            await self._opened.home.execute("DEL", self.key)


async def _take_back(placed: Sequence[tuple[Shard, bytes, bytes]]) -> None:
    """Remove what nobody took, as far as the shards answer."""
    by_shard: dict[Shard, list[tuple[Any, ...]]] = defaultdict(list)
    for shard, key, message in placed:
        by_shard[shard].append(("ZREM", key, message))
    for shard, commands in by_shard.items():
        with suppressing_outages():
            await shard.pipeline(commands)


@asynccontextmanager
async def asking(opened: OpenLayer, timeout_seconds: float) -> AsyncIterator[Asker]:
    asker = Asker(opened, timeout_seconds)
    try:
        await asker.open()
        yield asker
    finally:
        await asker.close()


def is_text(channel: str) -> bool:
    """Whether a layer can put the name into a message: no bytes that are not UTF-8."""
    return encode_name(channel).decode("utf-8", "ignore") == channel
