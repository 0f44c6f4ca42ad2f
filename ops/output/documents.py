"""Reports as JSON documents and records. The fields are an interface: they may be added to, never changed.

Every string from Redis passes ``visible``, and the JSON itself is ASCII, so that no terminal interprets a name.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from ops.model.doctor.diagnosis import Check, Diagnosis
from ops.model.groups import Group, Inspection, Process, StateCounts
from ops.model.heartbeats.report import GroupHeartbeat, HeartbeatCounts, HeartbeatReport
from ops.model.liveness.judge import MEMBER_STATES
from ops.model.liveness.lease import Lease
from ops.model.runs import ReapReport, RunRecord, UndoReport
from ops.model.text import visible
from ops.output.columns import GROUP_COLUMNS, MEMBER_COLUMNS, PROCESS_COLUMNS, record
from ops.output.text import iso

SCHEMA_VERSION = 1


TOKENS_AT_ONCE = 10_000
_encoder = json.JSONEncoder(ensure_ascii=True, allow_nan=False)


def dump(document: dict[str, Any]) -> str:
    """One line of ASCII."""
    return _encoder.encode(document)


def dump_in_pieces(document: dict[str, Any]) -> Iterator[str]:
    """The same, bit by bit: of a million names, the whole line would take as much memory as the names again, twice."""
    tokens = _encoder.iterencode(document)
    while piece := "".join(islice(tokens, TOKENS_AT_ONCE)):
        yield piece


def inspection_document(inspection: Inspection, *, members: bool) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "layer": inspection.layer,
        "backend": inspection.backend,
        "taken_at": iso(inspection.taken_at),
        "complete": inspection.complete,
        "shards": [
            {"index": shard.index, "address": shard.address, "answered": shard.answered, "problem": shard.problem}
            for shard in inspection.shards
        ],
        "totals": {
            "groups": inspection.total_groups,
            **_counts(inspection.totals),
            "processes": len(inspection.processes),
        },
        "processes": [process_record(process) for process in inspection.processes],
        "groups": [group_record(group, members=members) for group in inspection.groups],
        "notes": list(inspection.notes),
    }


def _counts(counts: StateCounts) -> dict[str, int]:
    return {"members": counts.members, **{state: getattr(counts, state) for state in MEMBER_STATES}}


def process_record(process: Process) -> dict[str, Any]:
    return {
        **record(PROCESS_COLUMNS, process),
        **holder_record(process.lease),
        "lease": None if process.lease is None else lease_record(process.lease),
    }


def holder_record(lease: Lease | None) -> dict[str, Any]:
    """Where a process runs, and what serves it; null if not known."""
    return {
        "host": visible(lease.host) or None if lease else None,
        "pid": visible(lease.pid) or None if lease else None,
        "server": visible(lease.server) or None if lease else None,
    }


def lease_record(lease: Lease) -> dict[str, Any]:
    return {
        "host": visible(lease.host),
        "pid": visible(lease.pid),
        "version": visible(lease.version),
        "server": visible(lease.server) or None,
        "shard": visible(lease.shard) or None,
        "started_at": iso(lease.started_at),
        "renewed_at": iso(lease.renewed_at),
        "lease_seconds": lease.lease_seconds,
        "ended": lease.ended,
        **dict(lease.counts),
    }


def group_record(group: Group, *, members: bool) -> dict[str, Any]:
    found = record(GROUP_COLUMNS, group)
    if members:
        found["channels"] = [record(MEMBER_COLUMNS, member) for member in group.channels]
    return found


def reap_document(report: ReapReport) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": report.run_id,
        "layer": report.layer,
        "dry_run": report.dry_run,
        "complete": report.complete,
        "stopped": report.stopped,
        "started_at": iso(report.started_at),
        "groups_scanned": report.groups_scanned,
        "members_scanned": report.members_scanned,
        "suspects": report.suspects,
        "orphans": report.orphans,
        "removed": report.removed,
        "kept": report.kept,
        "processes": [
            {
                "process": process.process,
                "state": process.state,
                "members": process.members,
                "removed": process.removed,
                "evidence": list(process.evidence),
                **holder_record(process.lease),
            }
            for process in report.processes
        ],
        "leftovers": [
            {
                "key": visible(leftover.key),
                "shard": leftover.shard,
                "kind": leftover.kind,
                "process": leftover.process,
                "messages": leftover.messages,
            }
            for leftover in report.leftovers
        ],
        "findings": list(report.findings),
        "notes": [*([report.not_applicable] if report.not_applicable else []), *report.notes],
        "duration_seconds": round(report.duration_seconds, 3),
    }


def undo_document(report: UndoReport) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "undone_run_id": report.undone_run_id,
        "restored": report.restored,
        "already_present": report.already_present,
        "keys_restored": report.keys_restored,
        "notes": list(report.notes),
    }


def history_document(layer: str, runs: Sequence[RunRecord]) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "layer": layer,
        "runs": [
            {
                "run_id": visible(run.run_id),
                "state": run.state,
                "started_at": iso(run.started_at),
                "match": None if run.match is None else visible(run.match),
                "removed": run.removed,
                "processes": run.processes,
                "set_aside": run.set_aside,
                "undone_at": iso(run.undone_at),
                "expires_at": iso(run.expires_at),
            }
            for run in runs
        ],
    }


def heartbeat_record(found: GroupHeartbeat, round_number: int) -> dict[str, Any]:
    return {
        "group": visible(found.group),
        "round": round_number,
        **_tallied(found.counts),
        "silent": [visible(channel) for channel in found.silent],
        "skipped_inboxes": {visible(inbox): members for inbox, members in found.skipped.items()},
    }


def heartbeat_ending(report: HeartbeatReport, *, complete: bool) -> dict[str, Any]:
    """What follows the groups. ``silent`` is a number here, since these counts are of all groups and rounds."""
    return {
        "rounds": report.rounds,
        "duration_seconds": round(report.duration_seconds, 3),
        "totals": {**_tallied(report.totals), "silent": report.totals.silent},
        "processes": [
            {
                "process": found.process,
                "host": visible(found.host) or None,
                "pid": visible(found.pid) or None,
                **_tallied(found.counts),
                "silent": found.counts.silent,
                "skipped_why": visible(found.skipped_why) or None,
            }
            for found in report.processes
        ],
        "complete": complete,
        "problems": list(report.problems),
        "findings": list(report.findings),
        "notes": list(report.notes),
    }


class HeartbeatDocument:
    """One JSON document, written group by group: ``write`` takes text."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._separator = ""
        self.begun = False

    def begin(self, depth: str) -> None:
        self.begun = True
        self._write(f'{{"schema_version": {SCHEMA_VERSION}, "depth": {json.dumps(depth)}, "groups": [')

    def add(self, found: GroupHeartbeat, round_number: int) -> None:
        self._write(self._separator)
        for piece in dump_in_pieces(heartbeat_record(found, round_number)):
            self._write(piece)
        self._separator = ", "

    def end(self, report: HeartbeatReport, *, complete: bool) -> None:
        self._write(f"], {dump(heartbeat_ending(report, complete=complete))[1:]}\n")


def _tallied(counts: HeartbeatCounts) -> dict[str, Any]:
    return {
        "members": counts.members,
        "sent": counts.sent,
        "answered": counts.answered,
        "not_capable": counts.not_capable,
        "skipped": counts.skipped,
        "rtt_ms": {name: round(value, 3) for name, value in counts.rtt_ms.items()},
    }


def diagnosis_document(diagnosis: Diagnosis) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "layer": diagnosis.layer,
        "complete": diagnosis.complete,
        "healthy": diagnosis.healthy,
        "findings": [
            {
                "id": finding.id,
                "level": finding.level,
                "title": finding.title,
                "evidence": list(finding.evidence),
                "fix": finding.fix,
            }
            for finding in diagnosis.findings
        ],
        "skipped": [{"id": one.id, "why": one.why} for one in diagnosis.skipped],
    }


def checks_document(checks: Iterable[Check]) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "checks": [{"id": check.id, "level": check.level, "title": check.title} for check in checks],
    }
