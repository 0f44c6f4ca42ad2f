"""The frames between a consumer and its client, of which one side may be anybody."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.model.heartbeats.client_pings import MAX_ANSWER_LENGTH, PING, PONG, decode_pong, encode_ping


def test_a_ping_says_by_when_the_next_one_comes() -> None:
    assert json.loads(encode_ping("0123456789abcdef", 35)) == {
        "type": PING,
        "id": "0123456789abcdef",
        "next_within": 35,
    }


@pytest.mark.parametrize(
    "frame",
    ['{"type": "ops.pong", "id": "abc"}', '{"id":"abc","type":"ops.pong"}', ' {"type" :"ops.pong","id":"abc","x":1} '],
)
def test_an_answer_brings_back_the_id_however_it_is_written(frame: str) -> None:
    assert decode_pong(frame) == "abc"


@pytest.mark.parametrize("token", [None, 7, ["abc"], {"a": 1}, True])
def test_an_answer_without_a_usable_id_is_one_that_answers_nothing(token: Any) -> None:
    assert decode_pong(json.dumps({"type": PONG, "id": token})) == ""
    assert decode_pong(json.dumps({"type": PONG})) == ""


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "ops.pong",
        '"ops.pong"',
        '["ops.pong"]',
        '{"type": "message", "text": "ops.pong"}',
        b'{"type": "ops.pong", "id": "abc"}',
        '{"type": "ops.pong", "id": "abc"',
        json.dumps({"type": PONG, "id": "x" * MAX_ANSWER_LENGTH}),
        "[" * 150 + '"ops.pong"',
    ],
)
def test_anything_else_is_no_answer(frame: str | bytes) -> None:
    assert decode_pong(frame) is None


@given(st.one_of(st.text(), st.binary(), st.text().map(lambda text: text + PONG)))
def test_no_frame_raises(frame: str | bytes) -> None:
    decode_pong(frame)
