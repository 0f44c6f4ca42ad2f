"""Put back what a run removed, and list the runs that can be undone."""

from ops.exceptions import RunNotFound, ShardError
from ops.model.keys import visible
from ops.model.reaping import RunRecord, UndoReport
from ops.operations.observe import Progress, no_progress
from ops.store import journal, suspects
from ops.store.locks import run_lock
from ops.store.shards import OpenLayer


async def undo(opened: OpenLayer, run_id: str, progress: Progress = no_progress) -> UndoReport:
    """Restore the members and keys that the run took, where they are absent. Doing it twice changes nothing.

    The run's suspicions are forgotten, so that what came back gets a whole confirm time of its own. Raises RunNotFound,
    ShardError, AnotherRunHoldsTheLock.
    """
    refuse_missing_shards(opened)
    run = await journal.read_run(opened, run_id)
    if run is None:
        raise RunNotFound(
            f"no run '{visible(run_id)}' in the journal of layer {opened.alias!r}; --history lists those that are kept"
        )
    async with run_lock(opened):
        restored = present = blocked = keys = 0
        for shard in opened.shards:
            async for receipts in journal.read_receipts(opened, shard, run_id):
                back, there, refused = await journal.restore_members(opened, shard, receipts)
                restored, present, blocked = restored + back, present + there, blocked + refused
                progress("restoring", 0, restored + present)
            keys += await journal.restore_keys(opened, shard, run_id)
        await suspects.record_suspicions(opened, [])
        await suspects.record_suspicions(opened, [], run.match)
        await journal.record_run_undone(opened, run_id, await opened.home.now())
    notes = (f"{blocked} groups hold something else by now and were left alone",) if blocked else ()
    return UndoReport(run_id, restored, present, keys, notes)


async def read_history(opened: OpenLayer) -> list[RunRecord]:
    """The runs whose receipts are kept, the latest first."""
    refuse_missing_shards(opened)
    return await journal.read_runs(opened)


def refuse_missing_shards(opened: OpenLayer) -> None:
    if opened.problems:
        raise ShardError(f"{opened.problems[0]}; nothing was changed")
