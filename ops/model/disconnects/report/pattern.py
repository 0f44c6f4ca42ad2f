"""A pattern in the ends of many websockets, and how its evidence is put. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from ops.model.disconnects.record import iso_time

EVIDENCE_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Pattern:
    """``connections``: how many show it. ``advice``: what to look at or change."""

    id: str
    title: str
    evidence: tuple[str, ...]
    advice: str
    connections: int


def shown(evidence: Sequence[str], rest: str) -> tuple[str, ...]:
    """The first of ``evidence``, and how many more there are of what ``rest`` names."""
    if len(evidence) <= EVIDENCE_SHOWN + 1:
        return tuple(evidence)
    return (*evidence[:EVIDENCE_SHOWN], f"and {len(evidence) - EVIDENCE_SHOWN:,} {rest}")


def at_time(at: float) -> str:
    """ " at …", to go on with; nothing where it is not known."""
    return f" at {clock(at)}" if at > 0 else ""


def clock(at: float) -> str:
    """Unix seconds as ISO 8601 in UTC, to the second."""
    return f"{iso_time(at)[:19]}Z"
