"""What the close codes of websockets mean (RFC 6455, section 7.4, and IANA's registry)."""

from collections.abc import Mapping

_MEANINGS: Mapping[int, str] = {
    1000: "normal closure",
    1001: "going away: the page was left, or the server ends",
    1002: "protocol error",
    1003: "data of a kind that is not accepted",
    1005: "a close frame without a code",
    1006: "no close frame: the connection was cut",
    1007: "data that is not what it says, such as text that is not UTF-8",
    1008: "policy violation",
    1009: "message too big",
    1010: "an extension that the client needs is missing",
    1011: "the server met an error",
    1012: "the service restarts",
    1013: "try again later",
    1014: "bad gateway",
    1015: "the TLS handshake failed",
    4408: "no answer to a heartbeat",
}


def code_meaning(code: int) -> str:
    """In a few words."""
    if code in _MEANINGS:
        return _MEANINGS[code]
    if 3000 <= code <= 3999:
        return "registered by a library or framework"
    if 4000 <= code <= 4999:
        return "the application's own"
    return "not assigned"
