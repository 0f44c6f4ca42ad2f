"""Why a connection ended, from what was seen of it. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ops.model.disconnects.cause import Cause
from ops.model.disconnects.record import MAX_CHAIN, MAX_TEXT
from ops.model.heartbeats.client_pings import HEARTBEAT_TIMEOUT
from ops.model.text import without_secrets

NO_HANDLER = re.compile(r"^ValueError: No handler for message type")
NO_ROUTE = re.compile(r"^ValueError: No route found for path '(.*)'\.$")
"""What ``URLRouter`` raises, with the path that it was asked for, without the first slash."""

_FROM_REDIS = re.compile(r"^(redis\.(asyncio\.)?(exceptions|connection)|channels_redis)\.")

REDIS_CAUSES: Mapping[Cause, re.Pattern[str]] = {
    Cause.REDIS_TIMEOUT: re.compile(
        r"Timeout (reading from|connecting to|writing to)|^redis\.exceptions\.TimeoutError"
    ),
    Cause.REDIS_CONNECTION_LOST: re.compile(
        r"while writing to socket\. .*Connection lost|^ConnectionResetError: Connection lost"
        r"|Connection closed by server|Connection reset by peer|Broken pipe|Error while reading from"
        r"|Error \S+ connecting to|Connect call failed|Connection refused|Name or service not known"
        r"|^redis\.exceptions\.(ConnectionError|BusyLoadingError|MaxConnectionsError)"
    ),
    Cause.REDIS_ERROR: re.compile(r"^redis\.exceptions\."),
}
"""The cause that a Redis failure is filed under, by what its text looks like; the first that fits counts."""


def describe_exception(error: BaseException) -> tuple[str, ...]:
    """``error`` and what it came from, each as ``Type: text``, with credentials taken out."""
    lines: list[str] = []
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen and len(lines) < MAX_CHAIN:
        seen.add(id(link))
        lines.append(_described(link))
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return tuple(lines)


def _described(error: BaseException) -> str:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        text = str(error)[: 4 * MAX_TEXT]
    except Exception:  # It is the application's class.
        text = "?"
    return f"{name}: {without_secrets(' '.join(text.split()))}"[:MAX_TEXT]


def cause_in_redis(chain: Sequence[str]) -> Cause | None:
    """The cause of a Redis failure in a chain of ``Type: text``; None where Redis has no part in it."""
    if not any(_FROM_REDIS.search(line) for line in chain):
        return None
    return next((cause for cause, looks in REDIS_CAUSES.items() if any(map(looks.search, chain))), None)


def cause_of_exception(chain: Sequence[str]) -> Cause:
    """The cause that a chain of ``Type: text`` is filed under; of no use where it is empty."""
    if cause := cause_in_redis(chain):
        return cause
    if any(map(NO_HANDLER.search, chain)):
        return Cause.NO_HANDLER
    return Cause.NO_ROUTE if any(map(NO_ROUTE.search, chain)) else Cause.HANDLER_EXCEPTION


_BY_CODE: Mapping[int, Cause] = {
    1000: Cause.NORMAL,
    1001: Cause.GOING_AWAY,
    1002: Cause.PROTOCOL_ERROR,
    1003: Cause.PROTOCOL_ERROR,
    1005: Cause.NORMAL,
    1006: Cause.NO_CLOSE_FRAME,
    1007: Cause.PROTOCOL_ERROR,
    1008: Cause.PROTOCOL_ERROR,
    1009: Cause.PROTOCOL_ERROR,
    1010: Cause.PROTOCOL_ERROR,
    1011: Cause.SERVER_ERROR,
    1012: Cause.SERVICE_RESTART,
    1013: Cause.SERVER_ERROR,
    1014: Cause.SERVER_ERROR,
    HEARTBEAT_TIMEOUT: Cause.HEARTBEAT_TIMEOUT,
}


def cause_of_code(code: int | None) -> Cause:
    """The cause that a close code alone tells."""
    return Cause.UNKNOWN if code is None else _BY_CODE.get(code, Cause.CLOSED_WITH_CODE)


# What a server says when it refuses what the client sent, and when it ends. Browsers send none of these of their own.
_CLOSER = {1002: "server", 1007: "server", 1009: "server", 1012: "shutdown"}


@dataclass(slots=True)
class Seen:
    """What was seen of one connection, in the order of time: whichever close came first is the one that counts.

    ``send_failed``: the server refused a message since the websocket is closed.
    """

    accepted: bool = False
    closed_by: str | None = None
    code: int | None = None
    send_failed: bool = False

    def client_left(self, code: int | None) -> None:
        """A ``websocket.disconnect`` came. ``code``: None if the server does not know the close code.

        Such a server may have closed the websocket itself: Granian also sends 1005 when it shuts down.
        """
        if self.closed_by is None:
            self.code = code
            self.closed_by = "unknown" if code is None else _CLOSER.get(code, "client")

    def application_closed(self, code: object) -> None:
        """The application sent ``websocket.close``."""
        if self.closed_by is None:
            self.closed_by = "application"
            self.code = code if isinstance(code, int) else 1000


def conclude(
    seen: Seen, *, chain: Sequence[str] = (), cancelled: bool = False, exited: bool = False
) -> tuple[Cause, str]:
    """``cause`` and ``closed_by`` of an end: the consumer raised ``chain``, was cancelled, or its process ended.

    What a consumer raises after the connection was closed is not why it ended. Of a handshake that ended while its
    consumer had not answered it is not known who gave up: Daphne does so after a time, and so may the client.
    """
    if seen.closed_by == "application" and not seen.accepted:
        return Cause.REJECTED, "application"
    if seen.closed_by == "client" and cancelled and not seen.accepted:
        return cause_of_code(seen.code), "unknown"
    if seen.closed_by is not None:
        return cause_of_code(seen.code), seen.closed_by
    if seen.send_failed:
        return Cause.UNKNOWN, "unknown"
    if chain:
        return cause_of_exception(chain), "application"
    if exited:
        return Cause.PROCESS_EXIT, "shutdown"
    if cancelled:
        return Cause.SHUTDOWN_CANCELLED, "shutdown"
    return Cause.APPLICATION_RETURNED, "application"
