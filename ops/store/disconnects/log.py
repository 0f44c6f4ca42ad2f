"""The disconnect log in Redis: a capped stream on the first shard, ``{prefix}:ops:disconnects``.

An entry is one record (field ``d``: JSON), or stands for all members that a reap run removed (field ``reaped``: JSON
with ``run_id``, ``at`` and the count of each process), which readers take from the run's receipts: a run that removes
half a million members writes one entry.
"""

import json
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ops.model.disconnects.cause import Cause
from ops.model.disconnects.record import Disconnect, encodable, iso_time, parse_json, parse_time, to_json
from ops.model.keys import decode_name, inbox_of
from ops.store.connection.scripts import run_script
from ops.store.connection.shards import OpenLayer
from ops.store.removal import journal

ENTRIES_AT_ONCE = 1000
RECORDS_AT_ONCE = 1000
MOST_REAPED = 10_000_000
BEGINNING = "0-0"
LARGEST_PART = 2**64 - 1  # of the two of an entry's id
LAST_ID = f"{LARGEST_PART}-{LARGEST_PART}"  # Redis does not take a request for what comes after it.
_ENTRY_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class LogPage:
    """Some records in order. ``last_id``: where to go on after these; ``unreadable``: entries that are no record."""

    last_id: str
    disconnects: list[Disconnect]
    unreadable: int = 0


async def append_records(client: Any, key: bytes, disconnects: Iterable[Disconnect], length: int) -> int:
    """Append some to a stream of about ``length``, in one round trip with one reply, whatever their number."""
    return int(await run_script(client, "append_records", [key], [length, "\n".join(map(to_json, disconnects))]))


async def append_reaped(opened: OpenLayer, run_id: str, at: float, removed: Mapping[str, int], length: int) -> None:
    """One entry for all members that the run removed, ``removed`` of each process. Raises ShardError."""
    counts = {process: count for process, count in removed.items() if count}
    if counts:
        entry = json.dumps({"run_id": run_id, "at": iso_time(at), "removed": counts}, separators=(",", ":"))
        key = opened.keyspace.disconnects
        await opened.home.execute("XADD", key, "MAXLEN", "~", length, "*", "reaped", entry)


async def has_log(opened: OpenLayer) -> bool:
    """Whether anything was ever recorded, and the log has not been deleted."""
    return bool(await opened.home.execute("XRANGE", opened.keyspace.disconnects, "-", "+", "COUNT", 1))


async def read_position(opened: OpenLayer) -> str:
    """The entry up to which clean-ups have come; BEGINNING where none has, or where it cannot be read."""
    return _usable_position(decode_name(await opened.home.execute("GET", opened.keyspace.cleaned) or b""))


def _usable_position(found: str) -> str:
    if not _ENTRY_ID.fullmatch(found) or any(int(part) > LARGEST_PART for part in found.split("-")):
        return BEGINNING
    return BEGINNING if found == LAST_ID else found


async def ends_before(opened: OpenLayer, position: str) -> bool:
    """Whether the log has entries, and all of them are older than the entry ``position``."""
    newest = await opened.home.execute("XREVRANGE", opened.keyspace.disconnects, "+", "-", "COUNT", 1)
    return bool(newest) and _parts(decode_name(newest[0][0])) < _parts(position)


def _parts(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)


async def record_position(opened: OpenLayer, position: str) -> None:
    """Note that a clean-up has come up to that entry."""
    await opened.home.execute("SET", opened.keyspace.cleaned, position)


async def step_back_position(opened: OpenLayer, position: str) -> None:
    """Have the next clean-up that resumes begin at that entry, if it would begin later."""
    position = _usable_position(position)
    if _parts(position) < _parts(await read_position(opened)):
        await record_position(opened, position)


async def read_disconnects(
    opened: OpenLayer,
    *,
    after: str = BEGINNING,
    since: float | None = None,
    until: float | None = None,
    reaped: bool = True,
) -> AsyncIterator[LogPage]:
    """The records after the entry ``after``, page by page, in the order in which they were written.

    ``since`` and ``until``: unix seconds by the clock of Redis when they were written. ``reaped``: with what the
    entries that stand for many stand for; without it they are passed over. Such an entry comes in several pages, of
    which only the last moves ``last_id``.
    """
    last = "+" if until is None else _entry_id(until)
    if since is not None and (after == BEGINNING or int(after.partition("-")[0]) < since * 1000):
        start = _entry_id(since)
    else:
        start = f"({after}"
    while entries := await opened.home.execute(
        "XRANGE", opened.keyspace.disconnects, start, last, "COUNT", ENTRIES_AT_ONCE
    ):
        async for page in _pages(opened, entries, after, reaped=reaped):
            after = page.last_id
            yield page
        after = decode_name(entries[-1][0])
        if after == LAST_ID:
            return
        start = f"({after}"


def _entry_id(at: float) -> str:
    """What XRANGE takes for that time; there is none before 1970."""
    return str(max(0, int(at * 1000)))


async def read_newest(opened: OpenLayer, count: int) -> list[tuple[float, Disconnect]]:
    """The records among the newest ``count`` entries, newest first, each with when it was written, by Redis' clock.

    What a reap run removed is not among them.
    """
    entries = await opened.home.execute("XREVRANGE", opened.keyspace.disconnects, "+", "-", "COUNT", count)
    records = ((entry_id, parse_json(_fields(raw).get(b"d", b""))) for entry_id, raw in entries)
    return [(int(entry_id.partition(b"-")[0]) / 1000, one) for entry_id, one in records if one is not None]


async def _pages(opened: OpenLayer, entries: list[Any], after: str, *, reaped: bool) -> AsyncIterator[LogPage]:
    found: list[Disconnect] = []
    unreadable = 0
    for entry_id, raw_fields in entries:
        values = _fields(raw_fields)
        if b"reaped" in values and not reaped:
            pass
        elif b"reaped" in values:
            if found or unreadable:
                yield LogPage(after, found, unreadable)
                found, unreadable = [], 0
            entry = _parse_reaped(values[b"reaped"])
            if entry is None:
                unreadable += 1
            else:
                async for members in _expand(opened, *entry):
                    yield LogPage(after, members)
        elif (one := parse_json(values.get(b"d", b""))) is not None:
            found.append(one)
        else:
            unreadable += 1
        after = decode_name(entry_id)
    yield LogPage(after, found, unreadable)


def _fields(raw: Any) -> dict[bytes, bytes]:
    """The fields of an entry, however the client hands them out."""
    if isinstance(raw, dict):
        return raw
    return dict(zip(raw[::2], raw[1::2], strict=False)) if isinstance(raw, (list, tuple)) else {}


def _parse_reaped(raw: bytes) -> tuple[str, float, dict[str, int]] | None:
    """The run, when it was, and how many members of each process went."""
    try:
        entry = json.loads(raw)
        run_id, at, counts = entry["run_id"], parse_time(entry["at"]), entry["removed"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if not isinstance(run_id, str) or at is None or not isinstance(counts, dict):
        return None
    return encodable(run_id), at, {encodable(name): count for name, count in counts.items() if isinstance(count, int)}


async def _expand(
    opened: OpenLayer, run_id: str, at: float, removed: Mapping[str, int]
) -> AsyncIterator[list[Disconnect]]:
    """A record for each member that the run removed, from its receipts; where none can be read, by count alone.

    A shard whose receipts cannot be read has its ``problem`` then, and what the others have is read.
    """
    any_receipt = False
    for shard in opened.answering:
        with shard.noting_failure():
            async for receipt, _ in journal.read_receipts(opened, shard, run_id):
                reaped = [
                    _reaped(at, run_id, decode_name(channel), opened.keyspace.group_name(key))
                    for key, members, _ in receipt
                    for channel in members
                ]
                any_receipt = True
                yield reaped
    if not any_receipt:
        for process, count in removed.items():
            one = Disconnect(at, Cause.PROCESS_DIED, "unknown", "reaper", process=process[:64], run_id=run_id[:64])
            for start in range(0, min(count, MOST_REAPED), RECORDS_AT_ONCE):
                yield [one] * min(RECORDS_AT_ONCE, count - start)


def _reaped(at: float, run_id: str, channel: str, group: str) -> Disconnect:
    inbox = inbox_of(channel)
    process = inbox.process if inbox else None
    return Disconnect(
        at, Cause.PROCESS_DIED, "unknown", "reaper", channel=channel, process=process, groups=(group,), run_id=run_id
    )
