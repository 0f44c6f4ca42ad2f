"""Moments that different runs can compare, and how long ago one was.

No single clock is trusted between runs: Redis' clock can be set, and the boot clock of a host is known only there.
"""

import math
from collections.abc import Collection
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
    """When a host last looked, and what its looks in a row tell.

    ``others``: what the clocks of the other shards said then, unix seconds. ``stepped_at``: which of the looks was the
    latest to find that the clock of a server had been set; None if none did. ``epoch``: which run of which servers it
    was, since the look at ``epoch_at``. ``new_at``: which was the latest to see a process live that no look before had.
    """

    at: Moment
    epoch: str
    epoch_at: Moment
    others: tuple[float, ...] = ()
    stepped_at: Moment | None = None
    new_at: Moment | None = None

    @property
    def even_seconds(self) -> float:
        """For how long no server's clock has been set, as far as this host can tell, by its boot clock."""
        return math.inf if self.stepped_at is None else max(0.0, self.at.boot_seconds - self.stepped_at.boot_seconds)


def look_after(
    earlier: LatestLook | None,
    now: Moment,
    epoch: str = "",
    others: tuple[float, ...] = (),
    elsewhere: Collection[LatestLook] = (),
) -> LatestLook:
    """The look of ``now``, after the latest one of the same host and those of other hosts (``elsewhere``)."""
    in_epoch = [look.epoch_at for look in (earlier, *elsewhere) if look is not None and epoch and look.epoch == epoch]
    epoch_at = min(in_epoch, key=lambda moment: moment.redis, default=now)
    if earlier is None:
        return LatestLook(now, epoch, epoch_at, others)
    return LatestLook(
        now,
        epoch,
        epoch_at=epoch_at,
        others=others,
        stepped_at=now if _a_clock_was_set(earlier, now, others) else earlier.stepped_at,
        new_at=earlier.new_at,
    )


def _a_clock_was_set(earlier: LatestLook, now: Moment, others: tuple[float, ...]) -> bool:
    """True if the clock of any server did not go as fast as the boot clock of this host."""
    if not now.boot_id or now.boot_id != earlier.at.boot_id:
        return False
    if len(others) != len(earlier.others):
        return True
    clocks = zip((earlier.at.redis, *earlier.others), (now.redis, *others), strict=True)
    passed = now.boot_seconds - earlier.at.boot_seconds
    return any(abs(after - before - passed) > FUTURE_TOLERANCE_SECONDS for before, after in clocks)
