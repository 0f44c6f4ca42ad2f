"""The toolkit's own settings: ``CHANNELS_OPS`` in the project's settings module."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from django.conf import settings

PERSONAL = ("client", "user", "query")
SHORTEST_JOURNAL_SECONDS = 60
LONGEST_SECONDS = 1e7  # some four months; more is a slip of the hand


@dataclass(frozen=True, slots=True)
class OpsSettings:
    """Every key of ``CHANNELS_OPS`` (upper case there) with its default. A command's option wins over its setting.

    ``confirm_after_seconds``: for how long a process must stay silent before its members may go.
    ``probe_timeout_seconds``: how long one round waits for probes to be taken.
    ``max_share``: the share (0 to 1) of the live fleet that may go silent at once without a safety stop.
    ``journal_seconds``: how long the receipts of a run are kept for ``--undo``, a minute at least.
    ``disconnect_log_stream``: whether the ends of websockets are recorded in Redis.
    ``disconnect_log_length``: about how many entries that stream keeps.
    ``disconnect_log_logger``: whether they go to the logger ``ops.disconnects`` as well.
    ``disconnect_log_personal``: which personal data they hold, of PERSONAL.
    """

    confirm_after_seconds: float = 60.0
    probe_timeout_seconds: float = 10.0
    max_share: float = 0.5
    journal_seconds: float = 7 * 86400.0
    disconnect_log_stream: bool = True
    disconnect_log_length: int = 100_000
    disconnect_log_logger: bool = False
    disconnect_log_personal: tuple[str, ...] = ()


def known_keys() -> list[str]:
    return [field.name.upper() for field in fields(OpsSettings)]


def _written() -> Any:
    """``CHANNELS_OPS`` as the project has it, of whatever kind; empty where it has none."""
    written = getattr(settings, "CHANNELS_OPS", None)
    return {} if written is None else written


def ops_settings() -> OpsSettings:
    """The settings in force. Keys and values that ``manage.py check`` objects to are left at their default."""
    values = _written()
    if not isinstance(values, Mapping):
        return OpsSettings()
    usable = [key for key in known_keys() if key in values and problem_with(key, values) is None]
    return OpsSettings(**{key.lower(): _kind(key)(values[key]) for key in usable})


def problems() -> list[str]:
    """What is wrong with ``CHANNELS_OPS``."""
    values = _written()
    if not isinstance(values, Mapping):
        return [f"it must be a dict, not {type(values).__name__}"]
    return [problem for key in values if (problem := problem_with(key, values)) is not None]


def problem_with(key: str, values: Mapping[str, Any]) -> str | None:
    """What is wrong with ``key`` of ``CHANNELS_OPS``; None when nothing is."""
    if key not in known_keys():
        near = get_close_matches(str(key).upper(), known_keys(), n=1, cutoff=0.0)
        return f"unknown key {key!r}; the nearest known one is {near[0]!r}"
    kind = _kind(key)
    value = values.get(key, getattr(OpsSettings(), key.lower()))
    if kind is bool:
        return None if isinstance(value, bool) else f"{key} must be True or False, not {value!r}"
    if kind is tuple:
        usable = isinstance(value, (list, tuple)) and all(name in PERSONAL for name in value)
        return None if usable else f"{key} must be a list of names out of {', '.join(PERSONAL)}, not {value!r}"
    return _problem_with_number(key, value)


def _kind(key: str) -> type:
    """What the key's value is turned into: that of its default."""
    return type(getattr(OpsSettings(), key.lower()))


def _problem_with_number(key: str, value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9 or value != value:
        return f"{key} must be a number that is not negative, not {value!r}"
    if _kind(key) is int and (value != int(value) or value < 1):
        return f"{key} must be a whole number of at least 1, not {value!r}"
    if key in ("CONFIRM_AFTER_SECONDS", "PROBE_TIMEOUT_SECONDS") and not 0 < value <= LONGEST_SECONDS:
        return f"{key} must be a number of seconds above 0 and up to {LONGEST_SECONDS:.0f}, not {value!r}"
    if key == "JOURNAL_SECONDS" and value < SHORTEST_JOURNAL_SECONDS:
        return f"JOURNAL_SECONDS must be at least {SHORTEST_JOURNAL_SECONDS}, or nothing could be undone, not {value!r}"
    if key == "MAX_SHARE" and value > 1:
        return f"MAX_SHARE is a share, from 0 to 1, not {value!r}"
    return None
