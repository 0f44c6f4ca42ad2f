"""The lease of a process, which is its card, and what it says of its holder's life."""

import math
from dataclasses import dataclass

from ops.model.liveness.evidence import Evidence, LeaseEnded, LeaseFresh, LeaseLapsed
from ops.model.liveness.moments import FUTURE_TOLERANCE_SECONDS
from ops.model.text import visible


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease of a process, as it was read. Times in unix seconds of the shard; ``ended``: by its own holder.

    ``started_at`` is of the host's clock. ``index_parts``: how many keys its index has; ``heartbeats``: it
    answers them; ``counts``: what its holder had to repair since it started, by name (LEASE_COUNTS); ``server_run``:
    which run of its server wrote it, empty where that is not known. ``restores``: its holder has the drop-in layer, and
    puts back members that were removed. ``server``: the ASGI server and its version. ``shard``: "2/3" for the second of
    three hosts. ``reads``: the serializer, and a keyed hash of each encryption key. These are empty if not known.
    The texts come from Redis, and anybody may have written them.
    """

    process: str
    renewed_at: float
    lease_seconds: float
    ended: bool
    host: str
    pid: str
    started_at: float
    version: str
    index_parts: int = 0
    counts: tuple[tuple[str, int], ...] = ()
    heartbeats: bool = False
    server_run: str = ""
    restores: bool = True
    server: str = ""
    shard: str = ""
    reads: tuple[str, ...] = ()

    def is_fresh(self, now: float) -> bool:
        """Whether its holder lives, as far as it says so. A renewal in the future says nothing."""
        return not self.ended and -FUTURE_TOLERANCE_SECONDS <= now - self.renewed_at <= self.lease_seconds


RENEWALS_PER_LEASE = 3
LONGEST_RENEWAL_SECONDS = 10.0
LATE_SECONDS = 1.0  # what a renewal itself may take


def renewal_seconds(lease_seconds: float) -> float:
    """How long at most a holder that is well lets pass between two renewals."""
    return min(lease_seconds / RENEWALS_PER_LEASE, LONGEST_RENEWAL_SECONDS)


def shard_of_hosts(index: int, hosts: int) -> str:
    """How a lease says on which shard it is, by the hosts of its holder: ``2/3`` for the second of three."""
    return f"{index + 1}/{hosts}"


LEASE_COUNTS = ("outages", "leases_lost", "members_put_back", "members_refreshed", "channels_discarded")


def lease_evidence(
    lease: Lease,
    *,
    now: float,
    until: float,
    server_run: str,
    server_uptime_seconds: float,
    even_seconds: float = math.inf,
) -> tuple[Evidence, ...]:
    """What the lease says. Times are unix seconds by the clock of the lease's shard.

    ``now``: when it was decided which processes to probe. A process that was not probed, for a lease that was fresh
    then, has not been silent. ``until``: when the probes had been waited for. ``server_run`` and
    ``server_uptime_seconds`` are those of the lease's shard. ``even_seconds``: for how long its clock has
    not been set forward, as far as runs can tell; what a lease that is older says of a lapse may be that step.
    """
    holder = f"{visible(lease.host)} pid {visible(lease.pid)}"
    if lease.ended:
        return (LeaseEnded(holder),)
    silent_since = lease.renewed_at
    if lease.is_fresh(now):
        age = max(0.0, now - silent_since)
        late = age - renewal_seconds(lease.lease_seconds)
        return (LeaseFresh(age, holder, late if late >= LATE_SECONDS else 0.0),)
    if not lease.restores:
        # With the stock layer, a mistake could not be mended by the process itself: it is probed like any other.
        return ()
    if lease.server_run and lease.server_run != server_run:
        # Another server has taken over since, or it has started again: the holder may be looking for it.
        return ()
    if silent_since > now:
        # From the future: the clock was ahead when it was renewed, and nobody knows how long ago that was.
        return ()
    # While Redis was down no lease could be renewed.
    lapsed = min(until - silent_since, server_uptime_seconds, even_seconds)
    return (LeaseLapsed(lapsed, holder),) if lapsed > 0 else ()
