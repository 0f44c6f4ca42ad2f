"""One address for several servers, as a load balancer gives, and a network that goes silent but closes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

from project.listener import Listener
from project.workers import Worker

CHUNK_BYTES = 65536
CONNECT_WITHIN_SECONDS = 2.0


class Front(Listener):
    """Listens on a free port of 127.0.0.1. Each connection goes to the next of the workers that accepts it.

    With `idle_seconds` it closes connections on which nothing has passed for so long, as load balancers do.
    """

    def __init__(self, workers: Sequence[Worker], *, idle_seconds: float | None = None) -> None:
        super().__init__()
        self.workers = list(workers)
        self._idle_seconds = idle_seconds
        self._next = 0
        self._silent: set[asyncio.Task[None]] = set()

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def fall_silent(self) -> None:
        """Pass nothing on any more for the connections that there are, and close none: packets that are dropped.

        New connections are served.
        """
        self._silent |= self.connections

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        me = asyncio.current_task()
        assert me is not None
        try:
            found = await self._open_to_a_worker()
            if found is None:
                return
            writers.append(found[1])
            idle = Idle()
            ways = [
                asyncio.ensure_future(_pass_on(source, sink, lambda: me in self._silent, idle))
                for source, sink in ((reader, found[1]), (found[0], writer))
            ]
            try:
                # Where one side ends, so does the other: nobody here needs half a connection.
                done: set[asyncio.Future[None]] = set()
                while not done and (left := idle.seconds_left(self._idle_seconds)) != 0:
                    done, _ = await asyncio.wait(ways, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            self._silent.discard(me)
            for one in writers:
                one.close()

    async def _open_to_a_worker(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for _ in self.workers:
            worker = self.workers[self._next % len(self.workers)]
            self._next += 1
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                return await asyncio.wait_for(asyncio.open_connection("127.0.0.1", worker.port), CONNECT_WITHIN_SECONDS)
        return None


class Idle:
    """Since when nothing has passed on a connection."""

    def __init__(self) -> None:
        self.since = time.monotonic()

    def over(self) -> None:
        self.since = time.monotonic()

    def seconds_left(self, allowed: float | None) -> float | None:
        return None if allowed is None else max(0.0, self.since + allowed - time.monotonic())


async def _pass_on(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, is_silent: Callable[[], bool], idle: Idle
) -> None:
    with contextlib.suppress(OSError):
        while chunk := await source.read(CHUNK_BYTES):
            idle.over()
            if is_silent():
                break
            sink.write(chunk)
            await sink.drain()
    if is_silent():
        # Not even the end is passed on.
        await asyncio.Event().wait()
