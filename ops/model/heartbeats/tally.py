"""Counting what becomes of heartbeats while they are under way, in memory that does not grow with the rounds."""

from collections import Counter
from dataclasses import dataclass, field

from ops.model.heartbeats.report import GroupHeartbeat, HeartbeatCounts, HeartbeatReport, ProcessHeartbeat
from ops.model.heartbeats.round_trips import RoundTrips

GROUPS_KEPT = 50
SILENT_KEPT = 20


@dataclass(slots=True)
class Tally:
    """HeartbeatCounts in the making."""

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

    def counts(self) -> HeartbeatCounts:
        return HeartbeatCounts(
            members=self.members,
            sent=self.sent,
            answered=self.answered,
            silent=self.silent,
            not_capable=self.not_capable,
            skipped=self.skipped,
            timed=self.round_trips.count,
            rtt_ms=self.round_trips.percentiles(),
        )


@dataclass(slots=True)
class GroupTally:
    """GroupHeartbeat in the making."""

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

    def result(self) -> GroupHeartbeat:
        return GroupHeartbeat(self.group, self.counts.counts(), tuple(self.silent), dict(self.skipped))


@dataclass(slots=True)
class ProcessTally:
    """ProcessHeartbeat in the making."""

    process: str
    host: str = ""
    pid: str = ""
    skipped_why: str = ""
    counts: Tally = field(default_factory=Tally)

    def skip(self, why: str) -> None:
        self.skipped_why = why
        self.counts.skipped += 1

    def result(self) -> ProcessHeartbeat:
        return ProcessHeartbeat(self.process, self.host, self.pid, self.skipped_why, self.counts.counts())


@dataclass(slots=True)
class RunTally:
    """HeartbeatReport in the making. ``latest``: the counts of the latest round alone."""

    depth: str
    rounds: int = 0
    duration_seconds: float = 0.0
    totals: Tally = field(default_factory=Tally)
    latest: Tally = field(default_factory=Tally)
    groups_seen: int = 0
    groups: dict[str, GroupTally] = field(default_factory=dict)
    silent: dict[str, None] = field(default_factory=dict)
    processes: dict[str, ProcessTally] = field(default_factory=dict)
    problems: dict[str, None] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    findings: dict[str, None] = field(default_factory=dict)

    def begin_round(self) -> None:
        self.latest = Tally()
        self.groups_seen = 0

    def add(self, found: GroupTally) -> None:
        self.totals.add(found.counts)
        self.latest.add(found.counts)
        self.groups_seen += bool(found.counts.members)
        for channel in found.silent:
            if len(self.silent) >= SILENT_KEPT:
                break
            self.silent[channel] = None
        kept = self.groups.setdefault(found.group, GroupTally(found.group))
        kept.counts.add(found.counts)
        kept.counts.members = found.counts.members
        kept.skipped.update(found.skipped)
        if len(self.groups) > 2 * GROUPS_KEPT:
            self.groups = {group.group: group for group in self._worst_groups()}

    def _worst_groups(self) -> list[GroupTally]:
        """Those with most silent members first, then those with most that were not asked."""

        def attention(found: GroupTally) -> tuple[int, int, int, str]:
            counts = found.counts
            return -counts.silent, -counts.skipped, -counts.members, found.group

        return sorted(self.groups.values(), key=attention)[:GROUPS_KEPT]

    def result(self) -> HeartbeatReport:
        return HeartbeatReport(
            depth=self.depth,
            rounds=self.rounds,
            duration_seconds=self.duration_seconds,
            totals=self.totals.counts(),
            groups_seen=self.groups_seen,
            groups=tuple(group.result() for group in self._worst_groups()),
            silent=tuple(self.silent),
            processes=tuple(process.result() for process in self.processes.values()),
            distribution=tuple(self.totals.round_trips.distribution()),
            problems=tuple(self.problems),
            notes=tuple(self.notes),
            findings=tuple(self.findings),
        )
