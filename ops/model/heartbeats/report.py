"""What became of heartbeats: to a group, to a process, and in a whole run."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class HeartbeatCounts:
    """``sent`` = ``answered`` + ``silent``; ``skipped`` ones were not asked, ``not_capable`` ones cannot answer.

    ``timed``: answers with a known round trip; ``rtt_ms``: min, p50, p95, p99 and max of those, 0 without any.
    """

    members: int = 0
    sent: int = 0
    answered: int = 0
    silent: int = 0
    not_capable: int = 0
    skipped: int = 0
    timed: int = 0
    rtt_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GroupHeartbeat:
    """One group. ``silent``: its silent channels; ``skipped``: inbox -> its members that were not asked."""

    group: str
    counts: HeartbeatCounts
    silent: tuple[str, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProcessHeartbeat:
    """One process, over all groups and rounds. ``host``, ``pid``: as its lease has them, empty without one.

    ``skipped_why``: why some members were not asked; empty if all were.
    """

    process: str
    host: str
    pid: str
    skipped_why: str
    counts: HeartbeatCounts


@dataclass(frozen=True, slots=True)
class HeartbeatReport:
    """A run. ``groups``: the GROUPS_KEPT that need attention most, worst first, with their counts over all rounds.

    ``groups_seen``: groups with members in the latest round; ``silent``: some silent channels; ``rounds``: how many are
    whole; ``duration_seconds``: what they took together, without the pauses between them; ``distribution``: (from ms,
    to ms, answers). ``problems``: shards that did not answer; ``findings``: what is wrong beside silent members.
    """

    depth: str
    rounds: int
    duration_seconds: float
    totals: HeartbeatCounts
    groups_seen: int
    groups: tuple[GroupHeartbeat, ...]
    silent: tuple[str, ...]
    processes: tuple[ProcessHeartbeat, ...]
    distribution: tuple[tuple[float, float, int], ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    findings: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every shard answered."""
        return not self.problems

    @property
    def silent_somewhere(self) -> bool:
        return bool(self.totals.silent or self.findings)
