"""From evidence to a verdict. Pure: no clock, no I/O.

The rule, in this order:

1. Any sign of life, and the process is live.
2. Its own word that it left: dead.
3. Silence now, and silence that began at least ``confirm_after_seconds`` ago: dead. If it is not certain that the
   silence was unbroken, it takes a third look: SURE_LOOKS earlier ones.
4. Silence now or in an earlier round: suspect.
5. Otherwise: unknown.

Silence alone never kills: a blocked event loop is silent too. Age is no evidence at all.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from ops.model.liveness.evidence import Bearing, Evidence, LeaseLapsed, SuspectedBefore


class State(str, Enum):
    """The state of a process. A member has that of its process, a dead process's members being orphans."""

    LIVE = "live"
    SUSPECT = "suspect"
    DEAD = "dead"
    UNKNOWN = "unknown"

    @property
    def of_members(self) -> str:
        return "orphan" if self is State.DEAD else self.value


SURE_LOOKS = 2
"""How many silent looks before this one replace the certainty that the silence was unbroken."""

MEMBER_STATES = ("live", "suspect", "orphan", "unknown")


@dataclass(frozen=True, slots=True)
class Policy:
    """How much silence it takes."""

    confirm_after_seconds: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """A state and all the evidence that it was reached from."""

    state: State
    evidence: tuple[Evidence, ...]

    @property
    def words(self) -> list[str]:
        return [fact.words for fact in self.evidence]

    @property
    def is_silent(self) -> bool:
        """Whether it was asked in this round and gave no sign of life, or said itself that it has left."""
        bearings = {fact.bearing for fact in self.evidence}
        return self.state is not State.LIVE and bool(bearings & {Bearing.SILENCE, Bearing.DEATH})


def judge(evidence: Iterable[Evidence], policy: Policy) -> Verdict:
    """The verdict on one process."""
    facts = tuple(evidence)
    bearings = {fact.bearing for fact in facts}
    if Bearing.LIFE in bearings:
        return Verdict(State.LIVE, facts)
    if Bearing.DEATH in bearings:
        return Verdict(State.DEAD, facts)
    if Bearing.SILENCE in bearings and any(_confirms(fact, policy) for fact in facts):
        return Verdict(State.DEAD, facts)
    if bearings & {Bearing.SILENCE, Bearing.EARLIER_SILENCE}:
        return Verdict(State.SUSPECT, facts)
    return Verdict(State.UNKNOWN, facts)


def _confirms(fact: Evidence, policy: Policy) -> bool:
    """Whether ``fact`` shows a silence that began long enough ago."""
    if isinstance(fact, SuspectedBefore) and not (fact.unbroken or fact.looks >= SURE_LOOKS):
        return False
    return isinstance(fact, (SuspectedBefore, LeaseLapsed)) and fact.seconds_ago >= policy.confirm_after_seconds
