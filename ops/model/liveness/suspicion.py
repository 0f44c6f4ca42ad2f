"""Suspicions: the memory that earlier runs have of silent processes, and its worth now."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ops.model.liveness.evidence import (
    AliveSince,
    Evidence,
    InboxDrained,
    JoinedSince,
    LeaseFresh,
    ProbesTaken,
    SuspectedBefore,
)
from ops.model.liveness.judge import State, Verdict
from ops.model.liveness.moments import FUTURE_TOLERANCE_SECONDS, Moment, elapsed_seconds

SUSPICION_LIFETIME_ROUNDS = 3
SUSPICION_LIFETIME_FLOOR_SECONDS = 900.0
SEEN_LIVE_SECONDS = 3600.0
MOST_VANISHED = 5
"""After so many silent looks in a row whose markers were always taken, a process is reported."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A process that reap runs found silent.

    ``since``: when the first of the looks in a row that found it silent sent its probes; ``renewed``: the latest;
    ``looks``: how many these are. ``epoch``: which run of which Redis servers it was seen on. ``newest_joined_at``: the
    score of the member of that process which had joined last (application host's clock). ``marks``: how many markers
    the latest look left for the process, 0 if none, and in which ``inboxes``; ``evicted_keys``: how many keys the
    servers had evicted by then.
    ``vanished``: how many silent looks in a row found the markers of the look before taken.
    """

    process: str
    since: Moment
    renewed: Moment
    epoch: str
    newest_joined_at: float
    looks: int = 1
    marks: int = 0
    inboxes: tuple[str, ...] = ()
    evicted_keys: int = 0
    vanished: int = 0


@dataclass(frozen=True, slots=True)
class Signs:
    """The present signs of a process that an earlier run suspected.

    ``newest_joined_at``: its newest join. ``marks``: its markers that are still there, None if they were not counted.
    ``lease_renewed_at``: unix seconds by the first shard's clock, None without a lease.
    """

    newest_joined_at: float
    marks: int | None = None
    lease_renewed_at: float | None = None


@dataclass(frozen=True, slots=True)
class Recall:
    """The worth of an earlier suspicion now: the evidence in it, and whether it counts at all.

    It is ``void`` if it does not, ``restarted`` if that is because Redis restarted or failed over since, and
    ``took_marker`` if that is because the process took what was left for it.
    """

    suspicion: Suspicion
    evidence: tuple[Evidence, ...]
    void: bool = False
    restarted: bool = False
    took_marker: bool = False

    @property
    def marks(self) -> int:
        """The markers that tell that its process was not alive in between; 0 if none do."""
        told = any(isinstance(one, SuspectedBefore) and one.unbroken for one in self.evidence)
        return self.suspicion.marks if told else 0


def suspicion_lifetime_seconds(confirm_after_seconds: float) -> float:
    """For how long a suspicion that no run renewed still counts.

    Two silences far apart are two coincidences (a nightly job that blocks the loop for a minute), not one death.
    """
    return max(SUSPICION_LIFETIME_FLOOR_SECONDS, SUSPICION_LIFETIME_ROUNDS * confirm_after_seconds)


def recall(
    suspicion: Suspicion,
    signs: Signs,
    *,
    now: Moment,
    epoch: str,
    evicted_keys: int,
    confirm_after_seconds: float,
) -> Recall:
    """Weigh an earlier ``suspicion`` against what is known now."""
    if signs.newest_joined_at > suspicion.newest_joined_at:
        sign = JoinedSince(max(0.0, signs.newest_joined_at - suspicion.since.redis))
        return Recall(suspicion, (sign,), void=True)
    if _is_between(suspicion.renewed, signs.lease_renewed_at, now):
        return Recall(suspicion, (AliveSince("renewed its lease"),), void=True)
    if suspicion.epoch != epoch:
        return Recall(suspicion, (), void=True, restarted=True)
    ago, renewed_ago = elapsed_seconds(suspicion.since, now), elapsed_seconds(suspicion.renewed, now)
    if ago is None or renewed_ago is None or renewed_ago > suspicion_lifetime_seconds(confirm_after_seconds):
        return Recall(suspicion, (), void=True)
    unbroken = bool(suspicion.marks) and signs.marks is not None and signs.marks >= suspicion.marks
    if suspicion.marks and not unbroken and signs.marks is not None and evicted_keys == suspicion.evicted_keys:
        return Recall(suspicion, (AliveSince("took the marker that was left for it"),), void=True, took_marker=True)
    return Recall(suspicion, (SuspectedBefore(ago, suspicion.looks, unbroken),))


def _is_between(then: Moment, at: float | None, now: Moment) -> bool:
    """True if ``at`` (unix seconds by the first shard's clock) came after ``then``, and not in the future."""
    return at is not None and then.redis < at <= now.redis + FUTURE_TOLERANCE_SECONDS


def suspicions_after(
    verdicts: Mapping[str, Verdict],
    recalls: Mapping[str, Recall],
    newest_joined_at: Mapping[str, float],
    *,
    now: Moment,
    epoch: str,
    evicted_keys: int,
) -> dict[str, Suspicion]:
    """Process -> the suspicion to remember: which are silent, and since when. Markers are left for them later.

    ``recalls``: what earlier suspicions were worth in this round. ``newest_joined_at``: process -> its newest join.
    The suspicion of a process that was not asked in this round is kept as it was: neither renewed nor void.
    """
    after: dict[str, Suspicion] = {}
    for process, verdict in verdicts.items():
        if verdict.state not in (State.SUSPECT, State.DEAD):
            continue
        earlier = recalls.get(process)
        goes_on = earlier is not None and not earlier.void
        if earlier is not None and goes_on and not verdict.is_silent:
            after[process] = earlier.suspicion
        if not verdict.is_silent:
            continue
        after[process] = Suspicion(
            process,
            since=earlier.suspicion.since if earlier is not None and goes_on else now,
            renewed=now,
            epoch=epoch,
            newest_joined_at=newest_joined_at[process],
            looks=earlier.suspicion.looks + 1 if earlier is not None and goes_on else 1,
            evicted_keys=evicted_keys,
            vanished=earlier.suspicion.vanished + 1 if earlier is not None and earlier.took_marker else 0,
        )
    return after


def came_back(wanted: Mapping[str, int], marks: Mapping[str, int]) -> set[str]:
    """The silent processes that have lost markers since these were counted. ``wanted``: how many each had then;
    ``marks``: the number left now.

    The server may have evicted one, but that cannot be told from a process that came back.
    """
    return {process for process, number in wanted.items() if marks.get(process, 0) < number}


def begun_anew(suspicion: Suspicion) -> Suspicion:
    """The suspicion of a process that gave a sign of life while it was looked at, and may be silent from now on."""
    return replace(suspicion, since=suspicion.renewed, looks=1)


def always_back(suspicions: Mapping[str, Suspicion]) -> list[str]:
    """Processes that are silent at every look and yet take their marker between all of them."""
    return [process for process, suspicion in suspicions.items() if suspicion.vanished >= MOST_VANISHED]


def seen_live_after(seen_live: Mapping[str, float], verdicts: Mapping[str, Verdict], now: float) -> dict[str, float]:
    """Process -> when a run last saw it live, with what this round saw. Those without members are kept for an hour."""
    after = {
        process: when for process, when in seen_live.items() if process in verdicts or now - when <= SEEN_LIVE_SECONDS
    }
    after.update((process, _was_live_at(verdict, now)) for process, verdict in _live(verdicts).items())
    return after


def sees_a_new_process(seen_live: Mapping[str, float], verdicts: Mapping[str, Verdict]) -> bool:
    """True if a live process was never seen live before, and others were."""
    return bool(seen_live) and any(process not in seen_live for process in _live(verdicts))


def _live(verdicts: Mapping[str, Verdict]) -> dict[str, Verdict]:
    return {process: verdict for process, verdict in verdicts.items() if verdict.state is State.LIVE}


def _was_live_at(verdict: Verdict, now: float) -> float:
    """A fresh lease says when it was renewed; what took probes has just been live."""
    renewed = [fact.seconds_ago for fact in verdict.evidence if isinstance(fact, LeaseFresh)]
    asked = any(isinstance(fact, (ProbesTaken, InboxDrained)) for fact in verdict.evidence)
    return now if asked else now - min(renewed, default=0.0)
