"""Put back what a run removed, and list the runs that can be undone."""

from collections.abc import Iterable, Sequence

from ops.exceptions import RunNotFound
from ops.model.keys import decode_name, inbox_of, inbox_part
from ops.model.runs import RunRecord, UndoReport
from ops.model.text import visible
from ops.operations.progress import Progress, no_progress
from ops.store.connection.shards import OpenLayer
from ops.store.disconnects.log import step_back_position
from ops.store.liveness import suspects
from ops.store.liveness.leases import read_leases
from ops.store.removal import journal
from ops.store.removal.locks import run_lock


async def undo(opened: OpenLayer, run_id: str, progress: Progress = no_progress) -> UndoReport:
    """Restore the members and keys that the run took, where they are absent. Doing it twice changes nothing.

    The run deleted the leases of those that it removed: a process with the drop-in layer that has had one since has put
    its members back by itself, and what is absent there, it has left. Unless it was in no index: another process had
    added it, and that one never knew of it.
    All suspicions on the first shard are forgotten, so that what came back gets a whole confirm time of its own. A
    clean-up that resumes reads again what it has read since the run: a socket may have ended while it was in no group.
    Raises RunNotFound, ShardError, AnotherRunHoldsTheLock.
    """
    opened.require_every_shard("nothing was changed")
    run = await journal.read_run(opened, run_id)
    if run is None:
        raise RunNotFound(
            f"no run '{visible(run_id)}' in the journal of layer {opened.alias!r}; --history lists those that are kept"
        )
    async with run_lock(opened):
        restored = present = blocked = keys = 0
        holders = _Holders(opened)
        for shard in opened.databases:
            async for receipts, unindexed in journal.read_receipts(opened, shard, run_id):
                wanted = await holders.leave_out(receipts) if run.takes_leases and not unindexed else receipts
                back, there, refused = await journal.restore_members(opened, shard, wanted)
                restored, present, blocked = restored + back, present + there, blocked + refused
                progress("restoring", 0, restored + present)
            keys += await journal.restore_keys(opened, shard, run_id, await opened.home.now())
        await suspects.forget_suspicions(opened)
        if run.cleaned is not None:
            await step_back_position(opened, run.cleaned)
        await journal.record_run_undone(opened, run_id, await opened.home.now())
    notes = []
    if blocked:
        notes.append(f"{blocked} groups hold something else by now and were left alone")
    if holders.members:
        notes.append(
            f"{holders.members:,} members were left to their processes, which came back and put theirs back themselves"
        )
    return UndoReport(run_id, restored, present, keys, tuple(notes))


class _Holders:
    """Processes with the drop-in layer that have had a lease since the run. ``members``: those that were left out."""

    def __init__(self, opened: OpenLayer) -> None:
        self.members = 0
        self._opened = opened
        self._known: dict[bytes, bool] = {}  # inbox -> whether its process holds one

    async def leave_out(self, receipts: Sequence[journal.GroupMembers]) -> list[journal.GroupMembers]:
        inboxes = {inbox_part(channel) for _, channels, _ in receipts for channel in channels}
        await self._look(inboxes)
        if not any(self._known[inbox] for inbox in inboxes):
            return list(receipts)
        return [journal.GroupMembers(key, *self._others(channels, scores)) for key, channels, scores in receipts]

    async def _look(self, inboxes: Iterable[bytes]) -> None:
        processes = {raw: inbox_of(decode_name(raw)) for raw in inboxes if raw not in self._known}
        names = {inbox.process for inbox in processes.values() if inbox is not None}
        leases = await read_leases(self._opened.home, self._opened.keyspace, names)
        held = {name for name, lease in leases.items() if lease.restores and not lease.ended}
        self._known |= {raw: inbox is not None and inbox.process in held for raw, inbox in processes.items()}

    def _others(self, channels: list[bytes], scores: list[float]) -> tuple[list[bytes], list[float]]:
        others = [at for at, channel in enumerate(channels) if not self._known[inbox_part(channel)]]
        self.members += len(channels) - len(others)
        return [channels[at] for at in others], [scores[at] for at in others]


async def read_history(opened: OpenLayer) -> list[RunRecord]:
    """The runs whose receipts are kept, the latest first."""
    opened.require_every_shard("no history was read")
    return await journal.read_runs(opened)
