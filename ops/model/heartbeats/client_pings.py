"""The ping that a consumer sends its websocket client, and the client's answer. Both are text frames that hold JSON.

| from | frame |
|---|---|
| server | ``{"type": "ops.ping", "id": "<16 hexadecimal digits>", "next_within": 35.0}`` |
| client | ``{"type": "ops.pong", "id": "<that of the ping>"}`` |

At the latest ``next_within`` seconds later the client has heard from the server again, or the connection is dead.
"""

import json

PING = "ops.ping"
PONG = "ops.pong"
MAX_ANSWER_LENGTH = 200

HEARTBEAT_TIMEOUT = 4408
"""The close code for a client that did not answer. 4000 to 4999 are an application's own; HTTP's 408 is a time-out."""


def encode_ping(token: str, next_within_seconds: float) -> str:
    return json.dumps({"type": PING, "id": token, "next_within": round(next_within_seconds, 3)})


def decode_pong(frame: str | bytes) -> str | None:
    """The id in an answer, which is empty where it has none that could be a ping's; None where it is no answer.

    ``frame`` may be anything: what is longer than an answer is not even parsed.
    """
    if not isinstance(frame, str) or len(frame) > MAX_ANSWER_LENGTH or PONG not in frame:
        return None
    try:
        content = json.loads(frame)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("type") != PONG:
        return None
    token = content.get("id")
    return token if isinstance(token, str) else ""
