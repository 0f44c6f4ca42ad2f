"""What an earlier run remembers of a silent process, and what that is worth now."""

from collections.abc import Mapping
from dataclasses import dataclass

from ops.model.liveness.evidence import Evidence, JoinedSince, SuspectedBefore
from ops.model.liveness.judge import State, Verdict

SUSPICION_LIFETIME_ROUNDS = 3
SUSPICION_LIFETIME_FLOOR_SECONDS = 900.0
SEEN_LIVE_SECONDS = 3600.0


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


def suspicions_after(
    verdicts: Mapping[str, Verdict],
    recalls: Mapping[str, Recall],
    newest_joined_at: Mapping[str, float],
    *,
    now: float,
    epoch: str,
) -> dict[str, Suspicion]:
    """Process -> the suspicion to remember: which are silent, and since when.

    ``recalls``: what earlier suspicions were worth in this round. ``newest_joined_at``: process -> its newest join.
    The suspicion of a process that was not asked in this round is kept as it was: neither renewed nor void.
    """
    after: dict[str, Suspicion] = {}
    for process, verdict in verdicts.items():
        if verdict.state in (State.SUSPECT, State.DEAD):
            earlier = recalls.get(process)
            counts = earlier is not None and not earlier.void
            if verdict.is_silent:
                since = earlier.suspicion.since if earlier and counts else now
                after[process] = Suspicion(process, since, now, epoch, newest_joined_at[process])
            elif earlier and counts:
                after[process] = earlier.suspicion
    return after


def seen_live_after(seen_live: Mapping[str, float], verdicts: Mapping[str, Verdict], now: float) -> dict[str, float]:
    """Process -> when a run last saw it live, with what this round saw. Those without members are kept for an hour."""
    after = {
        process: when for process, when in seen_live.items() if process in verdicts or now - when <= SEEN_LIVE_SECONDS
    }
    after.update((process, now) for process, verdict in verdicts.items() if verdict.state is State.LIVE)
    return after
