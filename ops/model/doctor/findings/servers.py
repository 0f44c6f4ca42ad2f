"""What is wrong with a Redis server of the layer, or with how it is set up."""

import re
from collections.abc import Callable, Iterable, Mapping

from ops.model.disconnects.cause import CauseKind, of_kind
from ops.model.doctor.facts import Client, Facts, Kind, Missing, NotKnown, Refusal, ServerFacts, known
from ops.model.doctor.findings import Symptom, symptom
from ops.model.doctor.findings.settings import (
    HOST_OPTIONS_FIX,
    check_direct_sends,
    check_host_options,
    check_path_to_host,
    survives_a_cut,
)
from ops.model.text import counted, format_seconds, visible

NEAR_MAXCLIENTS = 0.8
SLOW_COMMAND_MS = 100.0
SLOW_EVENT_MS = 200.0
SLOW_FORK_MS = 500.0
SLOW_ROUND_TRIP_MS = 100.0
SWAPPED_SHARE = 0.7
SWAPPED_FROM_BYTES = 64 * 1024 * 1024
RECENT_SECONDS = 3600.0
RESTART_SHADOW_SECONDS = 60.0
CLOCK_TOLERANCE_SECONDS = 5.0
MOST_SHOWN = 5

_STARTS_OVER = "CONFIG RESETSTAT starts the count again."


def of_servers(facts: Facts, examine: Callable[[ServerFacts], Iterable[str]]) -> list[str]:
    """The evidence of all servers, each with its name. Raises NotKnown where there is none and one could not tell."""
    found: list[str] = []
    reasons: list[str] = []
    for server in facts.servers:
        try:
            found.extend(f"{server.where}: {evidence}" for evidence in examine(server))
        except NotKnown as reason:
            reasons.append(str(reason))
    if reasons and not found:
        raise NotKnown("; ".join(dict.fromkeys(reasons)))
    return found


_CONNECTIONS = ("max number of clients",)
_REPLICA = ("READONLY", "read only replica", "MASTERDOWN")
_MEMORY = ("OOM ", "OutOfMemory", "used memory >")


def is_told_of_here(failure: Refusal) -> bool:
    """Whether a finding about the server itself says why this operation of the layer failed."""
    return any(word in failure.said for word in _CONNECTIONS + _REPLICA + _MEMORY)


def _was_refused(server: ServerFacts, words: tuple[str, ...]) -> bool:
    """Whether the server refused an operation of the layer with one of these words."""
    return any(word in failure.said for failure in server.failures for word in words)


def check_maxclients(facts: Facts) -> Symptom | None:
    """``ops.E305``: the server turns connections away."""

    def examine(server: ServerFacts) -> Iterable[str]:
        if _was_refused(server, _CONNECTIONS):
            return ["it turned this command away: max number of clients reached"]
        connected, most = server.number("connected_clients"), server.number("maxclients")
        rejected = server.number("rejected_connections")
        if not rejected and connected < most:
            return []
        return [
            f"turned away since it started {_uptime(server)} ago: {counted(int(rejected), 'connection')}; now "
            f"{connected:,.0f} of {most:,.0f} are in use"
        ]

    fix = f"CONFIG SET maxclients to more, or find who holds the connections: CLIENT LIST. {_STARTS_OVER}"
    return symptom(of_servers(facts, examine), fix)


def check_connections_left(facts: Facts) -> Symptom | None:
    """``ops.W306``: ``maxclients`` is near."""

    def examine(server: ServerFacts) -> Iterable[str]:
        connected, most = server.number("connected_clients"), server.number("maxclients")
        if not NEAR_MAXCLIENTS * most <= connected < most or server.number("rejected_connections"):
            return []
        return [f"{connected:,.0f} of {most:,.0f} connections are in use ({100 * connected / most:.0f} %)"]

    return symptom(of_servers(facts, examine), "CONFIG SET maxclients to more, before connections are turned away.")


def check_primary(facts: Facts) -> Symptom | None:
    """``ops.E301``: a host is a replica: it refuses writes, or loses them."""

    def examine(server: ServerFacts) -> Iterable[str]:
        refused = _was_refused(server, _REPLICA)
        if not (refused and isinstance(server.info, Missing)) and server.word("role") in ("slave", "replica"):
            primary = f"{visible(server.word('master_host'))}:{server.word('master_port')}"
            return [f"it is a replica of {primary} (link {visible(server.word('master_link_status'))})"]
        return ["it refused a message of our own: it is a replica (READONLY)"] if refused else []

    fix = (
        "Put the primary into hosts, or give the host as Sentinel (sentinels and master_name). REPLICAOF NO ONE makes "
        "a primary of it."
    )
    return symptom(of_servers(facts, examine), fix)


def check_out_of_memory(facts: Facts) -> Symptom | None:
    """``ops.E302``: the memory is used up and writes are refused."""

    def examine(server: ServerFacts) -> Iterable[str]:
        refused = _was_refused(server, _MEMORY)
        if refused and (isinstance(server.info, Missing) or "used_memory" not in server.info):
            return ["it refused a message of our own: it is out of memory (OOM)"]
        used, most = server.number("used_memory"), server.number("maxmemory")
        policy, count = server.word("maxmemory_policy"), server.errors("OOM")
        full = most > 0 and used >= most and policy == "noeviction"
        if not (refused or full or count):
            return []
        words = f"{_mb(used)} of maxmemory {_mb(most)} in use, maxmemory-policy {policy}"
        if count:
            words += f"; refused since it started {_uptime(server)} ago: {counted(count, 'write')}"
        return [f"{words}; it refused a message of our own" if refused else words]

    fix = (
        "Give it more: CONFIG SET maxmemory. What fills it: redis-cli --memkeys. Do not let it evict, which drops "
        f"whole groups. {_STARTS_OVER}"
    )
    return symptom(of_servers(facts, examine), fix)


def check_twins(facts: Facts) -> Symptom | None:
    """``ops.W311``: one database of one server is there as two hosts."""
    evidence = [f"{twin} is the same database of the same server as {other}" for twin, other in facts.twins]
    fix = (
        "Name each server once in hosts, in all processes at the same time. To use it as two shards, give each another "
        "database: redis://host:6379/1."
    )
    return symptom(evidence, fix)


def check_databases(facts: Facts) -> Symptom | None:
    """``ops.I417``: the layer has no members here, and other databases of the server are in use."""
    if facts.settings.kind is Kind.PUBSUB or known(facts.processes):
        return None
    ours = {server.database for server in facts.servers}

    def examine(server: ServerFacts) -> Iterable[str]:
        found = {name: stat for name, stat in known(server.info).items() if re.fullmatch(r"db\d{1,6}", name)}
        others = {
            int(name[2:]): stat.get("keys")
            for name, stat in found.items()
            if int(name[2:]) not in ours and isinstance(stat, Mapping)
        }
        words = ", ".join(f"{number} ({keys} keys)" for number, keys in sorted(others.items()))
        return [f"no member of this layer is here, and other databases are in use: {words}"] if others else []

    fix = (
        "If workers or tasks have another database number in hosts, give all processes the same. If these databases "
        "are of other applications, all is well."
    )
    return symptom(of_servers(facts, examine), fix)


def check_lost_sends(facts: Facts) -> Symptom | None:
    """``ops.W206``, unless all hosts are one database, where whoever reads finds what was sent."""
    if facts.twins and len(facts.servers) == 1:
        return None
    return check_direct_sends(facts.settings)


def check_evictions(facts: Facts) -> Symptom | None:
    """``ops.E303``: keys were evicted: groups and messages among them, if the policy came upon them."""

    def examine(server: ServerFacts) -> Iterable[str]:
        evicted = server.number("evicted_keys")
        if not evicted:
            return []
        return [
            f"evicted since it started {_uptime(server)} ago: {counted(int(evicted), 'key')}, under {_policy(server)}; "
            f"{_mb(server.number('used_memory'))} in use"
        ]

    fix = (
        "CONFIG SET maxmemory-policy noeviction and a maxmemory that suffices, or a Redis of its own for the layer. "
        f"{_STARTS_OVER}"
    )
    return symptom(of_servers(facts, examine), fix)


def check_eviction_policy(facts: Facts) -> Symptom | None:
    """``ops.W304``: under this policy a full server drops whole groups, which all carry an expiry."""

    def examine(server: ServerFacts) -> Iterable[str]:
        policy = server.word("maxmemory_policy")
        if not server.number("maxmemory") or policy in ("", "noeviction") or server.number("evicted_keys"):
            return []
        share = server.number("used_memory") / server.number("maxmemory")
        return [f"once full it drops groups and messages: {_policy(server)}, of which {100 * share:.0f} % is in use"]

    fix = "CONFIG SET maxmemory-policy noeviction, or a Redis of its own for the layer."
    return symptom(of_servers(facts, examine), fix)


def _policy(server: ServerFacts) -> str:
    return (
        f"maxmemory-policy {visible(server.word('maxmemory_policy'))} with maxmemory {_mb(server.number('maxmemory'))}"
    )


def check_idle_timeout(facts: Facts) -> Symptom | None:
    """``ops.W307``: the server closes connections that were idle for ``timeout`` seconds: "Connection lost"."""

    def examine(server: ServerFacts) -> Iterable[str]:
        timeout = _whole(known(server.config).get("timeout", ""))
        host = facts.settings.hosts[server.index] if server.index < len(facts.settings.hosts) else None
        if not timeout or (host is not None and host.retries):
            return []
        return [f"timeout is {timeout}: it closes each connection that was idle for {timeout} s, those in pools too"]

    return symptom(of_servers(facts, examine), "CONFIG SET timeout 0 (and in redis.conf), or give the hosts a retry.")


def check_path(facts: Facts) -> Symptom | None:
    """``ops.W207``: something between that may cut connections, and host options that would not survive it."""
    if all(map(survives_a_cut, facts.settings.hosts)) or facts.settings.kind is Kind.DROP_IN:
        return None
    settings = check_host_options(facts.settings)
    evidence = list(settings.evidence) if settings else []

    def examine(server: ServerFacts) -> Iterable[str]:
        found = check_path_to_host(facts.settings, server.index, known(server.arrives_as))
        return [] if found is None else [found]

    try:
        evidence.extend(of_servers(facts, examine))
    except NotKnown:
        if not evidence:
            raise
    return symptom(evidence, HOST_OPTIONS_FIX)


def check_output_buffers(facts: Facts) -> Symptom | None:
    """``ops.E308``: a subscriber of a publish/subscribe layer lost its connection to its output buffer limit, or will.

    What it is behind with counts against ``client-output-buffer-limit pubsub``; servers before 7.2 do not tell how
    many they closed.
    """
    if facts.settings.kind is not Kind.PUBSUB:
        return None

    def examine(server: ServerFacts) -> Iterable[str]:
        closed = known(server.info).get("client_output_buffer_limit_disconnections", 0)
        if isinstance(closed, int) and closed:
            yield f"closed for it since it started {_uptime(server)} ago: {counted(closed, 'connection')}"
        hard, soft, seconds = _pubsub_limit(server)
        for client in _behind(known(server.clients), hard, soft):
            yield (
                f"the subscriber {visible(client.address)} has not taken {_mb(client.unread_bytes)}; the limit is "
                f"{_mb(hard)}, or {_mb(soft)} for {seconds} s"
            )

    fix = (
        "Find why the subscriber does not keep up: a blocked event loop, or a frozen process. For bursts: CONFIG SET "
        'client-output-buffer-limit "pubsub 256mb 64mb 60".'
    )
    return symptom(of_servers(facts, examine), fix)


def _behind(clients: tuple[Client, ...], hard: int, soft: int) -> list[Client]:
    """Subscribers that are beyond the soft limit, or beyond half of the hard one."""
    limits = [limit for limit in (soft, hard // 2) if limit]
    slow = [client for client in clients if client.is_subscriber and limits and client.unread_bytes >= min(limits)]
    return sorted(slow, key=lambda client: -client.unread_bytes)[:MOST_SHOWN]


def _pubsub_limit(server: ServerFacts) -> tuple[int, int, int]:
    """Bytes, bytes, seconds of ``client-output-buffer-limit pubsub``."""
    words = known(server.config).get("client-output-buffer-limit", "").split()
    if "pubsub" not in words[:-3]:
        raise NotKnown(f"{server.where} does not tell its client-output-buffer-limit")
    start = words.index("pubsub") + 1
    hard, soft, seconds = map(_whole, words[start : start + 3])
    return hard, soft, seconds


def check_restarts(facts: Facts) -> Symptom | None:
    """``ops.W309``: Redis restarted or failed over while processes lived: memberships or their consumers are gone.

    With the stock layer a restart ends every consumer that waits; members that are older than the server are of such.
    A process with the drop-in layer puts its memberships back.
    """
    if facts.settings.kind is Kind.PUBSUB:
        return None

    def examine(server: ServerFacts) -> Iterable[str]:
        started = facts.now - server.number("uptime_in_seconds")
        older = [
            process
            for process in known(facts.processes)
            if process.live
            and not process.restores
            and process.oldest_joined_at is not None
            and process.oldest_joined_at < started - CLOCK_TOLERANCE_SECONDS
        ]
        if older:
            oldest = min(process.oldest_joined_at or started for process in older)
            processes = counted(len(older), "live process", "live processes")
            yield (
                f"it started {_uptime(server)} ago, and members of {processes} joined up to "
                f"{format_seconds(started - oldest)} before that"
            )
        ended = _lost(facts, started - CLOCK_TOLERANCE_SECONDS, started + RESTART_SHADOW_SECONDS)
        if ended:
            yield f"it started {_uptime(server)} ago, and {counted(ended, 'websocket')} ended for it, by the log"
        elif server.word("master_replid2").strip("0") and (lost := _lost(facts, facts.now - RECENT_SECONDS, facts.now)):
            websockets = counted(lost, "websocket")
            yield f"it was promoted from a replica, and {websockets} lost Redis within the last hour, by the log"

    fix = (
        "Have the clients connect again (restart the workers, or close their sockets), or use "
        "ops.layers.RedisChannelLayer, which survives a restart and puts memberships back."
    )
    return symptom(of_servers(facts, examine), fix)


def _lost(facts: Facts, since: float, until: float) -> int:
    """How many websockets ended between these times because Redis was gone or refused."""
    ends = facts.ends if isinstance(facts.ends, tuple) else ()
    causes = of_kind(CauseKind.REDIS_LOST)
    return sum(end.disconnect.cause in causes and since <= end.disconnect.at <= until for end in ends)


def check_speed(facts: Facts) -> Symptom | None:
    """``ops.W310``: the server stands still for long, or answers slowly. It does one thing at a time."""

    def examine(server: ServerFacts) -> Iterable[str]:
        reasons = []
        for look in (_round_trip, _slow_commands, _stalls, _swapping):
            try:
                yield from look(server)
            except NotKnown as reason:
                reasons.append(str(reason))
        if reasons:  # what could be looked at has been
            raise NotKnown("; ".join(dict.fromkeys(reasons)))

    fix = (
        "Take such commands to a replica or another server; more memory against swapping; no-appendfsync-on-rewrite "
        "yes, a disk that keeps up and no transparent huge pages against stalls. SLOWLOG RESET and LATENCY RESET "
        "start again."
    )
    return symptom(of_servers(facts, examine), fix)


def _round_trip(server: ServerFacts) -> list[str]:
    fastest = known(server.round_trip_ms)
    return [f"the fastest of our own messages took {fastest:,.0f} ms"] if fastest >= SLOW_ROUND_TRIP_MS else []


def _slow_commands(server: ServerFacts) -> list[str]:
    slow = [
        entry
        for entry in known(server.slow_commands)
        if entry.took_ms >= SLOW_COMMAND_MS and entry.seconds_ago <= RECENT_SECONDS
    ]
    if not slow:
        return []
    worst = max(slow, key=lambda entry: entry.took_ms)
    return [
        f"held up for {SLOW_COMMAND_MS:.0f} ms or more within the last hour by {counted(len(slow), 'command')}, the "
        f"longest {visible(worst.command)}: {worst.took_ms:,.0f} ms, {format_seconds(max(0.0, worst.seconds_ago))} ago"
    ]


def _stalls(server: ServerFacts) -> list[str]:
    found = [
        f"{visible(event.event)} took {event.worst_ms:,.0f} ms at worst, last {format_seconds(event.seconds_ago)} ago"
        for event in known(server.latency_events)
        if event.event not in ("command", "fast-command")
        and event.worst_ms >= SLOW_EVENT_MS
        and event.seconds_ago <= RECENT_SECONDS
    ]
    fork_ms = server.number("latest_fork_usec") / 1000
    if fork_ms >= SLOW_FORK_MS:
        found.append(f"its latest fork took {fork_ms:,.0f} ms")
    if delayed := int(server.number("aof_delayed_fsync")) if "aof_delayed_fsync" in known(server.info) else 0:
        found.append(f"waited for the disk (aof_delayed_fsync): {counted(delayed, 'write')}")
    return found


def _swapping(server: ServerFacts) -> list[str]:
    used, resident = server.number("used_memory"), server.number("used_memory_rss")
    if used < SWAPPED_FROM_BYTES or not 0 < resident < SWAPPED_SHARE * used:
        return []
    return [f"{_mb(resident)} of its {_mb(used)} are in memory, the rest is swapped out"]


def _uptime(server: ServerFacts) -> str:
    return format_seconds(server.number("uptime_in_seconds"))


def _mb(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"


def _whole(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 16 else 0
