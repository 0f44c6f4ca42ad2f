"""What was read from a layer: shards, processes, groups, members."""

from dataclasses import dataclass

from ops.model.liveness.judge import Verdict
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


@dataclass(frozen=True, slots=True)
class StateCounts:
    """How many members are in each state."""

    live: int = 0
    suspect: int = 0
    orphan: int = 0
    unknown: int = 0

    @property
    def members(self) -> int:
        return self.live + self.suspect + self.orphan + self.unknown


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


@dataclass(frozen=True, slots=True)
class Inspection:
    """What one look at a layer found. ``taken_at``: unix seconds by the first shard's clock.

    ``totals`` and ``processes`` speak of all groups that were read. ``groups`` are those that were asked for, and empty
    for a summary. ``absent``: groups that were named and do not exist. ``complete``: every shard answered.
    """

    layer: str
    backend: str
    taken_at: float
    complete: bool
    shards: tuple[ShardInfo, ...]
    total_groups: int = 0
    totals: StateCounts = StateCounts()
    processes: tuple[Process, ...] = ()
    groups: tuple[Group, ...] = ()
    notes: tuple[str, ...] = ()
    absent: frozenset[str] = frozenset()
