"""The line that Nagios, Icinga and their kin read: one status, one sentence, performance data.

Format: https://www.monitoring-plugins.org/doc/guidelines.html
"""

from ops.model.groups import Inspection
from ops.model.text import counted

OK, WARNING, CRITICAL, UNKNOWN = 0, 1, 2, 3
_NAMES = {OK: "OK", WARNING: "WARNING", CRITICAL: "CRITICAL", UNKNOWN: "UNKNOWN"}


def plugin_result(inspection: Inspection, warning: int, critical: int | None) -> tuple[int, str]:
    """Exit code and line. Alerts when more than that many members do not answer, orphans and suspects together.

    Suspects count because only ``reap_stale`` turns them into orphans: without it, dead members stay suspects.
    """
    totals = inspection.totals
    silent = totals.orphan + totals.suspect
    if not inspection.complete:
        code = UNKNOWN
        text = next((shard.problem for shard in inspection.shards if shard.problem), "a shard did not answer")
    else:
        code = CRITICAL if critical is not None and silent > critical else WARNING if silent > warning else OK
        text = (
            f"{counted(totals.orphan, 'orphan')} and {counted(totals.suspect, 'suspect')} among "
            f"{counted(totals.members, 'member')} of {counted(inspection.total_groups, 'group')}"
        )
    limits = f"{warning};{'' if critical is None else critical};0;"
    figures = (
        f"silent={silent};{limits} orphans={totals.orphan} suspects={totals.suspect} members={totals.members} "
        f"groups={inspection.total_groups} processes={len(inspection.processes)}"
    )
    return code, f"{plugin_line(code, text)} | {figures}"


def plugin_line(code: int, text: str) -> str:
    """Without performance data, which would begin at the first ``|``: rules of Redis' ACLs have one."""
    return f"CHANNELS_GROUPS {_NAMES[code]} - {text.replace('|', '/')}"
