"""Waiting for what nobody tells: that a server listens, that it has written a snapshot, that a role has changed."""

from __future__ import annotations

import time
from collections.abc import Callable

POLL_SECONDS = 0.01


def came_true(condition: Callable[[], bool], within_seconds: float) -> bool:
    """Ask again and again; whether it came true in time. It blocks: from a coroutine, call it in a thread."""
    deadline = time.monotonic() + within_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        # A foreign server sends no event when it listens or changes its role: it can only be asked again.
        time.sleep(POLL_SECONDS)
    return True
