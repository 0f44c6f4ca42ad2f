"""What follows from the facts: a pure ``check_<subject>`` for each finding."""

from dataclasses import dataclass

LEVELS = ("info", "warning", "error")
_LEVEL_OF = {"I": "info", "W": "warning", "E": "error"}


@dataclass(frozen=True, slots=True)
class Symptom:
    """What a check found: ``evidence``, each with numbers of this system, and the setting or command that fixes it."""

    evidence: tuple[str, ...]
    fix: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A symptom with its name. The letter of ``id`` is its level; docs/findings.md has a section for each id."""

    id: str
    title: str
    evidence: tuple[str, ...]
    fix: str

    @property
    def level(self) -> str:
        return level_of(self.id)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A check that could not be made, and why."""

    id: str
    why: str


def level_of(finding_id: str) -> str:
    """``warning`` of ``ops.W202``."""
    return _LEVEL_OF[finding_id.partition(".")[2][0]]


def symptom(evidence: list[str], fix: str) -> Symptom | None:
    """A symptom where there is evidence; None where there is none."""
    return Symptom(tuple(evidence), fix) if evidence else None
