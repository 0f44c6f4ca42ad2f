"""What a heartbeat says, what an acknowledgement says, and what counts as answered.

A heartbeat is a message of a reserved type. Only a process whose lease says that it answers heartbeats is sent one: the
type is unknown to the stock layer's consumers, and would kill them.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

HEARTBEAT = "ops.heartbeat"
"""The reserved ``type``. The drop-in layer never gives a message of this type to a consumer."""

DEPTHS = ("process", "channel", "client")
"""How far a heartbeat goes; each proves more than the one before."""

_RUN = re.compile(r"[0-9a-f]{32}")
_MOST_NUMBERS = 10**9


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """``run``: who asks, which names the key that is acknowledged to; ``number``: which question of that run."""

    run: str
    number: int
    depth: str

    def message(self) -> dict[str, Any]:
        return {"type": HEARTBEAT, "run": self.run, "number": self.number, "depth": self.depth}


def parse_heartbeat(message: Mapping[str, Any]) -> Heartbeat | None:
    """The heartbeat in a message that anybody may have written; None where it is none that can be answered."""
    run, number, depth = message.get("run"), message.get("number"), message.get("depth")
    if not (isinstance(run, str) and _RUN.fullmatch(run) and depth in ("channel", "client")):
        return None
    if not isinstance(number, int) or not 0 <= number < _MOST_NUMBERS:
        return None
    return Heartbeat(run, number, str(depth))


@dataclass(slots=True)
class GroupHeartbeat:
    """What became of the heartbeats to one group. ``rtts_ms``: of those that were answered, in no order.

    ``sent`` members were asked; ``skipped`` were not, since their inbox is near capacity or cannot be read.
    """

    group: str
    members: int = 0
    sent: int = 0
    answered: int = 0
    not_capable: int = 0
    skipped: int = 0
    silent: list[str] = field(default_factory=list)
    rtts_ms: list[float] = field(default_factory=list)


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """min, p50, p95, p99 and max by the nearest-rank method; None where there is no value."""
    if not values:
        return None
    ordered = sorted(values)
    ranks = {"min": 0.0, "p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {name: ordered[max(0, math.ceil(rank * len(ordered)) - 1)] for name, rank in ranks.items()}
