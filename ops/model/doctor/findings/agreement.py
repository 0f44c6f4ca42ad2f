"""Processes that do not agree: on keys, hosts, prefix, time or event loop."""

from collections import defaultdict

from ops.model.disconnects.cause import Cause, is_five_second_race
from ops.model.disconnects.record import Disconnect
from ops.model.doctor.facts import Facts, KeyspaceFacts, Kind, LoggedEnd, NotKnown, ServerFacts, known
from ops.model.doctor.findings import Symptom, symptom
from ops.model.doctor.findings.servers import CLOCK_TOLERANCE_SECONDS, RECENT_SECONDS, of_servers
from ops.model.doctor.findings.settings import USE_DROP_IN, check_socket_timeout
from ops.model.liveness.readability import packs_only
from ops.model.text import counted, format_seconds, visible

STORM_ENDS = 3
A_DAY = 86400.0
LATE_SECONDS = 60.0  # a record may have waited for Redis; that all of a host have waited so long is the clock
MOST_SHOWN = 5
_TWO_LOOPS = ("Two event loops are trying to receive", "attached to a different loop")
# What the layer's serializers raise on what they cannot read; a consumer's own JSON errors have other names.
_UNREADABLE = ("InvalidToken", "ExtraData", "FormatError", "UnpackException", "UnpackValueError")


def _recent(facts: Facts, seconds: float = RECENT_SECONDS) -> list[LoggedEnd]:
    return [end for end in known(facts.ends) if facts.now - end.written_at <= seconds]


def storm(facts: Facts) -> list[LoggedEnd]:
    """The ends of the last hour that look like sockets that gave up as long as BZPOPMIN waits.

    One consumer of a process waits for all of them. When it dies the next begins to wait, so a process loses one each
    5 s: the age of the first is 5 s, and so is the time between any other and the one before it.
    """
    died: list[LoggedEnd] = []
    last_of: dict[object, float] = {}
    for end in sorted(_timed_out(facts), key=lambda end: end.disconnect.at):
        process = end.disconnect.process or (end.disconnect.host, end.disconnect.pid)
        spans = [end.disconnect.lived_seconds, end.disconnect.at - last_of.get(process, 0.0)]
        if any(span is not None and is_five_second_race(span) for span in spans):
            died.append(end)
        last_of[process] = end.disconnect.at
    return died


def _timed_out(facts: Facts) -> list[LoggedEnd]:
    return [end for end in _recent(facts) if end.disconnect.cause == Cause.REDIS_TIMEOUT]


def check_five_second_storm(facts: Facts) -> Symptom | None:
    """``ops.E401``: websockets die after 5 s, by the ages in the disconnect log."""
    died = storm(facts)
    if len(died) < STORM_ENDS:
        return None
    evidence = [
        f"of {counted(len(_recent(facts)), 'websocket')} that ended within the last hour {len(_timed_out(facts)):,} "
        f"died of a Redis time-out, {len(died):,} after 5 s of waiting, which is as long as BZPOPMIN waits"
    ]
    here = check_socket_timeout(facts.settings)
    evidence.extend(here.evidence if here else ())
    return symptom(evidence, f'Give each host as a dict with "socket_timeout": None, or {USE_DROP_IN}.')


def check_short_socket_timeout(facts: Facts) -> Symptom | None:
    """``ops.W202``, unless the log shows already that it happens."""
    if isinstance(facts.ends, tuple) and len(storm(facts)) >= STORM_ENDS:
        return None
    return check_socket_timeout(facts.settings)


def check_readability(facts: Facts) -> Symptom | None:
    """``ops.E406``: messages that cannot be read with this serializer and these keys: each kills a consumer."""
    evidence: list[str] = []
    reason: NotKnown | None = None
    try:
        unreadable = [one for one in known(facts.keyspace).unreadable if not one.packs_only]
        evidence.extend(
            f"process {lease.process} ({visible(lease.host)} pid {visible(lease.pid)}) has another serializer, or "
            f"lacks the encryption key that is used here, as its lease tells"
            for lease in known(facts.keyspace).other_settings[:MOST_SHOWN]
        )
        evidence.extend(one.words for one in unreadable[:MOST_SHOWN])
        if len(unreadable) > MOST_SHOWN:
            evidence.append(f"and so of {counted(len(unreadable) - MOST_SHOWN, 'more process', 'more processes')}")
    except NotKnown as missing:
        reason = missing
    killed = [
        end.disconnect
        for end in _logged(facts)
        if facts.now - end.written_at <= A_DAY and _raised(end.disconnect, _UNREADABLE)
    ]
    if killed:
        kinds = sorted({_first_word(one.exception, _UNREADABLE) for one in killed})
        evidence.append(
            f"died of a message that it could not read: {counted(len(killed), 'consumer')} ({', '.join(kinds)})"
        )
    if reason is not None and not evidence:
        raise reason
    fix = (
        "Give all processes the same symmetric_encryption_keys and serializer_format. To change keys: put the new one "
        "behind the old everywhere, then in front, then take the old away."
    )
    return symptom(evidence, fix)


def check_map_keys(facts: Facts) -> Symptom | None:
    """``ops.E415``: messages that msgpack packs and does not unpack: each ends the consumer that receives it."""
    evidence: list[str] = []
    if isinstance(facts.keyspace, KeyspaceFacts):
        evidence += [one.words for one in facts.keyspace.unreadable if one.packs_only][:MOST_SHOWN]
    died = [
        end.disconnect
        for end in _logged(facts)
        if facts.now - end.written_at <= A_DAY and any(map(packs_only, end.disconnect.exception))
    ]
    if died:
        evidence.append(f"died of such a message: {counted(len(died), 'consumer')}")
    if not evidence:
        known(facts.keyspace)
    fix = (
        "Send text as the keys of every dict in a message: {str(key): value}. The settings and the encryption keys are "
        "not the cause."
    )
    return symptom(evidence, fix)


def check_event_loops(facts: Facts) -> Symptom | None:
    """``ops.E412``: one layer is used from several event loops."""
    ends = [end.disconnect for end in _recent(facts, A_DAY) if any(_says(end.disconnect, text) for text in _TWO_LOOPS)]
    if not ends:
        return None
    processes = len({one.process or one.pid for one in ends})
    return Symptom(
        (
            f"died of it: {counted(len(ends), 'consumer')} of {counted(processes, 'process', 'processes')}: "
            f"{visible(ends[-1].exception[0][:160])}",
        ),
        "Receive in one event loop per process. In threads and tasks only send, by async_to_sync(layer.send), or give "
        "them a layer of their own: channel_layers.make_backend(alias).",
    )


def _logged(facts: Facts) -> tuple[LoggedEnd, ...]:
    return facts.ends if isinstance(facts.ends, tuple) else ()


def _raised(one: Disconnect, types: tuple[str, ...]) -> bool:
    return any(_type_of(raised) in types for raised in one.exception)


def _first_word(chain: tuple[str, ...], types: tuple[str, ...]) -> str:
    return next(_type_of(raised) for raised in chain if _type_of(raised) in types)


def _type_of(raised: str) -> str:
    return raised.partition(":")[0].rpartition(".")[2].strip()


def _says(one: Disconnect, text: str) -> bool:
    return any(text in raised for raised in one.exception)


def check_hosts_order(facts: Facts) -> Symptom | None:
    """``ops.E407``: groups lie on another shard than this configuration reads: other hosts, or another order."""
    keyspace = known(facts.keyspace)
    evidence = [
        f"the group {visible(group)} lies on shard {shard}, and this configuration looks for it on shard {wanted}"
        for shard, group, wanted in keyspace.misplaced[:MOST_SHOWN]
    ]
    if keyspace.misplaced_groups > MOST_SHOWN:
        evidence.append(f"{counted(keyspace.misplaced_groups, 'group')} in all")
    evidence.extend(
        f"by its lease, {visible(other.holder)} has {other.where} as {visible(other.said or 'no shard')}, and this "
        f"configuration as {other.expected}"
        for other in keyspace.other_hosts[:MOST_SHOWN]
    )
    fix = (
        "Give all processes the same hosts in the same order. After a shard was added or taken away, restart them all; "
        "what lies on old shards expires."
    )
    return symptom(evidence, fix)


def check_ring(facts: Facts) -> Symptom | None:
    """``ops.W413``: a part of the hash ring has no groups, so it may be on a server that is not configured here.

    Not if ``ops.E407`` tells it already, or if the leases of all live processes say that they have these hosts.
    """
    keyspace = known(facts.keyspace)
    gap = keyspace.ring_gap
    if gap is None or keyspace.misplaced_groups or keyspace.other_hosts or _all_tell_their_hosts(facts):
        return None
    empty = ", ".join(str(part + 1) for part in gap.empty)
    evidence = [
        f"of {counted(gap.groups, 'group')} none lies in part {empty} of the hash ring, cut into {gap.parts}; of "
        f"{counted(gap.made_up, 'name')} made up like theirs {gap.made_up_there:,} would"
    ]
    fix = (
        "Compare the hosts of the workers with those of this configuration: they may have more, or another in the "
        "place of one. If they are the same, all is well."
    )
    return symptom(evidence, fix)


def _all_tell_their_hosts(facts: Facts) -> bool:
    if not isinstance(facts.processes, tuple):
        return False
    live = [process for process in facts.processes if process.live]
    return bool(live) and all(process.lease is not None and process.lease.shard for process in live)


def check_prefixes(facts: Facts) -> Symptom | None:
    """``ops.W408``: the same groups under another prefix: processes of one application that do not hear each other."""
    others = known(known(facts.keyspace).other_prefixes)
    evidence = [
        f"prefix {visible(prefix)} is in use too, with groups of the same names, such as {visible(group)}"
        for prefix, group in sorted(others.items())[:MOST_SHOWN]
    ]
    fix = "Give all processes of one application the same prefix. If these are two applications, all is well."
    return symptom(evidence, fix)


def check_clocks(facts: Facts) -> Symptom | None:
    """``ops.W409``: clocks of application hosts that differ from that of Redis: messages expire early or never."""
    evidence: list[str] = []
    reason: NotKnown | None = None
    for look in (_own_clock, _scores_ahead, _log_clocks):
        try:
            evidence.extend(look(facts))
        except NotKnown as missing:
            reason = reason or missing
    if reason is not None and not evidence:
        raise reason
    fix = (
        "Have all hosts keep time (chrony, systemd-timesyncd). A message is dropped once its host's clock says that it "
        "is older than expiry, and a member at group_expiry."
    )
    return symptom(evidence, fix)


def _own_clock(facts: Facts) -> list[str]:
    def examine(server: ServerFacts) -> list[str]:
        ahead = known(server.clock_ahead_seconds)
        return [f"the clock of this host is {_apart(ahead)} it"] if abs(ahead) >= CLOCK_TOLERANCE_SECONDS else []

    return of_servers(facts, examine)


def _scores_ahead(facts: Facts) -> list[str]:
    if facts.settings.kind is Kind.PUBSUB:
        return []
    return [
        f"process {process.process} wrote a time that is {format_seconds(process.newest_score - facts.now)} in the "
        f"future of Redis' clock"
        for process in known(facts.processes)
        if process.newest_score is not None and process.newest_score - facts.now >= CLOCK_TOLERANCE_SECONDS
    ][:MOST_SHOWN]


def _log_clocks(facts: Facts) -> list[str]:
    """A record is written after the end that it tells of; by how much at least, is the difference of the clocks."""
    lags: dict[str, list[float]] = defaultdict(list)
    for end in _logged(facts):
        if end.disconnect.host and end.disconnect.source == "middleware":
            lags[end.disconnect.host].append(end.written_at - end.disconnect.at)
    return [
        f"the clock of host {visible(host)} is {_apart(-min(lag))} Redis', by {counted(len(lag), 'record')} of the log"
        for host, lag in sorted(lags.items())
        if min(lag) <= -CLOCK_TOLERANCE_SECONDS or (min(lag) >= LATE_SECONDS and len(lag) >= STORM_ENDS)
    ][:MOST_SHOWN]


def _apart(ahead_seconds: float) -> str:
    where = "ahead of" if ahead_seconds > 0 else "behind"
    return f"{format_seconds(abs(ahead_seconds))} {where}"
