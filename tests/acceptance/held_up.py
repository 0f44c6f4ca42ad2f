"""Holding a process up whose coroutine reads a FIFO: nothing else in it goes on before that is let go."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.waiting import until


@asynccontextmanager
async def holding_up(fifo: Path) -> AsyncIterator[None]:
    """Whoever reads ``fifo``, which somebody must begin to, is held up until the end of the block."""
    writers: list[int] = []

    def is_read() -> bool:
        with contextlib.suppress(OSError):  # ENXIO: nobody reads it yet
            writers.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        return bool(writers)

    await until(is_read)
    try:
        yield
    finally:
        os.close(writers[0])
