"""A run in which websockets end in every way there is: each has its reason in the log, and the report names what ended
them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from socket import gethostname
from typing import Any
from urllib.parse import urlsplit

import redis

from ops.model.disconnects.record import Disconnect
from ops.model.disconnects.report.patterns import STORM_AT_LEAST
from ops.store.connection.shards import open_layer
from ops.store.disconnects.log import read_disconnects
from project.embedded_redis import EmbeddedRedis
from project.front import Front
from project.sockets import FleetSocket, SocketFleet
from project.workers import Worker
from tests.acceptance.recorded_ends import ENDING, IMPATIENT, STREAM, records_in
from tests.conftest import RunCommand, StartWorker
from tests.waiting import until

IDLE_SECONDS = 6.0
IDLE_CLIENTS, IDLE_TIMES = 4, 4
STORM_CLIENTS, STORM_TIMES = 20, 6
BROKEN, STOPPED, LOST, TIMED_OUT, FROZEN = 12, 5, 5, 3, 3

# The kind in a socket's path -> cause, who closed it and the code; each may be one of several.
ENDS: dict[str, set[tuple[str, str, int | None]]] = {
    "normal": {("normal", "client", 1000)},
    "killed-tab": {("no_close_frame", "client", 1006)},
    "frozen": {("no_close_frame", "client", 1006)},
    "idle": {("no_close_frame", "client", 1006)},
    "broken": {("handler_exception", "application", None)},
    "lost-redis": {("redis_connection_lost", "application", None)},
    "redis-py-8": {("redis_timeout", "application", None)},
    "back-at-once": {("closed_with_code", "application", 4001)},
    "stopped-uvicorn": {("service_restart", "shutdown", 1012)},
    # Which of them it is depends on whether a consumer has raised just before.
    "stopped-daphne": {("shutdown_cancelled", "shutdown", None), ("process_exit", "shutdown", None)},
    "killed": {("process_died", "unknown", None)},
}
# Those that nobody took out of their group, so that the reaper finds them.
LEFT_BEHIND = {"broken", "redis-py-8", "stopped-daphne"}


def kind_of(socket: FleetSocket) -> str:
    return urlsplit(socket.url).path.split("/")[2]


@dataclass
class Run:
    """The servers of one run, and its clients."""

    first: Worker
    steady: Worker
    daphne: Worker
    doomed: Worker
    timing_out: list[Worker]
    sockets: SocketFleet
    numbers: Iterator[int] = field(default_factory=count)

    async def open(self, where: Worker | Front, kind: str, number: int = 1) -> list[FleetSocket]:
        urls = [f"{where.ws_url}/ws/{kind}/{name}/" for _, name in zip(range(number), self.numbers, strict=False)]
        return await self.sockets.open_urls(urls)

    async def restart_redis(self, server: EmbeddedRedis) -> None:
        # A stock worker goes on failing for a while after that, once for each connection that it had: no other has any.
        opened = await self.open(self.first, "lost-redis", LOST)
        server.kill()
        await self.sockets.await_closed(opened)
        server.start()
        with redis.Redis.from_url(server.url) as client:
            await until(lambda: client.xlen(STREAM) == LOST)

    async def idle_behind_a_proxy(self) -> None:
        """Clients that say nothing, are cut, and come back."""

        async def idle(front: Front) -> None:
            for _ in range(IDLE_TIMES):
                assert await self.sockets.await_closed(await self.open(front, "idle"), 20)

        async with Front([self.steady], idle_seconds=IDLE_SECONDS) as front:
            await asyncio.gather(*(idle(front) for _ in range(IDLE_CLIENTS)))

    async def time_out(self) -> None:
        """One socket of each process dies at a time."""
        for worker in self.timing_out:
            await self.open(worker, "redis-py-8", TIMED_OUT)
        opened = [socket for socket in self.sockets.sockets if kind_of(socket) == "redis-py-8"]
        assert len(await self.sockets.await_closed(opened, 60)) == len(opened)

    async def end_one_by_one(self) -> None:
        frozen = await self.open(self.daphne, "frozen", FROZEN)
        for socket in frozen:
            socket.connection.transport.pause_reading()
        for worker in (self.steady, self.daphne, self.doomed):
            for socket in await self.open(worker, "normal"):
                await socket.connection.close()
            for socket in await self.open(worker, "killed-tab"):
                socket.abort()
        for worker in (self.steady, self.daphne):
            for socket in await self.open(worker, "broken", BROKEN // 2):
                await socket.send({})

    async def die(self, server: EmbeddedRedis) -> None:
        """A worker is killed, when it has said what ended before.

        Its clients come back at once, to workers that have no room for them, again and again.
        """

        async def come_back(front: Front, socket: FleetSocket) -> None:
            await self.sockets.await_closed([socket])
            for _ in range(STORM_TIMES):
                again = await self.open(front, "back-at-once")
                await again[0].send({"close": 4001})
                assert await self.sockets.await_closed(again)

        cut = await self.open(self.doomed, "killed", STORM_CLIENTS)
        with redis.Redis.from_url(server.url) as client:
            await until(lambda: sum(one.pid == self.doomed.pid for one in records_in(client).values()) == 2)
        async with Front([self.steady, self.daphne]) as front:
            self.doomed.kill()
            await asyncio.gather(*(come_back(front, socket) for socket in cut))

    async def stop(self) -> None:
        workers = {"stopped-uvicorn": self.steady, "stopped-daphne": self.daphne}
        for kind, worker in workers.items():
            await self.open(worker, kind, STOPPED)
        await asyncio.gather(*(asyncio.to_thread(worker.terminate) for worker in workers.values()))


def start_run(start_worker: StartWorker, sockets: SocketFleet, server: EmbeddedRedis) -> Run:
    # What redis-py 8 does of its own accord, older ones do when told.
    options = json.dumps({"hosts": [{"address": server.url, "socket_timeout": 5}]})
    workers = [
        start_worker("uvicorn", asgi=ENDING, wait=False),
        start_worker("uvicorn", asgi=ENDING, wait=False),
        start_worker("daphne", asgi=ENDING, arguments=IMPATIENT["daphne"], wait=False),
        start_worker("uvicorn", asgi=ENDING, wait=False),
        start_worker("uvicorn", asgi=ENDING, wait=False, CHANNEL_LAYER_OPTIONS=options),
        start_worker("daphne", asgi=ENDING, wait=False, CHANNEL_LAYER_OPTIONS=options),
    ]
    for worker in workers:
        worker.wait_ready()
    return Run(*workers[:4], workers[4:], sockets)


async def test_each_end_of_a_run_has_its_reason_and_the_report_names_each_pattern(
    start_worker: StartWorker, sockets: SocketFleet, redis_server: EmbeddedRedis, run_command: RunCommand
) -> None:
    run = start_run(start_worker, sockets, redis_server)
    await run.restart_redis(redis_server)
    slow = asyncio.gather(run.idle_behind_a_proxy(), run.time_out())
    await run.end_one_by_one()
    await run.die(redis_server)
    await slow
    await run.stop()
    # Workers without members have connections that stand idle, and those with members are known to be gone.
    argv = ("reap_stale", "--wait", "--confirm-after", "1", "--probe-timeout", "2", "--max-share", "1")
    reaped = await asyncio.to_thread(run_command, *argv)
    assert reaped.returncode == 0, reaped
    async with open_layer("default") as opened:
        records = [one async for page in read_disconnects(opened) for one in page.disconnects]
    report = await asyncio.to_thread(run_command, "replay_disconnects", "--report", "--format", "json")
    assert_each_has_its_reason(records, sockets.sockets)
    assert report.returncode == 0, report
    assert_each_pattern_is_named(json.loads(report.out), run)


def assert_each_has_its_reason(records: list[Disconnect], opened: list[FleetSocket]) -> None:
    by_channel: dict[str | None, list[Disconnect]] = {}
    for one in records:
        by_channel.setdefault(one.channel, []).append(one)
    assert by_channel.keys() == {socket.channel for socket in opened}
    for socket in opened:
        kind = kind_of(socket)
        first, *more = by_channel[socket.channel]
        assert (first.cause, first.closed_by, first.code) in ENDS[kind], (socket, first)
        assert [one.source for one in more] == ["reaper"] * (kind in LEFT_BEHIND), (socket, more)
        if kind != "killed":
            assert (first.pid, first.path) == (socket.pid, urlsplit(socket.url).path)
            assert (first.groups == ("ending",)) == (kind in LEFT_BEHIND | {"lost-redis"})


def assert_each_pattern_is_named(report: dict[str, Any], run: Run) -> None:
    kinds = Counter(map(kind_of, run.sockets.sockets))
    assert report["records"] == len(run.sockets.sockets)
    assert report["reaped_later"] == sum(kinds[kind] for kind in LEFT_BEHIND)
    causes = {row["cause"]: row["count"] for row in report["by_cause"]["rows"]}
    assert causes["process_died"] == STORM_CLIENTS
    assert causes["no_close_frame"] == kinds["killed-tab"] + kinds["frozen"] + kinds["idle"]

    patterns = {pattern.pop("id"): pattern for pattern in report["patterns"]}
    connections = {name: pattern["connections"] for name, pattern in patterns.items()}
    # A storm at the turn of a step may lose the smaller part of it, and other brief connections are counted with it;
    # those that are given up after some seconds may seem to have died at the proxy's age.
    assert STORM_CLIENTS * STORM_TIMES - STORM_AT_LEAST < connections.pop("reconnect_storm") <= report["records"]
    assert IDLE_CLIENTS * IDLE_TIMES <= connections.pop("same_age") <= causes["no_close_frame"]
    assert connections == {
        "worker_died": STORM_CLIENTS,
        "worker_stopped": 2 * STOPPED,
        "redis_lost": LOST,
        "redis_py_8_timeout": 2 * TIMED_OUT,
        "bad_path": BROKEN,
    }
    assert_the_evidence_says_which(patterns, run)


def assert_the_evidence_says_which(patterns: dict[str, dict[str, Any]], run: Run) -> None:
    died, stopped, lost = (patterns[name] for name in ("worker_died", "worker_stopped", "redis_lost"))
    assert died["title"] == f"worker {label(run.doomed)} died without a word, with {STORM_CLIENTS} connections open"
    assert died["evidence"][0].startswith(f"{label(run.doomed)}: {STORM_CLIENTS} reaped at ")
    assert "its own last record is of" in died["evidence"][0]
    for worker, line in zip(sorted((run.steady, run.daphne), key=label), sorted(stopped["evidence"]), strict=True):
        assert line.startswith(f"{label(worker)}: {STOPPED} open when it was stopped at ")
    assert lost["evidence"][-1] == f"in 1 of the 6 workers in the log: {label(run.first)} ({LOST})"
    for worker in run.timing_out:
        assert any(line.startswith(f"{label(worker)}: ") for line in patterns["redis_py_8_timeout"]["evidence"])
    assert "died at the same age: 6" in patterns["same_age"]["title"]
    assert patterns["same_age"]["evidence"][1].endswith(" of them: no_close_frame")
    assert patterns["bad_path"]["title"] == "one path has 100% of the faults: /ws/broken/{number}/"
    assert patterns["bad_path"]["evidence"][1] == f"{BROKEN} handler_exception"
    storm = f"{STORM_CLIENTS * STORM_TIMES} /ws/back-at-once/{{number}}/ closed_with_code"
    assert storm in patterns["reconnect_storm"]["evidence"][-1]


def label(worker: Worker) -> str:
    """As the report calls it."""
    return f"{gethostname()} pid {worker.pid}"
