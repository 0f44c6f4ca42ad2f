"""Tasks inside the application's processes that end with their event loop, however that ends."""

import asyncio
import types
import weakref
from collections.abc import Coroutine
from typing import Any

from ops import compat

TASK_NAMES = "ops.layers"

_watched_loops: "weakref.WeakSet[asyncio.AbstractEventLoop]" = weakref.WeakSet()


def start_task(work: Coroutine[Any, Any, Any], name: str) -> "asyncio.Task[Any]":
    """Start a task that ends with its loop, however that ends, without a word of asyncio's."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(work, name=f"{TASK_NAMES} {name}")
    compat.destroy_silently(task)  # Nothing awaits it, and the process may end at any time.
    _end_tasks_with(loop)
    return task


def _end_tasks_with(loop: Any) -> None:
    """End the layers' tasks before ``loop`` is closed, where nobody else does: asyncio.run() and asgiref do.

    asyncio has no hook for the end of a loop. So the ``close`` of this one is wrapped, as channels_redis does too.
    """
    if loop in _watched_loops:
        return
    _watched_loops.add(loop)
    close = loop.close

    def end_and_close(loop: Any) -> None:
        loop.close = close
        if not (loop.is_closed() or loop.is_running()):
            tasks = [task for task in asyncio.all_tasks(loop) if task.get_name().startswith(TASK_NAMES)]
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks))
        # Not close(): these tasks may have opened connections, which the stock layer then closes with the loop.
        loop.close()

    loop.close = types.MethodType(end_and_close, loop)
