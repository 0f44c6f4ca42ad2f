"""Moments that different runs can compare, and how long ago one was.

No single clock is trusted between runs: Redis' clock can be set, and the boot clock of a host is known only there.
"""

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


def clock_step_seconds(then: Moment | None, now: Moment) -> float:
    """By how much Redis' clock was set forward between the two, as far as this host's boot clock can tell; 0 if not."""
    if then is None or not then.boot_id or then.boot_id != now.boot_id:
        return 0.0
    step = (now.redis - then.redis) - (now.boot_seconds - then.boot_seconds)
    return step if step > FUTURE_TOLERANCE_SECONDS else 0.0
