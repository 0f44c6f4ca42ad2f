"""What can happen to the hosts that reap and clean up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from chaos.faults.ground import LATE_SECONDS, SHORT_SECONDS, Ground
from chaos.stage import CONFIRM_SECONDS
from ops.store.removal.locks import LOCK_SECONDS
from project.proxy import Link

FREEZE_SECONDS = (1.0, CONFIRM_SECONDS)
BEYOND_LOCK_SECONDS = (LOCK_SECONDS + 1, LOCK_SECONDS + 3)


class ReaperFaults:
    """They have no worker of their own, and spare the stock workers."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.faults: dict[str, Callable[[], Awaitable[None]]] = {
            "reaper cut off": self._cut_off,
            "reaper frozen": lambda: self._freeze_reaper(FREEZE_SECONDS),
            "reaper frozen for longer than its lock lives": lambda: self._freeze_reaper(BEYOND_LOCK_SECONDS),
        }

    def may_play(self, name: str) -> bool:
        """One that is frozen must be under way, and awake again before the round ends."""
        if "frozen" not in name:
            return True
        longest = BEYOND_LOCK_SECONDS if "lock" in name else FREEZE_SECONDS
        return bool(self._ground.reapers.freezable) and self._ground.has_time_for(longest[1] + LATE_SECONDS)

    async def _cut_off(self) -> None:
        proxies = self._ground.random.choice([*self._ground.stage.reaper_proxies, self._ground.stage.cleaner_proxies])
        link = self._ground.random.choice([Link.CUT, Link.SILENT, Link.NO_REPLIES])
        for proxy in proxies:
            await proxy.set_link(link)
        await self._ground.wait(SHORT_SECONDS)
        for proxy in proxies:
            await proxy.set_link(Link.OPEN)

    async def _freeze_reaper(self, seconds: tuple[float, float]) -> None:
        async with self._ground.reapers.one_is_frozen() as frozen:
            if frozen:
                await self._ground.wait(seconds)
