"""What runs of the reaper report: what each found, removed, and put back."""

from dataclasses import dataclass, field

from ops.model.liveness.lease import Lease


@dataclass(frozen=True, slots=True)
class ReapedProcess:
    """What a run concluded about one process, and how many of its members it removed (or would, in a dry run)."""

    process: str
    state: str
    members: int
    removed: int
    evidence: tuple[str, ...]
    lease: Lease | None = None


@dataclass(frozen=True, slots=True)
class Leftover:
    """A key of a dead process that nothing else would clean: ``kind`` is ``inbox`` or ``inflight``."""

    key: str
    shard: int
    kind: str
    process: str
    messages: int


@dataclass(frozen=True, slots=True)
class ReapReport:
    """What one run of ``reap_stale`` found and did. Times are unix seconds.

    ``findings``: what needs a person, beside a stop. ``not_applicable``: why a layer of this kind has nothing to reap;
    ``run_id`` and the times are None then.
    """

    run_id: str | None
    layer: str
    dry_run: bool
    complete: bool
    stopped: str | None
    groups_scanned: int
    members_scanned: int
    suspects: int
    removed: int
    kept: int
    processes: tuple[ReapedProcess, ...]
    started_at: float | None
    finished_at: float | None
    duration_seconds: float
    leftovers: tuple[Leftover, ...] = ()
    notes: tuple[str, ...] = ()
    orphans: int = 0
    findings: tuple[str, ...] = ()
    not_applicable: str | None = None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run in the history. ``state``: ``done``, ``interrupted`` (no end was recorded) or ``undone``.

    ``takes_leases``: it deleted the leases of those whose members it removed. ``cleaned``: the entry of the disconnect
    log up to which clean-ups had come when it began.
    """

    run_id: str
    started_at: float
    state: str
    removed: int
    processes: int
    set_aside: int = 0
    expires_at: float | None = None
    undone_at: float | None = None
    match: str | None = None
    takes_leases: bool = False
    cleaned: str | None = None


@dataclass(frozen=True, slots=True)
class UndoReport:
    """What ``--undo`` put back."""

    undone_run_id: str
    restored: int
    already_present: int
    keys_restored: int = 0
    notes: tuple[str, ...] = field(default=())
