"""What a heartbeat says, and which message is one.

A heartbeat is a message of a reserved type. Only a process whose lease says that it answers heartbeats is sent one: the
type is unknown to the stock layer's consumers, and would kill them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
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
