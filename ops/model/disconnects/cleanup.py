"""What a clean-up after recorded ends did."""

from dataclasses import dataclass

from ops.model.disconnects.report.report import Reading


@dataclass(frozen=True, slots=True)
class CleanedProcess:
    """How many memberships of its channels went."""

    process: str
    removed: int


@dataclass(frozen=True, slots=True)
class CleanupReport:
    """``run_id``: for ``reap_stale --undo``; None where nothing was to be removed. ``channels``: whose end is proved.

    ``kept``: memberships that were found and stayed: the channel joined after its recorded end, or has just left.
    ``not_applicable``: why there is nothing to clean up on a layer of this kind. ``stopped``: why the run ended before
    it had removed everything.
    ``position``: the entry of the log in Redis up to which the clean-up came; None where files were read.
    """

    layer: str
    sources: tuple[str, ...]
    dry_run: bool
    complete: bool
    run_id: str | None
    records: int
    channels: int
    groups_scanned: int
    members_scanned: int
    removed: int
    kept: int
    processes: tuple[CleanedProcess, ...]
    resumed_from: str | None
    position: str | None
    reading: Reading
    duration_seconds: float
    stopped: str | None = None
    notes: tuple[str, ...] = ()
    not_applicable: str | None = None
