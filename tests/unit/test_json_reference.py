"""The reference shows each field of each JSON document, and none that is not there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ops.model.disconnects.cleanup import CleanedProcess, CleanupReport
from ops.model.disconnects.emitting import EmitReport
from ops.model.disconnects.record import Disconnect
from ops.model.disconnects.report.report import Reading, conclude_report
from ops.model.disconnects.report.tally import DisconnectTally
from ops.model.doctor.diagnosis import Diagnosis, Finding, Skipped
from ops.model.heartbeats.tally import GroupTally, ProcessTally, RunTally
from ops.model.runs import RunRecord, UndoReport
from ops.output.disconnect_documents import cleanup_document, disconnect_report_document, emit_document
from ops.output.documents import (
    HeartbeatDocument,
    diagnosis_document,
    history_document,
    inspection_document,
    reap_document,
    undo_document,
)
from tests.unit.test_documents import REPORT, inspection

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "docs" / "examples"
READING = Reading(1, 1, 1, ("sample",), ("problem",))


def heartbeats() -> dict[str, Any]:
    written: list[str] = []
    document = HeartbeatDocument(written.append)
    group = GroupTally("room")
    group.note_silence("c")
    group.skip("…")
    report = RunTally("channel", rounds=1)
    report.processes["p"] = ProcessTally("p")
    document.begin("channel")
    document.add(group.result(), 1)
    document.end(report.result(), complete=True)
    found: dict[str, Any] = json.loads("".join(written))
    return found


def disconnects() -> dict[str, Any]:
    tally = DisconnectTally()
    for at in range(9):
        died = Disconnect(1e9 + at, "process_died", "server", code=1006, path="/", process="p", exception=("E: x",))
        tally.add(died)
    tally.add(Disconnect(1e9, "normal", "client", code=1000, lived_seconds=60.0))
    return disconnect_report_document(conclude_report("default", ["log"], READING, tally))


def cleaned() -> dict[str, Any]:
    processes = (CleanedProcess("p", 1),)
    return cleanup_document(
        CleanupReport("default", ("log",), False, True, "run", 1, 1, 1, 1, 1, 1, processes, "0-0", "1-0", READING, 1.0)
    )


def diagnosed() -> dict[str, Any]:
    finding = Finding("ops.E301", "title", ("e",), "fix")
    return diagnosis_document(Diagnosis("default", (finding,), (Skipped("ops.W307", "why"),)))


DOCUMENTS = {
    "channels_doctor": [diagnosed()],
    "channels_groups": [inspection_document(inspection(), members=True)],
    "reap_stale": [
        reap_document(REPORT),
        undo_document(UndoReport("run", 1, 2, 3, ("note",))),
        history_document("default", [RunRecord("run", 1, "done", 1, 1)]),
    ],
    "replay_disconnects": [
        disconnects(),
        cleaned(),
        emit_document(EmitReport("default", "room", "group", 1, False, True, 1, 1, 1, 1, 1, ("problem",))),
    ],
    "send_heartbeat": [heartbeats()],
}


def fields_of(value: Any, path: str = "") -> set[str]:
    """As `processes[].state`."""
    if isinstance(value, dict):
        return {f"{path}.{name}" for name in value}.union(*(fields_of(v, f"{path}.{k}") for k, v in value.items()))
    if isinstance(value, list):
        return set().union(*(fields_of(item, f"{path}[]") for item in value))
    return set()


@pytest.mark.parametrize("command", DOCUMENTS)
def test_the_reference_shows_each_field(command: str) -> None:
    text = (EXAMPLES / f"{command}.md").read_text(encoding="utf-8")
    shown = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]
    assert [fields_of(document) for document in shown] == [fields_of(document) for document in DOCUMENTS[command]]


def test_no_command_is_left_out() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.md")} == DOCUMENTS.keys()
