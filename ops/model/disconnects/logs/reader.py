"""The ends of websockets in what servers log, line by line and in bounded memory. Pure.

It knows the toolkit's own JSON lines, the logs of the servers in SERVERS and the tracebacks in them: behind whatever
prefix, in JSON lines, of several containers at once, and in any mixture.
"""

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from functools import partial
from types import ModuleType

from ops.model.disconnects.cause import Cause
from ops.model.disconnects.conclusions import NO_ROUTE, cause_in_redis, cause_of_exception
from ops.model.disconnects.logs import daphne, runserver, uvicorn
from ops.model.disconnects.logs.lines import (
    LONGEST_LINE,
    LONGEST_PREFIX,
    TRACEBACK,
    WebsocketLine,
    without_colours,
)
from ops.model.disconnects.logs.pairing import (
    AccessPairing,
    ClosingPairing,
    EndAfter,
    OpenSockets,
    When,
    path_without_route,
)
from ops.model.disconnects.logs.prefixes import (
    EMPTY_ENDS,
    Prefixes,
    is_shippers,
    key_of,
    looks_logged,
    place_of,
    split_stamp,
)
from ops.model.disconnects.logs.times import find_time
from ops.model.disconnects.logs.tracebacks import Header, Traceback, TracebackReader
from ops.model.disconnects.logs.wrapped import OWN_LOGGER, Wrapped, load, unwrap
from ops.model.disconnects.record import MAX_TEXT, UNTIMED, Disconnect, parse
from ops.model.keys import decode_name, encode_name

SERVERS: tuple[ModuleType, ...] = (daphne, uvicorn, runserver)
"""A module each, with ``NAME``, ``MARKS``, ``HEADER``, ``BEGINS_EVERY_LINE``, ``find()`` and ``is_own()``."""

_MARKS = tuple((mark, server) for server in SERVERS for mark in server.MARKS)
_HEADERS = tuple((server.HEADER, server.NAME) for server in SERVERS if server.HEADER is not None)

MOST_STREAMS = 100
MOST_HEADERS = 64
HEADER_LINES = 100  # that many lines after its header, a traceback is of something else
MOST_WRAPPED = 3
SAMPLES = 5
SAMPLE_LENGTH = 200
_RECORD = '{"schema_version"'
_GROUP = "Exception Group "
_LINE_OF_CODE = re.compile(r":\d{1,6}")  # a handler's prefix may name it


@dataclass(slots=True)
class Lines:
    """``read``: how many lines; ``unreadable``: those that no format fits, the first of which are ``samples``;
    ``json_read``, ``json_unknown``: JSON lines, and those that hold no text that is known; ``unproved``: the toolkit's
    own records behind a prefix or in another's JSON; ``still_open``: sockets whose end is not in it."""

    read: int = 0
    unreadable: int = 0
    json_read: int = 0
    json_unknown: int = 0
    unproved: int = 0
    still_open: int = 0
    samples: list[str] = field(default_factory=list)

    def note_unreadable(self, line: bytes | str) -> None:
        self.unreadable += 1
        if len(self.samples) < SAMPLES:
            self.samples.append(decode_name(line)[:SAMPLE_LENGTH] if isinstance(line, bytes) else line[:SAMPLE_LENGTH])


@dataclass(frozen=True, slots=True)
class _Around:
    """What a line was wrapped in: when and where it was written, if it does not say so itself.

    ``proves``: nothing was around it that a client could have written. ``counts``: a record in it is one.
    """

    key: str = ""
    at: float | None = None
    host: str | None = None
    pid: int | None = None
    depth: int = 0
    proves: bool = True
    counts: bool = True


_NOTHING = _Around()


@dataclass(slots=True)
class _Stream:
    """What one server, or one container, has written so far. ``latest``: the last time that it told."""

    pairing: AccessPairing
    tracebacks: TracebackReader = field(default_factory=TracebackReader)
    latest: float | None = None


class LogReader:
    """``feed`` it each line; what it found is handed to ``found``, the latest when ``end`` is called.

    ``zone``: of the times that say none. ``now``: unix seconds, for times that say no year.
    """

    def __init__(self, zone: tzinfo, found: Callable[[Disconnect], None], now: float | None = None) -> None:
        self.lines = Lines()
        self._zone = zone
        self._now = now
        self._found = found
        self._prefixes = Prefixes()
        self._opened = OpenSockets()
        self._closings = ClosingPairing(found)
        self._streams: OrderedDict[str, _Stream] = OrderedDict()
        self._headers: list[tuple[int, Header]] = []

    def feed(self, raw: bytes) -> None:
        """One line, without its end."""
        self.lines.read += 1
        if not self._takes(raw):
            self.lines.note_unreadable(raw)

    def end(self) -> None:
        """There are no more lines."""
        for stream in self._streams.values():
            self._finish(stream)
        self._streams.clear()
        self._closings.finish()
        self.lines.still_open += len(self._opened)
        self._opened = OpenSockets()

    def _takes(self, raw: bytes) -> bool:
        """Whether the line is one of a log, of whatever kind."""
        if raw.startswith(b"{"):
            return self._json(raw, _NOTHING)
        line = decode_name(raw.rstrip(b"\r"))
        if line.endswith("}") and (opens := line.find('{"', 0, LONGEST_PREFIX)) > 0:
            taken = self._behind(line, opens, _NOTHING)
            if taken is not None:
                return taken
        return len(raw) <= LONGEST_LINE and self._line(line, _NOTHING)

    # JSON

    def _behind(self, line: str, opens: int, around: _Around) -> bool | None:
        """JSON behind a prefix; None if it is text that somebody had logged."""
        stamped = split_stamp(line, self._zone)
        if stamped.text.startswith(_RECORD) and not stamped.logged and len(line) <= LONGEST_LINE:
            # Behind anything else a client may have had it logged: the toolkit's formatter puts nothing before it.
            return self._json(encode_name(stamped.text), around)
        prefix = line[:opens]
        if not is_shippers(prefix) and self._prefixes.split(line) != opens:
            return None
        return self._json(encode_name(line[opens:]), self._within(around, prefix, self._time(prefix)))

    def _within(self, around: _Around, prefix: str, at: float | None) -> _Around:
        """Around what stands behind ``prefix``, which may be a client's."""
        key = key_of(prefix)
        host, pid = place_of(key)
        return replace(
            around,
            key=around.key + key,
            at=around.at if at is None else at,
            host=host or around.host,
            pid=around.pid if pid is None else pid,
            proves=False,
        )

    def _json(self, raw: bytes | str, around: _Around) -> bool:
        document = load(raw)
        self.lines.json_read += not around.depth
        return document is not None and self._document(document, around)

    def _document(self, document: dict[str, object], around: _Around) -> bool:
        record = parse(document)
        if record is not None:
            if around.counts:
                self.lines.unproved += not around.proves
                # Without its channel it proves nothing.
                self._found(record if around.proves else replace(record, channel=None))
            return True
        if "schema_version" in document:
            return False
        wrapped = unwrap(document, self._zone, self._now) if around.depth < MOST_WRAPPED else None
        if wrapped is None:
            self.lines.json_unknown += 1
            return False
        return self._wrapped(wrapped, around)

    def _wrapped(self, wrapped: Wrapped, around: _Around) -> bool:
        inside = _Around(
            # A logger's lines may be of the same server as lines that are not JSON.
            key=around.key if wrapped.logged else around.key + wrapped.stream,
            at=around.at if wrapped.at is None else wrapped.at,
            host=wrapped.host or around.host,
            pid=around.pid if wrapped.pid is None else wrapped.pid,
            depth=around.depth + 1,
            proves=False,
            counts=around.counts and (not wrapped.logged or wrapped.logger in ("", OWN_LOGGER)),
        )
        if not isinstance(wrapped.text, str):
            return self._document(dict(wrapped.text), inside)
        text = wrapped.text.rstrip("\r\n")
        if text.startswith("{") and text.endswith("}") and (document := load(text)) is not None:
            return self._document(document, inside)
        if wrapped.logged:
            self._end_traceback(inside.key)
        readable = [self._behind_or_line(line, inside) for line in (*text.split("\n"), *wrapped.exception)]
        if wrapped.exception:
            self._end_traceback(inside.key)
        return wrapped.logged or bool(wrapped.exception) or any(readable)

    def _behind_or_line(self, line: str, around: _Around) -> bool:
        if line.endswith("}") and (opens := line.find('{"', 0, LONGEST_PREFIX)) > 0:
            taken = self._behind(line, opens, around)
            if taken is not None:
                return taken
        return self._line(line[:LONGEST_LINE].rstrip("\r"), around)

    # Text

    def _line(self, line: str, around: _Around) -> bool:
        """Whether the line is one of a log, of whatever kind."""
        if "\x1b" in line:
            line = without_colours(line)
        length = self._prefixes.split(line)
        prefix, text = line[:length], line[length:]
        key = around.key + key_of(prefix)
        stream = self._stream(key)
        tracebacks = stream.tracebacks
        if tracebacks.in_frames and text[:1] in (" ", "\t") and tracebacks.takes(text):
            return True
        for mark, server in _MARKS:
            if mark in text and (found := server.find(text, self._zone)) is not None:
                self._websocket(server, found, line[: length + found.begins], stream, around)
                return True
        if text.endswith(TRACEBACK) and len(text) <= LONGEST_PREFIX:
            self._begin_traceback(prefix, text[: -len(TRACEBACK)], around)
            return True
        return self._announces(line, length, stream, around) or self._other(prefix, text, key, stream, around)

    def _other(self, prefix: str, text: str, key: str, stream: _Stream, around: _Around) -> bool:
        """A line without a server's own words: a part of a traceback, or anything else."""
        stamped = split_stamp(text, self._zone)
        if stamped.at is not None:
            stream.latest = stamped.at
        if stamped.logged:
            stream.tracebacks.end()
        elif not stream.tracebacks.is_idle and stream.tracebacks.takes(stamped.text):
            return True
        self._conclude(stream, key)
        return stamped.logged or self._is_known(stamped.text)

    def _is_known(self, text: str) -> bool:
        """Whether it looks like a line of a log, or is empty behind its prefix."""
        return (
            not text.strip()
            or looks_logged(text)
            or any(server.is_own(text) for server in SERVERS)
            or (text.rstrip()[-1] in EMPTY_ENDS and is_shippers(f"{text} "))
        )

    def _websocket(
        self, server: ModuleType, line: WebsocketLine, prefix: str, stream: _Stream, around: _Around
    ) -> None:
        key = around.key + key_of(prefix)
        if server.BEGINS_EVERY_LINE and prefix:
            self._prefixes.learn(prefix)
            stream = self._stream(key)
        tracebacks = stream.tracebacks
        if not tracebacks.is_idle and not tracebacks.in_frames and not tracebacks.is_chained:
            # Otherwise what is written to another output came in between.
            tracebacks.end()
            self._conclude(stream, key)
        at = self._time_at(prefix, around) if line.at is None else line.at
        if at is not None:
            stream.latest = at
        end_after = partial(self._an_end, server.NAME, line, at, key, stream, around)
        if server is uvicorn:
            self._uvicorn(line, key, at, end_after)
        else:
            stream.pairing.line(line, _LINE_OF_CODE.sub("", key) if key else key, at, end_after)

    def _uvicorn(self, line: WebsocketLine, key: str, at: float | None, end_after: EndAfter) -> None:
        if line.verb == "rejected":
            self._found(replace(end_after(None), cause=Cause.REJECTED, closed_by="application"))
        elif line.verb == "ended":
            self._closings.closed(key, end_after(None), When(at, self.lines.read))

    def _an_end(
        self,
        source: str,
        line: WebsocketLine,
        at: float | None,
        key: str,
        stream: _Stream,
        around: _Around,
        lived: float | None,
    ) -> Disconnect:
        host, pid = self._place(key[len(around.key) :], around)
        at = stream.latest if at is None else at
        return Disconnect(
            UNTIMED if at is None else at,
            source=source,
            lived_seconds=lived,
            path=line.path[:MAX_TEXT] or None,
            host=host,
            pid=pid,
        )

    def _announces(self, line: str, length: int, stream: _Stream, around: _Around) -> bool:
        """Whether the line is what a server writes before the traceback of an application."""
        for words, source in _HEADERS:
            if words in line and (begins := line.find(words, length, length + LONGEST_PREFIX)) >= 0:
                stream.tracebacks.end()
                self._conclude(stream, around.key + key_of(line[:length]))
                at = self._time_at(line[:begins], around)
                if at is not None:
                    stream.latest = at
                key = key_of(line[:begins])
                host, pid = self._place(key, around)
                self._headers.append((self.lines.read, Header(source, at, host, pid, around.key + key)))
                del self._headers[:-MOST_HEADERS]
                return True
        return False

    # Tracebacks

    def _begin_traceback(self, prefix: str, before: str, around: _Around) -> None:
        """A traceback begins behind ``before``: which may be the prefix of each of its lines, or of this one only."""
        if before.endswith(_GROUP):
            before = before[: -len(_GROUP)].removesuffix("  + ")
        keys = [around.key + key_of(prefix)]
        if before.strip():
            self._prefixes.try_out(prefix + before)
            keys.append(around.key + key_of(prefix + before))
        header = self._take_header(keys[0], self._time_at(prefix + before, around))
        for key in keys:
            stream = self._stream(key)
            stream.tracebacks.begin(header)
            self._conclude(stream, key)

    def _take_header(self, key: str, at: float | None) -> Header:
        """The latest header that has this stream's prefix before its own, or one that says nothing but when."""
        for number in range(len(self._headers) - 1, -1, -1):
            line, header = self._headers[number]
            if self.lines.read - line > HEADER_LINES:
                break
            if header.key.startswith(key):
                del self._headers[number]
                return header if header.at is not None else replace(header, at=at)
        return Header(at=at)

    def _end_traceback(self, key: str) -> None:
        stream = self._stream(key)
        stream.tracebacks.end()
        self._conclude(stream, key)

    def _conclude(self, stream: _Stream, key: str) -> None:
        """The end that a traceback tells of, if it has come to its own end."""
        traceback = stream.tracebacks.take_finished()
        if traceback is None or not _ended_a_websocket(traceback):
            return
        header, chain = traceback.header, tuple(traceback.chain)
        at = stream.latest if header.at is None else header.at
        end = Disconnect(
            UNTIMED if at is None else at,
            cause_of_exception(chain),
            "application",
            header.source,
            exception=chain,
            path=path_without_route(chain),
            host=header.host,
            pid=header.pid,
        )
        if header.source == daphne.NAME:
            stream.pairing.raised(end, header.at)
        elif header.source == uvicorn.NAME:
            self._closings.raised(key, end, When(header.at, self.lines.read))
        else:
            self._found(end)

    # Streams, times and places

    def _stream(self, key: str) -> _Stream:
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = _Stream(AccessPairing(self._opened, self._zone, self._found))
            if len(self._streams) > MOST_STREAMS:
                _, oldest = self._streams.popitem(last=False)
                self._finish(oldest)
        elif len(self._streams) > 1:
            self._streams.move_to_end(key)
        return stream

    def _finish(self, stream: _Stream) -> None:
        stream.tracebacks.end()
        self._conclude(stream, "")
        stream.pairing.finish()
        self.lines.still_open += stream.pairing.anonymous

    def _time(self, prefix: str) -> float | None:
        return find_time(prefix[-LONGEST_PREFIX:], self._zone, self._now) if prefix else None

    def _time_at(self, prefix: str, around: _Around) -> float | None:
        at = self._time(prefix)
        return around.at if at is None else at

    def _place(self, key: str, around: _Around) -> tuple[str | None, int | None]:
        host, pid = place_of(key)
        return host or around.host, around.pid if pid is None else pid


def _ended_a_websocket(traceback: Traceback) -> bool:
    source, chain = traceback.header.source, traceback.chain
    if source == uvicorn.NAME:
        return traceback.in_uvicorn
    if source == daphne.NAME and any(map(NO_ROUTE.search, chain)):
        return True
    return traceback.in_consumer and (source == daphne.NAME or cause_in_redis(chain) is not None)
