"""What was observed about a process or a member: one frozen dataclass per kind. They state facts, never conclusions.

``words`` says the fact so that a person can check it. ``bearing`` says which way the fact points; what follows from
all facts together is decided in :mod:`ops.model.liveness.judge` alone.
"""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from ops.model.text import format_seconds


class Bearing(Enum):
    """Which way a fact points."""

    LIFE = "a sign of life"
    SILENCE = "no sign of life when one was asked for"
    EARLIER_SILENCE = "silence in an earlier round"
    DEATH = "proof of its end"
    NONE = "tells nothing either way"


@dataclass(frozen=True, slots=True)
class Evidence:
    """A fact about a process or a member."""

    bearing: ClassVar[Bearing]

    @property
    def words(self) -> str:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class ProbesTaken(Evidence):
    """The process took a probe that was sent after it had taken an earlier one."""

    bearing = Bearing.LIFE
    round_trip_ms: float

    @property
    def words(self) -> str:
        return f"took two probes in a row, the second within {self.round_trip_ms:.1f} ms"


@dataclass(frozen=True, slots=True)
class InboxDrained(Evidence):
    """Messages left a full inbox twice, one after the other, before they could have expired."""

    bearing = Bearing.LIFE
    messages: int

    @property
    def words(self) -> str:
        return f"inbox is full ({self.messages} messages) but is being drained"


@dataclass(frozen=True, slots=True)
class JoinedSince(Evidence):
    """A channel of the process joined a group after the process had been suspected: that suspicion is void.

    It lived then, which says nothing about now.
    """

    bearing = Bearing.NONE
    seconds_after_suspicion: float

    @property
    def words(self) -> str:
        return f"joined a group {format_seconds(self.seconds_after_suspicion)} after it was suspected"


@dataclass(frozen=True, slots=True)
class ProbeUnanswered(Evidence):
    """The process took no probe, or only the first, which Redis hands to a connection that was already waiting."""

    bearing = Bearing.SILENCE
    waited_seconds: float
    taken: int

    @property
    def words(self) -> str:
        waited = format_seconds(self.waited_seconds)
        if self.taken:
            return f"took a first probe but no second within {waited}, as a frozen process does"
        return f"took no probe within {waited}"


@dataclass(frozen=True, slots=True)
class InboxStuck(Evidence):
    """The inbox is at capacity and nothing left it while it was watched, so no probe was put there."""

    bearing = Bearing.SILENCE
    messages: int
    oldest_age_seconds: float
    waited_seconds: float

    @property
    def words(self) -> str:
        return (
            f"inbox is full ({self.messages} messages, the oldest {format_seconds(self.oldest_age_seconds)} old) and "
            f"nothing left it within {format_seconds(self.waited_seconds)}"
        )


@dataclass(frozen=True, slots=True)
class SuspectedBefore(Evidence):
    """Earlier runs found the process silent: ``looks`` in a row, the first ``seconds_ago``. None saw it live since.

    ``unbroken``: it cannot have been alive in between, because it did not take the marker that was left for it.
    """

    bearing = Bearing.EARLIER_SILENCE
    seconds_ago: float
    looks: int = 1
    unbroken: bool = False

    @property
    def words(self) -> str:
        said = f"was already silent {format_seconds(self.seconds_ago)} ago"
        return f"{said}, and ever since" if self.unbroken else said


@dataclass(frozen=True, slots=True)
class AliveSince(Evidence):
    """The process gave a sign of life after it had been suspected: that suspicion is void.

    It lived then, which says nothing about now.
    """

    bearing = Bearing.NONE
    sign: str

    @property
    def words(self) -> str:
        return f"was alive after it was suspected: it {self.sign}"


@dataclass(frozen=True, slots=True)
class LeaseFresh(Evidence):
    """The process renewed its lease within the lease's time. ``late_seconds``: since when the next renewal is due."""

    bearing = Bearing.LIFE
    seconds_ago: float
    holder: str
    late_seconds: float = 0.0

    @property
    def words(self) -> str:
        late = f", {format_seconds(self.late_seconds)} late" if self.late_seconds > 0 else ""
        return f"renewed its lease {format_seconds(self.seconds_ago)} ago{late} ({self.holder})"


@dataclass(frozen=True, slots=True)
class LeaseLapsed(Evidence):
    """The process has not renewed its lease for ``seconds_ago``, in all of which Redis was there to be asked."""

    bearing = Bearing.EARLIER_SILENCE
    seconds_ago: float
    holder: str

    @property
    def words(self) -> str:
        return f"let its lease lapse, last renewed {format_seconds(self.seconds_ago)} ago ({self.holder})"


@dataclass(frozen=True, slots=True)
class LeaseEnded(Evidence):
    """The process said itself that it was leaving."""

    bearing = Bearing.DEATH
    holder: str

    @property
    def words(self) -> str:
        return f"ended its lease by itself ({self.holder})"


@dataclass(frozen=True, slots=True)
class NotProbed(Evidence):
    """No probe was sent; ``reason`` says why."""

    bearing = Bearing.NONE
    reason: str

    @property
    def words(self) -> str:
        return f"not probed: {self.reason}"


@dataclass(frozen=True, slots=True)
class ProbeWithheld(NotProbed):
    """No probe was sent, because the process may not be able to read it."""


@dataclass(frozen=True, slots=True)
class SeveralKeys(ProbeWithheld):
    """The layer has several encryption keys, as during a rotation, and encrypts a probe with the first."""

    reason: str = "there are several encryption keys, and a process without the first of them cannot read a probe"


@dataclass(frozen=True, slots=True)
class OtherSettings(ProbeWithheld):
    """The lease of the process says that it could not read a probe."""

    reason: str = "by its lease it uses another serializer, or lacks the encryption key that a probe would have"


@dataclass(frozen=True, slots=True)
class UnreadableMessages(ProbeWithheld):
    """A message in an inbox or in flight cannot be read with the settings here; ``reason`` names its process."""


@dataclass(frozen=True, slots=True)
class NoProcessInName(Evidence):
    """The channel name does not say which process reads it."""

    bearing = Bearing.NONE
    general: bool

    @property
    def words(self) -> str:
        if self.general:
            return "a general channel: any worker may read it"
        return "the channel name names no process"


@dataclass(frozen=True, slots=True)
class AppearedMeanwhile(Evidence):
    """The process was not there when the processes were counted and probed."""

    bearing = Bearing.NONE

    @property
    def words(self) -> str:
        return "appeared after the probes were sent"
