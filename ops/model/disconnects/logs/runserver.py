"""The log of ``manage.py runserver`` with Daphne: what ends, and without LOGGING not when. Pure."""

import re
from datetime import tzinfo

from ops.model.disconnects.logs.lines import LONGEST_PREFIX, WebsocketLine, without_query

NAME = "runserver"
MARKS = ("WebSocket ",)
"""One of them is in each line that ``find`` finds."""

HEADER = None
"""It runs Daphne, which logs the exceptions."""

BEGINS_EVERY_LINE = False

_VERBS = {"HANDSHAKING": "connecting", "CONNECT": "connected", "REJECT": "rejected", "DISCONNECT": "ended"}
_ACTION = re.compile(r"WebSocket (HANDSHAKING|CONNECT|REJECT|DISCONNECT) (.{0,3000}) \[(\S{1,100})\]$")
_REQUEST = re.compile(r" \[\d{1,9}\.\d\d, \S{1,100}\]$", re.ASCII)
_BEGAN = re.compile(r"\b[A-Z][a-z]{2,8} \d\d, \d{4} - \d\d:\d\d:\d\d$", re.ASCII)
_WORDS = (
    "Watching for file changes with ",
    "Performing system checks...",
    "System check identified ",
    "Django version ",
    "Starting ASGI/Daphne version ",
    "Quit the server with ",
)


def find(line: str, zone: tzinfo) -> WebsocketLine | None:
    """Its part of ``line``, which tells no time."""
    begins = line.find(MARKS[0], 0, LONGEST_PREFIX)
    found = _ACTION.match(line, begins) if begins >= 0 else None
    if found is None:
        return None
    verb, path, client = found.groups()
    return WebsocketLine(_VERBS[verb], client, without_query(path), None, begins)


def is_own(text: str) -> bool:
    """Whether it is another line that it writes."""
    if text.endswith("]"):
        return _REQUEST.search(text, max(0, len(text) - LONGEST_PREFIX)) is not None
    return any(words in text for words in _WORDS) or _BEGAN.search(text, max(0, len(text) - 40)) is not None
