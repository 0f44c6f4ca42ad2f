"""A TCP proxy between one process and one Redis, which can misbehave as networks do."""

from __future__ import annotations

import asyncio
import contextlib
from enum import Enum

from project.listener import Listener


class Link(Enum):
    OPEN = "open"
    CUT = "cut"  # connections are reset, new ones too
    SILENT = "silent"  # nothing passes and nothing is closed; what was held up arrives when the link is open again
    NO_REQUESTS = "no requests"  # silent in one direction
    NO_REPLIES = "no replies"


class Proxy(Listener):
    """Passes bytes on to `target_port` of 127.0.0.1, as long as its `link` is open."""

    def __init__(self, target_port: int) -> None:
        super().__init__()
        self.target_port = target_port
        self.delay_seconds = 0.0
        self.link = Link.OPEN
        self.holds = asyncio.Event()  # set once it held something up that `hold_before` asked for
        self._hold_before: bytes | None = None
        self._changed = asyncio.Condition()
        self._writers: set[asyncio.StreamWriter] = set()
        self._forgotten: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def set_link(self, link: Link) -> None:
        self.link = link
        if link is Link.CUT:
            self.reset()
        async with self._changed:
            self._changed.notify_all()

    def reset(self) -> None:
        """Close all connections at once; new ones are accepted."""
        for writer in self._writers:
            writer.transport.abort()

    def forget(self) -> None:
        """Half-open: present connections swallow everything from now on and are never closed. New ones work."""
        self._forgotten |= self._writers

    def hold_before(self, words: bytes | None) -> None:
        """Let no request pass any more from the first on that contains `words`, until the link is set to open."""
        self._hold_before = words
        self.holds.clear()

    async def follow(self, target_port: int) -> None:
        """Lead to another server from now on."""
        self.target_port = target_port
        self.reset()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {writer}
        try:
            if self.link is Link.CUT:
                return
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
            ends.add(to_writer)
            self._writers |= ends
            pumps = [
                asyncio.create_task(self._pump(reader, to_writer, Link.NO_REQUESTS)),
                asyncio.create_task(self._pump(to_reader, writer, Link.NO_REPLIES)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                if ends & self._forgotten:  # Whoever has forgotten a connection does not close it either.
                    await asyncio.wait(pumps)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for end in ends:
                end.transport.abort()
            self._writers -= ends
            self._forgotten -= ends

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, held_by: Link) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                if self._hold_before and held_by is Link.NO_REQUESTS and self._hold_before in data:
                    self._hold_before = None
                    self.link = Link.SILENT
                    self.holds.set()
                if self.link in (Link.SILENT, held_by):
                    async with self._changed:
                        await self._changed.wait_for(lambda: self.link not in (Link.SILENT, held_by))
                if writer in self._forgotten:
                    continue
                writer.write(data)
                await writer.drain()
