"""How long a judgement holds while members are removed by it, and what ends a run before it is through."""

from collections.abc import Collection

JUDGEMENT_SECONDS = 30.0
"""After that long the script removes nothing by it."""

RENEW_AFTER_SECONDS = 10.0

TOO_OLD = (
    f"judgement: it was more than {JUDGEMENT_SECONDS:g} s old when a removal reached Redis, because this run or its "
    f"connection stood still; the next run judges again"
)


def is_due(age_seconds: float) -> bool:
    """Whether a judgement that was made or renewed ``age_seconds`` ago has to be renewed before more goes by it."""
    return age_seconds >= RENEW_AFTER_SECONDS


def check_renewal(*, run_is_undone: bool, lock_is_ours: bool) -> str | None:
    """Why the run may remove nothing more, whatever the evidence says now: it is over, or no longer alone."""
    if run_is_undone:
        return "undone: this run was undone before it had removed everything"
    if not lock_is_ours:
        return (
            "lock: this run lost its lock, because it stood still or Redis dropped the key; another run may be at "
            "work, and the next one judges again"
        )
    return None


def check_came_back(processes: Collection[str]) -> str | None:
    """A process that gives a sign of life while its members go shows that the judgement was wrong."""
    if not processes:
        return None
    return f"judgement: process {min(processes)} came back while members were removed; the next run judges again"
