"""Asking a process whether it drains its inbox, without any consumer noticing.

A probe is a message for an empty list of channels: ``RedisChannelLayer.receive()`` pops it, loops over no channel and
drops it. One probe taken proves little, because Redis hands it to a BZPOPMIN that may have been waiting since before
the process froze; the process lives if it takes a second one, sent after the first was gone. A process reads one of
its inboxes at a time, so all of them are probed and any of them may answer.

A probe goes to the front: its score is below that of any message, so the next BZPOPMIN takes it, however much waits
before it, and no sender trims it, which ends at a score of 0.

An inbox that is full gets no probe, which could cost a real message its place. It is watched instead: a message that
left it before it could expire counts like a probe taken. Where all of them are too old for that, it gets one after all.

A process may still have the hosts that were configured before, and read its inbox on another shard than this
configuration says. So there is a probe on each shard, and any of them may be taken.

A process that may not be able to read a probe gets none (see ``ops.model.liveness.readability``).
"""

import asyncio
import contextlib
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import RedisError, ResponseError

from ops import compat
from ops.exceptions import ShardError
from ops.model.liveness.evidence import Evidence, InboxDrained, InboxStuck, NotProbed, ProbesTaken, ProbeUnanswered
from ops.model.liveness.lease import Lease
from ops.store.connection.failures import will_pass
from ops.store.connection.scripts import call_script
from ops.store.connection.shards import OpenLayer, Shard, close_layer, make_layer, suppressing_outages
from ops.store.connection.waiting import end
from ops.store.liveness.readability import read_doubts

INBOXES_AT_ONCE = 200
FIRST_LOOK_SECONDS = 0.002
LONGEST_LOOK_SECONDS = 0.25
LOOKS_PER_SECOND = 4000  # of all inboxes together
SPARE_PLACES = 2  # an inbox with fewer free places than this counts as full
CLOCK_TOLERANCE_SECONDS = 5.0
ENCRYPTING_CLOCK_SECONDS = 20.0  # Fernet takes tokens from up to 60 s ahead, channels_redis up to 10 s + expiry behind
PULSE_SECONDS = 0.25
HELD_UP_SECONDS = 1.0  # who wakes up so much too late stood still
PROBE_LIFETIME_SECONDS = 30.0  # beyond the round, so that an expiring inbox cannot look like one that was read


@dataclass(slots=True)
class _WatchedInbox:
    """One inbox on one shard while its process is being probed. ``elsewhere``: not where this configuration has it.

    ``room``: the most messages with which it still gets a probe.
    """

    key: bytes
    shard: Shard
    elsewhere: bool
    room: int
    placed: list[bytes] = field(default_factory=list)
    messages: int = 0
    oldest: bytes | None = None  # where it is full, the message to watch
    oldest_score: float = 0.0
    readable: bool = True


@dataclass(slots=True)
class _Probed:
    """How far a process is. ``taken``: probes taken in a row; two are proof."""

    process: str
    inboxes: list[_WatchedInbox]
    taken: int = 0
    drained: bool = False
    asked_at: float = 0.0
    round_trip_ms: float = 0.0

    @property
    def answered(self) -> bool:
        return self.taken >= 2

    @property
    def own(self) -> list[_WatchedInbox]:
        """The inboxes where this configuration has them."""
        return [inbox for inbox in self.inboxes if not inbox.elsewhere]

    def take(self) -> None:
        self.taken += 1
        self.round_trip_ms = (time.monotonic() - self.asked_at) * 1000


async def probe_processes(
    opened: OpenLayer,
    inboxes: Mapping[str, Iterable[str]],
    timeout_seconds: float,
    *,
    leases: Mapping[str, Lease],
    own: Collection[str] = (),
) -> dict[str, Evidence]:
    """Probe each process (``inboxes``: process -> names of its inboxes) and wait at most ``timeout_seconds``.

    Returns one piece of evidence for each process, a ProbeWithheld for those that may not be able to read a probe.
    ``own``: processes of this command. Probes that were not taken are removed again. Raises ShardError when a shard
    that answered before fails, and if this host has the wrong clock for encryption.
    """
    redis_now = await opened.answering[0].now()
    _refuse_to_encrypt_by_a_wrong_clock(opened, redis_now)
    doubts: dict[str, Evidence] = {**await read_doubts(opened, inboxes, leases, own)}
    able = {process: names for process, names in inboxes.items() if process not in doubts}
    round_ = _Round(opened, able, timeout_seconds, redis_now)
    try:
        await round_.run()
    finally:
        await round_.take_back()
    return doubts | {probed.process: round_.evidence_about(probed) for probed in round_.processes}


def _refuse_to_encrypt_by_a_wrong_clock(opened: OpenLayer, redis_now: float) -> None:
    """What is encrypted bears the time of this host; who takes a message that is too old by its own clock, or from the
    future, raises InvalidToken, and a consumer dies of it."""
    if not compat.encrypts(opened.layer):
        return
    ahead = time.time() - redis_now
    if abs(ahead) > ENCRYPTING_CLOCK_SECONDS:
        raise ShardError(
            f"this host's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} Redis', and the layer "
            f"encrypts: a probe could not be read, and would kill a consumer; set the clock"
        )


class _Round:
    """One round of probes over all processes at once."""

    def __init__(
        self, opened: OpenLayer, inboxes: Mapping[str, Iterable[str]], timeout_seconds: float, redis_now: float
    ) -> None:
        self._opened = opened
        self._timeout_seconds = timeout_seconds
        self._redis_now = redis_now
        self._started = time.monotonic()
        self._until = self._started + timeout_seconds
        self._lifetime_ms = int((timeout_seconds + PROBE_LIFETIME_SECONDS) * 1000)
        self.processes = [
            _Probed(process, [inbox for name in sorted(names) for inbox in self._watch(name)])
            for process, names in inboxes.items()
        ]

    def _watch(self, name: str) -> list[_WatchedInbox]:
        key, own = self._opened.keyspace.inbox(name), self._opened.shard_of_inbox(name)
        room = max(0, self._opened.layer.get_capacity(name) - SPARE_PLACES - 1)
        return [
            _WatchedInbox(key, shard, shard is not own, room, readable=shard.problem is None)
            for shard in self._opened.databases
        ]

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    async def run(self) -> None:
        pulse = asyncio.create_task(self._feel_own_pulse())
        try:
            await self._ask()
        finally:
            await end(pulse)

    async def _feel_own_pulse(self) -> None:
        """Start the wait again when this process stood still: who shares its host may have stood still with it."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(PULSE_SECONDS)
            if time.monotonic() - before > PULSE_SECONDS + HELD_UP_SECONDS:
                self._until = time.monotonic() + self._timeout_seconds

    async def _ask(self) -> None:
        waiting = [probed for probed in self.processes if any(inbox.readable for inbox in probed.own)]
        await self._place([(probed, inbox) for probed in waiting for inbox in probed.inboxes])
        pause = FIRST_LOOK_SECONDS
        while waiting and (left := self._until - time.monotonic()) > 0:
            await asyncio.sleep(min(pause, left))
            moved = await self._look(waiting)
            waiting = [probed for probed in waiting if not probed.answered]
            await self._place(
                [
                    (probed, inbox)
                    for probed in waiting
                    for inbox in probed.inboxes
                    if probed.process in moved or inbox.oldest is not None
                ]
            )
            longest = max(LONGEST_LOOK_SECONDS, len(waiting) / LOOKS_PER_SECOND)
            pause = FIRST_LOOK_SECONDS if moved else min(pause * 1.5, longest)

    async def _place(self, wanted: Sequence[tuple[_Probed, _WatchedInbox]]) -> None:
        """Put a new probe into each inbox; one that is full is watched instead, where that can prove something."""
        probe = self._opened.layer.serialize({"__asgi_channel__": [], "type": "ops.probe", "id": uuid.uuid4().hex})
        now = self._redis_now + self._elapsed
        watchable_since = now + self._timeout_seconds - self._opened.layer.expiry + CLOCK_TOLERANCE_SECONDS
        how = (probe, repr(-now), repr(watchable_since), self._lifetime_ms)

        async def place(shard: Shard, batch: Sequence[tuple[_Probed, _WatchedInbox]]) -> None:
            for probed, inbox in batch:
                probed.asked_at = time.monotonic()
                inbox.placed.append(probe)
            keys = [inbox.key for _, inbox in batch]
            rooms = [inbox.room for _, inbox in batch]
            replies = await call_script(shard, "place_probes", keys, [*how, *rooms])
            for (_, inbox), reply in zip(batch, replies, strict=True):
                _note_placed(inbox, *reply)

        await self._by_shard(wanted, place)

    async def _look(self, waiting: Sequence[_Probed]) -> set[str]:
        """Which processes took what was asked of them since the last look."""
        moved: dict[str, _Probed] = {}

        async def look(shard: Shard, batch: Sequence[tuple[_Probed, _WatchedInbox]]) -> None:
            watched = [inbox.placed[-1] if inbox.oldest is None else inbox.oldest for _, inbox in batch]
            commands: list[tuple[Any, ...]] = [
                ("ZSCORE", inbox.key, message) for (_, inbox), message in zip(batch, watched, strict=True)
            ]
            if self._senders_shorten_lives:
                commands += [("PEXPIRE", inbox.key, self._lifetime_ms) for _, inbox in batch]
            for (probed, inbox), score in zip(batch, await shard.pipeline(commands), strict=False):
                if isinstance(score, Exception):
                    inbox.readable = False
                elif score is None and self._left_by_hand(inbox):
                    probed.drained = inbox.oldest is not None
                    moved[probed.process] = probed

        await self._by_shard([(probed, inbox) for probed in waiting for inbox in probed.inboxes], look)
        for probed in moved.values():
            probed.take()
        return set(moved)

    @property
    def _senders_shorten_lives(self) -> bool:
        """Each send has the inbox expire after the layer's expiry, which may come before the end of this round."""
        return bool(self._opened.layer.expiry <= self._timeout_seconds + CLOCK_TOLERANCE_SECONDS)

    def _left_by_hand(self, inbox: _WatchedInbox) -> bool:
        """Whether the watched message was taken, not trimmed by a sender because it had expired."""
        if inbox.oldest is None:
            return True
        expires_at = inbox.oldest_score + float(self._opened.layer.expiry)
        return self._redis_now + self._elapsed < expires_at - CLOCK_TOLERANCE_SECONDS

    async def take_back(self) -> None:
        """Remove the probes that nobody took, as far as their shards answer."""

        async def remove(shard: Shard, batch: Sequence[tuple[_Probed, _WatchedInbox]]) -> None:
            with suppressing_outages():
                await shard.pipeline([("ZREM", inbox.key, *inbox.placed) for _, inbox in batch])

        placed = [(probed, inbox) for probed in self.processes for inbox in probed.inboxes if inbox.placed]
        await self._by_shard(placed, remove)

    async def _by_shard(self, wanted: Sequence[tuple[_Probed, _WatchedInbox]], do: Any) -> None:
        batches: dict[int, list[tuple[_Probed, _WatchedInbox]]] = defaultdict(list)
        for probed, inbox in wanted:
            if inbox.readable:
                batches[inbox.shard.index].append((probed, inbox))
        for index, batch in batches.items():
            for start in range(0, len(batch), INBOXES_AT_ONCE):
                await do(self._opened.shards[index], batch[start : start + INBOXES_AT_ONCE])

    def evidence_about(self, probed: _Probed) -> Evidence:
        if probed.answered and probed.drained:
            return InboxDrained(max(inbox.messages for inbox in probed.inboxes))
        if probed.answered:
            return ProbesTaken(probed.round_trip_ms)
        readable = [inbox for inbox in probed.own if inbox.readable]
        if not readable:
            return NotProbed("its inbox cannot be read")
        if all(inbox.oldest is not None for inbox in readable):
            fullest = max(readable, key=lambda inbox: inbox.messages)
            age = self._redis_now + self._elapsed - fullest.oldest_score
            return InboxStuck(fullest.messages, max(0.0, age), self._elapsed)
        return ProbeUnanswered(self._elapsed, probed.taken)


def _note_placed(inbox: _WatchedInbox, placed: int, messages: int, oldest: bytes, oldest_score: bytes) -> None:
    inbox.readable = placed >= 0
    inbox.messages = max(inbox.messages, messages)
    if placed == 1:
        inbox.oldest = None
        return
    inbox.placed.pop()
    if placed == 0:
        inbox.oldest, inbox.oldest_score = oldest, float(oldest_score)


@asynccontextmanager
async def control_receivers(opened: OpenLayer) -> AsyncIterator[dict[int, tuple[str, str]]]:
    """Receivers of the reaper's own, one for each shard: shard index -> (process, inbox).

    Each is an ordinary layer of the same configuration with a coroutine in ``receive()``, so it answers a probe as a
    healthy process does, through the same Redis. Raises PermissionMissing where it may not.
    """
    layers: list[Any] = []
    tasks: dict[Shard, asyncio.Task[None]] = {}
    inboxes: dict[int, tuple[str, str]] = {}
    try:
        for shard in opened.answering:
            layer = make_layer(opened.alias)
            layers.append(layer)
            channel = await channel_on(layer, shard.index)
            inboxes[shard.index] = (layer.client_prefix, layer.non_local_name(channel))
            tasks[shard] = asyncio.create_task(_receive_forever(layer, channel))
        yield inboxes
        for shard, task in tasks.items():
            if task.done():
                with shard.naming_failures():
                    task.result()
    finally:
        await end(*tasks.values())
        for layer in layers:
            with contextlib.suppress(RedisError, OSError):
                await close_layer(layer)
        await remove_inboxes(opened, inboxes)


async def remove_inboxes(opened: OpenLayer, inboxes: Mapping[int, tuple[str, str]]) -> None:
    """A receiver that was cancelled between taking a probe and acknowledging it leaves an in-flight key for ever."""
    keyspace = opened.keyspace
    for index, (_, inbox) in inboxes.items():
        with suppressing_outages():
            await opened.shards[index].execute("DEL", keyspace.inbox(inbox), keyspace.inflight(inbox))


async def channel_on(layer: Any, shard_index: int) -> str:
    """A new channel of ``layer``, which takes another name for it, whose inbox is on that shard."""
    while True:
        channel: str = await layer.new_channel()
        if layer.consistent_hash(layer.non_local_name(channel)) == shard_index:
            return channel
        layer.client_prefix = uuid.uuid4().hex


async def _receive_forever(layer: Any, channel: str) -> None:
    while True:
        try:
            await layer.receive(channel)
        except (RedisError, OSError, asyncio.TimeoutError) as error:
            if isinstance(error, ResponseError) and not will_pass(error):
                raise
            await asyncio.sleep(FIRST_LOOK_SECONDS)
