"""``manage.py`` with a clock on its phases: ``python -m benchmarks.timed_command FILE COMMAND …``.

FILE receives the phases as JSON: name -> [beginning, end], by the monotonic clock. The clock is put around functions of
the toolkit from outside, so that the command that is measured is the one that users run.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import django
from django.core.management import execute_from_command_line

Spans = dict[str, list[float]]


def main(path: str, *command: str) -> None:
    django.setup()
    spans: Spans = {}
    put_clocks(spans)
    try:
        execute_from_command_line(["manage.py", *command])
    finally:
        Path(path).write_text(json.dumps(spans))


def put_clocks(spans: Spans) -> None:
    from ops.operations import observe
    from ops.store.removal import journal

    put_clock(spans, "census", observe, "count_members")
    # The purge lists its run before it removes anything, and its last act is to record the end.
    put_clock(spans, "purge", journal, "record_run_started")
    put_clock(spans, "purge", journal, "record_run_ended")


def put_clock(spans: Spans, phase: str, owner: Any, name: str) -> None:
    """Time the coroutine function ``owner.name``; a phase lasts from its first beginning to its last end."""
    timed: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(timed)
    async def clocked(*args: Any, **options: Any) -> Any:
        span = spans.setdefault(phase, [time.monotonic(), 0.0])
        try:
            return await timed(*args, **options)
        finally:
            span[1] = time.monotonic()

    setattr(owner, name, clocked)


if __name__ == "__main__":
    main(*sys.argv[1:])
