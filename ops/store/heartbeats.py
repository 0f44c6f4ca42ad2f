"""Sending heartbeats to channels, and reading what acknowledges them.

Any number of questions may be under way at once. One reader serves them all: it looks at the run's list of
acknowledgements, which exists for as long as the run does, and tells each question who has answered.
"""

import asyncio
import contextlib
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgpack

from ops.exceptions import ShardError
from ops.model.heartbeats.message import Heartbeat
from ops.model.keys import encode_name
from ops.store.connection.scripts import call_script
from ops.store.connection.shards import OpenLayer, Shard, suppressing_outages
from ops.store.connection.waiting import end, within

INBOXES_AT_ONCE = 200
ACKNOWLEDGEMENTS_AT_ONCE = 1000
KEPT_SECONDS = 60  # beyond the wait: a command that is killed leaves its key no longer than that
RENEWED_AFTER_SECONDS = 10.0
FIRST_LOOK_SECONDS = 0.001
LONGEST_LOOK_SECONDS = 0.01
LONGER_EACH_TIME = 1.2  # a look comes so late at most, by its share of the round trip
MOST_AT_ONCE = 50
FULLEST_SHARE = 0.75  # an inbox that holds more of its capacity gets no heartbeat

NEAR_CAPACITY = "its inbox is near capacity"
NO_INBOX = "its inbox cannot be read: the key holds something else"
LOST = "the acknowledgements were lost: the first shard has lost its data"
BEGINNING = b"open"


@dataclass(slots=True)
class Answers:
    """What came of one question. ``answered``: channel -> round trip in ms; ``skipped``: inbox -> why its channels were
    not asked, or why nobody can know what they answered."""

    answered: dict[str, float] = field(default_factory=dict)
    not_capable: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Placed:
    """A message in an inbox. ``waiting``: its channels that have not answered."""

    inbox: str
    shard: Shard
    key: bytes
    message: bytes
    waiting: set[str]
    asked_at: float


class _Question:
    """One heartbeat to some channels, while it is under way."""

    def __init__(self) -> None:
        self.answers = Answers()
        self.lost: str | None = None
        self.settled = asyncio.Event()
        self._placed: list[_Placed] = []
        self._by_channel: dict[str, _Placed] = {}

    def asked(self, placed: _Placed) -> None:
        self._placed.append(placed)
        self._by_channel.update(dict.fromkeys(placed.waiting, placed))

    @property
    def waits(self) -> bool:
        return bool(self._by_channel)

    def note(self, channel: str, answered: bool, now: float) -> None:
        """Anybody may have written it: only a channel that was asked, and has not answered yet, counts."""
        placed = self._by_channel.pop(channel, None)
        if placed is None:
            return
        placed.waiting.discard(channel)
        if answered:
            self.answers.answered[channel] = (now - placed.asked_at) * 1000
        else:
            self.answers.not_capable.append(channel)
        if not self._by_channel:
            self.settled.set()

    def unanswered(self) -> list[_Placed]:
        return [placed for placed in self._placed if placed.waiting]

    def forget(self, placed: _Placed) -> None:
        for channel in placed.waiting:
            self._by_channel.pop(channel, None)
        placed.waiting.clear()


class Asker:
    """One run's heartbeats. Its key exists for as long as it asks.

    A shard that fails is marked, and its inboxes are skipped; without the first shard, which keeps the
    acknowledgements, all are. ``losses``: why acknowledgements were lost, where they were.
    """

    def __init__(self, opened: OpenLayer, timeout_seconds: float) -> None:
        self._opened = opened
        self._timeout_seconds = timeout_seconds
        self._run = uuid.uuid4().hex
        self._number = 0
        self._questions: dict[int, _Question] = {}
        self._renew_at = 0.0
        self._made = False
        self._opening = asyncio.Lock()
        self._reader: asyncio.Task[None] | None = None
        self.key = opened.keyspace.acknowledgements(self._run)
        self.losses: dict[str, None] = {}

    @property
    def most_at_once(self) -> int:
        """How many questions may be under way: even unread, they must not fill an inbox by themselves."""
        layer = self._opened.layer
        smallest = min([layer.capacity, *(capacity for _, capacity in layer.channel_capacity)])
        return max(1, min(MOST_AT_ONCE, int(smallest / 2)))

    async def ask(self, depth: str, inboxes: Mapping[str, Sequence[str]]) -> Answers:
        """Send to the channels of each inbox, and wait until all have answered or the time is over."""
        await self._keep_key()
        self._number += 1
        number, question = self._number, _Question()
        if self._opened.home.problem is not None:
            question.answers.skipped.update(dict.fromkeys(inboxes, self._opened.home.problem))
            return question.answers
        self._questions[number] = question
        try:
            await self._place_all(question, Heartbeat(self._run, number, depth), inboxes)
            if question.waits:
                self._keep_reading()
                with contextlib.suppress(asyncio.TimeoutError):
                    await within(self._timeout_seconds, question.settled.wait())
        finally:
            del self._questions[number]
            await _take_back(question.unanswered())
        for placed in question.unanswered():
            if question.lost is not None:
                question.answers.skipped[placed.inbox] = question.lost
            else:
                question.answers.silent.extend(sorted(placed.waiting))
        return question.answers

    # The key

    async def _keep_key(self) -> None:
        """Make the key, or have it live on. It expires by itself, should nobody be left to delete it."""
        async with self._opening:
            home = self._opened.home
            if home.problem is not None or time.monotonic() < self._renew_at:
                return
            self._made = True
            keep_seconds = int(self._timeout_seconds) + KEPT_SECONDS
            with home.noting_failure():
                if not await home.execute("EXPIRE", self.key, keep_seconds):
                    await home.pipeline([("RPUSH", self.key, BEGINNING), ("EXPIRE", self.key, keep_seconds)])
                self._renew_at = time.monotonic() + RENEWED_AFTER_SECONDS

    async def close(self) -> None:
        if self._reader is not None:
            await end(self._reader)
        if self._made:
            with suppressing_outages():
                await self._opened.home.execute("DEL", self.key)

    # Placing

    async def _place_all(self, question: _Question, heartbeat: Heartbeat, inboxes: Mapping[str, Sequence[str]]) -> None:
        by_shard: dict[Shard, list[str]] = defaultdict(list)
        for name in inboxes:
            by_shard[self._opened.shard_of_inbox(name)].append(name)
        for shard, names in by_shard.items():
            for start in range(0, len(names), INBOXES_AT_ONCE):
                batch = names[start : start + INBOXES_AT_ONCE]
                try:
                    if shard.problem is not None:
                        raise ShardError(shard.problem)
                    await self._place(question, heartbeat, shard, {name: inboxes[name] for name in batch})
                except ShardError as error:
                    shard.note_failure(error)
                    question.answers.skipped.update(dict.fromkeys(batch, str(error)))

    async def _place(
        self, question: _Question, heartbeat: Heartbeat, shard: Shard, inboxes: Mapping[str, Sequence[str]]
    ) -> None:
        layer = self._opened.layer
        placed: dict[str, _Placed] = {}
        for name, channels in inboxes.items():
            message = layer.serialize({**heartbeat.message(), "__asgi_channel__": list(channels)})
            key = self._opened.keyspace.inbox(name)
            placed[name] = _Placed(name, shard, key, message, set(channels), time.monotonic())
            question.asked(placed[name])  # The answer may come before the script has returned.
        most = [int(FULLEST_SHARE * layer.get_capacity(name)) - 1 for name in inboxes]
        messages = [one.message for one in placed.values()]
        try:
            args = [int(layer.expiry), *messages, *most]
            replies = await call_script(shard, "place_heartbeats", [one.key for one in placed.values()], args)
        except ShardError:
            # Some may be there all the same.
            await _take_back(list(placed.values()))
            for one in placed.values():
                question.forget(one)
            raise
        for one, reply in zip(placed.values(), replies, strict=True):
            if reply != 1:
                question.answers.skipped[one.inbox] = NEAR_CAPACITY if reply == 0 else NO_INBOX
                question.forget(one)

    # Reading

    def _keep_reading(self) -> None:
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        """Read acknowledgements for as long as somebody waits for one."""
        pause = FIRST_LOOK_SECONDS
        newest = 0
        while any(question.waits for question in self._questions.values()):
            if newest != self._number:
                newest, pause = self._number, FIRST_LOOK_SECONDS
            await asyncio.sleep(pause)
            try:
                read = await self._take_acknowledgements()
            except ShardError as error:
                if self._opened.home.problem is None:
                    self._opened.home.note_failure(error)
                self._lose(str(error))
                return
            if read is None:
                self._lose(LOST)
                return
            for raw in read:
                self._note(raw)
            pause = FIRST_LOOK_SECONDS if read else min(pause * LONGER_EACH_TIME, LONGEST_LOOK_SECONDS)

    async def _take_acknowledgements(self) -> list[bytes] | None:
        """What has come since; None where the key is gone. One entry always stays, so that the key does."""
        home = self._opened.home
        found = await home.execute("LRANGE", self.key, 0, ACKNOWLEDGEMENTS_AT_ONCE)
        if len(found) > 1:
            # What was pushed meanwhile stays.
            await home.execute("LTRIM", self.key, len(found) - 1, -1)
        return found[1:] if found else None

    def _lose(self, why: str) -> None:
        """Nobody can know any more who has answered."""
        self._renew_at = 0.0
        self.losses[why] = None
        for question in self._questions.values():
            question.lost = why
            question.settled.set()

    def _note(self, raw: bytes) -> None:
        try:
            number, answered, channels = msgpack.unpackb(raw)
            question = self._questions.get(number)
            named = [channel for channel in channels if isinstance(channel, str)]
        except Exception:
            return  # Anybody may have written it.
        if question is not None:
            now = time.monotonic()
            for channel in named:
                question.note(channel, answered is True, now)


async def _take_back(placed: Iterable[_Placed]) -> None:
    """Remove what nobody took, as far as the shards answer."""
    by_shard: dict[Shard, list[tuple[str, bytes, bytes]]] = defaultdict(list)
    for one in placed:
        by_shard[one.shard].append(("ZREM", one.key, one.message))
    for shard, commands in by_shard.items():
        with suppressing_outages():
            await shard.pipeline(commands)


@asynccontextmanager
async def asking(opened: OpenLayer, timeout_seconds: float) -> AsyncIterator[Asker]:
    asker = Asker(opened, timeout_seconds)
    try:
        yield asker
    finally:
        await asker.close()


def is_text(channel: str) -> bool:
    """Whether a layer can put the name into a message: no bytes that are not UTF-8."""
    return encode_name(channel).decode("utf-8", "ignore") == channel
