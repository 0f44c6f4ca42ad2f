"""Reading groups: which there are, who is in them, which processes that makes. Never writes.

Every reply is small enough not to hold the server up (at most ``PAGE`` members), and the next request is on its way
before the last reply is looked at, so that the server works while the client counts.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any, NamedTuple

import hiredis

from ops.model.keys import (
    LOCAL_PART,
    Inbox,
    Keyspace,
    decode_name,
    inbox_of,
    inbox_part,
    parse_inbox,
    without_local_parts,
)
from ops.model.liveness.stops import MisplacedGroup
from ops.store.connection.wire import Wire, checked, newest_score, pack, with_scores

SCAN_COUNT = 500
FIRST_PAGE = 100  # so a page of SCAN_COUNT groups is at most some 4 MB, however large the groups are
PAGE = 1000
LARGE_AT_ONCE = 4
DEDUPLICATED_GROUPS = 1 << 20
MOST_MISPLACED = 3
MARK_BITS = (1 << 60) - 1  # An int of up to 60 bits takes 32 bytes of memory, a longer one 48.

Progress = Callable[[int, int], None]
MisplacedAmong = Callable[[Sequence[bytes]], Collection[bytes]]
"""Of the keys of groups, those that belong on another shard than the one that is read."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which groups to read: those of ``keys``, or every key that matches ``pattern`` (a SCAN pattern)."""

    pattern: bytes = b""
    keys: tuple[bytes, ...] | None = None


@dataclass(slots=True)
class ScanNotes:
    """What a scan met beside groups: keys of inboxes, group keys that hold something else, and those that were to be
    read and are not there.

    ``misplaced``: of the groups that belong on another shard, the MOST_MISPLACED that were joined last: key -> the time
    of that join.
    """

    inboxes: set[Inbox] = field(default_factory=set)
    wrong_type: list[bytes] = field(default_factory=list)
    absent: list[bytes] = field(default_factory=list)
    misplaced: dict[bytes, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KeyPage:
    """Replies to ZRANGE, one for each key. ``last``: no members follow in any of these groups; ``groups`` of them
    have members at all."""

    keys: Sequence[bytes]
    replies: Sequence[Any]
    last: bool
    groups: int


class GroupSlice(NamedTuple):
    """A run of members of one group, oldest first. ``scores``: unix seconds, empty where they were not asked for.
    ``last``: the group ends here.

    The slices of a large group come from the newest to the oldest.
    """

    key: bytes
    members: list[bytes]
    scores: list[float]
    last: bool


@dataclass(slots=True)
class ProcessTally:
    """What the groups say about one process. ``newest_joined_at``: unix seconds, 0 where scores were not read."""

    inboxes: set[str] = field(default_factory=set)
    members: int = 0
    newest_joined_at: float = 0.0


@dataclass(slots=True)
class Census:
    """All groups of a selection, counted. ``unnamed``: members whose name tells no process.

    ``absent``: groups that were named and do not exist. ``misplaced``: the few groups of each shard that were joined
    last of those that belong on another one; known only if scores were read. ``without_messages``: inboxes of processes
    without members that hold nothing but probes and markers.
    """

    groups: int = 0
    members: int = 0
    unnamed: int = 0
    processes: dict[str, ProcessTally] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    misplaced: list[MisplacedGroup] = field(default_factory=list)
    without_messages: set[str] = field(default_factory=set)

    def add(self, other: "Census") -> None:
        self.groups += other.groups
        self.members += other.members
        self.unnamed += other.unnamed
        self.misplaced += other.misplaced
        for process, tally in other.processes.items():
            mine = self.processes.setdefault(process, ProcessTally())
            mine.inboxes |= tally.inboxes
            mine.members += tally.members
            mine.newest_joined_at = max(mine.newest_joined_at, tally.newest_joined_at)


async def count_members(
    wire: Wire,
    keyspace: Keyspace,
    selection: Selection,
    notes: ScanNotes,
    *,
    scores: bool,
    progress: Progress,
    misplaced_among: MisplacedAmong | None = None,
) -> Census:
    """Count the members of each process, in memory that grows with the processes, and by a mark for each group.

    ``scores``: read the join times too, which costs about half as much again. ``misplaced_among``: for these groups
    the newest join is noted, if scores are read.
    """
    counter = _MemberCounter()
    async for page in _read_pages(wire, keyspace, selection, notes, scores=scores):
        counter.count(page, scores=scores)
        if misplaced_among is not None and scores and (keys := misplaced_among(page.keys)):
            _note_misplaced(page, keys, notes.misplaced)
        progress(counter.groups, counter.members)
    return counter.census()


async def read_slices(
    wire: Wire, keyspace: Keyspace, selection: Selection, notes: ScanNotes, *, scores: bool = True
) -> AsyncIterator[list[GroupSlice]]:
    """The members of every group, with their scores or without. All slices of a group come one after the other."""
    async for page in _read_pages(wire, keyspace, selection, notes, scores=scores):
        replies = zip(page.keys, page.replies, strict=True)
        if scores:
            yield [GroupSlice(key, *with_scores(reply), page.last) for key, reply in replies]
        else:
            yield [GroupSlice(key, reply, [], page.last) for key, reply in replies]


class _MemberCounter:
    """Counts members by their name without its local part, and looks at each such head once."""

    def __init__(self) -> None:
        self.groups = 0
        self.members = 0
        self._heads: Counter[bytes] = Counter()
        self._newest: dict[bytes, float] = {}
        self._inboxes: dict[bytes, Inbox] = {}
        self._unnamed = 0

    def count(self, page: KeyPage, *, scores: bool) -> None:
        replies = page.replies
        joined: Iterable[Iterable[float]] = repeat(repeat(0.0))
        if scores and replies:
            replies, joined = zip(*map(with_scores, replies), strict=True)
            for members, times in zip(replies, joined, strict=True):
                self._note_newest(members, times)
        heads = Counter(without_local_parts(chain.from_iterable(replies)))
        odd = [head for head in heads if head not in self._inboxes and not self._learn(head)]
        if odd:
            self._count_odd(heads, set(odd), chain.from_iterable(map(zip, replies, joined)))
        self._heads.update(heads)
        self.members += sum(map(len, replies))
        self.groups += page.groups

    def _learn(self, head: bytes) -> bool:
        inbox = parse_inbox(decode_name(head))
        if inbox is None:
            return False
        self._inboxes[head] = inbox
        return True

    def _note_newest(self, members: Iterable[bytes], joined: Iterable[float]) -> None:
        # Scores ascend, so the last one of each head is its newest.
        latest = dict(zip(without_local_parts(members), joined, strict=True))
        for head, score in latest.items():
            if score > self._newest.get(head, 0.0):
                self._newest[head] = score

    def _count_odd(self, heads: Counter[bytes], odd: set[bytes], members: Iterable[tuple[bytes, float]]) -> None:
        """Names that new_channel() did not make: read each in full. They may still name a process."""
        for head in odd:
            del heads[head]
        for member, score in members:
            if member[:-LOCAL_PART] not in odd:
                continue
            inbox = inbox_of(decode_name(member))
            if inbox is None:
                self._unnamed += 1
                continue
            head = inbox_part(member)
            self._inboxes[head] = inbox
            heads[head] += 1
            self._newest[head] = max(self._newest.get(head, 0.0), score)

    def census(self) -> Census:
        census = Census(self.groups, self.members, self._unnamed)
        for head, inbox in self._inboxes.items():
            tally = census.processes.setdefault(inbox.process, ProcessTally())
            tally.inboxes.add(inbox.name)
            tally.members += self._heads[head]
            tally.newest_joined_at = max(tally.newest_joined_at, self._newest.get(head, 0.0))
        return census


async def _read_pages(
    wire: Wire, keyspace: Keyspace, selection: Selection, notes: ScanNotes, *, scores: bool
) -> AsyncIterator[KeyPage]:
    large: list[bytes] = []
    first_pages: AsyncIterator[tuple[Sequence[bytes], list[Any]]]
    if selection.keys is None:
        first_pages = _scan(wire, keyspace, selection.pattern, notes, scores)
    else:
        first_pages = _read_named(wire, selection.keys, scores)
    async for keys, replies in first_pages:
        whole_keys: list[bytes] = []
        whole: list[Any] = []
        for key, reply in zip(keys, replies, strict=True):
            if isinstance(reply, hiredis.ReplyError):
                _note_wrong_type(key, reply, notes)
            elif len(reply) >= FIRST_PAGE and _members_in(reply, scores) == FIRST_PAGE:
                large.append(key)
            else:
                whole_keys.append(key)
                whole.append(reply)
        if selection.keys is not None:
            notes.absent.extend(key for key, reply in zip(whole_keys, whole, strict=True) if not reply)
        yield KeyPage(whole_keys, whole, last=True, groups=len([1 for reply in whole if reply]))
    for key in large:
        async for page in _read_large(wire, key, scores):
            yield page


async def _scan(
    wire: Wire, keyspace: Keyspace, pattern: bytes, notes: ScanNotes, scores: bool
) -> AsyncIterator[tuple[Sequence[bytes], list[Any]]]:
    """Each page of keys with its first members. The next SCAN goes out with the ZRANGEs of the page before."""
    seen: set[int] = set()
    await wire.send(_pack_scan(b"0", pattern))
    cursor, found = checked((await wire.replies(1))[0])
    keys = _groups_among(found, keyspace, seen, notes)
    await wire.send(_pack_page(cursor, pattern, keys, scores))
    while True:
        page, more = keys, cursor != b"0"
        if more:
            cursor, found = checked((await wire.replies(1))[0])
            keys = _groups_among(found, keyspace, seen, notes)
            await wire.send(_pack_page(cursor, pattern, keys, scores))
        yield page, await wire.replies(len(page))
        if not more:
            return


def _groups_among(found: Iterable[bytes], keyspace: Keyspace, seen: set[int], notes: ScanNotes) -> list[bytes]:
    """The group keys among ``found`` that have not been seen. SCAN may return a key twice while a table grows."""
    groups: list[bytes] = []
    for key in found:
        if not keyspace.is_group(key):
            if (inbox := keyspace.inbox_in_key(key)) is not None:
                notes.inboxes.add(inbox)
        elif (mark := hash(key) & MARK_BITS) not in seen:
            groups.append(key)
            if len(seen) < DEDUPLICATED_GROUPS:
                seen.add(mark)
    return groups


async def _read_named(
    wire: Wire, keys: Sequence[bytes], scores: bool
) -> AsyncIterator[tuple[Sequence[bytes], list[Any]]]:
    for start in range(0, len(keys), SCAN_COUNT):
        page = keys[start : start + SCAN_COUNT]
        await wire.send(b"".join([_pack_zrange(key, 0, FIRST_PAGE, scores) for key in page]))
        yield page, await wire.replies(len(page))


async def _read_large(wire: Wire, key: bytes, scores: bool) -> AsyncIterator[KeyPage]:
    """A large group in pages of PAGE members, from the newest to the oldest, the next request always ahead.

    Pages are cut by rank, and this way down it does no harm that members who were read are removed meanwhile, or that
    others join: neither moves the ranks that are still to be read.
    """
    await wire.send(pack(b"ZCARD", key))
    size: int = checked((await wire.replies(1))[0])
    starts = range((size - 1) // PAGE * PAGE, -1, -PAGE)
    requests = [starts[at : at + LARGE_AT_ONCE] for at in range(0, len(starts), LARGE_AT_ONCE)]

    def packed(wanted: Iterable[int]) -> bytes:
        return b"".join([_pack_zrange(key, start, PAGE, scores) for start in wanted])

    if requests:
        await wire.send(packed(requests[0]))
    for ahead, wanted in enumerate(requests, start=1):
        if ahead < len(requests):
            await wire.send(packed(requests[ahead]))
        for start, reply in zip(wanted, await wire.replies(len(wanted)), strict=True):
            yield KeyPage([key], [checked(reply)], last=start == 0, groups=int(start == 0))


def _members_in(reply: Sequence[Any], scores: bool) -> int:
    flat = scores and not isinstance(reply[0], list)
    return len(reply) // 2 if flat else len(reply)


def _note_misplaced(page: KeyPage, keys: Collection[bytes], newest: dict[bytes, float]) -> None:
    replies = dict(zip(page.keys, page.replies, strict=True))
    for key in keys:
        if reply := replies[key]:
            newest[key] = max(newest_score(reply), newest.get(key, 0.0))
            if len(newest) > MOST_MISPLACED:
                del newest[min(newest, key=newest.__getitem__)]


def _note_wrong_type(key: bytes, reply: Exception, notes: ScanNotes) -> None:
    if not str(reply).startswith("WRONGTYPE"):
        checked(reply)
    notes.wrong_type.append(key)


def _pack_scan(cursor: bytes, pattern: bytes) -> bytes:
    return pack(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % SCAN_COUNT)


def _pack_page(cursor: bytes, pattern: bytes, keys: Iterable[bytes], scores: bool) -> bytes:
    scan = b"" if cursor == b"0" else _pack_scan(cursor, pattern)
    return scan + b"".join([_pack_zrange(key, 0, FIRST_PAGE, scores) for key in keys])


def _pack_zrange(key: bytes, start: int, count: int, scores: bool) -> bytes:
    words = (b"ZRANGE", key, b"%d" % start, b"%d" % (start + count - 1))
    return pack(*words, b"WITHSCORES") if scores else pack(*words)
