"""Tracebacks in a log, line by line, as chains of ``Type: text``. Pure."""

import re
from dataclasses import dataclass, field

from ops.model.disconnects.logs.lines import CHAINED, parse_exception
from ops.model.disconnects.record import MAX_CHAIN, MAX_TEXT
from ops.model.text import without_secrets

MOST_LINES = 5000
_CONSUMER = re.compile(r"channels[/\\](consumer|utils)\.py\"")
_UVICORN_WEBSOCKET = re.compile(r"uvicorn[/\\]protocols[/\\]websockets[/\\]")


@dataclass(frozen=True, slots=True)
class Header:
    """``source``: the server that announced a traceback; ``key``: the prefix of its line, as ``key_of`` has it."""

    source: str = "unknown"
    at: float | None = None
    host: str | None = None
    pid: int | None = None
    key: str = ""


@dataclass(slots=True)
class Traceback:
    """``header``: the log line before it, which says when it was, and in which process. ``chain``: what was raised, and
    after it what that came from. ``in_consumer``, ``in_uvicorn``: whose frames are in it: of a consumer of Channels, of
    a websocket of uvicorn."""

    header: "Header"
    chain: list[str] = field(default_factory=list)
    in_consumer: bool = False
    in_uvicorn: bool = False


class TracebackReader:
    """It is fed lines and says of each whether it belongs to a traceback; ``finished`` is set when one has ended.

    Python writes what came first first: the chain is turned round.
    """

    def __init__(self) -> None:
        self.finished: Traceback | None = None
        self._current: Traceback | None = None
        self._in_frames = False
        self._chained = False
        self._lines = 0

    @property
    def is_idle(self) -> bool:
        """Whether no traceback has begun."""
        return self._current is None

    @property
    def in_frames(self) -> bool:
        """Whether its exception has not come yet."""
        return self._in_frames

    @property
    def is_chained(self) -> bool:
        """Whether another traceback follows that belongs to it."""
        return self._chained

    def begin(self, header: Header) -> None:
        """The line that begins a traceback came."""
        if not self._chained:
            self.end()
            self._current = Traceback(header)
            self._lines = 0
        self._in_frames, self._chained = True, False

    def takes(self, line: str) -> bool:
        """Whether ``line`` is part of the traceback that has begun."""
        if self._current is None:
            return False
        self._lines += 1
        if self._lines > MOST_LINES:
            self.end()
            return False
        return self._takes_frame(line) if self._in_frames else self._takes_between(line)

    def _takes_frame(self, line: str) -> bool:
        assert self._current is not None
        if not line or line[0] in " \t|+":
            if line.startswith("  File "):
                self._current.in_consumer |= _CONSUMER.search(line[:1000]) is not None
                self._current.in_uvicorn |= _UVICORN_WEBSOCKET.search(line[:1000]) is not None
            return True
        self._in_frames = False
        raised = parse_exception(line)
        if raised is None:
            self.end()
            return False
        self._current.chain.append(without_secrets(raised)[:MAX_TEXT])
        del self._current.chain[:-MAX_CHAIN]
        return True

    def _takes_between(self, line: str) -> bool:
        if line in CHAINED:
            self._chained = True
            return True
        if not line.strip():
            return True
        self.end()
        return False

    def end(self) -> None:
        """No more of the traceback comes."""
        if self._current is not None and self._current.chain:
            self._current.chain.reverse()
            self.finished = self._current
        self._current, self._in_frames, self._chained = None, False, False

    def take_finished(self) -> Traceback | None:
        """The traceback that has ended since the last call."""
        finished, self.finished = self.finished, None
        return finished
