"""What was read from the layer: shards, processes, groups, members. Frozen, no behaviour."""

from dataclasses import dataclass, field

from ops.model.liveness.judge import MEMBER_STATES, Verdict
from ops.model.liveness.lease import Lease


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One Redis of the layer. ``address`` holds no secret; ``problem`` is why it did not answer, None if it did."""

    index: int
    address: str
    problem: str | None = None

    @property
    def answered(self) -> bool:
        return self.problem is None


@dataclass(frozen=True, slots=True)
class Member:
    """A channel in a group. ``joined_at``: unix seconds by the clock of the host that added it."""

    channel: str
    process: str | None
    state: str
    joined_at: float
    evidence: tuple[str, ...]


@dataclass(slots=True)
class StateCounts:
    """How many members are in each state."""

    live: int = 0
    suspect: int = 0
    orphan: int = 0
    unknown: int = 0

    @property
    def members(self) -> int:
        return self.live + self.suspect + self.orphan + self.unknown

    def count(self, state: str, members: int = 1) -> None:
        if state not in MEMBER_STATES:
            raise ValueError(state)
        setattr(self, state, getattr(self, state) + members)

    def add(self, other: "StateCounts") -> None:
        self.live += other.live
        self.suspect += other.suspect
        self.orphan += other.orphan
        self.unknown += other.unknown


@dataclass(frozen=True, slots=True)
class Group:
    """A group as it was read. ``channels`` is empty unless the members were asked for.

    ``oldest_joined_at``: unix seconds; None where it cannot be known (publish/subscribe).
    """

    group: str
    shard: int
    counts: StateCounts
    oldest_joined_at: float | None
    channels: tuple[Member, ...] = ()


@dataclass(frozen=True, slots=True)
class Process:
    """A process that has members in groups, and what was concluded about it."""

    process: str
    verdict: Verdict
    members: int
    lease: Lease | None = None


@dataclass(slots=True)
class Inspection:
    """What one look at a layer found. ``taken_at``: unix seconds; ``groups`` is empty for a summary.

    ``totals`` and ``processes`` speak of all groups that were read, ``groups`` of those that were asked for;
    ``absent`` are those that were named and do not exist.
    """

    layer: str
    backend: str
    taken_at: float
    complete: bool
    shards: tuple[ShardInfo, ...]
    total_groups: int = 0
    totals: StateCounts = field(default_factory=StateCounts)
    processes: list[Process] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    absent: frozenset[str] = frozenset()
