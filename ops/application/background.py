"""Tasks inside the application's processes that end with their event loop, however that ends."""

import asyncio
import types
import weakref
from collections.abc import Coroutine
from typing import Any

TASK_NAMES = "ops.layers"

_watched_loops: "weakref.WeakSet[asyncio.AbstractEventLoop]" = weakref.WeakSet()


def start_task(work: Coroutine[Any, Any, Any], name: str) -> "asyncio.Task[Any]":
    """Start a task that ends with its loop, however that ends, without a word of asyncio's."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(work, name=f"{TASK_NAMES} {name}")
    # Nobody waits for it: a process may end in the middle of it, of which asyncio would complain at exit. There is no
    # public name for this; asyncio.gather() sets it too. The other way is a handler for all of the loop's complaints.
    unnamed: Any = task
    unnamed._log_destroy_pending = False
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
