"""Outbox: items from several event loops, and what does not find room."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ops.application import outbox
from ops.application.connections.leaving import Leaver
from ops.application.outbox import Outbox
from tests.waiting import until


class Numbers(Outbox[int]):
    AWAY = BACK = LOST = ""
    FULL = "no room for more than %d"

    def __init__(self, room: int | None = None) -> None:
        super().__init__(None, 0, room)
        self.sent: list[int] = []
        self.senders: set[int] = set()

    async def _send(self, client: Any, batch: Sequence[int]) -> None:
        self.senders.add(threading.get_ident())
        await asyncio.sleep(0)
        self.sent += batch


LOOPS, EACH = 4, 500


def test_items_from_several_loops_are_sent_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "GATHER_SECONDS", 0.001)
    monkeypatch.setattr(outbox, "IDLE_SECONDS", 0.001)  # so that the task ends now and then
    numbers, all_run = Numbers(), threading.Barrier(LOOPS)

    async def put(first: int) -> None:
        all_run.wait(30)
        if first:
            await until(lambda: bool(numbers.sent))
        for number in range(first, first + EACH):
            numbers.put(number)
            await asyncio.sleep(0)
        await until(lambda: len(numbers.sent) >= LOOPS * EACH)

    with ThreadPoolExecutor(LOOPS) as threads:
        list(threads.map(lambda one: asyncio.run(put(one * EACH)), range(LOOPS)))
    assert sorted(numbers.sent) == list(range(LOOPS * EACH))


def test_an_item_from_another_loop_goes_with_the_task_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = Numbers()

    async def put_here_and_elsewhere() -> None:
        for number in range(10):
            numbers.put(2 * number)
            await asyncio.to_thread(asyncio.run, put(2 * number + 1))
        await until(lambda: len(numbers.sent) == 20)

    async def put(number: int) -> None:
        numbers.put(number)

    asyncio.run(put_here_and_elsewhere())
    assert sorted(numbers.sent) == list(range(20))
    assert numbers.senders == {threading.get_ident()}


def test_what_is_dropped_is_reported_at_once_and_once(caplog: pytest.LogCaptureFixture) -> None:
    numbers = Numbers(room=2)
    with caplog.at_level(logging.WARNING, "ops.middleware"):
        for number in range(5):
            numbers.put(number)
    assert [one.getMessage() for one in caplog.records] == ["no room for more than 2"]
    assert numbers.dropped == 3


def test_no_membership_that_is_to_end_is_dropped() -> None:
    leaver = Leaver(None, 0)
    for number in range(200_001):
        leaver.put(("room", str(number)))
    assert leaver.dropped == 0
