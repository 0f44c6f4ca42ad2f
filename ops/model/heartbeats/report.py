"""What became of heartbeats: counts of a group, of a process, and of a whole run."""

from collections import Counter
from dataclasses import dataclass, field

from ops.model.heartbeats.round_trips import RoundTrips


@dataclass(slots=True)
class Tally:
    """What became of heartbeats, counted. ``sent`` = ``answered`` + ``silent``; ``skipped`` ones were not asked."""

    members: int = 0
    sent: int = 0
    answered: int = 0
    silent: int = 0
    not_capable: int = 0
    skipped: int = 0
    round_trips: RoundTrips = field(default_factory=RoundTrips)

    def add(self, other: "Tally") -> None:
        self.members += other.members
        self.sent += other.sent
        self.answered += other.answered
        self.silent += other.silent
        self.not_capable += other.not_capable
        self.skipped += other.skipped
        self.round_trips.add(other.round_trips)

    def note_answer(self, round_trip_ms: float | None) -> None:
        """None: it answers, and how fast is not known."""
        self.sent += 1
        self.answered += 1
        if round_trip_ms is not None:
            self.round_trips.note(round_trip_ms)

    def note_silence(self) -> None:
        self.sent += 1
        self.silent += 1


@dataclass(slots=True)
class GroupHeartbeat:
    """What became of the heartbeats to one group. ``silent``: the channels; ``skipped``: inbox -> members there that
    were not asked."""

    group: str
    counts: Tally = field(default_factory=Tally)
    silent: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def note_silence(self, channel: str) -> None:
        self.counts.note_silence()
        self.silent.append(channel)

    def skip(self, inbox: str) -> None:
        self.counts.skipped += 1
        self.skipped[inbox] += 1


@dataclass(slots=True)
class ProcessHeartbeat:
    """What became of the heartbeats to the members of one process, over all groups and rounds.

    ``host``, ``pid``: as its lease has them, empty without one; ``skipped_why``: why some were not asked.
    """

    process: str
    host: str = ""
    pid: str = ""
    skipped_why: str = ""
    counts: Tally = field(default_factory=Tally)

    def skip(self, why: str) -> None:
        self.skipped_why = why
        self.counts.skipped += 1


GROUPS_KEPT = 50
SILENT_KEPT = 20


@dataclass(slots=True)
class HeartbeatReport:
    """What a run has found so far, in memory that does not grow with it.

    ``groups``: those that need attention most, with their counts over all rounds; ``groups_seen``: how many there were
    in the latest round. ``silent``: some silent channels. ``processes`` has one for each process. ``rounds``: how many
    are whole; ``duration_seconds``: what they took together, without the pauses between them.
    """

    depth: str
    rounds: int = 0
    duration_seconds: float = 0.0
    totals: Tally = field(default_factory=Tally)
    groups_seen: int = 0
    groups: dict[str, GroupHeartbeat] = field(default_factory=dict)
    silent: dict[str, None] = field(default_factory=dict)
    processes: dict[str, ProcessHeartbeat] = field(default_factory=dict)
    problems: dict[str, None] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    findings: dict[str, None] = field(default_factory=dict)

    @property
    def silent_somewhere(self) -> bool:
        return bool(self.totals.silent or self.findings)

    def add(self, found: GroupHeartbeat) -> None:
        self.totals.add(found.counts)
        for channel in found.silent:
            if len(self.silent) >= SILENT_KEPT:
                break
            self.silent[channel] = None
        kept = self.groups.setdefault(found.group, GroupHeartbeat(found.group))
        kept.counts.add(found.counts)
        kept.counts.members = found.counts.members
        kept.skipped.update(found.skipped)
        if len(self.groups) > 2 * GROUPS_KEPT:
            self.groups = {group.group: group for group in self.worst_groups()}

    def worst_groups(self) -> list[GroupHeartbeat]:
        """At most GROUPS_KEPT: those with most silent members first, then those with most that were not asked."""

        def attention(found: GroupHeartbeat) -> tuple[int, int, int, str]:
            counts = found.counts
            return -counts.silent, -counts.skipped, -counts.members, found.group

        return sorted(self.groups.values(), key=attention)[:GROUPS_KEPT]
