"""Requests to close websockets, which anybody may have written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.model.tracking import CloseRequest, is_close_code, parse_close_request

GOOD = {"channels": ["a", "b"], "code": 4403, "reason": "no"}


def test_a_request_is_read() -> None:
    assert parse_close_request(json.dumps(GOOD).encode()) == CloseRequest(("a", "b"), 4403, "no")


@pytest.mark.parametrize(
    "change",
    [
        {"channels": "a"},
        {"channels": [1]},
        {"channels": None},
        {"code": "4403"},
        {"code": True},
        {"code": 1006},
        {"code": 5000},
        {"reason": "x" * 124},
        {"reason": None},
        {"reason": "\ud800"},
    ],
)
def test_what_is_no_request_is_passed_over(change: dict[str, object]) -> None:
    assert parse_close_request(json.dumps({**GOOD, **change}).encode()) is None


@given(st.binary())
def test_any_bytes_are_read_or_passed_over(raw: bytes) -> None:
    found = parse_close_request(raw)
    assert found is None or is_close_code(found.code)


@pytest.mark.parametrize("raw", [b"[]", b"{}", b"null", b"[" * 100_000, b"1", b'"a"', b" " * 2_000_000])
def test_other_json_is_passed_over(raw: bytes) -> None:
    assert parse_close_request(raw) is None
