"""Removing members with a receipt, putting them back, and the history of runs.

Order of writes, so that a run that is killed at any command loses nothing:

1. the run is listed (``runs``, ``run:{id}``), before it removes anything;
2. each removal writes its receipt in the same script, on the same shard, before the removal itself;
3. the end is recorded; a run without an end is shown as interrupted, and its receipts can be undone all the same.
"""

import json
import math
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import hiredis
import msgpack
from redis.exceptions import ResponseError

from ops.exceptions import ShardError
from ops.model.keys import INFLIGHT_SUFFIX, MESSAGES_BELOW, MESSAGES_FROM, decode_name, encode_name, inbox_parts
from ops.model.liveness.judgement import JUDGEMENT_SECONDS
from ops.model.runs import RunRecord
from ops.store.connection.permissions import refusal_of_script
from ops.store.connection.scripts import call_script, script
from ops.store.connection.shards import OpenLayer, Shard
from ops.store.connection.wire import Wire, checked, pack
from ops.store.removal.judgement import Judgement
from ops.store.removal.retention import Retention

MEMBERS_AT_ONCE = 100  # of one script call: some 0.3 ms of the server's time
GROUPS_AT_ONCE = 100
CALLS_AHEAD = 4
RECEIPTS_AT_ONCE = 20
RUNS_KEPT = 10_000
RECORDS_AT_ONCE = 1000

NO_INDEX_NAMED = msgpack.packb([[], []])
"""An empty receipt. Members in the receipts behind it were in no index: their processes would not put them back."""


class GroupMembers(NamedTuple):
    """Some members of a group: the group's key, channels, and a score for each, unix seconds.

    Of members that are to go, the score is the time by which each had joined when it was judged; of members that went,
    the score that each had.
    """

    key: bytes
    channels: list[bytes]
    scores: list[float]


@dataclass(slots=True)
class RemovalTally:
    """Members that went, by inbox, how many stayed because they had left or joined again, and whose those were."""

    by_inbox: Counter[bytes] = field(default_factory=Counter)
    kept: int = 0
    kept_inboxes: set[bytes] = field(default_factory=set)

    @property
    def removed(self) -> int:
        return self.by_inbox.total()

    def note(self, asked_for: list[GroupMembers], kept: list[bytes]) -> None:
        for _, members, _ in asked_for:
            self.by_inbox.update(inbox_parts(members))
        self.by_inbox.subtract(inbox_parts(kept))
        self.kept += len(kept)
        self.kept_inboxes.update(inbox_parts(kept))


class Remover:
    """Removes members of one shard, many groups to a script call and several calls under way at a time.

    When the judgement holds no more, nothing more is sent; what is under way is still waited for and counted.
    """

    def __init__(self, wire: Wire, shard: Shard, journal: bytes, journal_seconds: int, judgement: Judgement) -> None:
        """``journal_seconds``: how long the receipts are kept; 0: until a later run deletes them."""
        self._wire = wire
        self._shard = shard
        self._journal = journal
        self._journal_seconds = b"%d" % journal_seconds
        self._judgement = judgement
        self._script = script("purge_members")
        self._batch: list[GroupMembers] = []
        self._members = 0
        self._under_way: deque[list[GroupMembers]] = deque()
        self.tally = RemovalTally()

    async def load(self) -> None:
        await self._wire.send(pack(b"SCRIPT", b"LOAD", self._script.source))
        checked((await self._wire.replies(1))[0])

    async def begin_unindexed(self) -> None:
        """From here on, what is removed was in no index."""
        commands = [pack(b"RPUSH", self._journal, NO_INDEX_NAMED)]
        if self._journal_seconds != b"0":
            commands.append(pack(b"EXPIRE", self._journal, self._journal_seconds))
        await self._wire.send(b"".join(commands))
        for reply in await self._wire.replies(len(commands)):
            checked(reply)

    async def remove(self, key: bytes, members: list[bytes], joined_by: list[float]) -> None:
        """Remove those ``members`` of the group ``key`` that have not joined since; returns when they are under way.

        ``joined_by``: for each the highest score with which it may go, unix seconds by its own host's clock.
        """
        for start in range(0, len(members), MEMBERS_AT_ONCE):
            end = start + MEMBERS_AT_ONCE
            await self._add(GroupMembers(key, members[start:end], joined_by[start:end]))

    async def _add(self, members: GroupMembers) -> None:
        if self._members + len(members.channels) > MEMBERS_AT_ONCE or len(self._batch) >= GROUPS_AT_ONCE:
            await self._send()
        self._batch.append(members)
        self._members += len(members.channels)

    async def _send(self) -> None:
        batch, self._batch, self._members = self._batch, [], 0
        if not batch or not await self._judgement.holds():
            return
        await self._call(batch, b"EVALSHA", self._script.sha)
        if len(self._under_way) >= CALLS_AHEAD:
            await self._collect(1)

    async def _call(self, batch: list[GroupMembers], *command: bytes) -> None:
        keys = [key for key, _, _ in batch]
        words = (
            self._journal_seconds,
            msgpack.packb([(key, members) for key, members, _ in batch], use_bin_type=False),
            msgpack.packb([at for _, _, joined_by in batch for at in joined_by]),
            b"%.6f" % self._judgement.time_on(self._shard),
            b"%g" % JUDGEMENT_SECONDS,
        )
        await self._wire.send(pack(*command, b"%d" % (len(keys) + 1), self._journal, *keys, *words))
        self._under_way.append(batch)

    async def finish(self) -> RemovalTally:
        """Send what is left and wait for every answer."""
        await self._send()
        await self._settle()
        return self.tally

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[None]:
        """If a shard fails meanwhile, count the calls under way all the same: Redis may have executed them."""
        try:
            yield
        except ShardError:
            await self._settle()
            raise

    async def _settle(self) -> None:
        while self._under_way:
            await self._collect(len(self._under_way))

    async def _collect(self, calls: int) -> None:
        """Note what the next so many answers say, then see to those that are errors."""
        answers = [(self._under_way.popleft(), reply) for reply in await self._wire.replies(calls)]
        for batch, reply in answers:
            if isinstance(reply, hiredis.ReplyError):
                continue
            removed, kept = reply
            if removed < 0:
                self._judgement.refuse()
            else:
                self.tally.note(batch, kept)
        for batch, reply in answers:
            if not _is_forgotten(reply):
                self._checked(reply)
            elif await self._judgement.holds():
                await self._call(batch, b"EVAL", self._script.source)

    def _checked(self, reply: Any) -> Any:
        try:
            return checked(reply)
        except ResponseError as error:
            refusal = refusal_of_script(error, self._script.source)
            if refusal is None:
                raise
            raise refusal from None


def _is_forgotten(reply: Any) -> bool:
    """Whether the server did nothing, since it has lost its scripts after they were loaded (``SCRIPT FLUSH``)."""
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")


async def set_aside(
    opened: OpenLayer, run_id: str, retention: Retention, shard: Shard, key: bytes, *, expiring_too: bool
) -> int:
    """Move an inbox or in-flight key of a dead process out of the way; returns how many messages it held.

    It is kept for as long as its messages can be used: the layer's ``expiry``.
    ``expiring_too``: also where it would expire by itself.
    """
    aside = opened.keyspace.aside(run_id, key)
    args = [await retention.of_messages(shard, aside), int(expiring_too)]
    return int(await call_script(shard, "set_aside_key", [key, aside], args))


async def count_messages(shard: Shard, key: bytes) -> int:
    """How many messages the key holds; 0 where it is gone or holds something else."""
    (count,) = await shard.pipeline([("ZCOUNT", key, MESSAGES_FROM, MESSAGES_BELOW)])
    return count if isinstance(count, int) else 0


# The history of runs


async def record_run_started(
    opened: OpenLayer,
    run_id: str,
    now: float,
    retention: Retention,
    glob: str | None,
    *,
    takes_leases: bool,
    cleaned: str | None = None,
) -> None:
    """List the run before it removes anything, and forget runs whose receipts have expired.

    ``takes_leases``: whose members it removes finds its lease gone, and puts them back if it lives. ``cleaned``: the
    entry of the disconnect log up to which clean-ups have come, for the undo.
    """
    runs, run, keep = opened.keyspace.runs, opened.keyspace.run(run_id), retention.journal_seconds
    expiry = await retention.of_receipts(opened.home, run)
    (left_ms,) = await opened.home.pipeline([("PTTL", runs)])
    over = await _read_over(opened, now - keep)
    pipe = opened.home.client.pipeline(transaction=True)
    pipe.hset(run, mapping={"started_at": repr(now), "expires_at": repr(now + keep)})
    if cleaned is not None:
        pipe.hset(run, "cleaned", cleaned)
    if glob is not None:
        pipe.hset(run, "match", encode_name(glob))
    if takes_leases:
        pipe.hset(run, "takes_leases", "1")
    if expiry:
        pipe.expire(run, expiry)
    pipe.zadd(runs, {run_id: now})
    if over:
        pipe.zrem(runs, *over)
    pipe.zremrangebyrank(runs, 0, -RUNS_KEPT - 1)
    if not expiry:
        pipe.persist(runs)
    elif left_ms < expiry * 1000:  # Another host may keep its receipts for longer.
        pipe.expire(runs, expiry)
    await opened.home.ask(pipe.execute())


async def _read_over(opened: OpenLayer, before: float) -> list[bytes]:
    """The runs that started before then and whose record has expired. Each host says for how long it keeps its own."""
    listed = await opened.home.execute("ZRANGE", opened.keyspace.runs, "-inf", before, "BYSCORE")
    records = await _read_records(opened.home, [opened.keyspace.run(decode_name(run_id)) for run_id in listed])
    return [run_id for run_id, record in zip(listed, records, strict=True) if not record]


async def record_run_ended(opened: OpenLayer, run_id: str, summary: Mapping[str, Any]) -> None:
    """Record what the run did (``removed``, ``processes``, ``set_aside``).

    A run that removed nothing is taken off the list: it cannot be undone, and would push others out.
    """
    run = opened.keyspace.run(run_id)
    if summary["removed"] or summary["set_aside"]:
        await opened.home.execute("HSET", run, "ended", json.dumps(dict(summary)))
    else:
        await opened.home.execute("DEL", run)
        await opened.home.execute("ZREM", opened.keyspace.runs, run_id)


async def record_run_undone(opened: OpenLayer, run_id: str, now: float) -> None:
    """Note it where the run's record is: the host that made it may call another shard the first."""
    record = opened.keyspace.run(run_id)
    held = [shard for shard in opened.shards if (await _read_records(shard, [record]))[0]]
    for shard in held or [opened.home]:
        await shard.execute("HSET", record, "undone_at", repr(now))


async def read_runs(opened: OpenLayer) -> list[RunRecord]:
    """Every run that removed something and whose receipts are kept, the latest first.

    From every shard, since each run is listed on the one that its host calls the first.
    """
    listed: dict[bytes, float] = {}
    stored: dict[bytes, dict[bytes, bytes]] = {}
    for shard in opened.shards:
        client: Any = shard.client
        found = dict(await shard.ask(client.zrevrange(opened.keyspace.runs, 0, -1, withscores=True)))
        listed |= found
        records = await _read_records(shard, [opened.keyspace.run(decode_name(run_id)) for run_id in found])
        for run_id, record in zip(found, records, strict=True):
            stored[run_id] = {**stored.get(run_id, {}), **record}
    runs = [
        await _parse_run(opened, decode_name(run_id), stored[run_id])
        for run_id in sorted(listed, key=lambda run_id: (listed[run_id], run_id), reverse=True)
    ]
    return [run for run in runs if run and (run.removed or run.set_aside or run.state == "interrupted")]


async def read_run(opened: OpenLayer, run_id: str) -> RunRecord | None:
    """One run, from whichever shard has its record, or None when it is unknown or its receipts have expired."""
    stored: dict[bytes, bytes] = {}
    for shard in opened.shards:
        stored |= (await _read_records(shard, [opened.keyspace.run(run_id)]))[0]
    return await _parse_run(opened, run_id, stored)


async def _read_records(shard: Shard, keys: Sequence[bytes]) -> list[dict[bytes, bytes]]:
    """What ``shard`` has under these keys; nothing where that is no hash."""
    found: list[dict[bytes, bytes]] = []
    for start in range(0, len(keys), RECORDS_AT_ONCE):
        replies = await shard.pipeline([("HGETALL", key) for key in keys[start : start + RECORDS_AT_ONCE]])
        found.extend(reply if isinstance(reply, dict) else {} for reply in replies)
    return found


async def _parse_run(opened: OpenLayer, run_id: str, stored: Mapping[bytes, bytes]) -> RunRecord | None:
    """Where its record is lost, and a shard has its receipts, it counts as interrupted."""
    if not stored:
        receipts = await count_receipts(opened, run_id)
        return RunRecord(run_id, 0.0, "interrupted", receipts, 0, takes_leases=True) if receipts else None
    ended = _json_object(stored.get(b"ended"))
    undone_at = _number(stored.get(b"undone_at"))
    removed = ended.get("removed")
    return RunRecord(
        run_id=run_id,
        started_at=_number(stored.get(b"started_at")) or 0.0,
        state="undone" if undone_at else "done" if ended else "interrupted",
        removed=removed if isinstance(removed, int) else await count_receipts(opened, run_id),
        processes=_count(ended.get("processes")),
        set_aside=_count(ended.get("set_aside")),
        expires_at=_number(stored.get(b"expires_at")),
        undone_at=undone_at,
        match=decode_name(stored[b"match"]) if b"match" in stored else None,
        takes_leases=b"takes_leases" in stored,
        cleaned=decode_name(stored[b"cleaned"]) if b"cleaned" in stored else None,
    )


def _json_object(raw: bytes | None) -> dict[str, Any]:
    try:
        value = json.loads(raw or b"{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _number(raw: bytes | None) -> float | None:
    try:
        value = float(raw) if raw else None
    except ValueError:
        return None
    return value if value is not None and math.isfinite(value) else None


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


# Reading receipts, and putting back what they say


async def read_receipts(opened: OpenLayer, shard: Shard, run_id: str) -> AsyncIterator[tuple[list[GroupMembers], bool]]:
    """What the run removed on ``shard``, in order, and whether it was in no index although its process kept one.

    A receipt that cannot be read is passed over.
    """
    journal = opened.keyspace.journal(run_id)
    start, unindexed = 0, False
    while raws := await shard.execute("LRANGE", journal, start, start + RECEIPTS_AT_ONCE - 1):
        start += len(raws)
        for raw in raws:
            unindexed = unindexed or raw == NO_INDEX_NAMED
            yield parse_receipt(raw), unindexed


def parse_receipt(raw: bytes) -> list[GroupMembers]:
    """One entry of a journal, as ``purge_members.lua`` writes it; empty where it cannot be read."""
    try:
        groups, scores = msgpack.unpackb(raw, raw=True, use_list=True)
        taken = iter([float(score) for score in scores])
        removed = [_parse_removed(key, members, list(islice(taken, len(members)))) for key, members in groups]
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException):
        return []
    return [] if any(True for _ in taken) else removed


def _parse_removed(key: Any, members: Any, scores: list[float]) -> GroupMembers:
    if not isinstance(key, bytes) or not isinstance(members, list):
        raise TypeError("a receipt holds keys and members")
    if not all(isinstance(member, bytes) for member in members):
        raise TypeError("members are bytes")
    if len(members) != len(scores) or any(map(math.isnan, scores)):
        raise ValueError("a receipt has a score for each member")
    return GroupMembers(key, members, scores)


async def count_receipts(opened: OpenLayer, run_id: str) -> int:
    """How many members the receipts of the run speak of."""
    total = 0
    for shard in opened.answering:
        async for removed, _ in read_receipts(opened, shard, run_id):
            total += sum(len(members) for _, members, _ in removed)
    return total


async def restore_members(opened: OpenLayer, shard: Shard, receipts: Sequence[GroupMembers]) -> tuple[int, int, int]:
    """Put members back where they are absent: (restored, already present, groups that hold something else now).

    Keys that are no group of this layer are left alone, whatever a damaged receipt says.
    """
    groups = [removed for removed in receipts if removed[0].startswith(opened.keyspace.group_prefix) and removed[1]]
    if not groups:
        return 0, 0, 0
    blob = msgpack.packb([[members, scores] for _, members, scores in groups], use_bin_type=False)
    expiry = int(opened.layer.group_expiry)
    reply = await call_script(shard, "restore_members", [key for key, _, _ in groups], [expiry, blob])
    return int(reply[0]), int(reply[1]), int(reply[2])


async def restore_keys(opened: OpenLayer, shard: Shard, run_id: str, now: float) -> int:
    """Give the keys that the run set aside their names back, where nothing has taken them; returns how many.

    Without the messages that are older at ``now`` (unix seconds) than the layer's ``expiry``: a sender would have
    removed them, and whoever comes back must not act on them. A key that held only such is gone.
    """
    expiry = int(opened.layer.expiry)
    prefix = opened.keyspace.aside(run_id, b"")
    restored = 0
    async for keys in shard.scan(opened.keyspace.aside_pattern(run_id)):
        for aside in keys:
            key = aside[len(prefix) :]
            kept_seconds = 0 if key.endswith(INFLIGHT_SUFFIX) else expiry
            restored += await call_script(shard, "restore_key", [aside, key], [int(now) - expiry, kept_seconds])
    return restored
