"""Saying how far a use case has come."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and the groups and the members seen so far."""


def no_progress(_what: str, _groups: int, _members: int) -> None:
    """Say nothing."""
