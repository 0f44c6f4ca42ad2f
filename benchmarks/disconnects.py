"""What the disconnect log and OpsMiddleware cost a process that does nothing but open and close websockets.

What such a process can do in a second is one over the time that its core needs for one websocket. That time is measured
instead of the rate: others on the machine, clients and Redis among them, do not change it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import ExitStack
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import redis

from benchmarks.children import BenchmarkFailed, measure, module
from benchmarks.figures import Results, Target
from benchmarks.layer_shared import database, scaled
from benchmarks.session import Session
from project.polling import came_true
from project.workers import Worker

SUBJECT = "disconnects"
DATABASES = {"plain": 7, "recorded": 6, "full": 5, "tracked": 4}
CONNECTIONS = 100
AT_ONCE = 25
ROUNDS_PER_REPETITION = 50
SETTLING_SECONDS = 0.5
WRITTEN_WITHIN_SECONDS = 10.0
MEASURED = {
    "recorded": ("throughput", "the disconnect log", Target(0.95, at_least=True)),
    "full": ("throughput_ops", "OpsMiddleware", Target(0.95, at_least=True)),
    "tracked": ("throughput_tracked", "OpsMiddleware and its registry of websockets", Target(0.92, at_least=True)),
}
HANDSHAKE = (
    b"GET /ws/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
WELCOME = b"\x81\x07welcome"
CLOSE = b"\x88\x82\0\0\0\0\x03\xe8"  # code 1000


def run(session: Session, results: Results) -> None:
    _measure_sends(session, results)
    says = {kind: f"opening and closing websockets: with {name} ÷ without" for kind, (_, name, _) in MEASURED.items()}
    if sys.platform != "linux":
        for kind, (name, _, _) in MEASURED.items():
            results.derive(SUBJECT, name, says[kind], "ratio", None, note="skipped: this system does not tell")
        return
    connections = scaled(session, CONNECTIONS)
    session.say(
        f"opening and closing {connections} websockets, {ROUNDS_PER_REPETITION} times with and without OpsMiddleware, "
        f"in {results.repeat} sets of {len(DATABASES)} processes"
    )
    # One process is a few per cent faster than the next of the same kind, for as long as it runs.
    sets = [_compare(session, connections) for _ in range(results.repeat)]
    plain = 1e6 * median(one["plain"].seconds for one in sets)
    for kind, (name, _, target) in MEASURED.items():
        cost = 1e6 * median(one[kind].seconds for one in sets)
        note = (
            f"{len(sets)} pairs of processes; {cost:,.0f} µs of a uvicorn's CPU for each, {plain:,.0f} without; stock "
            f"layer"
        )
        ratios = [one[kind].ratio for one in sets]
        results.add(SUBJECT, name, says[kind], "ratio", ratios, target=target, note=note)


def _measure_sends(session: Session, results: Results) -> None:
    what = "sending a message: what OpsMiddleware adds"
    session.say(what)
    found = []
    for _ in range(results.repeat):
        timed = json.loads(measure(module("sends"), session.server.url).out)
        found.append(timed["full"] - timed["plain"])
    note = "µs of CPU for each; the server's own send does nothing"
    results.add(SUBJECT, "send_cost", what, "µs", found, target=Target(2.0), note=note)


class _Cost(NamedTuple):
    """The seconds of CPU that a websocket takes in one process, and plain ÷ this; medians of all rounds."""

    seconds: float
    ratio: float


def _compare(session: Session, connections: int) -> dict[str, _Cost]:
    # What each worker had needed before each round. What it does after one, it does before its next one.
    clocks: dict[str, list[float]] = {kind: [] for kind in DATABASES}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for kind, number in DATABASES.items():
            url = stack.enter_context(database(session, number))
            worker = Worker("uvicorn", env={"REDIS_URL": url}, asgi=f"benchmarks.greeting:{kind}")
            workers[kind] = stack.enter_context(worker)
            asyncio.run(_open_and_close(worker.port, connections))  # warm-up
        time.sleep(SETTLING_SECONDS)
        for number in range(ROUNDS_PER_REPETITION):
            # Each has each of the others before it as often as after it.
            for kind, worker in list(workers.items())[:: -1 if number % 2 else 1]:
                clocks[kind].append(_cpu_seconds(worker.pid))
                asyncio.run(_open_and_close(worker.port, connections))
        for kind in MEASURED:
            _await_records(f"{session.server.url}/{DATABASES[kind]}", connections * (ROUNDS_PER_REPETITION + 1))
    spent = {kind: [(b - a) / connections for a, b in pairwise(clock)] for kind, clock in clocks.items()}
    return {
        kind: _Cost(median(each), median(plain / own for own, plain in zip(each, spent["plain"], strict=True)))
        for kind, each in spent.items()
    }


def _await_records(url: str, expected: int) -> None:
    """A log that left ends out would have been cheap for nothing."""
    with redis.Redis.from_url(url) as client:

        def found() -> int:
            return int(client.xlen("asgi:ops:disconnects"))

        if not came_true(lambda: found() == expected, WRITTEN_WITHIN_SECONDS):
            raise BenchmarkFailed(f"{found()} of {expected} ends were recorded")


def _cpu_seconds(pid: int) -> float:
    """Of all threads of another process so far; what clock_getcpuclockid(3) would name (Linux)."""
    return time.clock_gettime((~pid << 3) | 2)


async def _open_and_close(port: int, connections: int) -> None:
    loop = asyncio.get_running_loop()
    left = iter(range(connections))

    async def call() -> None:
        for _ in left:
            _, caller = await loop.create_connection(_Caller, "127.0.0.1", port)
            await caller.closed

    await asyncio.gather(*(call() for _ in range(AT_ONCE)))


class _Caller(asyncio.Protocol):
    """A client that costs little: it knows what it will be told."""

    def __init__(self) -> None:
        self.closed = asyncio.get_running_loop().create_future()
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(HANDSHAKE)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._received.endswith(WELCOME):
            self._transport.write(CLOSE)

    def connection_lost(self, error: Exception | None) -> None:
        if WELCOME in self._received:
            self.closed.set_result(None)
        else:
            self.closed.set_exception(BenchmarkFailed(f"a websocket was not served: {self._received[:200]!r}"))
