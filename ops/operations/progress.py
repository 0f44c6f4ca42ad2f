"""Saying how far a use case has come."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and the groups and the members seen so far."""

WAITING = "next look in"
"""How a run of the reaper that waits begins to say so."""


def no_progress(_what: str, _groups: int, _members: int) -> None:
    """Say nothing."""
