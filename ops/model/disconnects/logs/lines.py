"""The words that the logs of all servers have in common: a websocket's line, and the lines of a traceback. Pure.

Lines are anybody's: each pattern is tried at one place only and has bounds, so that no line takes long.
"""

import re
from typing import NamedTuple

LONGEST_LINE = 4096  # of a server's own; a JSON record may be longer
LONGEST_PREFIX = 300

TRACEBACK = "Traceback (most recent call last):"
CHAINED = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)
_EXCEPTION = re.compile(r"([A-Za-z_][\w.]{0,200})(?:: (.{0,3000}))?$")
_COLOURS = re.compile(r"\x1b\[[0-9;]{0,20}[A-Za-z]")


class WebsocketLine(NamedTuple):
    """``verb``: connecting, connected, rejected, ended; request and failed are of no websocket, or of no open one.

    ``client`` tells connections of one server apart. ``begins``: where in its line the server's own part begins.
    """

    verb: str
    client: str
    path: str
    at: float | None = None
    begins: int = 0


def without_colours(line: str) -> str:
    """``line`` without the ANSI codes that colour a terminal."""
    return _COLOURS.sub("", line)


def parse_exception(line: str) -> str | None:
    """``Type: text``, as the last line of a traceback says it."""
    found = _EXCEPTION.match(line)
    return None if found is None else f"{found[1]}: {found[2] or ''}"


def without_query(path: str) -> str:
    """A query string may hold a token."""
    return path.partition("?")[0]
