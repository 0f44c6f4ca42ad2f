"""Lines of real files: plain, packed, damaged, endless."""

from __future__ import annotations

import asyncio
import fcntl
import gzip
import os
import struct
import termios
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ops.exceptions import SourceUnreadable
from ops.store.disconnects import log_files
from ops.store.disconnects.log_files import CHUNK_BYTES, LONGEST_LINE_BYTES, read_lines
from project.polling import came_true

LINES = [b"line %d" % number for number in range(100_000)]
PLAIN = b"\n".join(LINES)


async def lines_of(path: Path) -> list[bytes]:
    return [line async for lines in read_lines(str(path)) for line in lines]


def unread_bytes(pipe: int) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    return int(count)


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.log"


@pytest.mark.parametrize("end", [b"", b"\n"])
async def test_a_plain_file_comes_line_by_line(path: Path, end: bytes) -> None:
    write(path, PLAIN + end)
    assert await lines_of(path) == LINES


async def test_a_packed_file_is_known_by_its_first_bytes(path: Path) -> None:
    write(path, gzip.compress(PLAIN))
    assert await lines_of(path) == LINES


async def test_packed_files_that_were_joined_are_read_to_the_end(path: Path) -> None:
    write(path, gzip.compress(PLAIN + b"\n") + gzip.compress(b"more\n") + b"\0" * 100)
    assert await lines_of(path) == [*LINES, b"more"]


@pytest.mark.parametrize("content", [b"", b"x", b"\n"])
async def test_small_files_are_files_too(path: Path, content: bytes) -> None:
    write(path, content)
    assert await lines_of(path) == content.splitlines()


@pytest.mark.parametrize(
    "damage", [lambda p: p[: len(p) // 2], lambda p: p[:20_000] + b"\xff" * 999, lambda p: p + b"x"]
)
async def test_of_a_damaged_file_comes_what_can_be_read(path: Path, damage: Callable[[bytes], bytes]) -> None:
    write(path, damage(gzip.compress(PLAIN)))
    found: list[bytes] = []

    async def read() -> None:
        async for lines in read_lines(str(path)):
            found.extend(lines)

    with pytest.raises(SourceUnreadable, match="cannot be read"):
        await read()
    assert found[:1000] == LINES[:1000]


@pytest.mark.parametrize("name", ["nowhere.log", "."])
async def test_what_cannot_be_opened_is_said_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceUnreadable, match="cannot be read"):
        await lines_of(tmp_path / name)


async def test_a_line_without_end_takes_no_memory(path: Path) -> None:
    write(path, b"first\n" + b"x" * (10 * CHUNK_BYTES) + b"\nlast\n")
    first, long, last = await lines_of(path)
    assert (first, last) == (b"first", b"last")
    assert len(long) == LONGEST_LINE_BYTES + 1


async def test_a_small_file_that_unpacks_to_a_large_one_comes_in_pieces(path: Path) -> None:
    write(path, gzip.compress(b"x" * 50_000_000 + b"\nlast"))
    sizes = [sum(map(len, lines)) async for lines in read_lines(str(path))]
    assert max(sizes) <= CHUNK_BYTES + LONGEST_LINE_BYTES
    assert (await lines_of(path))[-1] == b"last"


async def test_a_pipe_that_somebody_writes_to_slowly_leaves_the_loop_free(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr(log_files, "STANDARD_INPUT_NUMBER", reading)
    try:
        lines = read_lines("-")
        os.write(writing, b"one\ntw")
        assert await anext(lines) == [b"one"]
        os.write(writing, b"o\n")
        assert await anext(lines) == [b"two"]
        os.close(writing)
        assert [line async for some in lines for line in some] == []
    finally:
        os.close(reading)


async def test_a_fifo_that_nobody_writes_to_yet_leaves_the_loop_free(path: Path) -> None:
    os.mkfifo(path)
    free = threading.Event()

    def write_once_the_loop_is_free() -> bool:
        was_free = free.wait(10)
        with path.open("wb") as fifo:
            fifo.write(b"one\ntw")
            fifo.flush()
            assert came_true(lambda: unread_bytes(fifo.fileno()) == 0, 10), "half a line was not read"
            fifo.write(b"o\n")
        return was_free

    writing = asyncio.create_task(asyncio.to_thread(write_once_the_loop_is_free))
    reading = asyncio.create_task(lines_of(path))
    await asyncio.sleep(0.05)  # An open that has no writer gives no sign: it is to have begun by then.
    free.set()
    assert await reading == [b"one", b"two"]
    assert await writing, "the loop stood still until there was a writer"
