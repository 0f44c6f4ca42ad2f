"""uvicorn's log, also as gunicorn's workers write it: which websockets began, and of few when they ended. Pure."""

import re
from datetime import tzinfo

from ops.model.disconnects.logs.lines import LONGEST_PREFIX, WebsocketLine, without_query

NAME = "uvicorn"
MARKS = (' - "WebSocket ', "connection closed")
"""One of them is in each line that ``find`` finds."""

HEADER = "Exception in ASGI application"
"""What it logs before the traceback of an application, of a websocket or of a request."""

BEGINS_EVERY_LINE = False
"""A log handler writes all of its lines, and what it puts before them is not before the lines of a traceback."""

_MIDDLE, _CLOSED = MARKS
_OTHERS = ("connection open", "connection rejected")
_ANSWER = re.compile(r'(\S{0,100}) - "WebSocket (.{0,3000})" (\[accepted\]|\d{3})$', re.ASCII)
_BEFORE_MESSAGE = re.compile(r"(?:^|[^\w\s]|\d|\b(?:DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL))\s{0,10}$", re.ASCII)


def find(line: str, zone: tzinfo) -> WebsocketLine | None:
    """Its part of ``line``, which tells no time."""
    middle = line.find(_MIDDLE, 0, LONGEST_PREFIX)
    if middle >= 0:
        return _handshake(line, line.rfind(" ", 0, middle) + 1)
    if line.endswith(_CLOSED) and len(line) <= LONGEST_PREFIX:
        begins = len(line) - len(_CLOSED)
        # Otherwise it is a sentence of somebody's that ends so.
        if _BEFORE_MESSAGE.search(line, max(0, begins - 20), begins) is not None:
            return WebsocketLine("ended", "", "", None, begins)
    return None


def _handshake(line: str, begins: int) -> WebsocketLine | None:
    found = _ANSWER.match(line, begins)
    if found is None:
        return None
    client, path, answer = found.groups()
    refused = "failed" if answer.startswith("5") else "rejected"  # Of an application that raised there is a traceback.
    verb = "connected" if answer == "[accepted]" else refused
    return WebsocketLine(verb, client, without_query(path), None, begins)


def is_own(text: str) -> bool:
    """Whether it is another line that it writes about websockets."""
    return any(words in text[:LONGEST_PREFIX] for words in _OTHERS)
