"""Moments that different runs can compare, and how long ago one was.

No single clock is trusted between runs: Redis' clock can be set, and the boot clock of a host is known only there.
"""

import math
from dataclasses import dataclass

FUTURE_TOLERANCE_SECONDS = 5.0
"""How far ahead of now a time may lie before it is taken for one from the future."""


@dataclass(frozen=True, slots=True)
class Moment:
    """``redis``: unix seconds by the first shard's clock. ``boot_seconds``: by the boot clock of the host ``boot_id``.

    ``boot_id`` is empty if the host does not tell; the boot clock goes on while a host sleeps and is never set.
    """

    redis: float
    boot_id: str = ""
    boot_seconds: float = 0.0


def elapsed_seconds(then: Moment, now: Moment) -> float | None:
    """How long ago ``then`` was: the shorter of what the two clocks say. None if it lies in the future."""
    elapsed = now.redis - then.redis
    if then.boot_id and then.boot_id == now.boot_id:
        elapsed = min(elapsed, now.boot_seconds - then.boot_seconds)
    return None if elapsed < -FUTURE_TOLERANCE_SECONDS else max(0.0, elapsed)


@dataclass(frozen=True, slots=True)
class LatestLook:
    """When a host last looked, and what its looks in a row tell of the servers.

    ``stepped_at``: which of them was the latest to find Redis' clock set forward; None if none did. ``epoch``: which
    run of which servers it was, since its look at ``epoch_at``.
    """

    at: Moment
    epoch: str
    epoch_at: Moment
    stepped_at: Moment | None = None

    @property
    def even_seconds(self) -> float:
        """For how long Redis' clock has not been set forward, as far as this host can tell, by its boot clock."""
        return math.inf if self.stepped_at is None else max(0.0, self.at.boot_seconds - self.stepped_at.boot_seconds)


def look_after(earlier: LatestLook | None, now: Moment, epoch: str) -> LatestLook:
    """The look of ``now``, after the latest one of the same host."""
    if earlier is None:
        return LatestLook(now, epoch, now)
    stepped_at = now if clock_step_seconds(earlier.at, now) else earlier.stepped_at
    return LatestLook(now, epoch, earlier.epoch_at if epoch and epoch == earlier.epoch else now, stepped_at)


def clock_step_seconds(then: Moment, now: Moment) -> float:
    """By how much Redis' clock was set forward between the two, as far as this host's boot clock can tell; 0 if not."""
    if not then.boot_id or then.boot_id != now.boot_id:
        return 0.0
    step = (now.redis - then.redis) - (now.boot_seconds - then.boot_seconds)
    return step if step > FUTURE_TOLERANCE_SECONDS else 0.0
