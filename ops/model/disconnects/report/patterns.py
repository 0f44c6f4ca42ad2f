"""What the ends of many websockets have in common, named, each with its evidence and its thresholds. Pure.

A pattern says what is seen, not who is to blame; its advice says where to look first.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median_low

from ops.model.disconnects.cause import CauseKind, of_kind
from ops.model.disconnects.report.counting import AgeBin, Slot, Timeline
from ops.model.disconnects.report.pattern import EVIDENCE_SHOWN, Pattern, clock, shown
from ops.model.disconnects.report.tally import (
    BRIEF_SECONDS,
    WINDOW_SECONDS,
    DisconnectTally,
)
from ops.model.disconnects.report.worker_patterns import named_workers, workers_died, workers_stopped, workers_vanished
from ops.model.text import format_seconds, visible

# That many of one age are noticed in a large log whatever their share; in a small one they must be a fifth of all.
# Neighbouring ages tell what is usual: five times that is a peak.
SAME_AGE_AT_LEAST = 5
SAME_AGE_MANY = 20
SAME_AGE_SHARE = 0.2
SAME_AGE_TIMES_USUAL = 5.0
SAME_AGE_TOGETHER = 0.5
FLAT_BINS = 4
FLAT_TIMES_AVERAGE = 2.0
AGES_ASIDE = 2  # bins on each side: Daphne's log knows whole seconds only
NEIGHBOURS = 20

TICKS_AT_LEAST = 3
TICKS_SHARE = 0.5
REDIS_LOST_AT_LEAST = 3

STORM_AT_LEAST = 30  # in one step of the timeline
STORM_SHARE = 0.6
STORM_TIMES_USUAL = 5.0
STORM_ALONE_SHARE = 0.9

BAD_PATH_AT_LEAST = 10
BAD_PATH_SHARE = 0.6
BAD_PATH_TIMES_OTHERS = 3.0
PATH_FAULTS = of_kind(CauseKind.FAULT)


@dataclass(frozen=True, slots=True)
class KnownAge:
    """Something that ends connections at one age, or after that long without traffic."""

    seconds: float
    what: str


KNOWN_AGES = (
    KnownAge(30, "the default of Google Cloud's load balancers for a connection"),
    KnownAge(40, "a client that answers none of uvicorn's pings (20 s and 20 s)"),
    KnownAge(50, "the usual limit of HAProxy, or a client that answers none of Daphne's pings (20 s and 30 s)"),
    KnownAge(55, "the idle limit of Heroku's routers"),
    KnownAge(60, "the idle limit of nginx (proxy_read_timeout), of AWS' application load balancers and many others"),
    KnownAge(100, "the idle limit of Cloudflare"),
    KnownAge(240, "the idle limit of Azure's load balancers"),
    KnownAge(350, "the idle limit of AWS' network load balancers"),
    KnownAge(600, "the idle limit of Google Cloud's networks"),
    KnownAge(86400, "Daphne's --websocket_timeout, 24 h by default"),
)


def find_patterns(tally: DisconnectTally) -> list[Pattern]:
    """The patterns in what was counted, those of most connections first."""
    finders: Sequence[Callable[[DisconnectTally], Iterable[Pattern]]] = (
        workers_died,
        workers_stopped,
        workers_vanished,
        redis_lost,
        redis_timeouts,
        same_ages,
        no_close_codes,
        reconnect_storms,
        bad_path,
    )
    found = [pattern for finder in finders for pattern in finder(tally)]
    return sorted(found, key=lambda pattern: -pattern.connections)


def redis_lost(tally: DisconnectTally) -> Iterable[Pattern]:
    """Many consumers lost their connection to Redis in the same seconds."""
    runs = _runs(tally.timeline.coarser(tally.timeline.most_slots, WINDOW_SECONDS), lambda slot: slot.redis > 0)
    outages = [run for run in runs if run.sum("redis") >= REDIS_LOST_AT_LEAST]
    if outages:
        number = sum(run.sum("redis") for run in outages)
        yield Pattern(
            "redis_lost",
            f"{number:,} connections ended because the application lost Redis",
            (
                *shown([f"{run.sum('redis'):,} from {run.when}" for run in outages], "more times"),
                *_who_lost_redis(tally),
            ),
            "Redis restarted or failed over, or something between closes idle connections. The stock layer lets every "
            "consumer die of it; ops.layers.RedisChannelLayer outlives it.",
            number,
        )


def _who_lost_redis(tally: DisconnectTally) -> Iterable[str]:
    """A Redis that is away is so for all; a connection that was cut is one worker's."""
    workers = named_workers(tally)
    lost = sorted((worker for worker in workers if worker.lost), key=lambda worker: -worker.lost)
    names = [f"{visible(worker.label)} ({worker.lost:,})" for worker in lost]
    if names:
        yield f"in {len(lost):,} of the {len(workers):,} workers in the log: {', '.join(shown(names, 'more'))}"


def redis_timeouts(tally: DisconnectTally) -> Iterable[Pattern]:
    """A consumer of each worker dies of redis-py's time-out every five seconds.

    Only one consumer of a process waits for Redis at a time, and the others for it: so it is the pauses between the
    ends that are five seconds, and the age of the first only.
    """
    workers = sorted(tally.workers.values(), key=lambda worker: -worker.ticks)
    number, ticks = sum(worker.timeouts for worker in workers), sum(worker.ticks for worker in workers)
    if ticks >= TICKS_AT_LEAST and ticks >= TICKS_SHARE * number:
        evidence = [
            f"{visible(worker.label) or 'one log'}: {worker.ticks:,} of {worker.timeouts:,} came 5 s after another "
            f"or after the socket's beginning"
            for worker in workers
            if worker.ticks
        ]
        yield Pattern(
            "redis_py_8_timeout",
            f"{number:,} connections died of redis-py's time-out, one every 5 s",
            shown(evidence, "more workers"),
            "redis-py 8 gives up after 5 s, just as long as the stock layer waits for a message. Give each host of "
            'CHANNEL_LAYERS "socket_timeout": None, or use ops.layers.RedisChannelLayer.',
            number,
        )


def no_close_codes(tally: DisconnectTally) -> Iterable[Pattern]:
    """All ends have the code of a connection that was cut, which a server may say of every end."""
    if tally.says_only_cut:
        number = tally.by_code.top(1)[0][0][1]
        yield Pattern(
            "no_close_codes",
            f"all {number:,} ends with a close code have 1006: the server may not tell close codes",
            ("no end has 1000, 1001 or 1005, with which browsers close",),
            "Hypercorn gives 1006 for every end by the client, whatever its code was: nothing says that the network "
            "cut them.",
            number,
        )


def same_ages(tally: DisconnectTally) -> Iterable[Pattern]:
    """Ages at which far more connections end than at those around them, though not at the same time."""
    taken: set[int] = set()
    for middle in sorted(tally.ages, key=lambda number: -tally.ages[number].count):
        together = range(middle - AGES_ASIDE, middle + AGES_ASIDE + 1)
        peak = AgeBin()
        for number in together:
            if number in tally.ages and number not in taken:
                peak.join(tally.ages[number])
        if middle not in taken and _is_peak(peak, middle, tally):
            taken.update(together)
            yield _same_age(peak, tally.ages[middle])


def _is_peak(peak: AgeBin, middle: int, tally: DisconnectTally) -> bool:
    reach = AGES_ASIDE + NEIGHBOURS
    near = [tally.ages[n].count for n in range(middle - reach, middle + reach + 1) if n in tally.ages]
    usual = max(0, sum(near) - peak.count) * (2 * AGES_ASIDE + 1) / (2 * NEIGHBOURS)
    usual = max(usual, _ended_within(tally, middle - 3 * AGES_ASIDE - 1), _ended_within(tally, middle + AGES_ASIDE + 1))
    return (
        peak.count >= SAME_AGE_AT_LEAST
        and (peak.count >= SAME_AGE_MANY or peak.count >= SAME_AGE_SHARE * tally.aged)
        and peak.count >= SAME_AGE_TIMES_USUAL * usual
        # Those that began together and end together died of one event, not of their age.
        and peak.most <= SAME_AGE_TOGETHER * peak.count
        and not _is_flat(peak, middle, tally)
    )


def _ended_within(tally: DisconnectTally, first: int) -> int:
    """How many ended at as many ages as a peak has, from ``first`` on."""
    return sum(tally.ages[n].count for n in range(first, first + 2 * AGES_ASIDE + 1) if n in tally.ages)


def _is_flat(peak: AgeBin, middle: int, tally: DisconnectTally) -> bool:
    """Whether the ages lie evenly over the width of a peak: a time-out has one age, and a little jitter."""
    counts = [tally.ages[n].count for n in range(middle - AGES_ASIDE, middle + AGES_ASIDE + 1) if n in tally.ages]
    return len(counts) >= FLAT_BINS and max(counts) <= FLAT_TIMES_AVERAGE * peak.count / len(counts)


def _same_age(peak: AgeBin, fullest: AgeBin) -> Pattern:
    # Of the fullest bin, since what else ended near that age would shift the average of all.
    age = fullest.ages / fullest.count
    commonest = max(peak.causes, key=lambda cause: peak.causes[cause])
    evidence = (
        f"they lived for about {age:.1f} s, and ended from {clock(peak.first_at)} to {clock(peak.last_at)}",
        f"{peak.causes[commonest]:,} of them: {commonest}",
    )
    return Pattern(
        "same_age",
        f"{peak.count:,} connections died at the same age: {format_seconds(age)}",
        evidence,
        _advice_for(age),
        peak.count,
    )


def _advice_for(age: float) -> str:
    known = [known.what for known in KNOWN_AGES if abs(age - known.seconds) <= 0.6 + 0.01 * known.seconds]
    if known:
        return f"That is {known[0]}. Send something more often than that (ops.consumers.HeartbeatMixin), or raise it."
    return "Look for a time-out of that length in the client, the proxy, the load balancer and the server."


def reconnect_storms(tally: DisconnectTally) -> Iterable[Pattern]:
    """Times in which many more connections than usual ended soon after they began."""
    timeline = tally.timeline.coarser(tally.timeline.most_slots, WINDOW_SECONDS)
    # The lower of two in the middle: in a log of a minute, a storm fills many of the steps.
    usual = median_low([slot.brief for _, slot in timeline.steps()] or [0])

    def stormy(slot: Slot) -> bool:
        return (
            slot.brief >= STORM_AT_LEAST
            and slot.brief >= STORM_SHARE * slot.total
            and slot.brief >= STORM_TIMES_USUAL * usual
        )

    def nothing_else(slot: Slot) -> bool:
        return slot.brief >= STORM_AT_LEAST and slot.brief >= STORM_ALONE_SHARE * slot.total

    # A log most of which is storm has no quieter time to compare with.
    storms = _runs(timeline, stormy) or (_runs(timeline, nothing_else) if usual >= STORM_AT_LEAST else [])
    if storms:
        number = sum(run.sum("brief") for run in storms)
        yield Pattern(
            "reconnect_storm",
            f"a reconnect storm: {number:,} connections ended within {BRIEF_SECONDS:.0f} s of their beginning",
            (
                *shown([_storm(run, timeline.width_seconds) for run in storms], "more times"),
                f"usual in {timeline.width_seconds} s: {usual:,}",
                _ended_of(storms, number),
            ),
            "Clients come back at once and together, and fail again. See what ends them (causes, paths), and let them "
            "wait for a random time that grows.",
            number,
        )


def _storm(run: "_Run", width_seconds: int) -> str:
    fullest = f", {run.most('brief'):,} in the worst {width_seconds} s" if len(run.slots) > 1 else ""
    return f"{run.sum('brief'):,} from {run.when}{fullest}"


def _ended_of(storms: "Sequence[_Run]", number: int) -> str:
    """What the ``number`` connections of the storms ended of."""
    together = Slot()
    for slot in (slot for run in storms for slot in run.slots):
        together.add(slot)
    ordered = sorted(together.brief_of.items(), key=lambda item: (-item[1], item[0]))[: EVIDENCE_SHOWN - 2]
    named = [f"{count:,} {visible(kind)}" for kind, count in ordered]
    rest = number - sum(count for _, count in ordered)
    return "what ended so soon: " + ", ".join([*named, *([f"{rest:,} others"] if rest else [])])


def bad_path(tally: DisconnectTally) -> Iterable[Pattern]:
    """One path, among several, that has most of the faults, and far more of its own than the others have."""
    totals: dict[str, int] = {}
    faults: dict[str, int] = {}
    for (path, cause), count in tally.by_path_and_cause.ordered():
        totals[path] = totals.get(path, 0) + count
        faults[path] = faults.get(path, 0) + (count if cause in PATH_FAULTS else 0)
    if len(totals) < 2:
        return
    worst = max(faults, key=lambda path: faults[path])
    number, of = faults[worst], totals[worst]
    all_faults, others = sum(faults.values()), sum(totals.values()) - of
    if (
        number < BAD_PATH_AT_LEAST
        or number < BAD_PATH_SHARE * all_faults
        or number / of < BAD_PATH_TIMES_OTHERS * (all_faults - number) / max(1, others)
    ):
        return
    causes = [f"{count:,} {cause}" for (path, cause), count in tally.by_path_and_cause.ordered() if path == worst]
    evidence = (
        f"{number:,} of its {of:,} connections ended in a fault; of all others {all_faults - number:,} of {others:,}",
        ", ".join(causes[:EVIDENCE_SHOWN]),
    )
    yield Pattern(
        "bad_path",
        f"one path has {number / all_faults:.0%} of the faults: {visible(worst)}",
        evidence,
        "Look at the consumer behind that path, and at its exceptions.",
        number,
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """Steps of a timeline that follow one another."""

    begins_at: float
    ends_at: float
    slots: tuple[Slot, ...]

    def sum(self, name: str) -> int:
        return sum(int(getattr(slot, name)) for slot in self.slots)

    def most(self, name: str) -> int:
        return max(int(getattr(slot, name)) for slot in self.slots)

    @property
    def when(self) -> str:
        return f"{clock(self.begins_at)} to {clock(self.ends_at)}"


def _runs(timeline: Timeline, wanted: Callable[[Slot], bool]) -> list[_Run]:
    runs: list[_Run] = []
    slots: list[Slot] = []
    begins_at = 0.0
    for at, slot in [*timeline.steps(), (0.0, Slot())]:
        if wanted(slot):
            begins_at = begins_at if slots else at
            slots.append(slot)
        elif slots:
            runs.append(_Run(begins_at, begins_at + len(slots) * timeline.width_seconds, tuple(slots)))
            slots = []
    return runs
