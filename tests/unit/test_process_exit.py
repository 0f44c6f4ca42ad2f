"""The stages in which a process ends share one time limit."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from ops.application import process_exit
from ops.application.outbox import Outbox
from ops.application.process_exit import EXIT_SECONDS, LEAST_EXIT_SECONDS, OTHER_END_SECONDS, seconds_left


class Waiting(Outbox[str]):
    AWAY = BACK = LOST = ""

    async def _send(self, client: Any, batch: Any) -> None:
        await asyncio.Event().wait()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(process_exit, "_ends_since", [])
    monkeypatch.setattr(process_exit, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_each_stage_takes_what_the_ones_before_have_left(now: list[float]) -> None:
    assert seconds_left() == EXIT_SECONDS
    now[0] += 2.0
    assert seconds_left() == EXIT_SECONDS - 2.0
    now[0] += 4.0
    assert seconds_left() == 0.0


def test_an_end_long_ago_was_not_the_one_of_the_process(now: list[float]) -> None:
    seconds_left()
    now[0] += OTHER_END_SECONDS
    assert seconds_left() == EXIT_SECONDS


async def test_a_loop_of_another_thread_is_not_the_one_whose_end_counts(now: list[float]) -> None:
    assert await asyncio.to_thread(seconds_left) == EXIT_SECONDS
    assert process_exit._ends_since == []


def test_a_loop_and_an_exit_late_in_the_end_wait_for_nothing_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_exit, "_ends_since", [time.monotonic() - EXIT_SECONDS])
    monkeypatch.setattr(process_exit, "_farewells", [])

    async def put() -> None:
        waiting.put("")
        await asyncio.sleep(0)

    waiting: Waiting = Waiting(None, 0)
    started = time.monotonic()
    asyncio.run(put())
    process_exit._farewells.append(waiting.send_the_rest)
    process_exit._say_farewell()
    assert time.monotonic() - started < LEAST_EXIT_SECONDS + 1.0
