"""The toolkit's own settings: ``CHANNELS_OPS`` in the project's settings module."""

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from django.conf import settings

from ops.model.settings import DEFAULTS, OpsSettings

PERSONAL = ("client", "user", "query")
SHORTEST_JOURNAL_SECONDS = 60
LONGEST_SECONDS = 1e7  # some four months; more is a slip of the hand


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
    value = values.get(key, getattr(DEFAULTS, key.lower()))
    if kind is bool:
        return None if isinstance(value, bool) else f"{key} must be True or False, not {value!r}"
    if kind is tuple:
        usable = isinstance(value, (list, tuple)) and all(name in PERSONAL for name in value)
        return None if usable else f"{key} must be a list of names out of {', '.join(PERSONAL)}, not {value!r}"
    return _problem_with_number(key, value)


def _kind(key: str) -> type:
    """What the key's value is turned into: that of its default."""
    return type(getattr(DEFAULTS, key.lower()))


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
