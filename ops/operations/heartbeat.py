"""Prove that groups can be reached: ask their members, group by group, and say who answered."""

from collections import defaultdict
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from ops.exceptions import LayerError, ShardError
from ops.model.evidence import InboxDrained, NotProbed, ProbesTaken
from ops.model.heartbeats import GroupHeartbeat
from ops.model.keys import decode_name, inbox_of
from ops.operations.observe import Look, selection_on
from ops.store.census import GroupSlice, ScanNotes, read_slices
from ops.store.heartbeats import Asker, asking, is_text
from ops.store.leases import read_leases
from ops.store.probes import probe_processes
from ops.store.shards import OpenLayer


@dataclass(frozen=True, slots=True)
class HeartbeatOptions:
    look: Look
    depth: str
    timeout_seconds: float


async def heartbeat(opened: OpenLayer, options: HeartbeatOptions) -> AsyncGenerator[GroupHeartbeat, None]:
    """Ask one group after the other, holding one at a time. A shard that fails is marked in ``opened``."""
    if opened.is_pubsub:
        raise LayerError("heartbeats need a RedisChannelLayer; publish/subscribe has no inboxes to send them to")
    if opened.home.problem is not None:
        raise ShardError(opened.home.problem)
    async with asking(opened, options.timeout_seconds) as asker:
        for shard in opened.answering:
            parts: list[GroupSlice] = []
            try:
                async with shard.wire() as wire:
                    slices = read_slices(wire, opened.keyspace, selection_on(opened, shard, options.look), ScanNotes())
                    async for page in slices:
                        for found in page:
                            parts.append(found)
                            if found.last:
                                channels = [decode_name(raw) for part in parts for raw in part.members]
                                name = opened.keyspace.group_name(found.key)
                                parts = []
                                if channels or options.look.names:
                                    yield await _ask(opened, options, asker, name, channels)
            except ShardError as error:
                shard.problem = str(error)


async def _ask(
    opened: OpenLayer, options: HeartbeatOptions, asker: Asker, group: str, channels: list[str]
) -> GroupHeartbeat:
    found = GroupHeartbeat(group, len(channels))
    by_inbox: dict[str, list[str]] = defaultdict(list)
    processes: dict[str, set[str]] = defaultdict(set)
    for channel in channels:
        inbox = inbox_of(channel)
        if inbox is not None and is_text(channel):
            by_inbox[inbox.name].append(channel)
            processes[inbox.process].add(inbox.name)
    named = sum(map(len, by_inbox.values()))
    if options.depth == "process":
        found.not_capable = len(channels) - named
        await _probe(opened, options, found, by_inbox, processes)
        return found
    leases = await read_leases(opened.home, opened.keyspace, processes)
    capable = {name: by_inbox[name] for process in leases if leases[process].heartbeats for name in processes[process]}
    found.not_capable = len(channels) - sum(map(len, capable.values()))
    await asker.ask(options.depth, capable, found)
    return found


async def _probe(
    opened: OpenLayer,
    options: HeartbeatOptions,
    found: GroupHeartbeat,
    by_inbox: dict[str, list[str]],
    processes: dict[str, set[str]],
) -> None:
    if not processes:
        return
    for process, answer in (await probe_processes(opened, processes, options.timeout_seconds)).items():
        channels = [channel for name in processes[process] for channel in by_inbox[name]]
        if isinstance(answer, NotProbed):
            found.skipped += len(channels)
            continue
        found.sent += len(channels)
        if isinstance(answer, (ProbesTaken, InboxDrained)):
            found.answered += len(channels)
        else:
            found.silent.extend(channels)
        if isinstance(answer, ProbesTaken):
            found.rtts_ms.extend([answer.round_trip_ms] * len(channels))
