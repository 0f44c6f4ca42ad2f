"""The safety stops: why a run may remove nothing now, whatever was judged."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ops.model.liveness.evidence import LeaseLapsed, SeveralKeys, SuspectedBefore, UnreadableMessages
from ops.model.liveness.judge import State, Verdict
from ops.model.liveness.lease import LONGEST_RENEWAL_SECONDS
from ops.model.liveness.moments import LatestLook, Moment, elapsed_seconds
from ops.model.liveness.suspicion import Recall
from ops.model.text import counted, format_seconds, visible

MISPLACED_SECONDS = 3600.0
MOST_SHOWN = 3
IDLE_SHOWS_AFTER_SECONDS = 20.0
"""A connection whose process freezes now is listed as idle for more than ten seconds by then."""

IDLE_SPARE_SECONDS = 5.0
"""Servers list whole seconds, and later than the time was read."""

AGE_SPARE_SECONDS = 2.0
"""Servers list whole seconds. A process that joined a group before a look had connected before it."""

LAST_WAIT_SECONDS = 10.0
"""BZPOPMIN of a process that froze ends five seconds later; until then its connection is not idle."""


@dataclass(frozen=True, slots=True)
class Control:
    """How the reaper's own receiver on one shard fared. ``round_trip_ms`` is None when its probe was not taken."""

    shard: int
    round_trip_ms: float | None


@dataclass(frozen=True, slots=True)
class MisplacedGroup:
    """A group that the hosts of this configuration put on another shard than the one where it lies.

    ``lies_on`` and ``belongs_on``: index and address. ``joined_seconds_ago``: the newest join, which is of the clock of
    an application's host, by the clock of the shard where the group lies; negative if that host's clock is ahead.
    """

    group: str
    lies_on: str
    belongs_on: str
    joined_seconds_ago: float


def check_control(controls: Collection[Control], probe_timeout_seconds: float) -> str | None:
    """The reaper's own receiver must answer like a healthy process, or silence proves nothing."""
    for control in controls:
        if control.round_trip_ms is None:
            return (
                f"control: the reaper's own probe on shard {control.shard} was not taken within "
                f"{format_seconds(probe_timeout_seconds)}, so the silence of others proves nothing"
            )
        if control.round_trip_ms > probe_timeout_seconds * 500:
            return (
                f"control: the reaper's own probe on shard {control.shard} took {control.round_trip_ms:.0f} ms, more "
                f"than half of the probe timeout; use a longer --probe-timeout"
            )
    return None


def check_readability(verdicts: Mapping[str, Verdict]) -> str | None:
    """Nobody was probed, because a message shows that processes have another serializer or encryption key."""
    for verdict in verdicts.values():
        for fact in verdict.evidence:
            if isinstance(fact, UnreadableMessages):
                return f"unreadable: {fact.reason}"
    return None


def check_hosts(misplaced: Collection[MisplacedGroup]) -> str | None:
    """Processes with other ``hosts`` have inboxes that this configuration may not know.

    A group that nobody has joined for an hour shows nothing: after a change of hosts it stays until it expires.
    """
    recent = [group for group in misplaced if group.joined_seconds_ago <= MISPLACED_SECONDS]
    if not recent:
        return None
    found = ", ".join(
        f"'{visible(one.group)}' lies on {one.lies_on} and belongs on {one.belongs_on} (joined "
        f"{format_seconds(max(0.0, one.joined_seconds_ago))} ago)"
        for one in sorted(recent, key=lambda one: one.joined_seconds_ago)[:MOST_SHOWN]
    )
    return (
        f"hosts: groups that were joined within the last hour lie on another shard than the hosts here say, so another "
        f"list of hosts is in use: {found}; join times are by the clocks of application hosts"
    )


@dataclass(frozen=True, slots=True)
class OtherHosts:
    """A process that keeps its lease, and whose hosts are not those of this configuration.

    ``said``: what its lease says about the shard ``where``, such as ``1/2``; None if it has none there.
    """

    holder: str
    where: str
    said: str | None
    expected: str


def check_leases(others: Collection[OtherHosts]) -> str | None:
    """Of a process with other hosts, inboxes and groups may lie on servers that this configuration does not have."""
    if not others:
        return None
    found = ", ".join(
        f"{one.where} is {one.expected} here, and {'no shard' if one.said is None else visible(one.said)} for "
        f"{visible(one.holder)}"
        for one in list(others)[:MOST_SHOWN]
    )
    return f"hosts: by their leases, processes use another list of hosts than this configuration: {found}"


def check_keys(verdicts: Mapping[str, Verdict], members: Mapping[str, int]) -> str | None:
    """Silence that was not asked for proves nothing. ``members``: process -> how many it has.

    Own words are enough: a process that ended its lease, or keeps it fresh, needs no probe.
    """
    unasked = [
        process
        for process, verdict in verdicts.items()
        if members.get(process)
        and verdict.state in (State.UNKNOWN, State.SUSPECT)
        and any(isinstance(fact, SeveralKeys) for fact in verdict.evidence)
    ]
    if not unasked:
        return None
    return (
        f"keys: {counted(len(unasked), 'process', 'processes')} with "
        f"{counted(sum(members[process] for process in unasked), 'member')} were not probed: {SeveralKeys().reason}; "
        f"when all processes have the new key, take the old ones away"
    )


def voided_by_restart(
    verdicts: Mapping[str, Verdict], recalls: Mapping[str, Recall], *, now: Moment, confirm_after_seconds: float
) -> list[str]:
    """Processes that would have been confirmed dead now, had Redis not restarted since they were suspected."""
    return [
        process
        for process, earlier in recalls.items()
        if earlier.restarted
        and verdicts[process].state is State.SUSPECT
        and (elapsed_seconds(earlier.suspicion.since, now) or 0.0) >= confirm_after_seconds
    ]


def check_restart(voided: Collection[str]) -> str | None:
    """A restart or failover may have dropped a live process's connection: it gets a whole confirm time again."""
    if not voided:
        return None
    return (
        f"restart: Redis restarted or failed over since {len(voided)} silent "
        f"{'process was' if len(voided) == 1 else 'processes were'} first suspected; the confirm time starts again"
    )


def check_epoch(judged_in: str, now: str) -> str | None:
    """The last look before anything is removed: no server of the layer restarted or failed over since the verdict."""
    return None if judged_in == now else "restart: Redis restarted or failed over while the processes were judged"


@dataclass(frozen=True, slots=True)
class Absence:
    """A look found no idle connection that may be of a silent process, and no look since has found one.

    A frozen, blocked or cut-off process keeps the connections that it had, and they stand idle; a process that was
    killed or stopped has none. ``since``: the first of these looks; ``epoch``: on which servers.
    """

    since: Moment
    epoch: str


def absence_after(earlier: Absence | None, idle_connections: int | None, *, now: Moment, epoch: str) -> Absence | None:
    """The absence to remember after a look that counted ``idle_connections`` (None: they could not be counted)."""
    if idle_connections is None or idle_connections > 0:
        return None
    if earlier is not None and earlier.epoch == epoch and elapsed_seconds(earlier.since, now) is not None:
        return earlier
    return Absence(now, epoch)


def is_released(absence: Absence | None, *, now: Moment, epoch: str, confirm_after_seconds: float) -> bool:
    """True if the silence of many has the ordinary cause: they have ended, since no connection of theirs is left."""
    elapsed = None if absence is None or absence.epoch != epoch else elapsed_seconds(absence.since, now)
    return elapsed is not None and elapsed >= release_after_seconds(confirm_after_seconds)


def release_after_seconds(confirm_after_seconds: float) -> float:
    """A process that froze just before the first look must have had the time to be found idle by a later one."""
    return max(confirm_after_seconds, IDLE_SHOWS_AFTER_SECONDS)


def shows_if_idle(verdict: Verdict) -> bool:
    """True if the process has been silent for so long that its connections are listed as idle, if it has any."""
    return any(
        isinstance(fact, (SuspectedBefore, LeaseLapsed)) and fact.seconds_ago >= IDLE_SHOWS_AFTER_SECONDS
        for fact in verdict.evidence
    )


@dataclass(frozen=True, slots=True)
class LastUse:
    """When a silent process last used a connection to Redis, in seconds until now.

    It was after ``seen_ago``, when the process was live, and before ``silent_ago``. The connection was there by
    ``connected_ago``.
    """

    seen_ago: float
    silent_ago: float
    connected_ago: float

    def may_be_of(self, *, idle_seconds: float, age_seconds: float) -> bool:
        """True if a connection of that age, which has been idle for so long, may be the process's."""
        return (
            self.silent_ago - LAST_WAIT_SECONDS <= idle_seconds <= self.seen_ago + IDLE_SPARE_SECONDS
            and age_seconds >= self.connected_ago - AGE_SPARE_SECONDS
        )


SEEN_BEFORE_A_STEP = 0.0
"""Stands for a time whose distance from now cannot be told, because a server's clock has been set since."""


def last_uses(
    silent: Mapping[str, Verdict], seen_live: Mapping[str, float], *, now: float, this_look: LatestLook
) -> frozenset[LastUse] | None:
    """When the ``silent`` processes last used their connections. ``seen_live``: process -> when, by Redis' clock.

    None if that cannot be known, because a server has restarted or failed over since one of them was seen live: the
    server has closed its connections then, and it may be too frozen to open others. If one was seen before the clock
    of a server was set, each connection may be its own.

    One that took probes when it was seen live had a connection then. It may have opened others since, as the stock
    layer does when a websocket closes; so how old a connection is tells only if others are likely to be of processes
    that have begun since, as in a deploy.
    """
    uses = set()
    for process, verdict in silent.items():
        seen_at = seen_live.get(process, -math.inf)
        if seen_at == SEEN_BEFORE_A_STEP or seen_at > now or now - seen_at >= this_look.even_seconds:
            uses.add(LastUse(math.inf, 0.0, 0.0))
            continue
        if process in seen_live and seen_at < this_look.epoch_at.redis:
            return None
        others_are_new = this_look.new_at is not None and this_look.new_at.redis > seen_at > -math.inf
        uses.add(LastUse(now - seen_at, _silent_seconds(verdict), now - seen_at if others_are_new else 0.0))
    return frozenset(uses)


def _silent_seconds(verdict: Verdict) -> float:
    """For how long it has been silent without a break; 0 if that is not known."""
    unbroken = [fact.seconds_ago for fact in verdict.evidence if isinstance(fact, SuspectedBefore) and fact.unbroken]
    # It would have renewed its lease, if it could.
    lapsed = [fact.seconds_ago - LONGEST_RENEWAL_SECONDS for fact in verdict.evidence if isinstance(fact, LeaseLapsed)]
    return max([0.0, *unbroken, *lapsed])


def how_it_ends(confirm_after_seconds: float) -> str:
    """The end of the message of a stop that ends by itself."""
    after = format_seconds(release_after_seconds(confirm_after_seconds))
    return (
        f"it ends by itself in a run {after} after one that found no connection to Redis idle (see docs/safety.md); if "
        f"they are known to be gone, run once with --max-share 1"
    )


def check_share(
    silent: Mapping[str, Verdict], verdicts: Mapping[str, Verdict], seen_live: Collection[str], max_share: float
) -> str | None:
    """Much of a fleet that goes silent at once has a common cause, such as a cut network, more often than it is dead.

    ``silent``: those whose members would go, but for those that said themselves that they have left. It takes at least
    two that were seen live: one process alone cannot tell a common cause from a death of its own.
    """
    went_silent = [process for process in silent if process in seen_live]
    live = sum(verdict.state is State.LIVE for verdict in verdicts.values())
    fleet = len(went_silent) + live
    if len(went_silent) < 2 or len(went_silent) <= max_share * fleet:
        return None
    return (
        f"share: {len(went_silent)} of {fleet} processes that were live went silent at once, more than --max-share "
        f"{max_share:g} allows"
    )


def check_nobody_live(
    silent: Mapping[str, Verdict], verdicts: Mapping[str, Verdict], seen_live: Collection[str], max_share: float
) -> str | None:
    """If every process is silent and none was ever seen live, nothing shows that a live one would be recognized.

    A lease that lapsed was kept fresh once, in sight of this layer: that is to be seen live.
    """
    live = any(verdict.state is State.LIVE for verdict in verdicts.values())
    recognized = any(process in seen_live or _had_a_lease(verdict) for process, verdict in silent.items())
    if not silent or live or max_share >= 1 or recognized:
        return None
    return f"nobody live: {counted(len(silent), 'silent process', 'silent processes')}, none of them ever seen live"


def _had_a_lease(verdict: Verdict) -> bool:
    return any(isinstance(fact, LeaseLapsed) for fact in verdict.evidence)
