"""Tables for a terminal: they fit into 80 columns, and no name loses a character."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console, RenderableType

from ops.model.groups import Group, Inspection, Member, Process, ShardInfo, StateCounts
from ops.model.liveness.evidence import InboxStuck, LeaseLapsed, ProbesTaken, ProbeUnanswered, SuspectedBefore
from ops.model.liveness.judge import State, Verdict
from ops.model.runs import Leftover, ReapedProcess, ReapReport, RunRecord
from ops.model.text import visible
from ops.output.tables import history_table, inspection_report, reap_report

PROCESS = "0123456789abcdef" * 2
NAME = "".join(f"{number:02d}." for number in range(33)) + "x"
CHANNEL = f"specific.{PROCESS}!{'y' * 57}"
NOW = 1_700_000_000.0
MANY = 1_234_567


def shown(report: RenderableType, width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(report, markup=False, highlight=False, emoji=False)
    return out.getvalue()


def inspection(*groups: Group, shards: int = 1, complete: bool = True) -> Inspection:
    silence = (InboxStuck(100, 42.0, 3.0), SuspectedBefore(61.0), LeaseLapsed(90.0, "web-1, pid 12345"))
    return Inspection(
        layer="default",
        backend="x",
        taken_at=NOW,
        complete=complete,
        shards=tuple(ShardInfo(index, "redis://h") for index in range(shards)),
        total_groups=len(groups),
        totals=StateCounts(live=MANY, suspect=MANY, orphan=MANY, unknown=MANY),
        processes=[Process(PROCESS, Verdict(State.DEAD, silence), MANY)] if groups else [],
        groups=list(groups),
        notes=["a note that is a little longer than a line of eighty columns can be, so that it has to be folded"],
    )


def group_of(name: str, channel: str = CHANNEL, count: int = MANY) -> Group:
    member = Member(channel, PROCESS, "suspect", NOW - 5, ("took no probe",))
    return Group(name, 1, StateCounts(count, count, count, count), NOW - 86400 * 3, (member,))


def fits(text: str, width: int = 80) -> bool:
    return all(cell_len(line) <= width for line in text.splitlines())


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("members", [True, False])
def test_names_of_100_characters_are_shown_in_full_at_80_columns(shards: int, members: bool) -> None:
    text = shown(inspection_report(inspection(group_of(NAME), shards=shards), members=members, summary=False))
    assert fits(text)
    assert "…" not in text
    if members:
        assert NAME in re.sub(r"\n", "", text)
        assert CHANNEL in re.sub(r"\s", "", text.partition("Channel")[2])
    else:
        assert NAME in "".join(re.findall(r"^([0-9.x]+)(?:\s|$)", text.partition("\n\n")[0], re.MULTILINE))
        assert text.count("1,234,567") >= 4


@given(st.text(st.characters(exclude_categories=()), min_size=1, max_size=100))
def test_any_name_fits_and_loses_no_character(name: str) -> None:
    text = shown(inspection_report(inspection(group_of(name, name, 1)), members=True, summary=False))
    assert fits(text)
    kept = re.sub(r"\s", "", text)
    assert re.sub(r"\s", "", visible(name)) in kept


def test_markup_and_emoji_in_names_are_left_as_they_are() -> None:
    name = "[bold]:smile:[/bold]"
    assert name in shown(inspection_report(inspection(group_of(name, name, 1)), members=True, summary=False))


def test_an_empty_layer_and_one_that_could_not_be_read_are_told_apart() -> None:
    empty = shown(inspection_report(inspection(), members=False, summary=False))
    assert "Layer 'default' has no groups: nobody is connected, or nobody has joined one." in empty
    unread = shown(inspection_report(inspection(complete=False), members=False, summary=False))
    assert "nobody" not in unread
    assert "not every shard answered" in unread


def test_hidden_groups_are_counted_and_a_summary_shows_none() -> None:
    text = shown(inspection_report(inspection(group_of("room")), members=False, summary=False, hidden=2))
    assert "… and 2 more groups; --limit shows more." in text
    summary = shown(inspection_report(inspection(group_of("room")), members=False, summary=True))
    assert "room" not in summary
    assert PROCESS in summary


def test_the_processes_that_need_attention_come_first_and_the_rest_is_counted() -> None:
    look = inspection(group_of("room"))
    live = Verdict(State.LIVE, (ProbesTaken(1.0),))
    look.processes[:0] = [Process(f"{number:032x}", live, 2) for number in range(30)]
    text = shown(inspection_report(look, members=False, summary=True))
    found = re.findall(r"^([0-9a-f]{32})\s", text, re.MULTILINE)
    assert found[0] == PROCESS
    assert len(found) == 20
    assert re.search(r"^… 11 more\s+live\s+22\s*$", text, re.MULTILINE)
    assert fits(text)
    whole = shown(inspection_report(look, members=False, summary=True, for_a_terminal=False))
    assert len(re.findall(r"^([0-9a-f]{32})\s", whole, re.MULTILINE)) == 31


def test_some_processes_of_each_state_are_shown_and_the_others_are_summed_up() -> None:
    look = inspection(group_of("room"))
    live, dead = Verdict(State.LIVE, (ProbesTaken(1.0),)), Verdict(State.DEAD, (ProbeUnanswered(10, 0),))
    look.processes[:] = [Process(f"{number:032x}", dead, 1000 - number) for number in range(31)]
    look.processes[:] += [Process(f"{number:032x}", live, 2) for number in range(31, 60)]
    text = shown(inspection_report(look, members=False, summary=True))
    states = re.findall(r"^[0-9a-f]{32}\s+(\w+)", text, re.MULTILINE)
    assert states == ["dead"] * 5 + ["live"] * 15
    assert re.search(rf"^… 26 more\s+dead\s+{sum(1000 - number for number in range(5, 31)):,}\s*$", text, re.MULTILINE)
    assert re.search(r"^… 14 more\s+live\s+28\s*$", text, re.MULTILINE)


def test_a_reap_report_says_what_went_and_how_to_get_it_back() -> None:
    silence = (ProbeUnanswered(10, 0).words, SuspectedBefore(61).words)
    report = ReapReport(
        run_id="20231114T221320Z-abcdef",
        layer="default",
        dry_run=False,
        complete=True,
        stopped=None,
        groups_scanned=1200,
        members_scanned=MANY,
        suspects=3,
        removed=MANY,
        kept=1,
        processes=(ReapedProcess(PROCESS, "dead", MANY, MANY, silence), ReapedProcess("f" * 32, "live", 1, 0, ("x",))),
        started_at=NOW,
        finished_at=NOW,
        duration_seconds=1.23,
        leftovers=(Leftover("asgi", 0, "inbox", PROCESS, 1),),
        notes=("a note",),
    )
    text = shown(reap_report(report))
    assert fits(text)
    assert "…" not in text
    assert PROCESS in text
    assert "f" * 32 not in text, "who lives is no news"
    for line in (
        "Looked at 1,234,567 members of 1,200 groups in 1.2 s: 1,234,567 removed, 3 under suspicion.",
        "1 member stayed: gone or joined again since judged.",
        "1 inbox or in-flight key of dead processes set aside.",
        "To put them back: manage.py reap_stale --undo 20231114T221320Z-abcdef",
        "Note: a note.",
    ):
        assert line in " ".join(text.split())


def test_the_history_fits_too() -> None:
    runs = [RunRecord("20231114T221320Z-abcdef", NOW, state, MANY, 200) for state in ("done", "interrupted", "undone")]
    text = shown(history_table(runs))
    assert fits(text)
    assert text.count("20231114T221320Z-abcdef") == 3
    assert text.count("2023-11-14 22:13 ") == 3
    assert "No run has removed anything" in shown(history_table([]))


def test_a_look_says_what_to_do_about_orphans_and_suspects_and_if_no_group_has_such_members() -> None:
    def text_of(totals: StateCounts) -> str:
        look = Inspection("default", "x", NOW, True, (), total_groups=1, totals=totals)
        return shown(inspection_report(look, members=False, summary=False))

    assert "manage.py reap_stale removes the orphans." in text_of(StateCounts(orphan=1, suspect=1))
    assert "manage.py reap_stale --wait finds out whether the suspects are dead" in text_of(StateCounts(suspect=1))
    assert "reap_stale" not in text_of(StateCounts(live=1))
    assert "No group has such members." in text_of(StateCounts(live=1))
