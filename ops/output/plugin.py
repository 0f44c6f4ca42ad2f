"""The line that Nagios, Icinga and their kin read: one status, one sentence, performance data.

Format: https://www.monitoring-plugins.org/doc/guidelines.html
"""

from ops.model.groups import Inspection
from ops.model.liveness.evidence import ProbeWithheld
from ops.model.liveness.judge import State, Verdict
from ops.model.text import counted

OK, WARNING, CRITICAL, UNKNOWN = 0, 1, 2, 3
_NAMES = {OK: "OK", WARNING: "WARNING", CRITICAL: "CRITICAL", UNKNOWN: "UNKNOWN"}


def plugin_result(inspection: Inspection, warning: int, critical: int | None) -> tuple[int, str]:
    """Exit code and line. Alerts when more than that many members do not answer, orphans and suspects together.

    Suspects count because only ``reap_stale`` turns them into orphans: without it, dead members stay suspects.
    """
    totals = inspection.totals
    silent = totals.orphan + totals.suspect
    unjudged = _not_judged(inspection)
    if not inspection.complete:
        code = UNKNOWN
        text = next((shard.problem for shard in inspection.shards if shard.problem), "a shard did not answer")
    else:
        code = CRITICAL if critical is not None and silent > critical else WARNING if silent > warning else OK
        text = (
            f"{counted(totals.orphan, 'orphan')} and {counted(totals.suspect, 'suspect')} among "
            f"{counted(totals.members, 'member')} of {counted(inspection.total_groups, 'group')}"
        )
        if unjudged is not None:
            code, text = (code, f"{text}; {unjudged}") if code else (UNKNOWN, f"{unjudged}; {text}")
    return code, f"{plugin_line(code, text)} | {_figures(inspection, f'{warning};{_limit(critical)};0;')}"


def _limit(number: int | None) -> str:
    return "" if number is None else str(number)


def _figures(inspection: Inspection, limits: str) -> str:
    """Performance data. ``U``, as the guidelines have it, if not everything was read."""
    totals = inspection.totals
    figures = {
        "silent": totals.orphan + totals.suspect,
        "orphans": totals.orphan,
        "suspects": totals.suspect,
        "members": totals.members,
        "groups": inspection.total_groups,
        "processes": len(inspection.processes),
    }
    parts = [f"{name}={number if inspection.complete else 'U'}" for name, number in figures.items()]
    return " ".join([f"{parts[0]};{limits}", *parts[1:]])


def _not_judged(inspection: Inspection) -> str | None:
    """How many members could not be judged, and why; None if all were, but for channels without a process."""
    unjudged = [one for one in inspection.processes if one.members and _is_in_doubt(one.verdict)]
    if not unjudged:
        return None
    members = counted(sum(one.members for one in unjudged), "member")
    why = "; ".join(unjudged[0].verdict.words)
    return f"{members} of {counted(len(unjudged), 'process', 'processes')} could not be judged: {why}"


def _is_in_doubt(verdict: Verdict) -> bool:
    withheld = any(isinstance(fact, ProbeWithheld) for fact in verdict.evidence)
    return verdict.state is State.UNKNOWN or (withheld and verdict.state is not State.DEAD)


def plugin_line(code: int, text: str) -> str:
    """Without performance data, which would begin at the first ``|``: rules of Redis' ACLs have one."""
    return f"CHANNELS_GROUPS {_NAMES[code]} - {text.replace('|', '/')}"
