"""The server, the keyspace in it and the processes that live, for as long as the benchmark runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import redis

from benchmarks.children import BenchmarkFailed, measure, module, start
from benchmarks.cores import on_cores, server_cores, usable_cores
from benchmarks.keyspace import Layout
from project.embedded_redis import EmbeddedRedis
from project.owned_process import OwnedProcess
from project.polling import came_true

READY_WITHIN_SECONDS = 60.0


@dataclass(frozen=True)
class Session:
    """What all subjects share.

    ``probe_timeout``: seconds that a reap run waits for signs of life; ``say`` reports progress; ``server_cores``: what
    the server has for itself, if anything.
    """

    server: EmbeddedRedis
    client: redis.Redis
    layout: Layout
    probe_timeout: float
    say: Callable[[str], None]
    server_cores: frozenset[int]

    def fill(self) -> None:
        """Empty the server and write the whole keyspace."""
        self.say(f"writing {self.layout.members:,} members in {self.layout.groups:,} groups")
        self.client.flushall()
        measure(module("keyspace", self.server.url, self.layout), self.server.url)

    def sized(self, members: int) -> Session:
        """The same with another number of members; the processes stay the same."""
        return replace(self, layout=replace(self.layout, members=members))

    @contextmanager
    def live_fleet(self) -> Iterator[None]:
        """Let half of the processes live."""
        with self.background("fleet", self.server.url, *self.layout.live) as fleet:
            await_blocked(self.client, len(self.layout.live), fleet)
            yield

    @contextmanager
    def background(self, name: str, *arguments: object) -> Iterator[OwnedProcess]:
        """Run ``benchmarks.{name}`` meanwhile. Raises BenchmarkFailed when it ended before its time."""
        process = start(self.server, name, *arguments)
        try:
            yield process
            if not process.running:
                raise BenchmarkFailed(f"the {name} ended on its own:\n{process.output()}")
        finally:
            if process.running:
                process.kill()

    def forget_runs(self) -> None:
        """Delete what reap runs wrote for themselves: the next one shall find what the first one found."""
        keys = list(self.client.scan_iter(match="asgi:ops:*", count=10_000))
        if keys:
            self.client.unlink(*keys)


@contextmanager
def open_session(layout: Layout, probe_timeout: float, say: Callable[[str], None]) -> Iterator[Session]:
    core = server_cores()
    with ExitStack() as stack:
        with on_cores(core):
            server = stack.enter_context(EmbeddedRedis())
        client = stack.enter_context(redis.Redis.from_url(server.url))
        stack.enter_context(on_cores(set(usable_cores()) - core))
        yield Session(server, client, layout, probe_timeout, say, core)


def await_blocked(client: redis.Redis, receivers: int, fleet: OwnedProcess) -> None:
    """Wait until so many receivers wait for a message."""
    await_ready(
        fleet, lambda: client.info("clients")["blocked_clients"] >= receivers, "the live processes did not start"
    )


def await_ready(process: OwnedProcess, is_ready: Callable[[], bool], failure: str) -> None:
    """Wait until the process is ready. Raises BenchmarkFailed with ``failure`` and its output if it ends before."""
    ended_or_ready = came_true(lambda: not process.running or is_ready(), READY_WITHIN_SECONDS)
    if not (ended_or_ready and process.running):
        raise BenchmarkFailed(f"{failure}:\n{process.output()}")
