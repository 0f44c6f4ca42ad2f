"""What a recorded end is told on as, and in which rhythm. Pure."""

from dataclasses import dataclass
from typing import Any

from ops.model.disconnects.record import UNTIMED, Disconnect, to_document

DISCONNECT = "ops.disconnect"
"""The ``type`` of the message; a consumer handles it in a method ``ops_disconnect``."""

HANDLER = DISCONNECT.replace(".", "_")
MOST_PER_SECOND = 100
"""The inbox of a process holds 100 messages by default: a faster sender would fill it before anybody reads."""


def disconnect_message(one: Disconnect) -> dict[str, Any]:
    """``{"type": "ops.disconnect", "disconnect": {…}}``, with the fields that the disconnect log has.

    Without ``at`` where it is not known. Bytes that are not UTF-8 are shown as escapes: no layer takes them in a text.
    """
    document = {name: _sendable(value) for name, value in to_document(one).items()}
    if one.at == UNTIMED:
        del document["at"]
    return {"type": DISCONNECT, "disconnect": document}


def _sendable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return [_sendable(item) for item in value] if isinstance(value, list) else value


def pause_seconds(before: Disconnect | None, one: Disconnect, speed: float | None) -> float:
    """How long to wait between the two: as long as then, by ``speed``; None is as fast as may be.

    Never less than MOST_PER_SECOND allows.
    """
    least = 1 / MOST_PER_SECOND
    if before is None or speed is None or UNTIMED in (before.at, one.at):
        return least
    return max(least, (one.at - before.at) / speed)


@dataclass(frozen=True, slots=True)
class EmitReport:
    """``kind``: group or channel. ``members``: of the group. ``undelivered``: the channel was full for too long.

    ``records``: the ends; ``reaped_later``: the reaper's records of ends that are on record already, not sent again.
    """

    layer: str
    target: str
    kind: str
    members: int
    dry_run: bool
    complete: bool
    records: int
    reaped_later: int
    sent: int
    undelivered: int
    unreadable: int
    problems: tuple[str, ...]
