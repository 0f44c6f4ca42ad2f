"""Times, numbers and names as people and programs read them."""

from datetime import datetime, timezone

from ops.model.text import counted as counted
from ops.model.text import format_seconds


def iso(unix_seconds: float | None) -> str | None:
    """``2026-11-22T06:45:12.345Z``; None where there is no time or no calendar has it (a score can be anything)."""
    if unix_seconds is None:
        return None
    try:
        at = datetime.fromtimestamp(unix_seconds, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return None
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def not_counted_again(number: int) -> str:
    """Of what the reaper removed of websockets whose ends are counted."""
    verb = "belongs" if number == 1 else "belong"
    return f"{counted(number, 'reaped membership')} {verb} to these websockets: not counted again"


def ago(unix_seconds: float | None, now: float) -> str:
    """How long ago that was: ``5 min``; ``-`` where it cannot be said, ``in 3 min`` when it lies ahead."""
    if iso(unix_seconds) is None or unix_seconds is None:
        return "-"
    seconds = now - unix_seconds
    if seconds < -1:
        return f"in {format_seconds(-seconds)}"
    return format_seconds(max(0.0, seconds))
