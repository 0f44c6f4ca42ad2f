"""The line for a monitoring system, and its exit codes."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from ops.model.groups import Inspection, Process, ShardInfo, StateCounts
from ops.model.liveness.evidence import SeveralKeys
from ops.model.liveness.judge import State, Verdict
from ops.output.plugin import CRITICAL, OK, UNKNOWN, WARNING, plugin_line, plugin_result


def inspection(orphan: int = 0, suspect: int = 0, *, problem: str | None = None) -> Inspection:
    return Inspection(
        layer="default",
        backend="x",
        taken_at=0,
        complete=problem is None,
        shards=(ShardInfo(0, "redis://h"), ShardInfo(1, "redis://h", problem)),
        total_groups=2,
        totals=StateCounts(live=5, orphan=orphan, suspect=suspect, unknown=1),
    )


@pytest.mark.parametrize(
    ("orphan", "suspect", "warning", "critical", "code"),
    [
        (0, 0, 0, None, OK),
        (1, 0, 0, None, WARNING),
        (0, 1, 0, None, WARNING),
        (1, 1, 2, None, OK),
        (2, 1, 2, None, WARNING),
        (2, 1, 2, 3, WARNING),
        (2, 2, 2, 3, CRITICAL),
        (1, 0, 5, 0, CRITICAL),
        (0, 0, 0, 0, OK),
    ],
)
def test_it_alerts_above_its_limits(orphan: int, suspect: int, warning: int, critical: int | None, code: int) -> None:
    found, line = plugin_result(inspection(orphan, suspect), warning, critical)
    assert found == code
    assert line.startswith(f"CHANNELS_GROUPS {['OK', 'WARNING', 'CRITICAL'][code]} - ")


def test_the_exit_codes_are_those_of_monitoring_plugins() -> None:
    assert (OK, WARNING, CRITICAL, UNKNOWN) == (0, 1, 2, 3)


def test_the_line_and_its_performance_data() -> None:
    _, line = plugin_result(inspection(1, 2), 3, None)
    assert line == (
        "CHANNELS_GROUPS OK - 1 orphan and 2 suspects among 9 members of 2 groups | "
        "silent=3;3;;0; orphans=1 suspects=2 members=9 groups=2 processes=0"
    )
    assert "silent=3;3;7;0; " in plugin_result(inspection(1, 2), 3, 7)[1]
    for figure in line.partition(" | ")[2].split():
        assert re.fullmatch(r"[a-z]+=\d+(;\d*;\d*;\d*;)?", figure)


def test_what_was_not_seen_is_unknown_whatever_the_rest_says() -> None:
    code, line = plugin_result(inspection(100, problem="shard 1 is down"), 0, 0)
    assert code == UNKNOWN
    figures = "silent=U;0;0;0; orphans=U suspects=U members=U groups=U processes=U"
    assert line == f"CHANNELS_GROUPS UNKNOWN - shard 1 is down | {figures}"


def test_members_that_could_not_be_judged_are_unknown_unless_enough_others_are_silent() -> None:
    verdict = Verdict(State.UNKNOWN, (SeveralKeys(),))
    look = replace(inspection(1), processes=(Process("a" * 32, verdict, 1098),))
    code, line = plugin_result(look, 5, None)
    assert code == UNKNOWN
    assert line.startswith(
        "CHANNELS_GROUPS UNKNOWN - 1,098 members of 1 process could not be judged: not probed: there "
    )
    assert plugin_result(look, 0, None)[0] == WARNING


def test_a_problem_is_unknown() -> None:
    assert plugin_line(UNKNOWN, "no such layer") == "CHANNELS_GROUPS UNKNOWN - no such layer"


def test_what_is_said_does_not_begin_the_performance_data() -> None:
    problem = "add to its ACL: +pubsub|channels"
    assert plugin_line(UNKNOWN, problem) == "CHANNELS_GROUPS UNKNOWN - add to its ACL: +pubsub/channels"
    _, line = plugin_result(inspection(problem=problem), 0, None)
    assert line.partition("|")[2].startswith(" silent=U;")
