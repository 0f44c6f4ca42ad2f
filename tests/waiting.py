"""Waiting for what comes about by itself, in a coroutine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

COMES_ABOUT_WITHIN_SECONDS = 30.0  # on a busy machine; a test that passes does not wait for it
POLL_SECONDS = 0.01


async def until(condition: Callable[[], Any], within_seconds: float = COMES_ABOUT_WITHIN_SECONDS) -> None:
    """Return when the condition holds; it must, within that time."""
    deadline = time.monotonic() + within_seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come about"
        await asyncio.sleep(POLL_SECONDS)
