"""What is wrong with the processes of the layer, their inboxes and their members."""

from ops.model.disconnects.cause import Cause
from ops.model.disconnects.record import iso_time
from ops.model.doctor.facts import Facts, Kind, Missing, ProcessFacts, known
from ops.model.doctor.findings import Symptom, symptom
from ops.model.text import counted, format_seconds, visible

STALE_MESSAGE_SECONDS = 10.0
STALE_POP_SECONDS = 2.0
NEAR_EXPIRY_SHARE = 0.8
FREE_PLACES = 2  # an inbox with fewer is full; what is on its way to it may need them
MOST_SHOWN = 5
OLD_SECONDS = 3600.0
POPS = ("bzpopmin", "BZPOPMIN")
ACKNOWLEDGEMENTS = ("zpopmin", "ZPOPMIN")
DEPLOY_CAUSES = (Cause.PROCESS_EXIT, Cause.SHUTDOWN_CANCELLED)


def check_hung(facts: Facts) -> Symptom | None:
    """``ops.E402``: a worker that is connected and takes nothing: it is held up, or its consumers have ended."""
    hung, connections = _hung(facts)
    if not hung:
        return None
    evidence = [
        f"{_name(process)}: {_standing(process)}; {counted(process.members, 'member')}" for process in hung[:MOST_SHOWN]
    ]
    if connections:
        silent = sum(process.silent for process in known(facts.processes))
        evidence.append(
            f"idle after a message was waited for or acknowledged, which a worker that receives does again at once: "
            f"{counted(connections, 'connection')}; silent: {counted(silent, 'process', 'processes')}"
        )
    fix = (
        "See what it does: py-spy dump --pid PID. A handler that blocks belongs into a thread (sync_to_async, "
        "database_sync_to_async); a stopped process continues with kill -CONT. If it does nothing, its consumers have "
        "ended: its log says why, and OpsMiddleware would. Restart it otherwise, then reap_stale."
    )
    return symptom(_with_rest(evidence, hung), fix)


def _hung(facts: Facts) -> tuple[list[ProcessFacts], int]:
    """The processes that hang, and how many connections show it.

    Which connection is whose Redis does not tell. Who took a first probe and no second has one; where as many
    connections stand idle as processes are silent, all of these do. Who has said that it ended does not hang, and who
    lives by its lease alone may have ended since: it is not known whether anything reads.
    """
    processes = known(facts.processes)
    silent = [process for process in processes if process.silent and not _left(process)]
    hung = [process for process in silent if process.frozen or process.lease_is_renewed]
    hung += [
        process for process in processes if process.reads and process.oldest_message_seconds >= STALE_MESSAGE_SECONDS
    ]
    stale = _stale_pops(facts) if silent else 0
    # Consumers that have ended leave their connections idle too.
    others = [p for p in silent if p not in hung and not _ended_by_the_log(facts, p)]
    if others and stale >= len(silent):
        hung += others
    return hung, stale


def _ended_by_the_log(facts: Facts, process: ProcessFacts) -> bool:
    return bool(_causes_of_ends(facts, process.process, still_member=True))


def _stale_pops(facts: Facts) -> int:
    """Connections that a receiver left idle. A live process may have one that has acknowledged a message, and waits on
    another; so these count only if no process is live."""
    live = any(process.live for process in known(facts.processes))
    commands = POPS if live else (*POPS, *ACKNOWLEDGEMENTS)
    return sum(
        client.command in commands and not client.is_blocked and client.idle_seconds >= STALE_POP_SECONDS
        for server in facts.servers
        if isinstance(server.clients, tuple)
        for client in server.clients
    )


def gone(facts: Facts) -> list[ProcessFacts]:
    """The silent processes that have members and do not hang."""
    hung = {process.process for process in _hung(facts)[0]}
    return [p for p in known(facts.processes) if p.silent and p.members and p.process not in hung]


def _deployed(facts: Facts) -> dict[str, int]:
    """Process -> how many of its websockets ended with it, by the disconnect log."""
    ended: dict[str, int] = {}
    for end in facts.ends if isinstance(facts.ends, tuple) else ():
        if end.disconnect.cause in DEPLOY_CAUSES and end.disconnect.process:
            ended[end.disconnect.process] = ended.get(end.disconnect.process, 0) + 1
    return ended


def check_deploys(facts: Facts) -> Symptom | None:
    """``ops.W404``: processes that ended in order and left their members behind, as Daphne does at each deploy."""
    ended = _deployed(facts)
    left = [process for process in gone(facts) if process.process in ended or _left(process)]
    evidence = []
    for process in left[:MOST_SHOWN]:
        words = f"{_name(process)} ended and left {counted(process.members, 'member')} behind"
        if process.process in ended:
            words += f"; in the log, {counted(ended[process.process], 'websocket')} ended with it"
        evidence.append(words)
    fix = " ".join([*_at_the_source(facts, left), "Now: manage.py reap_stale --wait"])
    return symptom(_with_rest(evidence, left), fix)


def _at_the_source(facts: Facts, processes: list[ProcessFacts]) -> list[str]:
    """What would have kept members from being left behind, unless these processes have it: then they have a lease."""
    if facts.settings.kind is Kind.DROP_IN or (processes and all(process.lease is not None for process in processes)):
        return []
    return [
        "At the source: ops.middleware.OpsMiddleware, outermost in asgi.py, or ops.layers.RedisChannelLayer; both "
        "leave the groups at the end of a process."
    ]


def _left(process: ProcessFacts) -> bool:
    return process.lease is not None and process.lease.ended


def check_orphans(facts: Facts) -> Symptom | None:
    """``ops.W403``: members of processes that nothing reads for, or of consumers that ended in a live process.

    Why, and whether the process itself ended, is told only as far as it was seen.
    """
    ended = _deployed(facts)
    silent = [process for process in gone(facts) if process.process not in ended and not _left(process)]
    evidence = [_unread(facts, process) for process in silent[:MOST_SHOWN]]
    in_live_processes = _gone_consumers(facts)
    commands = ["manage.py reap_stale --wait"] * bool(silent)
    commands += ["manage.py replay_disconnects --cleanup"] * bool(in_live_processes)
    fix = " ".join([f"{' and '.join(commands)}.", *_at_the_source(facts, silent)])
    return symptom(_with_rest(evidence, silent) + in_live_processes, fix)


def _unread(facts: Facts, process: ProcessFacts) -> str:
    seen = f"{_name(process)} has {counted(process.members, 'member')} and takes no messages: {_standing(process)}"
    if process.lease_is_fresh:
        not_known = "whether it has ended since; it did not renew its lease again when that was due"
    else:
        not_known = "whether it has ended, and why"
    return f"{seen}; {_in_the_log(facts, process)}; not known: {not_known}"


def _in_the_log(facts: Facts, process: ProcessFacts) -> str:
    if isinstance(facts.ends, Missing):
        return "the disconnect log could not be read"
    if not facts.ends:
        return "there is no disconnect log"
    causes = _causes_of_ends(facts, process.process)
    return f"in the log its websockets ended: {_by_cause(causes)}" if causes else "the disconnect log has nothing of it"


def check_reaper(facts: Facts) -> Symptom | None:
    """``ops.W416``: members of processes that have been silent for long, and no run of ``reap_stale`` on record."""
    if facts.settings.kind is Kind.PUBSUB:
        return None
    old = [one for one in gone(facts) if one.newest_score is not None and facts.now - one.newest_score >= OLD_SECONDS]
    if not old or known(facts.reaper_has_looked):
        return None
    members = counted(sum(process.members for process in old), "member")
    newest = max(process.newest_score or 0.0 for process in old)
    return Symptom(
        (
            f"{members} of {counted(len(old), 'process', 'processes')} that take no messages, the newest joined "
            f"{format_seconds(facts.now - newest)} ago; no run of reap_stale is on record",
        ),
        "Run manage.py reap_stale every minute, by cron, systemd or Kubernetes: docs/scheduling.md has the files.",
    )


def check_put_back(facts: Facts) -> Symptom | None:
    """``ops.I312``: memberships that the drop-in layer put back, mostly since Redis lost them at a restart."""
    if facts.settings.kind is Kind.PUBSUB:
        return None
    counts = [dict(one.lease.counts).get("members_put_back", 0) for one in known(facts.processes) if one.lease]
    if not any(counts):
        return None
    back = counted(sum(counts), "membership was", "memberships were")
    started = [
        f"{server.where} started at {iso_time(facts.now - server.number('uptime_in_seconds'))}"
        for server in facts.servers
    ]
    return Symptom(
        (f"{back} put back by {counted(sum(map(bool, counts)), 'process', 'processes')}", *started),
        "Nothing is to be done for the members. See why Redis lost them: a restart without data, a failover, eviction.",
    )


def _causes_of_ends(facts: Facts, process: str, *, still_member: bool = False) -> dict[str, int]:
    causes: dict[str, int] = {}
    for end in facts.ends if isinstance(facts.ends, tuple) else ():
        if end.disconnect.process == process and (end.still_member or not still_member):
            causes[end.disconnect.cause] = causes.get(end.disconnect.cause, 0) + 1
    return causes


def _by_cause(causes: dict[str, int]) -> str:
    return ", ".join(f"{count:,} of {cause}" for cause, count in sorted(causes.items(), key=lambda pair: -pair[1]))


def _gone_consumers(facts: Facts) -> list[str]:
    """Members whose websocket has ended, by the log, though their process lives."""
    causes: dict[str, int] = {}
    for process in known(facts.processes):
        if process.live:
            for cause, count in _causes_of_ends(facts, process.process, still_member=True).items():
                causes[cause] = causes.get(cause, 0) + count
    if not causes:
        return []
    words = _by_cause(causes)
    ended = counted(sum(causes.values()), "websocket")
    return [f"{ended} of live processes ended, and the channels are members still: {words}"]


def check_shared_inboxes(facts: Facts) -> Symptom | None:
    """``ops.E414``: two processes with one name read one inbox, and each message reaches only one of them."""
    shared = [process for process in known(facts.processes) if known(process.shared_inbox)]
    evidence = [
        f"{_name(process)}: in three rounds, 6 s apart, at least 2 connections waited for its messages at once; "
        f"{counted(process.members, 'member')}; not known which processes they are of"
        for process in shared[:MOST_SHOWN]
    ]
    fix = (
        "A layer that was made before a fork, as with gunicorn --preload, gives all children one name. Put "
        "ops.middleware.OpsMiddleware into asgi.py or use ops.layers.RedisChannelLayer: both give each child a name of "
        "its own. Or leave --preload out."
    )
    return symptom(_with_rest(evidence, shared), fix)


def is_full(messages: int, capacity: int) -> bool:
    return 0 < capacity <= messages + FREE_PLACES


def check_full_inboxes(facts: Facts) -> Symptom | None:
    """``ops.E405``: inboxes at capacity: what is sent to them now is dropped."""
    full = [
        process
        for process in known(facts.processes)
        if not process.silent and not process.by_lease_alone and is_full(process.messages, process.capacity)
    ]
    full.sort(key=lambda process: -process.messages)
    evidence = []
    for process in full[:MOST_SHOWN]:
        fed = ", ".join(f"{visible(group)} ({counted(count, 'member')} here)" for group, count in process.groups)
        evidence.append(
            f"{_name(process)}: {counted(process.messages, 'message')} in an inbox of {process.capacity:,}, the oldest "
            f"{format_seconds(process.oldest_message_seconds)} old; fed by {fed or 'no group that is known'}"
        )
    fix = (
        "Its consumers do not keep up: make handlers shorter or start more workers. For bursts: capacity in CONFIG "
        "(each process has one inbox for all of its channels)."
    )
    return symptom(_with_rest(evidence, full), fix)


def check_in_flight(facts: Facts) -> Symptom | None:
    """``ops.W410``: messages in flight of a process that is gone: their key has no expiry and stays for ever."""
    leaked = [process for process in known(facts.processes) if process.silent and process.in_flight]
    evidence = [
        f"{_name(process)} is gone, and of what it took {counted(process.in_flight, 'message')} is still in flight"
        for process in leaked[:MOST_SHOWN]
    ]
    return symptom(_with_rest(evidence, leaked), "manage.py reap_stale --wait sets such keys aside.")


def check_members_near_expiry(facts: Facts) -> Symptom | None:
    """``ops.W411``: live members that the stock layer is about to drop for their age alone."""
    expiry = facts.settings.group_expiry_seconds
    if facts.settings.kind is not Kind.STOCK or not expiry:
        return None
    near = [p for p in known(facts.processes) if p.live and not p.restores and p.near_expiry]
    evidence = [
        f"{_name(process)}: {process.near_expiry:,} of {process.members:,} members joined more than "
        f"{format_seconds(NEAR_EXPIRY_SHARE * expiry)} ago; at {format_seconds(expiry)} (group_expiry) they stop "
        f"receiving, open or not"
        for process in near[:MOST_SHOWN]
    ]
    fix = (
        "Raise group_expiry beyond the longest life of a socket, or use ops.layers.RedisChannelLayer, which refreshes."
    )
    return symptom(_with_rest(evidence, near), fix)


def _name(process: ProcessFacts) -> str:
    holder = process.lease
    if holder is None:
        return f"process {process.process}"
    return f"process {process.process} ({visible(holder.host)} pid {visible(holder.pid)})"


def _standing(process: ProcessFacts) -> str:
    words = "; ".join(process.evidence)
    if process.lease_is_renewed:
        words += "; renewed its lease after that"
    if process.messages:
        oldest = format_seconds(process.oldest_message_seconds)
        words += f"; in its inbox {counted(process.messages, 'message')}, the oldest {oldest} old"
    return words


def _with_rest(evidence: list[str], found: list[ProcessFacts]) -> list[str]:
    rest = len(found) - MOST_SHOWN
    return [*evidence, f"and {counted(rest, 'more process', 'more processes')}"] if rest > 0 else evidence
