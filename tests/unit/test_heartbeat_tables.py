"""What a person reads of heartbeats in a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ops.model.heartbeats.tally import GROUPS_KEPT, GroupTally, RunTally, Tally
from ops.model.heartbeats.tally import ProcessTally as Process
from ops.output.heartbeats import heartbeat_report, milliseconds, round_line


def drawn(run: RunTally, *, colour: bool = False, encoding: str = "utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    console = Console(file=stream, width=80, color_system="truecolor" if colour else None, force_terminal=colour)
    console.print(heartbeat_report(run.result()), markup=False, highlight=False, emoji=False)
    stream.flush()
    stream.seek(0)
    return stream.read()


def report_of(*groups: GroupTally, depth: str = "channel") -> RunTally:
    report = RunTally(depth, rounds=1)
    for group in groups:
        report.add(group)
    return report


def room(name: str = "room", answered: int = 0, silent: int = 0) -> GroupTally:
    found = GroupTally(name)
    found.counts.members = answered + silent
    for number in range(answered):
        found.counts.note_answer(1.5 + number)
    for number in range(silent):
        found.note_silence(f"specific.{'a' * 32}!silent-{number}")
    return found


def test_a_healthy_group_is_a_row_a_distribution_and_a_sum() -> None:
    text = drawn(report_of(room(answered=4)))
    row = next(line for line in text.splitlines() if line.startswith("room"))
    assert row.split() == ["room", "4", "4", "0", "2.47", "4.50", "4.50"]
    assert "1 to 2 ms" in text
    assert "2 to 5 ms" in text
    assert "1 group, 4 members: 4 answered, 0 silent, 0 not able, 0 skipped" in text
    assert "Silent members" not in text


def test_who_is_not_able_has_a_column_where_there_is_one() -> None:
    mixed = room("mixed", answered=1)
    mixed.counts.members, mixed.counts.not_capable = 3, 2
    rows = drawn(report_of(mixed, room("plain", answered=1200))).splitlines()
    assert " ".join(rows[0].split()) == "Group Members Answered Silent Not able p50 ms p95 ms p99 ms"
    assert next(row for row in rows if row.startswith("mixed")).split()[:5] == ["mixed", "3", "1", "0", "2"]


def test_the_name_of_a_group_has_room() -> None:
    name = "notifications.user-1234"
    assert name in drawn(report_of(room(name, answered=1)))


def test_the_silent_are_named_with_their_process_and_its_host() -> None:
    report = report_of(room(silent=1))
    process = report.processes["a" * 32] = Process("a" * 32, host="web-3", pid="4711")
    process.counts.note_silence()
    text = drawn(report)
    assert "a" * 32 + "   web-3" in text
    assert "4711" in text
    assert f"specific.{'a' * 32}!silent-0" in text.replace("\n", "")


def test_who_was_not_asked_is_told_why() -> None:
    report = report_of(room(answered=1))
    report.processes["b" * 32] = process = Process("b" * 32)
    process.skip("its inbox is near capacity")
    assert f"{'b' * 32}: 1 member not asked: its inbox is near capacity" in " ".join(drawn(report).split())


def test_at_depth_process_all_processes_are_shown_and_else_only_those_in_need() -> None:
    for depth, expected in (("process", True), ("channel", False)):
        report = report_of(room(answered=1), depth=depth)
        report.processes["c" * 32] = process = Process("c" * 32)
        process.counts.note_answer(2.0)
        assert ("c" * 32 in drawn(report)) is expected


def test_names_from_redis_do_not_reach_the_terminal_as_they_are() -> None:
    evil = "evil\x1b[2J\u202e[bold]"
    report = report_of(room(evil, silent=1))
    report.silent[evil] = None
    report.processes[evil] = process = Process("d" * 32, host=evil, pid=evil)
    process.skip(evil)
    text = drawn(report)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[bold]" in text


def test_it_can_be_drawn_where_only_ascii_can_be_written() -> None:
    report = report_of(room(answered=2))
    assert drawn(report, encoding="ascii").isascii()


def test_colour_is_only_where_it_is_wanted() -> None:
    report = report_of(room(answered=2, silent=1))
    assert "\x1b[" in drawn(report, colour=True)
    assert "\x1b[" not in drawn(report)


def test_what_is_too_much_for_a_screen_is_counted() -> None:
    groups = [room(f"room-{number:03}", answered=1) for number in range(GROUPS_KEPT + 7)]
    loud = room("loud", silent=100)
    text = drawn(report_of(*groups, loud))
    assert "… and 8 more groups" in text
    assert "… and 80 more" in text
    assert text.index("loud") < text.index("room-000")


def test_rounds_are_lines_and_the_sum_is_of_all_of_them() -> None:
    counts = Tally()
    counts.members = 3
    counts.note_answer(1.0)
    counts.note_silence()
    counts.not_capable = counts.skipped = 1
    assert round_line(7, 2, counts.counts()) == (
        "round 7: 3 members of 2 groups: 1 answered, 1 silent, 1 not able, 1 skipped, "
        "p50 1.00 ms, p95 1.00 ms, p99 1.00 ms"
    )
    assert round_line(1, 0, Tally().counts()) == "round 1: 0 members of 0 groups: 0 answered, 0 silent"
    report = report_of(room(answered=1))
    report.add(room(answered=1))
    report.rounds = 2
    assert "2 rounds, 2 heartbeats: 2 answered" in drawn(report)


@pytest.mark.parametrize(
    ("value", "text"), [(0.4241, "0.42 ms"), (12.34, "12.3 ms"), (432.1, "432 ms"), (2100.0, "2.10 s")]
)
def test_times_have_three_digits(value: float, text: str) -> None:
    assert milliseconds(value) == text
