"""What counts as a heartbeat, and what is kept of many."""

from __future__ import annotations

from typing import Any

import pytest

from ops.model.heartbeats.message import Heartbeat, parse_heartbeat
from ops.model.heartbeats.tally import GROUPS_KEPT, SILENT_KEPT, GroupTally, RunTally

RUN = "0123456789abcdef" * 2


@pytest.mark.parametrize("depth", ["channel", "client"])
@pytest.mark.parametrize("number", [0, 1, 10**9 - 1])
def test_a_heartbeat_is_read_as_it_was_written(depth: str, number: int) -> None:
    heartbeat = Heartbeat(RUN, number, depth)
    assert parse_heartbeat(heartbeat.message()) == heartbeat
    assert parse_heartbeat({**heartbeat.message(), "more": object()}) == heartbeat


@pytest.mark.parametrize(
    "wrong",
    [
        {"run": None},
        {"run": RUN.upper()},
        {"run": RUN + "\n"},
        {"run": RUN[1:]},
        {"run": f"{RUN}:x"},
        {"run": RUN.encode()},
        {"number": -1},
        {"number": 10**9},
        {"number": 1.0},
        {"number": "1"},
        {"number": None},
        {"depth": "process"},
        {"depth": ""},
        {"depth": None},
        {"depth": {}},
    ],
)
def test_anything_else_is_none(wrong: dict[str, Any]) -> None:
    assert parse_heartbeat({**Heartbeat(RUN, 1, "channel").message(), **wrong}) is None


@pytest.mark.parametrize("missing", ["run", "number", "depth"])
def test_a_part_that_is_missing_makes_it_none(missing: str) -> None:
    message = Heartbeat(RUN, 1, "channel").message()
    del message[missing]
    assert parse_heartbeat(message) is None


def group(name: str, answered: int = 1, silent: int = 0) -> GroupTally:
    found = GroupTally(name)
    found.counts.members = answered + silent
    for _ in range(answered):
        found.counts.note_answer(1.0)
    for number in range(silent):
        found.note_silence(f"specific.x!{name}-{number}")
    return found


def test_a_report_stays_small_and_keeps_the_groups_that_need_attention() -> None:
    report = RunTally("channel")
    for number in range(5000):
        report.add(group(f"g{number}", silent=number in (3, 2500, 4999)))
        assert len(report.groups) <= 2 * GROUPS_KEPT
    assert {found.group for found in report.result().groups[:3]} == {"g3", "g2500", "g4999"}
    assert len(report.result().groups) == GROUPS_KEPT
    assert (report.totals.members, report.totals.answered, report.totals.silent) == (5003, 5000, 3)
    report.add(group("loud", silent=1000))
    assert len(report.silent) == SILENT_KEPT


def test_rounds_add_up_but_for_the_members_of_a_group() -> None:
    report = RunTally("channel")
    for _ in range(3):
        report.add(group("room", answered=2, silent=1))
    [room] = report.result().groups
    assert (room.counts.members, room.counts.sent, room.counts.answered, room.counts.silent) == (3, 9, 6, 3)
    assert len(report.silent) == 1
