"""`manage.py` for the campaign's runs, which can do without one of the safeties: the campaign must notice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

from django.core.management import execute_from_command_line

from chaos.safeties import SAFETIES


def tell_where_it_is(_signal: int, frame: FrameType | None) -> None:
    """Who does not come to its end can be asked what each of its tasks waits for."""
    traceback.print_stack(frame)
    tasks: set[asyncio.Task[Any]] = set()
    with contextlib.suppress(RuntimeError):  # It has none yet, or no more.
        tasks = asyncio.all_tasks()
    for task in tasks:
        print(f"-- {task.get_name()}", *_awaited(task.get_coro()), sep="\n", file=sys.stderr)


def _awaited(waiting: Any) -> Iterator[str]:
    """From the outermost to the innermost coroutine, where each stands."""
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
        yield f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}" if frame else repr(waiting)
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, tell_where_it_is)
    if (without := os.environ.get("CHAOS_WITHOUT")) and not SAFETIES[without].in_workers:
        import django

        django.setup()
        SAFETIES[without].take_away()
    execute_from_command_line(["manage.py", *sys.argv[1:]])
