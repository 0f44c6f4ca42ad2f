"""What ``channels_doctor`` found, for a terminal: each finding with its evidence and its fix."""

from collections import defaultdict
from collections.abc import Iterable

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from ops.model.doctor.diagnosis import Check, Diagnosis
from ops.model.doctor.findings import Finding, Skipped
from ops.model.text import counted
from ops.output.tables import GAP, make_table

LEVEL_STYLES = {"error": "bold red", "warning": "bold yellow", "info": "bold cyan"}


def diagnosis_report(diagnosis: Diagnosis) -> RenderableType:
    """The answer of ``channels_doctor``."""
    parts: list[RenderableType] = []
    for finding in diagnosis.findings:
        parts.extend([_finding(finding), GAP])
    parts.extend(_skipped(diagnosis.skipped))
    parts.append(_conclusion(diagnosis))
    return Stack(*parts)


def _finding(finding: Finding) -> RenderableType:
    style = LEVEL_STYLES[finding.level]
    title = Text.assemble((finding.level, style), f"  {finding.title}  ", (finding.id, "dim"))
    evidence = [Padding(Text(f"- {words}"), (0, 0, 0, 2), expand=False) for words in finding.evidence]
    return Stack(title, *evidence, Padding(Text.assemble(("Fix: ", "bold"), finding.fix), (0, 0, 0, 2), expand=False))


def _skipped(skipped: Iterable[Skipped]) -> list[RenderableType]:
    """Checks that were skipped for the same reason in one line."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for one in skipped:
        by_reason[one.why].append(one.id)
    lines = [Text(f"Skipped {', '.join(ids)}: {why}", style="dim") for why, ids in by_reason.items()]
    return [*lines, GAP] if lines else []


def _conclusion(diagnosis: Diagnosis) -> Text:
    where = f"Layer {diagnosis.layer!r}"
    if diagnosis.findings:
        return Text(f"{where}: {counted(len(diagnosis.findings), 'finding')}, the likely cause first.")
    if not diagnosis.complete:
        return Text(f"{where}: nothing found, but not all of it could be examined.")
    checked = f", {counted(len(diagnosis.skipped), 'check')} skipped" if diagnosis.skipped else ""
    return Text(f"{where}: nothing found{checked}.", style="green")


def checks_table(checks: Iterable[Check]) -> RenderableType:
    """The answer of ``channels_doctor --list``."""
    table = make_table("Id", "Level", "Finding", wide="Finding")
    for check in checks:
        table.add_row(check.id, Text(check.level, style=LEVEL_STYLES[check.level]), check.title)
    return table
