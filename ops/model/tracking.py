"""Open websockets as the registry has them, and requests to close some."""

import json
from dataclasses import dataclass

LONGEST_REASON = 123  # bytes that a close frame has room for
LONGEST_REQUEST = 1_000_000


@dataclass(frozen=True, slots=True)
class CloseRequest:
    """Close the websockets of these channels with ``code`` and ``reason``."""

    channels: tuple[str, ...]
    code: int
    reason: str


def is_close_code(code: object) -> bool:
    """Whether an application may close a websocket with it (RFC 6455, section 7.4)."""
    return isinstance(code, int) and not isinstance(code, bool) and (code == 1000 or 3000 <= code <= 4999)


def parse_close_request(raw: bytes) -> CloseRequest | None:
    """The request that ``raw`` holds; None if it is none: anybody may have written it."""
    if len(raw) > LONGEST_REQUEST:
        return None
    try:
        found = json.loads(raw)
        channels, code, reason = found["channels"], found["code"], found["reason"]
        reason.encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    named = isinstance(channels, list) and all(isinstance(one, str) for one in channels)
    if not (named and is_close_code(code) and len(reason.encode()) <= LONGEST_REASON):
        return None
    return CloseRequest(tuple(channels), code, reason)
