"""JSON documents: the fields of the contract, ASCII only, and any name and score."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.model.groups import Group, Inspection, Member, Process, ShardInfo, StateCounts
from ops.model.heartbeats.tally import GroupTally, ProcessTally, RunTally
from ops.model.liveness.evidence import ProbesTaken
from ops.model.liveness.judge import State, Verdict
from ops.model.liveness.lease import LEASE_COUNTS, Lease
from ops.model.runs import Leftover, ReapedProcess, ReapReport, RunRecord, UndoReport
from ops.model.text import visible
from ops.output.documents import (
    HeartbeatDocument,
    dump,
    group_record,
    history_document,
    inspection_document,
    reap_document,
    undo_document,
)

AT = 1_700_000_000.25
AT_TEXT = "2023-11-14T22:13:20.250Z"
PROCESS = "0123456789abcdef" * 2
LEASE = Lease(PROCESS, AT, 10.0, False, "web-1", "1", AT, "0.1.0", counts=tuple((name, 0) for name in LEASE_COUNTS))


def inspection() -> Inspection:
    member = Member(f"specific.{PROCESS}!x", PROCESS, "live", AT, ("took two probes",))
    group = Group("room", 0, StateCounts(live=1), AT, (member,))
    return Inspection(
        layer="default",
        backend="channels_redis.core.RedisChannelLayer",
        taken_at=AT,
        complete=False,
        shards=(ShardInfo(0, "redis://h:1/0"), ShardInfo(1, "redis://h:2/0", "shard 1 is down")),
        total_groups=1,
        totals=StateCounts(live=1, suspect=2, orphan=3, unknown=4),
        processes=[Process(PROCESS, Verdict(State.LIVE, (ProbesTaken(1.0),)), 1, LEASE)],
        groups=[group],
        notes=["a note"],
    )


def test_an_inspection_has_the_fields_of_the_contract() -> None:
    found = inspection_document(inspection(), members=True)
    (process,) = found.pop("processes")
    assert {name: process[name] for name in ("process", "state", "members", "evidence")} == {
        "process": PROCESS,
        "state": "live",
        "members": 1,
        "evidence": ["took two probes in a row, the second within 1.0 ms"],
    }
    assert found == {
        "schema_version": 1,
        "layer": "default",
        "backend": "channels_redis.core.RedisChannelLayer",
        "taken_at": AT_TEXT,
        "complete": False,
        "shards": [
            {"index": 0, "address": "redis://h:1/0", "answered": True, "problem": None},
            {"index": 1, "address": "redis://h:2/0", "answered": False, "problem": "shard 1 is down"},
        ],
        "totals": {"groups": 1, "members": 10, "live": 1, "suspect": 2, "orphan": 3, "unknown": 4, "processes": 1},
        "groups": [
            {
                "group": "room",
                "shard": 0,
                "members": 1,
                "live": 1,
                "suspect": 0,
                "orphan": 0,
                "unknown": 0,
                "oldest_joined_at": AT_TEXT,
                "channels": [
                    {
                        "channel": f"specific.{PROCESS}!x",
                        "process": PROCESS,
                        "state": "live",
                        "joined_at": AT_TEXT,
                        "evidence": ["took two probes"],
                    }
                ],
            }
        ],
        "notes": ["a note"],
    }


def test_channels_are_listed_only_where_members_were_asked_for() -> None:
    assert "channels" not in inspection_document(inspection(), members=False)["groups"][0]


REPORT = ReapReport(
    run_id="20231114T221320Z-abcdef",
    layer="default",
    dry_run=True,
    complete=False,
    stopped="share: too many",
    groups_scanned=1,
    members_scanned=2,
    suspects=3,
    removed=4,
    kept=5,
    processes=(ReapedProcess(PROCESS, "dead", 7, 6, ("took no probe",)),),
    started_at=AT,
    finished_at=AT + 2,
    duration_seconds=1.23456,
    leftovers=(Leftover("asgi\x1bkey", 1, "inflight", PROCESS, 8),),
    notes=("a note",),
    orphans=9,
)


def test_a_reap_report_has_the_fields_of_the_contract() -> None:
    assert reap_document(REPORT) == {
        "schema_version": 1,
        "run_id": "20231114T221320Z-abcdef",
        "layer": "default",
        "dry_run": True,
        "complete": False,
        "stopped": "share: too many",
        "started_at": AT_TEXT,
        "groups_scanned": 1,
        "members_scanned": 2,
        "suspects": 3,
        "orphans": 9,
        "removed": 4,
        "kept": 5,
        "processes": [
            {
                "process": PROCESS,
                "state": "dead",
                "members": 7,
                "removed": 6,
                "evidence": ["took no probe"],
                "host": None,
                "pid": None,
                "server": None,
            }
        ],
        "leftovers": [{"key": "asgi\\x1bkey", "shard": 1, "kind": "inflight", "process": PROCESS, "messages": 8}],
        "findings": [],
        "notes": ["a note"],
        "duration_seconds": 1.235,
    }


def test_an_undo_report_has_the_fields_of_the_contract() -> None:
    assert undo_document(UndoReport("run", 1, 2, 3, ("a note",))) == {
        "schema_version": 1,
        "undone_run_id": "run",
        "restored": 1,
        "already_present": 2,
        "keys_restored": 3,
        "notes": ["a note"],
    }


def test_the_history_has_a_record_for_each_run() -> None:
    record = RunRecord("run\x1b", AT, "undone", 1, 2, 3, expires_at=AT + 1, undone_at=None, match="r\x1b*")
    assert history_document("default", [record]) == {
        "schema_version": 1,
        "layer": "default",
        "runs": [
            {
                "run_id": "run\\x1b",
                "state": "undone",
                "started_at": AT_TEXT,
                "match": "r\\x1b*",
                "removed": 1,
                "processes": 2,
                "set_aside": 3,
                "undone_at": None,
                "expires_at": "2023-11-14T22:13:21.250Z",
            }
        ],
    }


def test_a_layer_without_orphans_has_a_report_of_the_same_fields() -> None:
    report = replace(
        REPORT, run_id=None, started_at=None, dry_run=True, removed=0, notes=(), not_applicable="none here"
    )
    found = reap_document(report)
    assert found.keys() == reap_document(REPORT).keys()
    assert found["started_at"] is None
    assert (found["run_id"], found["dry_run"], found["removed"], found["notes"]) == (None, True, 0, ["none here"])


def test_heartbeats_are_one_document_that_is_written_group_by_group() -> None:
    written: list[str] = []
    document = HeartbeatDocument(written.append)
    report = RunTally("channel", rounds=1)
    document.begin("channel")
    for name in ("a\x1b", "b"):
        group = GroupTally(name)
        group.counts.members = 3
        group.counts.note_answer(1.25)
        group.note_silence("silent\x1b")
        group.skip("in\x1bbox")
        document.add(group.result(), 1)
        report.add(group)
    report.processes["p"] = process = ProcessTally("p", host="web\x1b", pid="1")
    process.skip("why\x1b")
    assert json.loads("".join(written) + "]}")["groups"], "what is there after each group needs no more of it"
    document.end(report.result(), complete=False)
    text = "".join(written)
    assert text.count("\n") == 1
    assert text.isascii()
    found = json.loads(text)
    rtt = dict.fromkeys(("min", "p50", "p95", "p99", "max"), 1.25)
    counts = {"members": 3, "sent": 2, "answered": 1, "not_capable": 0, "skipped": 1, "rtt_ms": rtt}
    both = {"round": 1, **counts, "silent": ["silent\\x1b"], "skipped_inboxes": {"in\\x1bbox": 1}}
    assert found["groups"] == [{"group": "a\\x1b", **both}, {"group": "b", **both}]
    assert (found["schema_version"], found["depth"], found["complete"], found["rounds"]) == (1, "channel", False, 1)
    assert (found["totals"]["sent"], found["totals"]["silent"]) == (4, 2)
    [said] = found["processes"]
    assert (said["process"], said["host"], said["skipped_why"]) == ("p", "web\\x1b", "why\\x1b")


def test_a_group_of_very_many_silent_members_is_written_piece_by_piece() -> None:
    written: list[str] = []
    document = HeartbeatDocument(written.append)
    group = GroupTally("all", silent=[f"channel-{number}" for number in range(100_000)])
    document.begin("channel")
    document.add(group.result(), 1)
    document.end(RunTally("channel").result(), complete=True)
    assert max(map(len, written)) < 200_000, "a tenth of the whole"
    assert json.loads("".join(written))["groups"][0]["silent"] == group.silent


def test_a_document_of_no_groups_is_whole_too() -> None:
    written: list[str] = []
    document = HeartbeatDocument(written.append)
    document.begin("process")
    document.end(RunTally("process").result(), complete=True)
    assert json.loads("".join(written))["groups"] == []


@given(name=st.text(st.characters(exclude_categories=()), max_size=9), score=st.floats())
def test_any_name_and_score_make_one_line_of_ascii(name: str, score: float) -> None:
    member = Member(name, None, "unknown", score, ())
    group = Group(name, 0, StateCounts(unknown=1), score, (member,))
    text = dump(group_record(group, members=True))
    assert text.isascii()
    assert text.isprintable()
    found: dict[str, Any] = json.loads(text)
    assert found["group"] == found["channels"][0]["channel"] == visible(name)
    assert found["oldest_joined_at"] == found["channels"][0]["joined_at"]


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_is_no_json_number_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        dump({"number": number})
