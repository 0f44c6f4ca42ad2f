"""Look at a layer once: count its members, probe its processes, judge them. What inspecting and reaping share."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ops.exceptions import ShardError
from ops.model.keys import DEFAULT_INBOX_PREFIX, Inbox
from ops.model.liveness.evidence import Evidence, NotProbed, ProbesTaken
from ops.model.liveness.judge import Policy, Verdict, judge
from ops.model.liveness.lease import Lease, lease_evidence
from ops.model.liveness.moments import LatestLook, Moment, look_after
from ops.model.liveness.stops import Absence, Control, MisplacedGroup, OtherHosts
from ops.model.liveness.suspicion import Recall, Signs, Suspicion, recall
from ops.model.settings import DEFAULTS, OpsSettings
from ops.model.text import visible
from ops.operations.progress import Progress, no_progress
from ops.store.connection.shards import OpenLayer, Shard
from ops.store.groups.census import Census, MisplacedAmong, ProcessTally, ScanNotes, Selection, count_members
from ops.store.liveness.clocks import read_moment, read_other_clocks
from ops.store.liveness.leases import find_other_hosts, read_leases
from ops.store.liveness.markers import count_markers, without_messages
from ops.store.liveness.probes import control_receivers, probe_processes
from ops.store.liveness.suspects import read_latest_looks, read_suspicions


@dataclass(frozen=True, slots=True)
class Look:
    """How to look. ``scores``: read join times while counting; ``controls``: probe receivers of our own too;
    ``leftovers``: include processes of which only an inbox is left."""

    names: tuple[str, ...] = ()
    glob: str | None = None
    probe: bool = True
    probe_timeout_seconds: float = DEFAULTS.probe_timeout_seconds
    confirm_after_seconds: float = DEFAULTS.confirm_after_seconds
    scores: bool = False
    controls: bool = False
    leftovers: bool = False

    @classmethod
    def from_settings(cls, settings: OpsSettings, **chosen: Any) -> "Look":
        return cls(**options_from(settings, cls, chosen))


def options_from(settings: OpsSettings, options: type[Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What was chosen, and for the fields of ``options`` that were not, or are None, the setting of the same name."""
    names = {field.name for field in fields(options)} & {field.name for field in fields(settings)}
    return {name: getattr(settings, name) for name in names} | {
        name: value for name, value in chosen.items() if value is not None or name not in names
    }


@dataclass(slots=True)
class Observation:
    """What one look found. ``moment``: when the probes were sent, by the first shard that answers; without one, by this
    host. ``this_look``: what it tells of the servers, with those before it; ``absence``: what earlier runs knew of idle
    receivers."""

    this_look: LatestLook
    census: Census
    verdicts: dict[str, Verdict]
    recalls: dict[str, Recall]
    controls: list[Control] = field(default_factory=list)
    leases: dict[str, Lease] = field(default_factory=dict)
    other_hosts: list[OtherHosts] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    absence: Absence | None = None

    @property
    def moment(self) -> Moment:
        return self.this_look.at

    @property
    def now(self) -> float:
        return self.moment.redis

    @property
    def newest_joins(self) -> dict[str, float]:
        return {process: tally.newest_joined_at for process, tally in self.census.processes.items()}

    def restores(self, process: str) -> bool:
        """Whether the process has the drop-in layer, which puts back members that were removed."""
        return process in self.leases and self.leases[process].restores

    def inboxes_of(self, processes: Iterable[str]) -> dict[str, set[str]]:
        """Every inbox that each of the processes may read: a stock process reads one at a time, be it in no group."""
        prefixes = _inbox_prefixes(self.census)
        return {process: {f"{prefix}.{process}!" for prefix in prefixes} for process in processes}

    def marked_inboxes(self, suspicions: Mapping[str, Suspicion]) -> dict[str, set[str]]:
        """The inboxes with the markers of these processes. Suspicions of older versions do not have them."""
        everywhere = self.inboxes_of(suspicions)
        return {process: set(one.inboxes) or everywhere[process] for process, one in suspicions.items()}


def selection_on(opened: OpenLayer, shard: Shard, look: Look) -> Selection:
    """Which keys of ``shard`` to read."""
    keyspace = opened.keyspace
    if look.names:
        names = dict.fromkeys(look.names)
        return Selection(keys=tuple(keyspace.group(name) for name in names if opened.shard_of_group(name) is shard))
    if look.leftovers and look.glob is None:
        return Selection(pattern=keyspace.everything_pattern)
    return Selection(pattern=keyspace.groups_pattern(look.glob))


async def observe(
    opened: OpenLayer,
    look: Look,
    progress: Progress = no_progress,
    suspicions: Mapping[str, Suspicion] | None = None,
) -> Observation:
    """Count, probe and judge. A shard that fails on the way is marked in ``opened``; the others are still reported.

    ``suspicions`` of earlier rounds are read from Redis where they are not given.
    """
    if suspicions is None:
        suspicions = await read_suspicions(opened) if opened.home.problem is None else {}
    # Who joined since is told by the join times, which matter only where somebody may be found dead.
    look = replace(look, scores=look.scores or (look.probe and bool(suspicions)))
    census, notes = await take_census(opened, look, progress)
    if not opened.answering:
        return Observation(look_after(None, Moment(time.time()), ""), census, {}, {}, notes=notes)
    this_look = look_after(None, await read_moment(opened), opened.epoch, await read_other_clocks(opened))
    observation = Observation(this_look, census, {}, {}, notes=notes)
    began = time.monotonic()
    if opened.complete and not opened.epoch:
        notes.append("what earlier runs suspected cannot count where INFO is refused; add to the user's ACL: +info")
    await _read_what_is_known(opened, observation)
    probed = await _probe(opened, look, census, observation) if look.probe else {}
    # A process that is silent now was silent until now, all through the wait for its probes.
    until = observation.now + time.monotonic() - began
    # After the probes: a process that came to life for a moment meanwhile has taken its marker, if not two probes.
    recalls = observation.recalls = await _recall(opened, look, observation, suspicions)
    policy = Policy(look.confirm_after_seconds)
    for process in census.processes:
        facts: list[Evidence] = []
        if process in observation.leases:
            facts.extend(_evidence_of_lease(opened, observation, process, until))
        if process in probed:
            facts.append(probed[process])
        elif not facts or not look.probe:
            facts.append(NotProbed("its shard did not answer" if look.probe else "not asked to"))
        if process in recalls:
            facts.extend(recalls[process].evidence)
        observation.verdicts[process] = judge(facts, policy)
    return observation


async def take_census(opened: OpenLayer, look: Look, progress: Progress) -> tuple[Census, list[str]]:
    """Count the members of each process on all shards at once, and note what else is worth knowing."""
    seen: dict[int, tuple[int, int]] = {}

    def tell(shard: Shard) -> Callable[[int, int], None]:
        def progress_of_shard(groups: int, members: int) -> None:
            seen[shard.index] = (groups, members)
            progress(
                "counting", sum(groups for groups, _ in seen.values()), sum(members for _, members in seen.values())
            )

        return progress_of_shard

    async def count(shard: Shard) -> tuple[Census, ScanNotes]:
        scan_notes = ScanNotes()
        with shard.noting_failure():
            async with shard.wire() as wire:
                selection = selection_on(opened, shard, look)
                census = await count_members(
                    wire,
                    opened.keyspace,
                    selection,
                    scan_notes,
                    scores=look.scores,
                    progress=tell(shard),
                    misplaced_among=_misplaced_among(opened, shard),
                )
            census.misplaced = await _misplaced(opened, shard, scan_notes)
            return census, scan_notes
        return Census(), scan_notes

    found = await asyncio.gather(*(count(shard) for shard in opened.answering))
    total = Census()
    for census, _ in found:
        total.add(census)
    total.absent = {opened.keyspace.group_name(key) for _, notes in found for key in notes.absent}
    if look.leftovers:
        await _add_leftover_processes(opened, total, [inbox for _, notes in found for inbox in notes.inboxes])
    return total, _scan_notes(opened, [notes for _, notes in found])


def _misplaced_among(opened: OpenLayer, shard: Shard) -> MisplacedAmong | None:
    """It hashes each group once, and does nothing else: there may be a hundred thousand."""
    if len(opened.databases) == 1:
        return None
    hashed, name_at, here = opened.layer.consistent_hash, len(opened.keyspace.group_prefix), opened.indexes_of(shard)
    return lambda keys: [key for key in keys if hashed(key[name_at:]) not in here]


async def _misplaced(opened: OpenLayer, shard: Shard, notes: ScanNotes) -> list[MisplacedGroup]:
    if not notes.misplaced:
        return []
    now = await shard.now()
    names = {opened.keyspace.group_name(key): joined_at for key, joined_at in notes.misplaced.items()}
    return [
        MisplacedGroup(name, shard.where, opened.shard_of_group(name).where, now - joined_at)
        for name, joined_at in names.items()
    ]


async def _add_leftover_processes(opened: OpenLayer, census: Census, inboxes: list[Inbox]) -> None:
    """Processes of which only messages are left. Another layer's keys may begin like ours: known prefixes only."""
    prefixes = _inbox_prefixes(census)
    found = {inbox for inbox in inboxes if inbox.prefix in prefixes and inbox.process not in census.processes}
    try:
        empty = await without_messages(opened, {inbox.name for inbox in found})
    except ShardError:  # The look will meet it again.
        empty = set()
    census.without_messages = empty
    for inbox in inboxes:
        if inbox.prefix in prefixes and inbox.name not in empty:
            census.processes.setdefault(inbox.process, ProcessTally()).inboxes.add(inbox.name)


def _inbox_prefixes(census: Census) -> set[str]:
    """The ``new_channel`` prefixes that this layer is known to use."""
    used = {name.rpartition(".")[0] for tally in census.processes.values() for name in tally.inboxes}
    return used | {DEFAULT_INBOX_PREFIX}


def _scan_notes(opened: OpenLayer, notes: list[ScanNotes]) -> list[str]:
    wrong = [opened.keyspace.group_name(key) for note in notes for key in note.wrong_type]
    if not wrong:
        return []
    keys = "key holds" if len(wrong) == 1 else "keys hold"
    return [f"{len(wrong)} group {keys} something else and cannot be read, '{visible(wrong[0])}' among them"]


async def _read_what_is_known(opened: OpenLayer, observation: Observation) -> None:
    """Read the leases, and what the latest look left."""
    if opened.home.problem is not None:
        return
    observation.leases = await read_leases(opened.home, opened.keyspace, observation.census.processes)
    fresh = [lease for lease in observation.leases.values() if lease.is_fresh(observation.now)]
    observation.other_hosts = await find_other_hosts(opened, fresh)
    looks, observation.absence = await read_latest_looks(opened)
    own = looks.pop(observation.moment.boot_id, None)
    this_look = observation.this_look
    observation.this_look = look_after(own, this_look.at, opened.epoch, this_look.others, looks.values())


async def _recall(
    opened: OpenLayer, look: Look, observation: Observation, suspicions: Mapping[str, Suspicion]
) -> dict[str, Recall]:
    """What the suspicions are worth. Markers are counted only by a look that probes: others may not read them."""
    census, leases = observation.census, observation.leases
    known = {process: suspicions[process] for process in census.processes if process in suspicions}
    marked = [process for process, suspicion in known.items() if suspicion.marks and look.probe]
    try:
        marks = await count_markers(opened, observation.marked_inboxes({one: known[one] for one in marked}))
    except ShardError as error:
        # Without it a process that has lived since may look silent ever since: this look is not whole.
        observation.notes.append(str(error))
        opened.home.note_failure(error)
        marked = []
    return {
        process: recall(
            suspicion,
            Signs(
                census.processes[process].newest_joined_at,
                marks[process] if process in marked else None,
                leases[process].renewed_at if process in leases else None,
            ),
            now=observation.moment,
            epoch=opened.epoch,
            evicted_keys=opened.evicted_keys,
            confirm_after_seconds=look.confirm_after_seconds,
        )
        for process, suspicion in known.items()
    }


def _evidence_of_lease(opened: OpenLayer, observation: Observation, process: str, until: float) -> tuple[Evidence, ...]:
    home = opened.home.identity
    return lease_evidence(
        observation.leases[process],
        now=observation.now,
        until=until,
        server_run=home.run_id,
        server_uptime_seconds=home.uptime_seconds,
        even_seconds=observation.this_look.even_seconds + until - observation.now,
    )


async def _probe(opened: OpenLayer, look: Look, census: Census, observation: Observation) -> Mapping[str, Evidence]:
    leases = observation.leases
    inboxes = observation.inboxes_of(
        process
        for process in census.processes
        if process not in leases or not leases[process].is_fresh(observation.now)
    )
    try:
        async with AsyncExitStack() as stack:
            controls: dict[int, tuple[str, str]] = {}
            if look.controls:
                controls = await stack.enter_async_context(control_receivers(opened))
            mine = {process: {inbox} for process, inbox in controls.values()}
            evidence = await probe_processes(
                opened, {**inboxes, **mine}, look.probe_timeout_seconds, leases=leases, own=mine
            )
    except ShardError as error:
        observation.notes.append(str(error))
        await asyncio.gather(*(shard.identify() for shard in opened.answering))
        if opened.complete:  # It is back, but this look is not whole.
            opened.home.note_failure(error)
        return {}
    for shard, (process, _) in controls.items():
        answer = evidence[process]
        round_trip_ms = answer.round_trip_ms if isinstance(answer, ProbesTaken) else None
        observation.controls.append(Control(shard, round_trip_ms))
    return evidence
