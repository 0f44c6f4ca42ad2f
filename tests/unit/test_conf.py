"""CHANNELS_OPS: a slip of the hand is found before it costs anything."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.checks import run_checks
from hypothesis import given
from hypothesis import strategies as st

from ops.checks import TAG, check_settings
from ops.conf import OpsSettings, known_keys, ops_settings, problem_with
from tests.in_process_commands import run_here

OTHERS: dict[str, Any] = {
    "JOURNAL_SECONDS": 60,
    "GRACEFUL_DISCONNECT": False,
    "LEAVE_GROUPS": False,
    "PROCESS_CARD": False,
    "TRACK_CONNECTIONS": True,
    "TRACK_USERS": True,
    "DISCONNECT_LOG_STREAM": False,
    "DISCONNECT_LOG_LOGGER": True,
    "DISCONNECT_LOG_PERSONAL": ["client", "user"],
}


@pytest.mark.parametrize("value", [None, {}])
def test_without_settings_the_defaults_hold(settings: LazySettings, value: Any) -> None:
    settings.CHANNELS_OPS = value
    assert ops_settings() == OpsSettings()
    assert check_settings() == []
    del settings.CHANNELS_OPS
    assert ops_settings() == OpsSettings()


def test_each_key_is_taken(settings: LazySettings) -> None:
    numbers = dict.fromkeys([key for key in known_keys() if key not in OTHERS], 1)
    settings.CHANNELS_OPS = {**numbers, **OTHERS}
    assert check_settings() == []
    found = vars_of(ops_settings())
    assert {found[key.lower()] for key in numbers} == {1.0}
    assert {key: found[key.lower()] for key in OTHERS} == {**OTHERS, "DISCONNECT_LOG_PERSONAL": ("client", "user")}


def vars_of(found: OpsSettings) -> dict[str, Any]:
    return {name: getattr(found, name) for name in OpsSettings.__dataclass_fields__}


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("CONFIRM_AFTER_SECOND", "CONFIRM_AFTER_SECONDS"),
        ("confirm_after_seconds", "CONFIRM_AFTER_SECONDS"),
        ("PROBE_TIMEOUT", "PROBE_TIMEOUT_SECONDS"),
        ("MAXSHARE", "MAX_SHARE"),
        ("JOURNAL_SECS", "JOURNAL_SECONDS"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(settings: LazySettings, key: str, nearest: str) -> None:
    settings.CHANNELS_OPS = {key: 1}
    (error,) = check_settings()
    assert error.id == "ops.E101"
    assert error.msg == f"CHANNELS_OPS: unknown key {key!r}; the nearest known one is {nearest!r}."
    assert "Known keys: " in (error.hint or "")
    assert ops_settings() == OpsSettings()


@pytest.mark.parametrize("value", ["60", None, -1, -0.5, math.nan, math.inf, 1e10, [60], {}, object()])
def test_a_value_that_cannot_be_used_is_an_error_and_the_default_holds(settings: LazySettings, value: Any) -> None:
    for key in known_keys():
        settings.CHANNELS_OPS = {key: value}
        (error,) = check_settings()
        assert error.id == "ops.E101"
        assert key in error.msg
        assert ops_settings() == OpsSettings()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("CONFIRM_AFTER_SECONDS", True),
        ("CONFIRM_AFTER_SECONDS", 0),
        ("CONFIRM_AFTER_SECONDS", 1e8),
        ("PROBE_TIMEOUT_SECONDS", 0.0),
        ("JOURNAL_SECONDS", 0),
        ("JOURNAL_SECONDS", 59),
        ("DISCONNECT_LOG_LENGTH", 0),
        ("DISCONNECT_LOG_LENGTH", 1.5),
        ("DISCONNECT_LOG_STREAM", 1),
        ("DISCONNECT_LOG_PERSONAL", "client"),
        ("DISCONNECT_LOG_PERSONAL", ["client", "address"]),
    ],
)
def test_a_value_of_another_kind_is_an_error(settings: LazySettings, key: str, value: Any) -> None:
    settings.CHANNELS_OPS = {key: value}
    (error,) = check_settings()
    assert key in error.msg
    assert ops_settings() == OpsSettings()


def test_a_share_is_at_most_1(settings: LazySettings) -> None:
    settings.CHANNELS_OPS = {"MAX_SHARE": 1.01}
    (error,) = check_settings()
    assert "MAX_SHARE must be a share from 0 to 1, not 1.01" in error.msg


@pytest.mark.parametrize("value", [["CONFIRM_AFTER_SECONDS"], "CONFIRM_AFTER_SECONDS", 5, 0, []])
def test_settings_that_are_no_dict_are_one_error_and_the_defaults_hold(settings: LazySettings, value: Any) -> None:
    settings.CHANNELS_OPS = value
    (error,) = run_checks(tags=[TAG])
    said = f"CHANNELS_OPS: it must be a dict, not {type(value).__name__}."
    assert (error.id, error.msg) == ("ops.E101", said)
    assert ops_settings() == OpsSettings()
    refused = run_here("reap_stale")
    assert (refused.out, refused.err.count("\n"), refused.returncode) == ("", 1, 1)
    assert said in refused.err
    found = json.loads(run_here("channels_doctor", "--only", "ops.E101", "--format", "json").out)
    assert [finding["evidence"] for finding in found["findings"]] == [[said]]


@given(key=st.text(max_size=20) | st.integers() | st.none(), value=st.floats() | st.text(max_size=3) | st.none())
def test_any_key_and_value_can_be_judged(key: Any, value: Any) -> None:
    problem = problem_with(key, {key: value})
    assert problem is None or "\n" not in problem
