"""So many things a second, and no more."""

import asyncio
import time


class Pace:
    """``await keep(n)`` before doing ``n`` things. Time that was not used is not made up for."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._free_at = 0.0

    async def keep(self, count: int) -> None:
        now = time.monotonic()
        starts_at = max(now, self._free_at)
        self._free_at = starts_at + count / self._per_second
        if starts_at > now:
            await asyncio.sleep(starts_at - now)
