"""Reports in a line, for logs."""

from ops.model.runs import ReapReport
from ops.model.text import counted


def reap_line(report: ReapReport) -> str:
    """What a run of ``reap_stale`` did, or why it removed nothing."""
    if report.not_applicable:
        return report.not_applicable
    if report.stopped:
        return f"nothing was removed, safety stop: {report.stopped}"
    removed = f"{report.removed:,} removed" if not report.dry_run else f"{report.removed:,} would be removed"
    parts = [f"{removed} of {counted(report.members_scanned, 'member')}", f"{report.suspects:,} under suspicion"]
    if report.kept:
        parts.append(f"{report.kept:,} kept")
    if report.removed and not report.dry_run:
        parts.append(f"run {report.run_id}")
    if not report.complete:
        parts = [report.notes[0] if report.notes else "a shard did not answer", *(parts if report.removed else ())]
    return ", ".join(parts)
