"""`manage.py` for the campaign's runs, which can do without one of the safeties: the campaign must notice.

Each entry of `SAFETIES` says what takes it away and which violation must be found then.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any
from unittest.mock import patch

from django.core.management import execute_from_command_line


@dataclass(frozen=True)
class Safety:
    take_away: Callable[[], None]
    finds: str  # a regular expression


def _put(where: str, what: Any) -> None:
    patch(where, what).start()


def _change_script_of_removal(before: bytes, after: bytes) -> None:
    from ops.store.connection.scripts import Script, script

    source = script("purge_members").source
    assert before in source
    source = source.replace(before, after)
    changed = Script(source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())
    _put("ops.store.removal.journal.script", lambda name: changed)


def without_comparing() -> None:
    _change_script_of_removal(b"if score and score <= limits[at] then", b"if score then")


def without_the_members_own_clock() -> None:
    """Who joined before now, by the clock of this host, may go."""
    from ops.operations.reaping import reap

    purge = reap.__dict__["purge"]

    async def purge_by_our_clock(opened: Any, doom: Any, *args: Any, **options: Any) -> None:
        for tally in doom.observation.census.processes.values():
            tally.newest_joined_at = time.time()
        await purge(opened, doom, *args, **options)

    _put("ops.operations.reaping.reap.purge", purge_by_our_clock)


def without_second_round() -> None:
    from ops.model.liveness.judge import State, Verdict, judge

    def judge_at_once(*args: Any) -> Verdict:
        verdict = judge(*args)
        return Verdict(State.DEAD, verdict.evidence) if verdict.state is State.SUSPECT else verdict

    _put("ops.operations.observe.judge", judge_at_once)


def without_life_between() -> None:
    """Whatever a process did between two silences, neither a join nor a marker that it took tells of it."""
    from ops.model.liveness.suspicion import Signs, recall

    _put("ops.operations.reaping.reap.came_back", lambda wanted, marks: set())
    _put("ops.operations.observe.recall", lambda suspicion, _, **how: recall(suspicion, Signs(0.0, marks=99), **how))


def without_second_probe() -> None:
    _put("ops.store.liveness.probes._Probed.answered", property(lambda probed: probed.taken >= 1))


def without_receipts() -> None:
    _change_script_of_removal(b"call('RPUSH', KEYS[1], receipt)", b"call('PING')")


def without_removal() -> None:
    from ops.model.liveness.plan import ReapPlan

    _put("ops.operations.reaping.reap.plan_reap", lambda *args, **options: ReapPlan(frozenset(), None))


SAFETIES = {
    "compare and remove": Safety(without_comparing, "after its process woke up"),
    "the member's own clock": Safety(without_the_members_own_clock, "after its process woke up|an orphan stays"),
    "second round": Safety(without_second_round, "silent for no more than"),
    "life between two silences": Safety(without_life_between, "silent for no more than"),
    "second probe in a row": Safety(without_second_probe, "for live, which had been frozen"),
    "receipts": Safety(without_receipts, "its receipts 0"),
    "removal": Safety(without_removal, "an orphan stays"),
}


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
    if without := os.environ.get("CHAOS_WITHOUT"):
        import django

        django.setup()
        SAFETIES[without].take_away()
    execute_from_command_line(["manage.py", *sys.argv[1:]])
