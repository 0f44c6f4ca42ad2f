"""Collect the facts about a layer, reading only.

What is written is a few messages to channels and a group of its own, which are taken back, and the probes that every
look at processes needs. Each fact has a time limit, and one that cannot be had costs only the checks that need it.
"""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from ops.model.doctor.facts import (
    Facts,
    KeyspaceFacts,
    Kind,
    LayerSettings,
    LoggedEnd,
    Missing,
    NotKnown,
    ProcessFacts,
    Refusal,
    ServerFacts,
    known,
)
from ops.model.doctor.findings.processes import NEAR_EXPIRY_SHARE, is_full
from ops.model.doctor.ring import find_gap
from ops.model.keys import encode_name, inbox_of
from ops.model.liveness.evidence import (
    Bearing,
    Evidence,
    InboxDrained,
    LeaseFresh,
    NotProbed,
    OtherSettings,
    ProbesTaken,
    ProbeUnanswered,
    ProbeWithheld,
)
from ops.model.liveness.judge import Policy, State, judge
from ops.model.liveness.lease import LATE_SECONDS, Lease, renewal_seconds
from ops.model.liveness.stops import MISPLACED_SECONDS
from ops.operations.observe import Look, Observation, observe
from ops.store.connection.shards import OpenLayer, Shard
from ops.store.disconnects.log import read_newest
from ops.store.doctor.inspection import fact, read_clients, read_server
from ops.store.doctor.readers import find_shared
from ops.store.doctor.round_trip import measure_round_trip
from ops.store.doctor.survey import (
    InboxReading,
    MemberSurvey,
    ProcessAges,
    read_inboxes,
    survey_members,
    survey_prefixes,
)
from ops.store.doctor.trial import missing_rules, try_groups
from ops.store.liveness.leases import read_leases
from ops.store.liveness.probes import probe_processes
from ops.store.liveness.readability import find_unreadable, reads_ours
from ops.store.liveness.suspects import read_latest_looks

PROBE_TIMEOUT_SECONDS = 3.0
LOOK_AT_LEASES_SECONDS = 0.25
LONGEST_FACT_SECONDS = 30.0
NEWEST_ENDS = 5000
MOST_FOLLOWED_UP = 1000
GROUPS_OF_AN_END = 5
GROUPS_SHOWN = 3


async def collect(opened: OpenLayer, settings: LayerSettings) -> Facts:
    """The facts about every shard that answers, and about the processes where all do."""
    servers = await asyncio.gather(*(_read_server(opened, shard, settings.kind) for shard in opened.databases))
    twins = [(shard.where, shard.twin_of.where) for shard in opened.shards if shard.twin_of is not None]
    facts = Facts(settings, tuple(servers), tuple(twins))
    if not opened.answering:
        missing = Missing(opened.problems[0])
        return replace(facts, processes=missing, ends=missing, keyspace=missing)
    ends = await fact(_read_ends(opened), LONGEST_FACT_SECONDS)
    now = await fact(opened.answering[0].now())
    if isinstance(now, Missing):
        return replace(facts, processes=now, ends=now, keyspace=now)
    facts = replace(facts, now=now, ends=ends)
    if not opened.backend.keeps_members:
        # Its groups are subscriptions, which end with their connection: there is no inbox and nothing to expire.
        facts = replace(facts, processes=(), keyspace=KeyspaceFacts())
    else:
        facts = await _with_processes(opened, facts)
    # After the probes: by now a frozen process stands out among the connections.
    return await _with_clients(opened, facts)


async def _read_server(opened: OpenLayer, shard: Shard, kind: Kind) -> ServerFacts:
    if shard.problem is not None:
        unanswered = ServerFacts(shard.index, shard.address, shard.problem, *[Missing(shard.problem)] * 8)
        return replace(unanswered, problem_code=shard.problem_code)
    reading = await read_server(shard)
    server = ServerFacts(
        shard.index,
        shard.address,
        info=reading.info,
        config=reading.config,
        slow_commands=reading.slow_commands,
        latency_events=reading.latency_events,
        clock_ahead_seconds=reading.clock_ahead_seconds,
        arrives_as=reading.arrives_as,
        round_trip_ms=await fact(measure_round_trip(opened, shard), LONGEST_FACT_SECONDS),
    )
    return await _with_operations(opened, shard, server, kind) if opened.backend.keeps_members else server


async def _with_operations(opened: OpenLayer, shard: Shard, server: ServerFacts, kind: Kind) -> ServerFacts:
    """What the layer does with groups was tried too, and which rights it lacks."""
    tried = await fact(try_groups(opened, shard), LONGEST_FACT_SECONDS)
    refusals = (Refusal("group_add", tried.code, tried.why),) if isinstance(tried, Missing) else tried
    rules = await fact(missing_rules(opened, shard, kind))
    return replace(server, refusals=refusals, missing_rules=() if isinstance(rules, Missing) else rules)


async def _with_clients(opened: OpenLayer, facts: Facts) -> Facts:
    async def clients_of(server: ServerFacts) -> ServerFacts:
        if server.problem is not None:
            return server
        connected = server.info.get("connected_clients", 0) if isinstance(server.info, Mapping) else 0
        return replace(server, clients=await fact(read_clients(opened.shards[server.index], connected)))

    return replace(facts, servers=tuple(await asyncio.gather(*map(clients_of, facts.servers))))


async def _read_ends(opened: OpenLayer) -> tuple[LoggedEnd, ...]:
    """The newest records, and whether the channels that they speak of are members still."""
    ends = [LoggedEnd(written_at, one) for written_at, one in await read_newest(opened, NEWEST_ENDS)]
    asked = [
        (number, opened.shard_of_group(group), ("ZSCORE", opened.keyspace.group(group), encode_name(channel)))
        for number, end in enumerate(ends[:MOST_FOLLOWED_UP])
        if (channel := end.disconnect.channel) and inbox_of(channel)
        for group in end.disconnect.groups[:GROUPS_OF_AN_END]
    ]
    for shard in opened.answering:
        mine = [(number, command) for number, where, command in asked if where is shard]
        replies = await shard.pipeline([command for _, command in mine])
        for (number, _), score in zip(mine, replies, strict=True):
            if score is not None and not isinstance(score, Exception):
                ends[number] = replace(ends[number], still_member=True)
    return tuple(ends)


# Processes


async def _with_processes(opened: OpenLayer, facts: Facts) -> Facts:
    try:
        return await _processes_and_keys(opened, facts)
    except NotKnown as reason:
        missing = Missing(str(reason))
        return replace(facts, processes=missing, keyspace=missing)


async def _processes_and_keys(opened: OpenLayer, facts: Facts) -> Facts:
    """Raises NotKnown where a shard does not let itself be read."""
    look = Look(probe=False, leftovers=True, confirm_after_seconds=facts.settings.confirm_after_seconds)
    observation = known(await fact(observe(opened, look), LONGEST_FACT_SECONDS))
    if not opened.complete:
        raise NotKnown(opened.problems[0])
    tallies = observation.census.processes
    names = {process: tally.inboxes for process, tally in tallies.items()}
    inboxes = known(await fact(read_inboxes(opened, names), LONGEST_FACT_SECONDS))
    unreadable = tuple(known(await fact(find_unreadable(opened, names), LONGEST_FACT_SECONDS)))
    probed = await _probe(opened, facts, observation, unreadable)
    # After the probes: who ended meanwhile and took everything along has left nothing.
    full = {process for process, reading in inboxes.items() if is_full(reading.messages, reading.capacity)}
    old_before = facts.now - NEAR_EXPIRY_SHARE * (facts.settings.group_expiry_seconds or 0)
    recent_since = facts.now - MISPLACED_SECONDS
    survey = known(await fact(survey_members(opened, old_before, recent_since, full), LONGEST_FACT_SECONDS))
    prefixes = await fact(survey_prefixes(opened, facts.settings.other_prefixes), LONGEST_FACT_SECONDS)
    others = tuple(lease for lease in observation.leases.values() if reads_ours(opened.layer, lease) is False)
    looks = await fact(read_latest_looks(opened))
    facts = replace(facts, reaper_has_looked=looks if isinstance(looks, Missing) else bool(looks[0]))
    keyspace = KeyspaceFacts(
        survey.misplaced_groups,
        tuple(survey.misplaced),
        prefixes,
        unreadable,
        others,
        tuple(observation.other_hosts),
        # Groups of before a change of hosts can hide what those that were joined since show.
        find_gap(survey.ring) or find_gap(survey.recent_ring),
    )
    facts = replace(facts, keyspace=keyspace)
    if isinstance(probed, Missing):
        return replace(facts, processes=probed)
    later = known(await fact(read_inboxes(opened, {name: names[name] for name in probed})))
    for process, reading in later.items():
        inboxes[process].in_flight = min(inboxes[process].in_flight, reading.in_flight)
    shared = await _find_shared(opened, names, probed)
    processes = [
        replace(
            _process(facts, observation, process, probed.get(process), inboxes.get(process, InboxReading()), survey),
            shared_inbox=shared if isinstance(shared, Missing) else process in shared,
        )
        for process in tallies
    ]
    doubtful = [one.lease for one in processes if one.silent and one.members and one.lease_is_fresh and one.lease]
    renewed = await fact(_renewed(opened, doubtful), LONGEST_FACT_SECONDS)
    if not isinstance(renewed, Missing):
        processes = [replace(one, lease_is_renewed=one.process in renewed) for one in processes]
    # Probes of another run may lie there still, and messages expire soon: they show nothing of one that is gone.
    there = (process for process in processes if not process.silent or process.members or process.in_flight)
    return replace(facts, processes=tuple(there))


async def _probe(
    opened: OpenLayer, facts: Facts, observation: Observation, unreadable: Collection[object]
) -> Mapping[str, Evidence] | Missing:
    """Probe all processes, since a frozen one has a fresh lease; not if that might do harm, or could not be done."""
    if unreadable:
        return Missing("processes are not probed while messages cannot be read: a probe could end a consumer")
    for server in facts.servers:
        if isinstance(server.round_trip_ms, Missing):
            return server.round_trip_ms
    inboxes = {process: tally.inboxes for process, tally in observation.census.processes.items()}
    probed = await fact(
        probe_processes(opened, inboxes, PROBE_TIMEOUT_SECONDS, leases=observation.leases), LONGEST_FACT_SECONDS
    )
    return probed if isinstance(probed, Missing) else _unless_withheld(probed, observation)


async def _renewed(opened: OpenLayer, leases: Sequence[Lease]) -> Collection[str]:
    """Who of these silent processes renews its lease when that is due: it lives, and takes no messages all the same."""
    waiting = {lease.process: lease.renewed_at for lease in leases}
    renewed: set[str] = set()
    longest = max((renewal_seconds(lease.lease_seconds) + LATE_SECONDS for lease in leases), default=0.0)
    until = time.monotonic() + longest
    while waiting and time.monotonic() < until:
        await asyncio.sleep(LOOK_AT_LEASES_SECONDS)
        found = await read_leases(opened.home, opened.keyspace, waiting)
        renewed |= {process for process, lease in found.items() if lease.renewed_at > waiting[process]}
        waiting = {process: at for process, at in waiting.items() if process not in renewed}
    return renewed


async def _find_shared(
    opened: OpenLayer, inboxes: Mapping[str, Collection[str]], probed: Mapping[str, Evidence]
) -> Collection[str] | Missing:
    """Of the processes that took their probes, those that are not alone at their inbox."""
    live = {process: inboxes[process] for process, answer in probed.items() if isinstance(answer, ProbesTaken)}
    return await fact(find_shared(opened, live), LONGEST_FACT_SECONDS)


def _unless_withheld(probed: Mapping[str, Evidence], observation: Observation) -> Mapping[str, Evidence] | Missing:
    """Own words, or a fresh lease, do without a probe; of the others nothing can be said without one."""
    for process, answer in probed.items():
        told = observation.verdicts[process].state in (State.DEAD, State.LIVE) or isinstance(answer, OtherSettings)
        if isinstance(answer, ProbeWithheld) and not told:
            return Missing(f"processes are {answer.words}")
    return probed


def _process(
    facts: Facts,
    observation: Observation,
    process: str,
    probed: Evidence | None,
    inbox: InboxReading,
    survey: MemberSurvey,
) -> ProcessFacts:
    evidence = [one for one in observation.verdicts[process].evidence if not isinstance(one, NotProbed)]
    if probed is not None:
        evidence.append(probed)
    verdict = judge(_newer_than_the_lease(evidence), Policy(facts.settings.confirm_after_seconds))
    ages = survey.processes.get(process, ProcessAges())
    scores = [score for score in (ages.newest, inbox.newest_score) if score is not None]
    return ProcessFacts(
        process=process,
        live=verdict.state is State.LIVE,
        silent=verdict.is_silent,
        evidence=tuple(fact.words for fact in evidence),
        members=ages.members if survey.whole else observation.census.processes[process].members,
        lease=observation.leases.get(process),
        frozen=isinstance(probed, ProbeUnanswered) and probed.taken > 0,
        messages=inbox.messages,
        capacity=inbox.capacity,
        oldest_message_seconds=max(0.0, facts.now - inbox.oldest_score) if inbox.oldest_score is not None else 0.0,
        in_flight=inbox.in_flight,
        newest_score=max(scores, default=None),
        oldest_joined_at=ages.oldest,
        near_expiry=ages.old,
        groups=tuple(ages.groups.most_common(GROUPS_SHOWN)),
        by_lease_alone=verdict.state is State.LIVE and not isinstance(probed, (ProbesTaken, InboxDrained)),
        lease_is_fresh=any(isinstance(fact, LeaseFresh) for fact in evidence),
    )


def _newer_than_the_lease(evidence: list[Evidence]) -> list[Evidence]:
    """A process that is silent now was well when it renewed its lease. That saves it from the reaper, not from this."""
    if any(fact.bearing is Bearing.SILENCE for fact in evidence):
        return [fact for fact in evidence if not isinstance(fact, LeaseFresh)]
    return evidence
