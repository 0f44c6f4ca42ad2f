"""Reports in a line, for logs."""

from ops.model.runs import ReapReport
from ops.model.text import counted


def safety_stop(reason: str, removed: int, run_id: str | None) -> str:
    """Why a run stopped, and what it had removed by then."""
    went = f"{counted(removed, 'member')} had been removed by then (run {run_id})" if removed else "nothing was removed"
    return f"safety stop: {reason}; {went}"


def reap_line(report: ReapReport) -> str:
    """What a run of ``reap_stale`` did, or why it removed nothing."""
    if report.not_applicable:
        return report.not_applicable
    if report.stopped:
        return safety_stop(report.stopped, report.removed, report.run_id)
    removed = f"{report.removed:,} removed" if not report.dry_run else f"{report.removed:,} would be removed"
    parts = [f"{removed} of {counted(report.members_scanned, 'member')}", f"{report.suspects:,} under suspicion"]
    if report.kept:
        parts.append(f"{report.kept:,} kept")
    if report.removed and not report.dry_run:
        parts.append(f"run {report.run_id}")
    if not report.complete:
        parts = [report.notes[0] if report.notes else "a shard did not answer", *(parts if report.removed else ())]
    return ", ".join(parts)
