"""The line that Nagios, Icinga and their kin read: one status, one sentence, performance data.

Format: https://www.monitoring-plugins.org/doc/guidelines.html
"""

from ops.model.groups import Inspection
from ops.model.liveness.evidence import ProbeWithheld
from ops.model.liveness.judge import State
from ops.model.text import counted

OK, WARNING, CRITICAL, UNKNOWN = 0, 1, 2, 3
_NAMES = {OK: "OK", WARNING: "WARNING", CRITICAL: "CRITICAL", UNKNOWN: "UNKNOWN"}


def plugin_result(inspection: Inspection, warning: int, critical: int | None) -> tuple[int, str]:
    """Exit code and line. Alerts when more than that many members do not answer, orphans and suspects together.

    Suspects count because only ``reap_stale`` turns them into orphans: without it, dead members stay suspects.
    """
    totals = inspection.totals
    silent = totals.orphan + totals.suspect
    withheld = _why_withheld(inspection)
    if not inspection.complete:
        code = UNKNOWN
        text = next((shard.problem for shard in inspection.shards if shard.problem), "a shard did not answer")
    elif withheld is not None:
        code, text = UNKNOWN, withheld
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


def _why_withheld(inspection: Inspection) -> str | None:
    """Why members could not be judged, if processes were not probed because they may not be able to read a probe."""
    unjudged = (one.verdict for one in inspection.processes if one.members and one.verdict.state is not State.DEAD)
    facts = (fact for verdict in unjudged for fact in verdict.evidence)
    return next((fact.words for fact in facts if isinstance(fact, ProbeWithheld)), None)


def plugin_line(code: int, text: str) -> str:
    """Without performance data, which would begin at the first ``|``: rules of Redis' ACLs have one."""
    return f"CHANNELS_GROUPS {_NAMES[code]} - {text.replace('|', '/')}"
