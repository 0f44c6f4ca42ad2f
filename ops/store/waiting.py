"""Waiting with a time limit."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


async def within(seconds: float, awaitable: Awaitable[T]) -> T:
    """The result of ``awaitable``; after ``seconds`` it is cancelled, and asyncio.TimeoutError raised.

    Not ``asyncio.wait_for()``: before Python 3.12 that loses a cancellation which comes together with the result
    (https://github.com/python/cpython/issues/86296), and a run that was told to end would go on.
    """
    task = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait([task], timeout=seconds)
    except asyncio.CancelledError:
        await _abandon(task)
        raise
    if not task.done():
        await _abandon(task)
        raise asyncio.TimeoutError
    return task.result()


async def _abandon(task: "asyncio.Future[Any]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
