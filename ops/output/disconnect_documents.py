"""Reports about the ends of websockets as JSON documents. Fields may be added to, never changed."""

from typing import Any

from ops.model.disconnects.cleanup import CleanupReport
from ops.model.disconnects.emitting import EmitReport
from ops.model.disconnects.report.report import DisconnectReport, Reading, Row, Table
from ops.model.text import visible
from ops.output.documents import SCHEMA_VERSION
from ops.output.text import iso


def disconnect_report_document(report: DisconnectReport) -> dict[str, Any]:
    """Counts are of ends; times ISO 8601 UTC; what comes from logs is escaped as every name is."""
    return {
        "schema_version": SCHEMA_VERSION,
        "layer": report.layer,
        "sources": [visible(source) for source in report.sources],
        "complete": not report.reading.problems,
        "records": report.records,
        "untimed": report.untimed,
        "dropped": report.dropped,
        "reaped_later": report.reaped_later,
        "first_at": iso(report.first_at),
        "last_at": iso(report.last_at),
        "by_code": _table(report.by_code, "code"),
        "by_cause": _table(report.by_cause, "cause"),
        "by_closer": _table(report.by_closer, "closed_by"),
        "by_worker": _table(report.by_worker, "worker"),
        "by_path": _table(report.by_path, "path"),
        "by_exception": _table(report.by_exception, "exception"),
        "left_behind": _table(report.left_behind, "ended_of"),
        "by_age": _table(report.ages, "lived"),
        "timeline": {
            "step_seconds": report.step_seconds,
            "steps": [{"at": iso(step.at), "count": step.total, "not_ordinary": step.bad} for step in report.timeline],
        },
        "patterns": [
            {
                "id": pattern.id,
                "title": pattern.title,
                "connections": pattern.connections,
                "evidence": list(pattern.evidence),
                "advice": pattern.advice,
            }
            for pattern in report.patterns
        ],
        **reading_record(report.reading),
    }


def cleanup_document(report: CleanupReport) -> dict[str, Any]:
    """What ``replay_disconnects --cleanup`` did. In a dry run ``removed`` is what would have been removed."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": report.run_id,
        "layer": report.layer,
        "sources": [visible(source) for source in report.sources],
        "dry_run": report.dry_run,
        "complete": report.complete,
        "stopped": report.stopped,
        "records": report.records,
        "channels": report.channels,
        "groups_scanned": report.groups_scanned,
        "members_scanned": report.members_scanned,
        "removed": report.removed,
        "kept": report.kept,
        "processes": [{"process": one.process, "removed": one.removed} for one in report.processes],
        "resumed_from": report.resumed_from,
        "position": report.position,
        "duration_seconds": round(report.duration_seconds, 3),
        "notes": [*([report.not_applicable] if report.not_applicable else []), *report.notes],
        **reading_record(report.reading),
    }


def emit_document(report: EmitReport) -> dict[str, Any]:
    """What ``replay_disconnects --emit`` sent."""
    return {
        "schema_version": SCHEMA_VERSION,
        "layer": report.layer,
        "target": visible(report.target),
        "kind": report.kind,
        "members": report.members,
        "dry_run": report.dry_run,
        "complete": report.complete,
        "records": report.records,
        "reaped_later": report.reaped_later,
        "sent": report.sent,
        "undelivered": report.undelivered,
        "unreadable": report.unreadable,
        "problems": list(report.problems),
    }


def reading_record(reading: Reading) -> dict[str, Any]:
    """How reading the sources went."""
    return {
        "entries": reading.entries,
        "unreadable": reading.unreadable,
        "unreadable_samples": [visible(sample) for sample in reading.samples],
        "not_understood": reading.not_understood,
        "json_lines": reading.json_read,
        "json_not_understood": reading.json_unknown,
        "unproved": reading.unproved,
        "still_open": reading.still_open,
        "problems": list(reading.problems),
    }


def _table(table: Table, name: str) -> dict[str, Any]:
    return {"rows": [_row(row, name) for row in table.rows], "other": table.other}


def _row(row: Row, name: str) -> dict[str, Any]:
    record: dict[str, Any] = {name: int(row.name) if name == "code" else visible(row.name), "count": row.count}
    if row.meaning:
        record["meaning"] = row.meaning
    if name == "path":
        record["not_ordinary"] = row.bad
    return record
