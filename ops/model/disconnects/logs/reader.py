"""The ends of websockets in what servers log, line by line and in bounded memory. Pure.

It knows the toolkit's own JSON lines, Daphne's access log, uvicorn's log and the tracebacks in either, also behind what
Docker, journald or a log handler put before them, and in any mixture.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from typing import NamedTuple

from ops.model.disconnects.cause import Cause
from ops.model.disconnects.conclusions import cause_in_redis, cause_of_exception
from ops.model.disconnects.logs.lines import (
    LONGEST_LINE,
    Stamped,
    WebsocketLine,
    is_daphne_http,
    parse_daphne,
    parse_uvicorn,
    split_stamp,
)
from ops.model.disconnects.logs.tracebacks import Traceback, TracebackReader
from ops.model.disconnects.record import MAX_TEXT, UNTIMED, Disconnect, parse_json
from ops.model.keys import decode_name, encode_name

MOST_OPEN = 100_000
MOST_PENDING = 1000
PENDING_SECONDS = 2.0
SAMPLES = 5
SAMPLE_LENGTH = 200
_RECORD = '{"schema_version"'
_OF_DAPHNE, _OF_UVICORN = "Exception inside application: ", "Exception in ASGI application"
_NOTEWORTHY = (_OF_DAPHNE, _OF_UVICORN, "connection open", "connection rejected")


@dataclass(slots=True)
class Lines:
    """``read``: how many lines; ``unreadable``: those that no format fits, the first of which are ``samples``;
    ``still_open``: Daphne's sockets whose end is not in it."""

    read: int = 0
    unreadable: int = 0
    still_open: int = 0
    samples: list[str] = field(default_factory=list)

    def note_unreadable(self, line: bytes | str) -> None:
        self.unreadable += 1
        if len(self.samples) < SAMPLES:
            self.samples.append(decode_name(line)[:SAMPLE_LENGTH] if isinstance(line, bytes) else line[:SAMPLE_LENGTH])


class _Opened(NamedTuple):
    at: float
    path: str
    rejected: bool


class LogReader:
    """``feed`` it each line; what it found is handed to ``found``, the latest when ``end`` is called.

    ``zone``: of the times that say none. Daphne does not say which socket an exception was of: it is given to the
    next one that ends within PENDING_SECONDS, in order.
    """

    def __init__(self, zone: tzinfo, found: Callable[[Disconnect], None]) -> None:
        self.lines = Lines()
        self._zone = zone
        self._found = found
        self._tracebacks = TracebackReader()
        self._source = "unknown"
        self._latest: float | None = None
        self._opened: OrderedDict[str, _Opened] = OrderedDict()
        self._pending: deque[Disconnect] = deque()
        self._owed = 0

    def feed(self, raw: bytes) -> None:
        """One line, without its end."""
        self.lines.read += 1
        if raw.startswith(b"{"):
            self._json(raw)
            return
        if len(raw) > LONGEST_LINE:
            self.lines.note_unreadable(raw)
            return
        stamped = split_stamp(decode_name(raw.rstrip(b"\r")), self._zone)
        if stamped.text.startswith(_RECORD) and not stamped.logged:
            # Behind anything else it is text that somebody had logged, a client perhaps: the toolkit's formatter puts
            # nothing before it.
            self._json(encode_name(stamped.text))
            return
        if stamped.at is not None:
            self._latest = stamped.at
        if not stamped.logged:
            if self._tracebacks.takes(stamped.text, self._latest):
                return
        else:
            self._tracebacks.end()
        self._take_traceback()
        if not self._line(stamped):
            self.lines.note_unreadable(raw)

    def end(self) -> None:
        """There are no more lines."""
        self._tracebacks.end()
        self._take_traceback()
        while self._pending:
            self._found(self._pending.popleft())
        self.lines.still_open = len(self._opened)
        self._opened.clear()

    def _json(self, raw: bytes) -> None:
        record = parse_json(raw)
        if record is not None:
            self._found(record)
        elif raw.startswith(_RECORD.encode()) or not raw.rstrip().endswith(b"}"):
            # Otherwise it is somebody else's JSON line.
            self.lines.note_unreadable(raw)

    def _line(self, stamped: Stamped) -> bool:
        """Whether the line is one of a log, of whatever kind."""
        text = stamped.text
        if (line := parse_daphne(text, self._zone)) is not None:
            self._latest = line.at
            self._daphne(line)
            return True
        if (line := parse_uvicorn(text)) is not None:
            self._uvicorn(replace(line, at=stamped.at or self._latest))
            return True
        if text.startswith(_OF_DAPHNE):
            self._source = "daphne"
        elif text.startswith(_OF_UVICORN):
            self._source = "uvicorn"
        return stamped.logged or not text.strip() or text.startswith(_NOTEWORTHY) or is_daphne_http(text)

    def _daphne(self, line: WebsocketLine) -> None:
        assert line.at is not None
        if line.verb == "connecting":
            self._opened[line.client] = _Opened(line.at, line.path, rejected=False)
            if len(self._opened) > MOST_OPEN:
                self._opened.popitem(last=False)
        elif line.verb == "rejected" and line.client in self._opened:
            self._opened[line.client] = self._opened[line.client]._replace(rejected=True)
        elif line.verb == "ended":
            opened = self._opened.pop(line.client, None)
            lived = None if opened is None else max(0.0, line.at - opened.at)
            end = Disconnect(line.at, source="daphne", lived_seconds=lived, path=line.path[:MAX_TEXT] or None)
            if opened is not None and opened.rejected:
                self._found(replace(end, cause=Cause.REJECTED, closed_by="application"))
                return
            self._hand_out_pending(line.at)
            if self._pending:
                of = self._pending.popleft()
                end = replace(end, cause=of.cause, closed_by=of.closed_by, exception=of.exception)
            self._found(end)

    def _uvicorn(self, line: WebsocketLine) -> None:
        at = UNTIMED if line.at is None else line.at
        if line.verb == "rejected":
            path = line.path[:MAX_TEXT] or None
            self._found(Disconnect(at, Cause.REJECTED, "application", "uvicorn", path=path))
        elif line.verb == "ended" and self._owed:
            self._owed -= 1  # Its traceback said so already.
        elif line.verb == "ended":
            self._found(Disconnect(at, source="uvicorn"))

    def _take_traceback(self) -> None:
        traceback = self._tracebacks.take_finished()
        if traceback is None:
            return
        source, self._source = self._source, "unknown"
        if not _ended_a_websocket(traceback, source):
            return
        at = UNTIMED if traceback.at is None else traceback.at
        chain = tuple(traceback.chain)
        end = Disconnect(at, cause_of_exception(chain), "application", source, exception=chain)
        if source == "daphne":
            self._hand_out_pending(at)
            self._pending.append(end)
            if len(self._pending) > MOST_PENDING:
                self._found(self._pending.popleft())
        else:
            self._owed += source == "uvicorn"
            self._found(end)

    def _hand_out_pending(self, now: float) -> None:
        """Exceptions whose socket did not end in time stand for themselves."""
        while self._pending and now - self._pending[0].at > PENDING_SECONDS:
            self._found(self._pending.popleft())


def _ended_a_websocket(traceback: Traceback, source: str) -> bool:
    if source == "uvicorn":
        return traceback.in_uvicorn
    return traceback.in_consumer and (source == "daphne" or cause_in_redis(traceback.chain) is not None)
