"""Tell recorded ends on: each as a message to a channel or a group, in the rhythm in which they happened."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import tzinfo

from channels.exceptions import ChannelFull

from ops.exceptions import ShardError, TargetNotAble
from ops.model.disconnects.emitting import HANDLER, EmitReport, disconnect_message, pause_seconds
from ops.model.disconnects.record import Disconnect
from ops.model.disconnects.report.known_ends import KnownEnds
from ops.model.keys import decode_name
from ops.model.text import visible
from ops.operations.disconnects.replay import Records, Span, require_log
from ops.operations.progress import Progress, no_progress
from ops.store.connection.shards import OpenLayer
from ops.store.disconnects.sending import Sender
from ops.store.groups.census import ScanNotes, Selection, read_slices

FULL_FOR_SECONDS = 10.0
FULL_RETRY_SECONDS = 0.1

Handles = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class EmitOptions:
    """``handles``: whether the consumers of a channel are known to handle the message; ``force``: send whoever it is.

    ``speed``: how many times faster than it was; None is as fast as the rate limit allows.
    """

    target: str
    handles: Handles
    zone: tzinfo
    speed: float | None = 1.0
    sources: Sequence[str] = ()
    span: Span = field(default_factory=Span)
    force: bool = False
    dry_run: bool = False


async def emit(opened: OpenLayer, options: EmitOptions, progress: Progress = no_progress) -> EmitReport:
    """Send them all. Raises TargetNotAble, before anything is sent, where somebody could die of the message."""
    opened.require_every_shard("nothing was sent")
    if not options.sources:
        await require_log(opened)
    members = await _members(opened, options)
    with _naming(options.target):
        sender = Sender(opened, options.target, to_group=members > 0)
    records = Records()
    known = KnownEnds()
    read = sent = reaped_later = 0
    before: Disconnect | None = None
    async for batch in _batches(opened, options, records):
        for one in batch:
            if known.has(one):
                reaped_later += 1
                continue
            read += 1
            if not options.dry_run:
                await asyncio.sleep(pause_seconds(before, one, options.speed))
                with _naming(options.target, sent):
                    sent += await _send(sender, one)
            before = one
        progress(f"{sent:,} of {read:,} ends sent", 0, 0)
    problems = (*records.reading.problems, *opened.problems)
    return EmitReport(
        layer=opened.alias,
        target=options.target,
        kind="group" if members else "channel",
        members=members,
        dry_run=options.dry_run,
        complete=not problems,
        records=read,
        reaped_later=reaped_later,
        sent=sent,
        undelivered=0 if options.dry_run else read - sent,
        unreadable=records.reading.unreadable,
        problems=problems,
    )


def _batches(opened: OpenLayer, options: EmitOptions, records: Records) -> AsyncIterator[list[Disconnect]]:
    if options.sources:
        return records.of_files(options.sources, options.zone, options.span)
    return records.of_stream(opened, options.span)


async def _members(opened: OpenLayer, options: EmitOptions) -> int:
    """How many members the group has; 0 where the target is a channel."""
    if not opened.backend.keeps_members:
        if not options.force:
            _refuse(options.target, "publish/subscribe does not say who its members are")
        return 1  # Whoever has subscribed.
    count = 0
    selection = Selection(keys=(opened.keyspace.group(options.target),))
    async with opened.shard_of_group(options.target).wire() as wire:
        async for slices in read_slices(wire, opened.keyspace, selection, ScanNotes(), scores=False):
            for found in slices:
                count += len(found.members)
                for raw in found.members:
                    with _naming(options.target):
                        raw.decode()  # as group_send() does
                    _refuse_unable(decode_name(raw), options)
    if not count:
        _refuse_unable(options.target, options)
    return count


def _refuse_unable(channel: str, options: EmitOptions) -> None:
    if not options.force and not options.handles(channel):
        _refuse(options.target, f"nothing says that the consumer of {visible(channel)} has a method {HANDLER}")


def _refuse(target: str, why: str) -> None:
    raise TargetNotAble(
        f"nothing was sent to {visible(target)}: {why}, and a consumer without it dies of the message; --force "
        f"(force=True) sends it all the same"
    )


@contextmanager
def _naming(target: str, sent: int = 0) -> Iterator[None]:
    """The layer refuses names by asserting, and a group with a member that is not UTF-8 by failing to decode it.

    ``sent``: how many ends had been sent before; a failure says so.
    """
    try:
        yield
    except ShardError as error:
        raise type(error)(f"{error}; ends sent before that: {sent:,}") if sent else error from None
    except (TypeError, ValueError, AssertionError) as error:
        raise TargetNotAble(f"the layer cannot send to {visible(target[:100])}: {visible(str(error)[:200])}") from None


async def _send(sender: Sender, one: Disconnect) -> bool:
    """Whether it was taken. To a group nobody says so; a channel that is full is tried again for a while."""
    message = disconnect_message(one)
    for _ in range(round(FULL_FOR_SECONDS / FULL_RETRY_SECONDS)):
        try:
            await sender.send(message)
        except ChannelFull:
            await asyncio.sleep(FULL_RETRY_SECONDS)
        else:
            return True
    return False
