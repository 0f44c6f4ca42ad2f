"""One end of a websocket from the several lines that a server writes about it, in whatever order they come. Pure."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from itertools import islice
from typing import NamedTuple

from ops.model.disconnects.cause import Cause
from ops.model.disconnects.conclusions import NO_ROUTE
from ops.model.disconnects.logs.lines import WebsocketLine
from ops.model.disconnects.logs.times import is_ambiguous
from ops.model.disconnects.record import MAX_TEXT, Disconnect

MOST_OPEN = 100_000
MOST_PENDING = 1000
MOST_COMPARED = 32
PENDING_SECONDS = 2.0
LINES_A_SECOND = 50  # of a log that says no times
CLOCK_WENT_BACK_SECONDS = 60.0
ANONYMOUS = "None"  # as Daphne calls the client behind a UNIX socket; with --proxy-headers it has port 0

Found = Callable[[Disconnect], None]
EndAfter = Callable[[float | None], Disconnect]


class When(NamedTuple):
    """When a line was written: ``at`` as far as it says so, and as which line of its log."""

    at: float | None
    line: float

    def seconds_since(self, before: "When") -> float:
        """By their times, or by the lines in between."""
        if self.at is not None and before.at is not None:
            return self.at - before.at
        return (self.line - before.line) / LINES_A_SECOND


_NEVER = When(float("inf"), float("inf"))


class Opened(NamedTuple):
    """A socket whose end has not come yet. ``clock``: how often the clock had been put back before it."""

    at: float | None
    clock: int
    connected: bool = False
    rejected: bool = False


class OpenSockets:
    """The sockets of all streams that have begun and not ended, the newest MOST_OPEN of them."""

    def __init__(self) -> None:
        self._opened: OrderedDict[tuple[str, str], Opened] = OrderedDict()

    def __len__(self) -> int:
        return len(self._opened)

    def begin(self, key: str, client: str, opened: Opened) -> None:
        self._opened[key, client] = opened
        if len(self._opened) > MOST_OPEN:
            self._opened.popitem(last=False)

    def note(self, key: str, client: str, *, rejected: bool) -> None:
        opened = self._opened.get((key, client))
        if opened is not None:
            self._opened[key, client] = opened._replace(rejected=True) if rejected else opened._replace(connected=True)

    def end(self, key: str, client: str) -> Opened | None:
        return self._opened.pop((key, client), None)


class _Waiting(NamedTuple):
    """Something that may be half of an end."""

    when: When
    end: Disconnect
    connected: bool = False
    follows_end: bool = False


@dataclass(slots=True)
class AccessPairing:
    """The ends of one stream with an access log: Daphne's, or runserver's.

    Its lines do not say which socket an exception was of: it is given to the next one that ends within
    PENDING_SECONDS, in order; if there is none, to the latest that ended as long before.
    """

    opened: OpenSockets
    zone: tzinfo
    found: Found
    anonymous: int = 0
    _rejected: dict[str, int] = field(default_factory=dict)
    _raised: deque[_Waiting] = field(default_factory=deque)
    _ended: deque[_Waiting] = field(default_factory=deque)
    _clock: int = 0
    _latest: float = float("-inf")
    _lines: int = 0
    _verb: str = ""

    def line(self, line: WebsocketLine, key: str, at: float | None, end_after: EndAfter) -> None:
        """A line of the access log. ``end_after``: makes the end that it tells of, if it is one, from its age."""
        if line.verb != "ended":
            self._settle()
            self._lines += 1
        self._verb = line.verb
        if at is not None:
            self._clock += at < self._latest - CLOCK_WENT_BACK_SECONDS
            self._latest = at
        if line.verb in ("failed", "request"):
            self._forget_request(line)
        elif line.client == ANONYMOUS or line.client.endswith(":0"):
            self._of_anybody(line, at, end_after)
        elif line.verb == "connecting":
            self.opened.begin(key, line.client, Opened(at, self._clock))
        elif line.verb == "ended":
            opened = self.opened.end(key, line.client)
            end = end_after(None if opened is None else self._age(opened, at))
            if opened is not None and opened.rejected:
                self.found(replace(end, cause=Cause.REJECTED, closed_by="application"))
            else:
                self._end(end, When(at, self._lines), connected=opened is not None and opened.connected)
        else:
            self.opened.note(key, line.client, rejected=line.verb == "rejected")

    def raised(self, end: Disconnect, at: float | None) -> None:
        """An exception of a consumer came."""
        when = When(at, self._lines)  # Many exceptions may come at once, and after them all their ends.
        self.expire(when)
        self._raised.append(_Waiting(when, end, follows_end=self._verb == "ended"))
        if len(self._raised) > MOST_PENDING:
            self._of_itself(self._raised.popleft())

    def expire(self, now: When) -> None:
        """Give up waiting for what should have come by now."""
        while self._raised and now.seconds_since(self._raised[0].when) > PENDING_SECONDS:
            self._of_itself(self._raised.popleft())
        while self._ended and now.seconds_since(self._ended[0].when) > 2 * PENDING_SECONDS:
            self.found(self._ended.popleft().end)

    def finish(self) -> None:
        self.expire(_NEVER)

    def _settle(self) -> None:
        """Without times, an exception between an end and a beginning is of that end."""
        if self._raised and self._raised[-1].follows_end and self._raised[-1].when.at is None:
            self._of_itself(self._raised.pop())

    def _of_anybody(self, line: WebsocketLine, at: float | None, end_after: EndAfter) -> None:
        """Nothing says which of the sockets of such clients it is: no age is known."""
        if line.verb == "connecting":
            self.anonymous += 1
        elif line.verb == "rejected" and len(self._rejected) < MOST_PENDING:
            self._rejected[line.path] = self._rejected.get(line.path, 0) + 1
        elif line.verb == "ended":
            end = end_after(None)
            self.anonymous -= self.anonymous > 0
            left = self._rejected.pop(line.path, 0)
            if left > 1:
                self._rejected[line.path] = left - 1
            if left:
                self.found(replace(end, cause=Cause.REJECTED, closed_by="application"))
            else:
                self._end(end, When(at, self._lines), connected=False)

    def _age(self, opened: Opened, at: float | None) -> float | None:
        """None if it is not known: without times, or if a clock was changed in between."""
        if opened.at is None or at is None or opened.clock != self._clock or at < opened.at:
            return None
        if is_ambiguous(opened.at, self.zone) or is_ambiguous(at, self.zone):
            return None
        return at - opened.at

    def _end(self, end: Disconnect, when: When, *, connected: bool) -> None:
        self.expire(when)
        number = self._exception_of(end, connected=connected)
        if number is not None:
            raised = self._raised[number]
            del self._raised[number]
            self.found(_joined(end, raised.end))
            return
        self._ended.append(_Waiting(when, end, connected))
        if len(self._ended) > MOST_PENDING:
            self.found(self._ended.popleft().end)

    def _exception_of(self, end: Disconnect, *, connected: bool) -> int | None:
        """The place of the first exception that may be why it ended; one that names its path comes first."""
        first = None
        for number, raised in enumerate(islice(self._raised, MOST_COMPARED)):
            if _may_be_one(raised.end, end, connected=connected):
                if raised.end.path is not None:
                    return number
                first = number if first is None else first
        return first

    def _of_itself(self, raised: _Waiting) -> None:
        """No socket ended after that exception: one had ended before it, or it is all that is known of its end."""
        for number in range(len(self._ended) - 1, max(-1, len(self._ended) - 1 - MOST_COMPARED), -1):
            ended = self._ended[number]
            before = 0 <= raised.when.seconds_since(ended.when) <= PENDING_SECONDS
            if before and _may_be_one(raised.end, ended.end, connected=ended.connected):
                del self._ended[number]
                self.found(_joined(ended.end, raised.end))
                return
        # Without a route it was a request, if sockets have lines in this log and this one has none.
        if raised.end.cause != Cause.NO_ROUTE or not self._verb:
            self.found(raised.end)

    def _forget_request(self, line: WebsocketLine) -> None:
        """It was a request that failed without a route, not a handshake."""
        if line.verb != "failed":
            return
        for number, raised in enumerate(islice(self._raised, MOST_COMPARED)):
            if raised.end.cause == Cause.NO_ROUTE and raised.end.path == line.path[:MAX_TEXT]:
                del self._raised[number]
                return


def _may_be_one(raised: Disconnect, end: Disconnect, *, connected: bool) -> bool:
    return raised.cause != Cause.NO_ROUTE or (raised.path == end.path and not connected)


def _joined(end: Disconnect, raised: Disconnect) -> Disconnect:
    return replace(
        end,
        cause=raised.cause,
        closed_by=raised.closed_by,
        exception=raised.exception,
        host=end.host or raised.host,
        pid=raised.pid if end.pid is None else end.pid,
    )


class _Part(NamedTuple):
    """``key``: of a stream, or of a whole prefix, which begins with that of its stream."""

    when: When
    key: str
    pid: int | None
    end: Disconnect | None = None


class ClosingPairing:
    """The ends in uvicorn's logs: the application's exception, and a line that names no socket, before or after it."""

    def __init__(self, found: Found) -> None:
        self._found = found
        self._closed: deque[_Part] = deque()
        self._owed: deque[_Part] = deque(maxlen=MOST_PENDING)

    def closed(self, key: str, end: Disconnect, when: When) -> None:
        """A connection closed, says a line with the prefix ``key``."""
        self.expire(when)
        for number, owed in _newest(self._owed):
            if key.startswith(owed.key) and _same(end.pid, owed.pid):
                del self._owed[number]
                return
        self._closed.append(_Part(when, key, end.pid, end))
        if len(self._closed) > MOST_PENDING:
            self._hand_out()

    def raised(self, key: str, end: Disconnect, when: When) -> None:
        """An application raised; ``key`` is of its stream."""
        self.expire(when)
        self._found(end)
        if end.cause == Cause.NO_ROUTE:
            return  # It was not open, and there is no line of its end.
        for number, closed in _newest(self._closed):
            if closed.key.startswith(key) and _same(end.pid, closed.pid):
                del self._closed[number]
                return
        self._owed.append(_Part(when, key, end.pid))

    def expire(self, now: When) -> None:
        while self._closed and now.seconds_since(self._closed[0].when) > PENDING_SECONDS:
            self._hand_out()

    def finish(self) -> None:
        self.expire(_NEVER)

    def _hand_out(self) -> None:
        end = self._closed.popleft().end
        assert end is not None
        self._found(end)


def _newest(parts: "deque[_Part]") -> Iterator[tuple[int, _Part]]:
    for number in range(len(parts) - 1, max(-1, len(parts) - 1 - MOST_COMPARED), -1):
        yield number, parts[number]


def _same(one: int | None, other: int | None) -> bool:
    return one is None or other is None or one == other


def path_without_route(chain: tuple[str, ...]) -> str | None:
    """The path in what ``URLRouter`` raised."""
    found = next((found for line in chain if (found := NO_ROUTE.search(line)) is not None), None)
    return None if found is None else f"/{found[1].lstrip('/')}"[:MAX_TEXT]
