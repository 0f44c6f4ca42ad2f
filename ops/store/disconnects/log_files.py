"""Log files line by line: plain or gzip, from disk or standard input, in memory that does not grow with them.

It may be a pipe that somebody writes to slowly: the event loop goes on meanwhile.
"""

import asyncio
import os
import stat
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

from ops.exceptions import SourceUnreadable
from ops.model.disconnects.record import MAX_DOCUMENT_BYTES
from ops.model.text import visible

STANDARD_INPUT = "-"
STANDARD_INPUT_NUMBER = 0
CHUNK_BYTES = 256 * 1024
LONGEST_LINE_BYTES = MAX_DOCUMENT_BYTES
_GZIP = b"\x1f\x8b"
_ANY_GZIP = 16 + zlib.MAX_WBITS


async def read_lines(source: str) -> AsyncIterator[list[bytes]]:
    """The lines of the file ``source``, or of standard input (``-``), some at a time, without their ends.

    A line that is longer than LONGEST_LINE_BYTES comes one byte longer than that, which says so. Raises
    SourceUnreadable, at the beginning or where the file is damaged; what was readable has come before.
    """
    lines = _LineCutter()
    unpacked = _Unpacker()
    try:
        async for chunk in _read_chunks(source):
            for plain in unpacked.feed(chunk):
                yield lines.feed(plain)
        yield lines.feed(unpacked.end())
    except (OSError, zlib.error, EOFError) as problem:
        yield lines.end()
        why = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem)
        raise SourceUnreadable(f"{visible(source)} cannot be read: {why}") from None
    yield lines.end()


async def _read_chunks(source: str) -> AsyncIterator[bytes]:
    if source == STANDARD_INPUT:
        number, ours = STANDARD_INPUT_NUMBER, False
    else:
        # Without O_NONBLOCK a FIFO is not open before somebody writes to it, and the loop would stand still until then.
        number, ours = os.open(Path(source), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), True
    try:
        mode = os.fstat(number).st_mode
        while True:
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                await _readable(number)
            chunk = os.read(number, CHUNK_BYTES)
            if not chunk:
                return
            yield chunk
            await asyncio.sleep(0)
    finally:
        if ours:
            os.close(number)


async def _readable(number: int) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    with suppress(PermissionError):  # It cannot be waited for, as /dev/null; then it does not keep one waiting either.
        loop.add_reader(number, wake)
        try:
            await ready
        finally:
            loop.remove_reader(number)


class _Unpacker:
    """What is gzip, by its first bytes, is unpacked, one member after the other; everything else passes through."""

    def __init__(self) -> None:
        self._is_gzip: bool | None = None
        self._member: zlib._Decompress | None = None
        self._head = b""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The plain bytes, in pieces that are no longer than CHUNK_BYTES, whatever the chunk says."""
        if self._is_gzip is None:
            chunk, self._head = self._head + chunk, b""
            if len(chunk) < len(_GZIP):
                self._head = chunk
                return
            self._is_gzip = chunk.startswith(_GZIP)
        if not self._is_gzip:
            yield chunk
            return
        while chunk:
            if self._member is None:
                if not chunk.strip(b"\0"):  # padding
                    return
                self._member = zlib.decompressobj(_ANY_GZIP)
            yield self._member.decompress(chunk, CHUNK_BYTES)
            chunk = self._member.unconsumed_tail or self._member.unused_data
            if self._member.eof:
                self._member = None

    def end(self) -> bytes:
        """What is left. Raises EOFError where there should be more."""
        if self._member is None:
            return self._head
        rest = self._member.flush()
        if not self._member.eof:
            raise EOFError("the gzip data ends in the middle")
        return rest


class _LineCutter:
    """Cuts bytes into lines. What a line has beyond LONGEST_LINE_BYTES and one is left out."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False

    def feed(self, chunk: bytes) -> list[bytes]:
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        if self._skipping:
            if not lines:
                self._rest = b""
                return []
            del lines[0]
            self._skipping = False
        if len(self._rest) > LONGEST_LINE_BYTES:
            lines.append(self._rest)
            self._rest, self._skipping = b"", True
        return [line[: LONGEST_LINE_BYTES + 1] for line in lines]

    def end(self) -> list[bytes]:
        rest, self._rest = self._rest, b""
        return [rest] if rest else []
