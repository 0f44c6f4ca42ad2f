"""What was collected about a layer: its settings, its servers, its processes. Facts only; what follows from them is in
:mod:`ops.model.doctor.findings`.

A fact that could not be had is a ``Missing``; who needs it calls ``known()``, which raises ``NotKnown`` and says why.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

from ops.model.disconnects.record import Disconnect
from ops.model.doctor.ring import RingGap
from ops.model.liveness.lease import Lease
from ops.model.liveness.readability import Unreadable
from ops.model.liveness.stops import OtherHosts

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Missing:
    """A fact that could not be had, and why. ``code``: Redis' word, if the server refused it with one."""

    why: str
    code: str = ""


class NotKnown(Exception):
    """A check needs a fact that could not be had; the message says why."""


def known(fact: "T | Missing") -> T:
    """``fact`` itself. Raises NotKnown where it is missing."""
    if isinstance(fact, Missing):
        raise NotKnown(fact.why)
    return fact


NOT_ASKED = Missing("not asked for")


class Kind(Enum):
    """What a layer is built on."""

    STOCK = "stock"
    DROP_IN = "drop-in"
    PUBSUB = "publish/subscribe"
    IN_MEMORY = "in memory"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class HostSettings:
    """One entry of ``hosts``. ``name``: the host's name or path, empty where it cannot be read; it holds no secret.

    ``socket_timeout_seconds``: what redis-py will use, None for no limit; ``own_socket_timeout``: whether it was set.
    """

    index: int
    name: str = ""
    socket_timeout_seconds: float | None = None
    own_socket_timeout: bool = True
    retries: bool = False
    health_checks: bool = False
    keepalive: bool = False


@dataclass(frozen=True, slots=True)
class UntestedVersion:
    """An installed library whose version is outside of the tested ones, ``lowest`` to ``highest``."""

    library: str
    installed: str
    lowest: str
    highest: str


@dataclass(frozen=True, slots=True)
class LayerSettings:
    """What the project's settings say of a layer, and of what it runs with. Nothing was connected to learn it.

    ``unknown_options``: those that the backend does not take, each with the nearest one that it takes.
    ``wrong_options`` and ``wrong_hosts``: what is wrong with values that no layer can work with.
    ``group_expiry_seconds`` and ``lease_seconds`` are None where they are no number. ``other_prefixes``: those of the
    project's other layers. ``worker_count``: what WEB_CONCURRENCY says, 1 where it says nothing.
    ``ops_problems``: what is wrong with ``CHANNELS_OPS``, ``ops_keys``: what it may hold.
    ``untested_versions``: the installed libraries with a version that the toolkit's tests have never run with.
    """

    alias: str
    backend: str
    kind: Kind
    hosts: tuple[HostSettings, ...] = ()
    redis_py: str = ""
    unknown_options: tuple[tuple[str, str], ...] = ()
    wrong_options: tuple[str, ...] = ()
    wrong_hosts: tuple[str, ...] = ()
    group_expiry_seconds: float | None = 86400.0
    lease_seconds: float | None = 30.0
    confirm_after_seconds: float = 60.0
    daphne_is_installed: bool = False
    debug: bool = False
    other_prefixes: frozenset[str] = frozenset()
    worker_count: int = 1
    ops_problems: tuple[str, ...] = ()
    ops_keys: tuple[str, ...] = ()
    untested_versions: tuple[UntestedVersion, ...] = ()

    @property
    def obstacle(self) -> str | None:
        """Why no operation of the layer can be expected to work; None if nothing is known to stand in its way."""
        return next(iter((*self.wrong_hosts, *self.wrong_options)), None)


@dataclass(frozen=True, slots=True)
class Client:
    """A line of CLIENT LIST. Times in whole seconds; ``unread_bytes``: replies that it has not taken (omem)."""

    address: str
    idle_seconds: float
    flags: str
    command: str
    unread_bytes: int

    @property
    def is_blocked(self) -> bool:
        return "b" in self.flags

    @property
    def is_subscriber(self) -> bool:
        return "P" in self.flags


@dataclass(frozen=True, slots=True)
class SlowCommand:
    """An entry of SLOWLOG: never its arguments, which may hold anything."""

    command: str
    took_ms: float
    seconds_ago: float


@dataclass(frozen=True, slots=True)
class LatencyEvent:
    """An event of LATENCY LATEST: ``fork``, ``aof-write``, …"""

    event: str
    worst_ms: float
    seconds_ago: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """An operation of the layer that failed on a channel and group of the doctor's own.

    ``code``: Redis' word, empty if it gave none. ``said``: all of it, without secrets.
    """

    operation: str
    code: str
    said: str


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """One shard. ``info`` as redis-py parses it; ``config`` only the directives that were asked for.

    ``round_trip_ms``: the fastest of several messages through a channel of the doctor's own.
    ``clock_ahead_seconds``: how far the clock of this host is ahead of the server's.
    ``arrives_as``: how the server sees one of our connections, and how we see it ourselves: address and port.
    ``problem``: why it cannot be used at all; ``problem_code``: Redis' word for that, empty if it did not answer.
    ``missing_rules``: of the ACL of this user, all that the layer needs, if it was refused one.
    """

    index: int
    address: str
    problem: str | None = None
    info: Mapping[str, Any] | Missing = NOT_ASKED
    config: Mapping[str, str] | Missing = NOT_ASKED
    clients: tuple[Client, ...] | Missing = NOT_ASKED
    slow_commands: tuple[SlowCommand, ...] | Missing = NOT_ASKED
    latency_events: tuple[LatencyEvent, ...] | Missing = NOT_ASKED
    round_trip_ms: float | Missing = NOT_ASKED
    clock_ahead_seconds: float | Missing = NOT_ASKED
    arrives_as: tuple[str, str] | Missing = NOT_ASKED
    problem_code: str = field(default="", kw_only=True)
    refusals: tuple[Refusal, ...] = field(default=(), kw_only=True)
    missing_rules: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def failures(self) -> tuple[Refusal, ...]:
        """Every operation of the layer that is known to fail here."""
        if self.problem is not None:
            return (Refusal("connect", self.problem_code, self.problem),)
        if isinstance(self.round_trip_ms, Missing) and self.round_trip_ms is not NOT_ASKED:
            sent = Refusal("send and receive", self.round_trip_ms.code, self.round_trip_ms.why)
            return (sent, *self.refusals)
        return self.refusals

    @property
    def where(self) -> str:
        return f"shard {self.index} ({self.address})"

    @property
    def database(self) -> int:
        """As the address ends: ``redis://host:6379/0``, ``unix:///path?db=0``."""
        digits = self.address[len(self.address.rstrip("0123456789")) :]
        return int(digits) if digits else 0

    def number(self, name: str) -> float:
        """A number of INFO. Raises NotKnown where this server does not tell it."""
        value = known(self.info).get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise NotKnown(f"{self.where} does not tell {name} in INFO")
        return float(value)

    def word(self, name: str) -> str:
        """A text of INFO, empty where there is none."""
        return str(known(self.info).get(name, ""))[:200]

    def errors(self, code: str) -> int:
        """How many replies began with ``code`` since the server started, by INFO errorstats; 0 where it has none."""
        stat = known(self.info).get(f"errorstat_{code}")
        count = stat.get("count") if isinstance(stat, Mapping) else None
        return count if isinstance(count, int) else 0


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """One process of the layer. ``silent``: it was asked and gave no sign of life; ``live``: it gave one.

    ``frozen``: it took the probe that Redis hands to a waiting connection, and no other. ``evidence``: in words.
    ``messages``: in its inboxes; ``in_flight``: popped and not acknowledged; ``oldest_message_seconds``: its age.
    ``oldest_joined_at``: of its members; ``newest_score``: of its members and messages; unix seconds by the clocks of
    application hosts, None where unknown.
    ``shared_inbox``: two connections or more wait for its messages at once.
    ``by_lease_alone``: it counts as live, since its lease is fresh, and was not seen to take anything.
    ``lease_is_renewed``: it was silent, and renewed its lease afterwards.
    ``near_expiry``: members about to be dropped for their age. ``groups``: those that feed it most, with their members.
    """

    process: str
    live: bool
    silent: bool
    evidence: tuple[str, ...] = ()
    members: int = 0
    lease: Lease | None = None
    frozen: bool = False
    messages: int = 0
    capacity: int = 0
    oldest_message_seconds: float = 0.0
    in_flight: int = 0
    newest_score: float | None = None
    oldest_joined_at: float | None = None
    near_expiry: int = 0
    shared_inbox: bool | Missing = False
    groups: tuple[tuple[str, int], ...] = ()
    by_lease_alone: bool = False
    lease_is_fresh: bool = False
    lease_is_renewed: bool = False

    @property
    def reads(self) -> bool:
        """Whether it was seen to take messages."""
        return self.live and not self.by_lease_alone

    @property
    def restores(self) -> bool:
        """Whether it has the drop-in layer, which puts members back."""
        return self.lease is not None and self.lease.restores


@dataclass(frozen=True, slots=True)
class LoggedEnd:
    """A record of the disconnect log. ``written_at``: unix seconds by the clock of Redis.

    ``still_member``: its channel is in one of its groups still.
    """

    written_at: float
    disconnect: Disconnect
    still_member: bool = False


@dataclass(frozen=True, slots=True)
class KeyspaceFacts:
    """What the names of the keys say. Counts are of what was looked at.

    ``misplaced``: shard, group and the shard where this configuration has it. ``other_prefixes``: another layer's
    prefix -> a group that is there under both prefixes. ``unreadable``: a message for each process to which one was
    sent that the settings here cannot read. ``other_settings``: leases of processes that cannot read what is sent here.
    ``other_hosts``: what leases say of hosts that are not these. ``ring_gap``: a part of the hash ring without groups.
    """

    misplaced_groups: int = 0
    misplaced: tuple[tuple[int, str, int], ...] = ()
    other_prefixes: Mapping[str, str] | Missing = field(default_factory=dict)
    unreadable: tuple[Unreadable, ...] = ()
    other_settings: tuple[Lease, ...] = ()
    other_hosts: tuple[OtherHosts, ...] = ()
    ring_gap: RingGap | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """All that was collected. ``now``: unix seconds by the clock of the first shard that answers.

    ``reaper_has_looked``: whether a run of ``reap_stale`` is on record.
    ``twins``: a host, and the earlier one that is the same database of the same server; ``servers`` has that one only.
    """

    settings: LayerSettings
    servers: tuple[ServerFacts, ...] = ()
    twins: tuple[tuple[str, str], ...] = ()
    now: float = 0.0
    processes: tuple[ProcessFacts, ...] | Missing = NOT_ASKED
    ends: tuple[LoggedEnd, ...] | Missing = NOT_ASKED
    keyspace: KeyspaceFacts | Missing = NOT_ASKED
    reaper_has_looked: bool | Missing = NOT_ASKED
