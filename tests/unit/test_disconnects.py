"""The record of an end goes to JSON and back; anything else is refused, cut or left out."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.model.disconnects.cause import Cause
from ops.model.disconnects.record import (
    CLOSED_BY,
    MAX_GROUPS,
    MAX_TEXT,
    Disconnect,
    bounded,
    iso_time,
    parse,
    parse_json,
    parse_time,
    to_document,
    to_json,
)

FULL = Disconnect(
    at=1763980000.125,
    cause="redis_connection_lost",
    closed_by="server",
    lived_seconds=5.0,
    code=1011,
    exception=("ConnectionError: Connection closed by server.", "ConnectionResetError: Connection lost"),
    path="/ws/room/a/",
    consumer="project.consumers.RoomConsumer",
    channel="specific." + "0" * 32 + "!" + "1" * 32,
    process="0" * 32,
    host="web-1",
    pid=42,
    groups=("room.a", "\udcff"),
    groups_omitted=3,
    layer="default",
    client="127.0.0.1:5",
    user="7",
    query="a=b",
)


def test_a_record_comes_back_as_it_was() -> None:
    assert parse_json(to_json(FULL)) == FULL
    assert to_json(FULL).isascii()
    assert to_document(FULL)["at"] == "2025-11-24T10:26:40.125Z"


def test_what_is_not_known_is_not_written() -> None:
    assert to_document(Disconnect(at=0.0)) == {
        "schema_version": 1,
        "at": "1970-01-01T00:00:00.000Z",
        "cause": "unknown",
        "closed_by": "unknown",
        "source": "middleware",
    }


@given(
    st.builds(
        Disconnect, at=st.integers(0, 4 * 10**9), cause=st.sampled_from(Cause), closed_by=st.sampled_from(CLOSED_BY)
    )
)
def test_any_time_and_cause_come_back(record: Disconnect) -> None:
    assert parse_json(to_json(record)) == record


@pytest.mark.parametrize(
    "raw", ["", "[]", "{", "null", "{}", '{"at": 5}', '{"at": "now"}', "[" * 100_000, '{"at":"2025-11-24T10:26:40"}']
)
def test_what_is_no_record_is_none(raw: str) -> None:
    assert parse_json(raw) is None


def test_a_record_that_is_too_long_is_cut() -> None:
    long: dict[str, Any] = {
        "at": "2025-11-24T10:26:40Z",
        "path": "x" * 10_000,
        "groups": ["g"] * 10_000,
        "exception": ["e" * 10_000] * 100,
        "code": 10**30,
        "pid": True,
        "cause": "Bad Word\n",
        "closed_by": "me",
        "lived_seconds": math.inf,
    }
    found = parse(long)
    assert found is not None
    assert found.path == "x" * MAX_TEXT
    assert len(found.groups) == MAX_GROUPS
    assert (found.code, found.pid, found.lived_seconds) == (None, None, None)
    assert (found.cause, found.closed_by) == ("unknown", "unknown")


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_no_value_whatever_it_is_breaks_the_reader(value: Any) -> None:
    names = [*Disconnect.__dataclass_fields__]
    document = {"at": "2025-11-24T10:26:40Z", **dict.fromkeys(names[1:], value)}
    found = parse(document)
    assert found is not None
    assert json.loads(to_json(found))
    assert parse({"at": value}) is None or isinstance(value, str)


def test_text_that_stands_for_no_bytes_is_shown_as_an_escape() -> None:
    """Names are made of it, and a name is bytes. What stands for a byte that is not UTF-8 stays as it is."""
    found = parse(
        {"at": "2025-11-24T10:26:40Z", "channel": "\ud800!\udcff", "groups": ["\udfff"], "exception": ["\ud800"]}
    )
    assert found is not None
    assert (found.channel, found.groups, found.exception) == ("\\ud800!\udcff", ("\\udfff",), ("\\ud800",))
    long = parse({"at": "2025-11-24T10:26:40Z", "path": "\ud800" * 10_000})
    assert long is not None
    assert len(long.path or "") == MAX_TEXT


@pytest.mark.parametrize(
    "text",
    ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "9999-12-31T23:59:59.999999Z", "0000-01-01T00:00:00Z"],
)
def test_a_time_that_could_not_be_written_again_is_none(text: str) -> None:
    assert parse_time(text) is None


@given(st.datetimes(), st.integers(-24 * 60 + 1, 24 * 60 - 1))
def test_every_time_that_is_read_can_be_written(moment: datetime, ahead_minutes: int) -> None:
    at = parse_time(moment.replace(tzinfo=timezone(timedelta(minutes=ahead_minutes))).isoformat())
    assert at is None or iso_time(at)


def test_groups_are_bounded_and_counted() -> None:
    groups, omitted = bounded(str(number) for number in range(MAX_GROUPS + 7))
    assert (len(groups), omitted) == (MAX_GROUPS, 7)


def test_times_with_a_zone_are_read() -> None:
    assert parse_time("2025-11-24T11:26:40.125+01:00") == parse_time(iso_time(FULL.at)) == FULL.at
