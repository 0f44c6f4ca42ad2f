"""Waiting with a time limit, and for how long."""

import asyncio
import random
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")
CANCEL_AGAIN_SECONDS = 1.0

# Not the module's own generator: forked workers inherit its state, would draw the same, and wait in step.
_draw = random.SystemRandom()


def spread(least_seconds: float, most_seconds: float) -> float:
    """A random time between the two, so that processes which start to wait together do not end it together."""
    return _draw.uniform(least_seconds, most_seconds)


async def within(seconds: float, awaitable: Awaitable[T]) -> T:
    """The result of ``awaitable``; after ``seconds`` it is cancelled, and asyncio.TimeoutError raised.

    Not ``asyncio.wait_for()``: before Python 3.12 that loses a cancellation which comes together with the result
    (https://github.com/python/cpython/issues/86296), and a run that was told to end would go on.
    """
    task = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait([task], timeout=seconds)
    except asyncio.CancelledError:
        await end(task)
        raise
    if not task.done():
        await end(task)
        raise asyncio.TimeoutError
    return task.result()


async def end(*tasks: "asyncio.Future[Any]") -> None:
    """Cancel ``tasks`` until they have ended, and drop what they return or raise.

    Once is not enough: with a ``socket_timeout``, redis-py writes inside ``asyncio.wait_for()`` (see ``within``), and a
    receiver that did not notice would go on for ever. Not for tasks that clean up for longer than a second.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_SECONDS)
    await asyncio.gather(*tasks, return_exceptions=True)
