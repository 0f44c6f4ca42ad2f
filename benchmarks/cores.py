"""Which cores the server and everything else run on.

Where a scheduler puts two processes that talk to each other decides how long a round trip takes: on one core it is a
switch, on two it wakes the other one up, which can take several times as long. ``redis-cli --bigkeys`` makes tens of
thousands of them. So the server gets a core of its own and everybody else the others, which is also the nearest to what
counts in the end, a server on a host of its own.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager


def usable_cores() -> list[int]:
    """The cores that this process may use; none where the system has no way to choose."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def server_cores() -> frozenset[int]:
    """The core for the server; none where there is no other for the rest."""
    cores = usable_cores()
    return frozenset(cores[:1]) if len(cores) > 1 else frozenset()


@contextmanager
def on_cores(cores: Collection[int]) -> Iterator[None]:
    """What is started meanwhile runs on ``cores``; anywhere, if there are none."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
