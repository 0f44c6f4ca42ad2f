"""From verdicts to what may be removed, and the safety stops. Pure: no clock, no I/O."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ops.model.evidence import Evidence, JoinedSince, SuspectedBefore, format_seconds
from ops.model.liveness import State, Verdict

SUSPICION_LIFETIME_ROUNDS = 3
SUSPICION_LIFETIME_FLOOR_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Suspicion:
    """That a reap run found a process silent. Times are unix seconds by the first shard's clock.

    ``since``: when the first of the rounds in a row that found it silent sent its probes; ``renewed_at``: the latest.
    ``epoch``: which run of which Redis servers it was seen on. ``newest_joined_at``: the score of the member of that
    process which had joined last (application host's clock).
    """

    process: str
    since: float
    renewed_at: float
    epoch: str
    newest_joined_at: float


@dataclass(frozen=True, slots=True)
class Recall:
    """What an earlier suspicion is worth now: the evidence in it, and whether it counts at all.

    It is ``void`` where it does not, and ``restarted`` where that is because Redis restarted or failed over since.
    """

    suspicion: Suspicion
    evidence: tuple[Evidence, ...]
    void: bool = False
    restarted: bool = False


def suspicion_lifetime_seconds(confirm_after_seconds: float) -> float:
    """For how long a suspicion that no run renewed still counts.

    Two silences far apart are two coincidences (a nightly job that blocks the loop for a minute), not one death.
    """
    return max(SUSPICION_LIFETIME_FLOOR_SECONDS, SUSPICION_LIFETIME_ROUNDS * confirm_after_seconds)


def recall(
    suspicion: Suspicion, *, now: float, epoch: str, newest_joined_at: float, confirm_after_seconds: float
) -> Recall:
    """Weigh an earlier ``suspicion`` against what is known now."""
    if newest_joined_at > suspicion.newest_joined_at:
        sign = JoinedSince(max(0.0, newest_joined_at - suspicion.since))
        return Recall(suspicion, (sign,), void=True)
    if suspicion.epoch != epoch:
        return Recall(suspicion, (), void=True, restarted=True)
    if now - suspicion.renewed_at > suspicion_lifetime_seconds(confirm_after_seconds):
        return Recall(suspicion, (), void=True)
    return Recall(suspicion, (SuspectedBefore(max(0.0, now - suspicion.since)),))


@dataclass(frozen=True, slots=True)
class Control:
    """How the reaper's own receiver on one shard fared. ``round_trip_ms`` is None when its probe was not taken."""

    shard: int
    round_trip_ms: float | None


@dataclass(frozen=True, slots=True)
class ReapPlan:
    """Whose members to remove, or why nothing may be removed now (``stopped``).

    ``control_failed``: the reaper could not trust its own probes, so nothing that it saw is worth remembering.
    """

    dead: frozenset[str]
    stopped: str | None = None
    control_failed: bool = False


def plan_reap(
    verdicts: Mapping[str, Verdict],
    *,
    controls: Collection[Control],
    probe_timeout_seconds: float,
    voided_by_restart: Collection[str],
    seen_live: Collection[str],
    max_share: float,
) -> ReapPlan:
    """Decide which processes' members may go.

    ``voided_by_restart``: processes that were silent twice, but with a restart of Redis in between.
    ``seen_live``: processes that an earlier run saw live. Only they can have gone silent *now*: a process that was
    dead before the first run looked says nothing about the health of the fleet.
    """
    silent = {process for process, verdict in verdicts.items() if verdict.state in (State.DEAD, State.SUSPECT)}
    dead = frozenset(process for process, verdict in verdicts.items() if verdict.state is State.DEAD)
    control_failed = check_control(controls, probe_timeout_seconds) if silent else None
    stopped = control_failed or check_restart(voided_by_restart) or check_share(dead, verdicts, seen_live, max_share)
    return ReapPlan(frozenset() if stopped else dead, stopped, control_failed is not None)


def check_control(controls: Collection[Control], probe_timeout_seconds: float) -> str | None:
    """The reaper's own receiver must answer like a healthy process, or silence proves nothing."""
    for control in controls:
        if control.round_trip_ms is None:
            return (
                f"control: the reaper's own probe on shard {control.shard} was not taken within "
                f"{format_seconds(probe_timeout_seconds)}, so the silence of others proves nothing"
            )
        if control.round_trip_ms > probe_timeout_seconds * 500:
            return (
                f"control: the reaper's own probe on shard {control.shard} took {control.round_trip_ms:.0f} ms, more "
                f"than half of the probe timeout; use a longer --probe-timeout"
            )
    return None


def check_restart(voided: Collection[str]) -> str | None:
    """A restart or failover may have dropped a live process's connection: it gets a whole confirm time again."""
    if not voided:
        return None
    return (
        f"restart: Redis restarted or failed over since {len(voided)} silent "
        f"{'process was' if len(voided) == 1 else 'processes were'} first suspected; the confirm time starts again"
    )


def check_share(
    dead: Collection[str], verdicts: Mapping[str, Verdict], seen_live: Collection[str], max_share: float
) -> str | None:
    """Much of a fleet that goes silent at once has a common cause, such as a cut network, more often than it is dead.

    It takes at least two: one process alone cannot tell a common cause from a death of its own.
    """
    went_silent = [process for process in dead if process in seen_live]
    live = sum(verdict.state is State.LIVE for verdict in verdicts.values())
    fleet = len(went_silent) + live
    if len(went_silent) < 2 or len(went_silent) <= max_share * fleet:
        return None
    return (
        f"share: {len(went_silent)} of {fleet} processes that were live went silent at once, more than --max-share "
        f"{max_share:g} allows; if they are known to be gone, run once with --max-share 1"
    )


@dataclass(frozen=True, slots=True)
class ReapedProcess:
    """What a run concluded about one process, and how many of its members it removed (or would, in a dry run)."""

    process: str
    state: str
    members: int
    removed: int
    evidence: tuple[str, ...]


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
    """What one run of ``reap_stale`` found and did. Times are unix seconds."""

    run_id: str
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
    started_at: float
    finished_at: float
    duration_seconds: float
    leftovers: tuple[Leftover, ...] = ()
    notes: tuple[str, ...] = ()
    orphans: int = 0


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run in the history. ``state``: ``done``, ``interrupted`` (no end was recorded) or ``undone``.

    ``takes_leases``: it deleted the leases of those whose members it removed.
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


@dataclass(frozen=True, slots=True)
class UndoReport:
    """What ``--undo`` put back."""

    undone_run_id: str
    restored: int
    already_present: int
    keys_restored: int = 0
    notes: tuple[str, ...] = field(default=())
