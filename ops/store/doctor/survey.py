"""A closer look at keys, within a budget of time: inboxes, ages of members, where groups lie. Nothing is written."""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ops.model.doctor.ring import RingTally
from ops.model.keys import (
    ANY_GROUP_PATTERN,
    MESSAGES_BELOW,
    MESSAGES_FROM,
    decode_name,
    encode_name,
    inbox_of,
    split_group_key,
)
from ops.store.connection.shards import OpenLayer, Shard
from ops.store.groups.census import ScanNotes, Selection, read_slices

MOST_INBOXES = 5000
INBOXES_AT_ONCE = 200
SURVEY_SECONDS = 5.0
FOREIGN_PAGES = 100
MOST_FOREIGN = 500
MOST_MISPLACED = 20
# Before Redis 7 a rule cannot say that keys are only read.
RULE_FOR_OTHER_PREFIXES = f"%R~{ANY_GROUP_PATTERN} (Redis 6.2: ~{ANY_GROUP_PATTERN})"


@dataclass(slots=True)
class InboxReading:
    """The inboxes of one process together."""

    messages: int = 0
    capacity: int = 0
    oldest_score: float | None = None
    newest_score: float | None = None
    in_flight: int = 0


async def read_inboxes(opened: OpenLayer, inboxes: Mapping[str, Collection[str]]) -> dict[str, InboxReading]:
    """What is in the inboxes of each process (process -> names of its inboxes), for the first few thousand."""
    found: dict[str, InboxReading] = {}
    wanted = [(process, name) for process, names in inboxes.items() for name in sorted(names)][:MOST_INBOXES]
    for shard in opened.answering:
        mine = [(process, name) for process, name in wanted if opened.shard_of_inbox(name) is shard]
        for start in range(0, len(mine), INBOXES_AT_ONCE):
            batch = mine[start : start + INBOXES_AT_ONCE]
            keys = [(opened.keyspace.inbox(name), opened.keyspace.inflight(name)) for _, name in batch]
            commands = [command for inbox, in_flight in keys for command in _questions(inbox, in_flight)]
            replies = await shard.pipeline(commands)
            for number, (process, name) in enumerate(batch):
                _note(opened, found.setdefault(process, InboxReading()), name, replies[4 * number :][:4])
    return found


def _questions(inbox: bytes, in_flight: bytes) -> list[tuple[Any, ...]]:
    return [
        ("ZCARD", inbox),
        # Below 0 are probes of another run.
        ("ZRANGE", inbox, 0, "+inf", "BYSCORE", "LIMIT", 0, 1, "WITHSCORES"),
        ("ZRANGE", inbox, "+inf", 0, "BYSCORE", "REV", "LIMIT", 0, 1, "WITHSCORES"),
        ("ZCOUNT", in_flight, MESSAGES_FROM, MESSAGES_BELOW),
    ]


def _note(opened: OpenLayer, reading: InboxReading, name: str, replies: list[Any]) -> None:
    if any(isinstance(reply, Exception) for reply in replies):
        return
    messages, oldest, newest, in_flight = replies
    reading.messages = max(reading.messages, messages)
    reading.capacity = max(reading.capacity, opened.layer.get_capacity(name))
    reading.in_flight += in_flight
    for score in map(_score, filter(None, [oldest])):
        reading.oldest_score = min(score, reading.oldest_score or score)
    for score in map(_score, filter(None, [newest])):
        reading.newest_score = max(score, reading.newest_score or score)


def _score(reply: Any) -> float:
    first = reply[0]
    return float(first[1] if isinstance(first, (list, tuple)) else reply[1])


@dataclass(slots=True)
class ProcessAges:
    """When the members of a process joined, by its host's clock. ``old``: how many before the time that was given."""

    members: int = 0
    oldest: float | None = None
    newest: float | None = None
    old: int = 0
    groups: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class MemberSurvey:
    """``misplaced``: shard, group, and the shard where this configuration would have it. ``whole``: all was read.

    ``ring``: the groups that were met, on every shard. ``recent_ring``: those that were joined recently.
    """

    processes: dict[str, ProcessAges] = field(default_factory=dict)
    misplaced_groups: int = 0
    misplaced: list[tuple[int, str, int]] = field(default_factory=list)
    whole: bool = True
    ring: RingTally = field(default_factory=RingTally)
    recent_ring: RingTally = field(default_factory=RingTally)


async def survey_members(
    opened: OpenLayer, old_before: float, recent_since: float, feeding: Collection[str]
) -> MemberSurvey:
    """Read the groups until the time is over. ``feeding``: processes whose groups are wanted too."""
    survey = MemberSurvey()
    until = time.monotonic() + SURVEY_SECONDS
    selection = Selection(pattern=opened.keyspace.groups_pattern())
    try:
        for shard in opened.answering:
            newest = 0.0
            async with shard.wire() as wire:
                async for slices in read_slices(wire, opened.keyspace, selection, ScanNotes()):
                    for part in slices:
                        group = opened.keyspace.group_name(part.key)
                        newest = max([newest, *part.scores[-1:]])
                        if part.last:
                            _note_place(opened, survey, shard, group)
                            _note_on_ring(survey, encode_name(group), recent=newest >= recent_since)
                            newest = 0.0
                        _note_ages(survey, group, zip(part.members, part.scores, strict=True), old_before, feeding)
                    if time.monotonic() > until:
                        raise _TimeIsOver  # not break: replies are on their way, so this connection must be closed
    except _TimeIsOver:
        survey.whole = False
    return survey


class _TimeIsOver(Exception):
    """The budget of a survey is used up."""


def _note_place(opened: OpenLayer, survey: MemberSurvey, shard: Shard, group: str) -> None:
    wanted = opened.shard_of_group(group).index
    if wanted != shard.index:
        survey.misplaced_groups += 1
        if len(survey.misplaced) < MOST_MISPLACED:
            survey.misplaced.append((shard.index, group, wanted))


def _note_on_ring(survey: MemberSurvey, name: bytes, *, recent: bool) -> None:
    survey.ring.note(name)
    if recent:
        survey.recent_ring.note(name)


def _note_ages(
    survey: MemberSurvey,
    group: str,
    members: Iterable[tuple[bytes, float]],
    old_before: float,
    feeding: Collection[str],
) -> None:
    for member, score in members:
        inbox = inbox_of(decode_name(member))
        if inbox is None:
            continue
        ages = survey.processes.get(inbox.process)
        if ages is None:
            ages = survey.processes[inbox.process] = ProcessAges()
        ages.members += 1
        ages.oldest = score if ages.oldest is None or score < ages.oldest else ages.oldest
        ages.newest = score if ages.newest is None or score > ages.newest else ages.newest
        ages.old += score < old_before
        if inbox.process in feeding:
            ages.groups[group] += 1


async def survey_prefixes(opened: OpenLayer, known_prefixes: Collection[str]) -> dict[str, str]:
    """Other prefixes with members of channels in groups that exist under ours too: prefix -> such a group."""
    found: dict[str, str] = {}
    until = time.monotonic() + SURVEY_SECONDS
    for shard in opened.answering:
        candidates = await _foreign_groups(opened, shard, known_prefixes, until)
        first = [("ZRANGE", key, 0, 0) for key, _, _ in candidates]
        members = await shard.pipeline(first, key_rule=RULE_FOR_OTHER_PREFIXES)
        for (_, prefix, group), reply in zip(candidates, members, strict=True):
            if isinstance(reply, list) and reply and prefix not in found and inbox_of(decode_name(reply[0])):
                ours = opened.shard_of_group(group)
                if ours.problem is None and await ours.execute("EXISTS", opened.keyspace.group(group)):
                    found[prefix] = group
    return found


async def _foreign_groups(
    opened: OpenLayer, shard: Shard, known_prefixes: Collection[str], until: float
) -> list[tuple[bytes, str, str]]:
    """Key, prefix and group of sorted sets that look like groups of a layer with a prefix that is not known here."""
    found: list[tuple[bytes, str, str]] = []
    cursor: Any = 0
    for _ in range(FOREIGN_PAGES):
        reply = await shard.execute("SCAN", cursor, "MATCH", ANY_GROUP_PATTERN, "COUNT", 1000, "TYPE", "zset")
        cursor, keys = reply
        for key in keys:
            prefix, group = split_group_key(key)
            if prefix != opened.keyspace.prefix and prefix not in known_prefixes and group:
                found.append((key, prefix, group))
        if not int(cursor) or len(found) >= MOST_FOREIGN or time.monotonic() > until:
            break
    return found[:MOST_FOREIGN]
