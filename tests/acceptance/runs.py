"""Runs of `reap_stale` over a fleet of workers, and what has to come about between two of them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from project.sockets import FleetSocket
from project.workers import Kind, Worker
from tests.acceptance.memberships import let_confirm_time_pass, process_of
from tests.conftest import CommandResult, StartWorker
from tests.in_process_commands import run_beside
from tests.waiting import until


async def reap(*options: str, exits: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """One run of `reap_stale` on the layer of the settings, in a thread of this process; returns its report."""
    return report_of(await run_beside("reap_stale", "--format", "json", *options), exits)


NO_PINGS: dict[Kind, tuple[str, ...]] = {
    "uvicorn": ("--ws-ping-interval", "600"),
    "daphne": ("--ping-interval", "600"),
}
"""So that no server closes a websocket for the time that it was frozen itself."""

StartWorkers = Callable[..., list[Worker]]


def worker_starter(start_worker: StartWorker) -> StartWorkers:
    """`start_workers(*kinds, **env)`: side by side; all are ready when it returns."""

    def start(*kinds: Kind, **env: str) -> list[Worker]:
        workers = [start_worker(kind, wait=False, arguments=NO_PINGS[kind], **env) for kind in kinds]
        return [worker.wait_ready() for worker in workers]

    return start


@contextmanager
def frozen(*workers: Worker) -> Iterator[None]:
    """They stand still until the end of the block."""
    for worker in workers:
        worker.freeze()
    try:
        yield
    finally:
        for worker in workers:
            worker.thaw()


def report_of(done: CommandResult, exits: tuple[int, ...] = (0,)) -> dict[str, Any]:
    assert done.returncode in exits, done
    report: dict[str, Any] = json.loads(done.out)
    return report


def states(report: dict[str, Any]) -> Counter[str]:
    return Counter(process["state"] for process in report["processes"])


def state_of(report: dict[str, Any], socket: FleetSocket) -> str:
    """The state of the process that serves it."""
    [state] = [process["state"] for process in report["processes"] if process["process"] == process_of(socket)]
    return str(state)


def markers(client: Any, socket: FleetSocket, prefix: str = "asgi") -> int:
    """How many markers lie in the in-flight keys of the process that serves the socket."""
    keys = client.keys(f"{prefix}*.{process_of(socket)}!$inflight")
    return sum(client.zcount(key, "+inf", "+inf") for key in keys)


async def until_alive_in_between(client: Any, confirm_after_seconds: float, *sockets: FleetSocket) -> None:
    """Return when the confirm time has passed, and the processes that serve these sockets have taken their markers."""
    await until(lambda: not any(markers(client, socket) for socket in sockets))
    await asyncio.to_thread(let_confirm_time_pass, client, confirm_after_seconds)
