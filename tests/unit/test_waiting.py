"""Waiting with a time limit loses neither the result, nor the error, nor a cancellation."""

from __future__ import annotations

import asyncio

import pytest

from ops.store.connection import waiting
from ops.store.connection.waiting import end, within


async def test_the_result_or_the_error_comes_through() -> None:
    async def answer() -> int:
        return 5

    async def fail() -> None:
        raise ZeroDivisionError

    assert await within(30, answer()) == 5
    with pytest.raises(ZeroDivisionError):
        await within(30, fail())


async def test_what_takes_too_long_is_cancelled_and_may_clean_up() -> None:
    said: list[str] = []

    async def dawdle() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            said.append("cleaned up")

    with pytest.raises(asyncio.TimeoutError):
        await within(0.01, dawdle())
    assert said == ["cleaned up"]


async def test_a_cancellation_that_comes_together_with_the_result_is_not_lost() -> None:
    """`asyncio.wait_for` returns the result then, before Python 3.12, and its caller goes on."""
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(within(30, answer))
    await asyncio.sleep(0)
    answer.set_result(5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_that_comes_together_with_an_error_is_not_lost_and_the_error_makes_no_noise() -> None:
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(within(30, answer))
    await asyncio.sleep(0)
    answer.set_exception(ZeroDivisionError())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_reaches_what_is_waited_for() -> None:
    inner: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(within(30, inner))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert inner.cancelled()


async def test_who_loses_a_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "CANCEL_AGAIN_SECONDS", 0.01)
    lost = 0

    async def go_on() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if lost == 2:
                    raise
                lost += 1

    task = asyncio.ensure_future(go_on())
    await asyncio.sleep(0)
    await end(task)
    assert task.cancelled()
    assert lost == 2
