"""The judgement that a run removes members by: when it was last renewed on each shard, and why it holds no more."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from ops.model.liveness.judgement import TOO_OLD, check_renewal, is_due
from ops.store.connection.shards import OpenLayer, Shard
from ops.store.removal.locks import RunLock

StillJudged = Callable[[], Awaitable[str | None]]
"""Looks at the evidence again: None, or why the judgement holds no more."""


async def nothing_to_say() -> str | None:
    """The evidence does not change, as with a recorded end."""
    return None


class Judgement:
    """Renewed between the batches of a removal, for all shards at once. ``stopped``: why nothing more may go.

    The times of a renewal are read before the lock is renewed. So the script refuses a late call, by these times, no
    later than the lock can pass to another run.
    """

    def __init__(
        self, opened: OpenLayer, run_id: str, lock: RunLock, still_judged: StillJudged = nothing_to_say
    ) -> None:
        self.stopped: str | None = None
        self._opened = opened
        self._run_id = run_id
        self._lock = lock
        self._still_judged = still_judged
        self._renewing = asyncio.Lock()
        self._renewed_at: float | None = None
        self._times: dict[int, float] = {}

    async def holds(self) -> bool:
        """Whether members may go by it; asks Redis only when it is due. Raises ShardError."""
        if self._is_due():
            async with self._renewing:
                if self._is_due():
                    await self._renew()
        return self.stopped is None

    def forget_evidence(self) -> None:
        """All members are gone that may go: from here on only the lock and the state of the run matter."""
        self._still_judged = nothing_to_say

    def time_on(self, shard: Shard) -> float:
        """When it was last renewed, unix seconds by the clock of ``shard``."""
        return self._times[shard.index]

    def refuse(self) -> None:
        """Note that the script found it too old."""
        self.stopped = self.stopped or TOO_OLD

    def _is_due(self) -> bool:
        return self.stopped is None and (self._renewed_at is None or is_due(time.monotonic() - self._renewed_at))

    async def _renew(self) -> None:
        now, shards = time.monotonic(), self._opened.shards
        times = await asyncio.gather(*(shard.now() for shard in shards))
        lock_is_ours = await self._lock.renew()
        run_is_undone = await self._run_is_undone()
        stopped = check_renewal(run_is_undone=run_is_undone, lock_is_ours=lock_is_ours) or await self._still_judged()
        # A late call may have been refused meanwhile.
        self.stopped = self.stopped or stopped
        self._times = {shard.index: at for shard, at in zip(shards, times, strict=True)}
        self._renewed_at = now

    async def _run_is_undone(self) -> bool:
        run = self._opened.keyspace.run(self._run_id)
        (undone_at,) = await self._opened.home.execute("HMGET", run, "undone_at")
        return undone_at is not None
