"""Daphne's log: an access log of its own, and an exception of a consumer through Python's logging. Pure."""

import re
from datetime import tzinfo

from ops.model.disconnects.logs.lines import LONGEST_PREFIX, WebsocketLine, without_query
from ops.model.disconnects.logs.times import ncsa_seconds

NAME = "daphne"
MARKS = (" - - [",)
"""One of them is in each line that ``find`` finds."""

HEADER = "Exception inside application: "
"""What it logs before the traceback of an application, of a websocket or of a request."""

BEGINS_EVERY_LINE = True
"""No log handler writes its access log: what stands before it stands before every line of the stream."""

_VERBS = {"WSCONNECTING": "connecting", "WSCONNECT": "connected", "WSREJECT": "rejected", "WSDISCONNECT": "ended"}
_ACCESS = re.compile(
    r'(\S{1,100}) - - \[(\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d)\] "(?:(WS[A-Z]{4,12}) (.{0,3000})" - -$|'
    r'(?!WS)[A-Z]{1,20} (.{0,3000})" (\d{3}|-) (?:\d{1,20}|-)$)',
    re.ASCII,
)


def find(line: str, zone: tzinfo) -> WebsocketLine | None:
    """Its part of ``line``. Its times are whole seconds of ``zone``."""
    middle = line.find(MARKS[0], 0, LONGEST_PREFIX)
    if middle < 0:
        return None
    begins = line.rfind(" ", 0, middle) + 1
    found = _ACCESS.match(line, begins)
    if found is None:
        return None
    client, stamp, verb, path, requested, status = found.groups()
    at = ncsa_seconds(stamp, zone)
    if at is None or (verb is not None and verb not in _VERBS):
        return None
    if verb is None:
        return WebsocketLine("failed" if status == "500" else "request", client, without_query(requested), at, begins)
    return WebsocketLine(_VERBS[verb], client, without_query(path), at, begins)


def is_own(text: str) -> bool:
    """Whether it is another line that it writes without a log handler."""
    return False
