"""The clocks that moments are told by."""

import asyncio
import functools
import time
from pathlib import Path

from ops.model.liveness.moments import Moment
from ops.store.connection.shards import OpenLayer

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@functools.cache
def boot_id() -> str:
    """What names this boot of this host; empty if the system does not tell."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()[:64] if hasattr(time, "CLOCK_BOOTTIME") else ""
    except (OSError, ValueError):
        return ""


def boot_seconds() -> float:
    """Seconds since this host started, by a clock that is never set; 0 if it has none."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if boot_id() else 0.0


async def read_other_clocks(opened: OpenLayer) -> tuple[float, ...]:
    """The time of each shard that answers, except the first one, unix seconds."""
    return tuple(await asyncio.gather(*(shard.now() for shard in opened.answering[1:])))


async def read_moment(opened: OpenLayer) -> Moment:
    """Now, by the clocks of the first shard that answers and of this host."""
    return Moment(await opened.answering[0].now(), boot_id(), boot_seconds())
