"""The toolkit's own settings: ``CHANNELS_OPS`` in the project's settings module."""

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from django.conf import settings

from ops.model.settings import DEFAULTS, OpsSettings
from ops.model.values import BOOLEAN, JOURNAL_SECONDS, POSITIVE_COUNT, SECONDS, SHARE, ValueKind, some_of

PERSONAL = ("client", "user", "query")
_KINDS: Mapping[str, ValueKind] = {
    "CONFIRM_AFTER_SECONDS": SECONDS,
    "PROBE_TIMEOUT_SECONDS": SECONDS,
    "MAX_SHARE": SHARE,
    "JOURNAL_SECONDS": JOURNAL_SECONDS,
    "GRACEFUL_DISCONNECT": BOOLEAN,
    "LEAVE_GROUPS": BOOLEAN,
    "PROCESS_CARD": BOOLEAN,
    "TRACK_CONNECTIONS": BOOLEAN,
    "TRACK_USERS": BOOLEAN,
    "DISCONNECT_LOG_STREAM": BOOLEAN,
    "DISCONNECT_LOG_LENGTH": POSITIVE_COUNT,
    "DISCONNECT_LOG_LOGGER": BOOLEAN,
    "DISCONNECT_LOG_PERSONAL": some_of(PERSONAL),
}


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
        return DEFAULTS
    usable = [key for key in known_keys() if key in values and problem_with(key, values) is None]
    return OpsSettings(**{key.lower(): type(getattr(DEFAULTS, key.lower()))(values[key]) for key in usable})


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
    return _KINDS[key].problem_with(key, values[key]) if key in values else None
