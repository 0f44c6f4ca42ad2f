"""The promise, as a state machine over a real Redis: whatever comes between whatever, no live member goes.

Processes join, leave, freeze, wake and crash between the steps of a reap run and inside them; two runs may be at work
at once, without the lock. The runs are real, and so are their scripts and what is in Redis. Only time is not: a round
of probes takes as long as it says without anybody waiting, and a process that is awake takes a message when it comes.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import redis
from django.conf import settings as django_settings
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from ops.model.liveness import plan
from ops.model.liveness.judge import State, Verdict
from ops.model.liveness.moments import Moment
from ops.model.liveness.suspicion import Signs
from ops.model.runs import ReapReport
from ops.operations import observe
from ops.operations.reaping import purge, reap, undo
from ops.operations.reaping.reap import ReapOptions
from ops.store.connection.scripts import Script, script
from ops.store.connection.shards import OpenLayer, open_layer
from ops.store.liveness import probes
from ops.store.liveness.markers import MARKERS
from ops.store.removal import journal
from tests.conftest import SharedServers
from tests.layer_builders import ASGI, NoLock, layer_of, let_time_pass, receipts

CONFIRM_SECONDS = 60
GROUPS = ("lobby", "news")
EXAMPLES = 1000
EXAMPLES_TO_FIND_IT_IN = 3000
STEPS = 5
STRANGERS = {b"general": 1.0, b"specific.nobody!x": 2.0, b"!": 3.0}  # names that name no process: never removed
Members = dict[tuple[str, bytes], float]


@dataclass(eq=False)
class Process:
    """As Redis sees one: a name, channels, a clock of its own, and whether it takes messages."""

    skew_seconds: float
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    state: str = "awake"
    holds_out_a_hand: bool = False  # frozen while it waited: the server gives it the next message
    woke_after: int = 0  # how many looks there had been when it was last woken
    woke_at: str = ""  # at which moment of a run; empty between runs

    @property
    def inbox(self) -> str:
        return f"specific.{self.name}!"

    def channel(self, number: int) -> bytes:
        return f"{self.inbox}{number:032x}".encode()


@dataclass
class Look:
    """One round of probes: when, who took none, up to which join the members of each were counted."""

    at: float
    silent: set[str]
    trusted: bool
    newest: dict[str, float]
    live: set[str]


class Bench:
    """One Redis and one open layer for all examples, and the world of the present one."""

    loop: asyncio.AbstractEventLoop
    opened: OpenLayer
    client: redis.Redis
    census: Mapping[str, Any]
    world: World

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)


bench = Bench()


class VirtualTime:
    """What the probes' module knows as `time` and `asyncio`: sleeping costs nothing."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


class World(RuleBasedStateMachine):
    """What is true, beside what is in Redis."""

    def __init__(self) -> None:
        super().__init__()
        bench.world = self
        bench.client.flushdb()
        self.processes: list[Process] = []
        self.expected: Members = {}
        self.joins = 0
        self.clock = 0.0
        self.looks: list[Look] = []
        self.runs: dict[str, Members] = {}
        self.blackout = False
        self.evicted_keys = 0
        self.moment = ""
        self.under_way: list[Look | None] = []  # of each run that is at work, the outer first: its round of probes
        self.runs_met = False
        self.violated = False
        self.between: dict[str, Callable[[], None]] = {}
        for group in GROUPS:
            bench.client.zadd(ASGI.group(group), STRANGERS)

    # What processes do

    @initialize(skews=st.lists(st.sampled_from([-7200.0, 0.0, 7200.0]), min_size=2, max_size=3))
    def start(self, skews: list[float]) -> None:
        self.processes = [Process(skew) for skew in skews]
        for process in self.processes:
            self._join(process, GROUPS[0], 0)

    def _join(self, process: Process, group: str, number: int) -> None:
        if process.state != "awake":
            return
        self.joins += 1
        score = 1_000_000.0 + self.clock + process.skew_seconds + self.joins / 1000
        bench.client.zadd(ASGI.group(group), {process.channel(number): score})
        self.expected[group, process.channel(number)] = score

    @rule(who=st.integers(0, 2), group=st.sampled_from(GROUPS), number=st.integers(0, 2))
    def join(self, who: int, group: str, number: int) -> None:
        self._join(self._process(who), group, number)

    @rule(who=st.integers(0, 2), group=st.sampled_from(GROUPS), number=st.integers(0, 2))
    def discard(self, who: int, group: str, number: int) -> None:
        process = self._process(who)
        if process.state == "awake":
            bench.client.zrem(ASGI.group(group), process.channel(number))
            self.expected.pop((group, process.channel(number)), None)

    @rule(who=st.integers(0, 2))
    def pause(self, who: int) -> None:
        process = self._process(who)
        if process.state == "awake":
            process.state, process.holds_out_a_hand = "frozen", True

    @rule(who=st.integers(0, 2))
    def wake(self, who: int) -> None:
        process = self._process(who)
        if process.state == "frozen":
            process.state, process.holds_out_a_hand = "awake", False
            process.woke_after, process.woke_at = len(self.looks), self.moment
            bench.client.delete(ASGI.inbox(process.inbox))
            self._take_markers()

    def _take_markers(self) -> None:
        """What is awake waits for messages, and takes what lies in its in-flight key first."""
        for process in self.processes:
            if process.state == "awake" and not self.blackout:
                bench.client.delete(ASGI.inflight(process.inbox))

    @rule(who=st.integers(0, 2))
    def crash(self, who: int) -> None:
        process = self._process(who)
        process.state, process.holds_out_a_hand = "crashed", False

    def _process(self, who: int) -> Process:
        return self.processes[who % len(self.processes)]

    # What surrounds them

    @rule(seconds=st.sampled_from([20.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock += seconds
        self._take_markers()
        let_time_pass(bench.client, seconds)

    @rule(seconds=st.sampled_from([-3600.0, -61.0, 61.0, 3600.0]))
    def redis_clock_is_set(self, seconds: float) -> None:
        """It says that so much more time has passed; no other clock does."""
        let_time_pass(bench.client, seconds, boots=False)

    @rule()
    def a_marker_is_evicted(self) -> None:
        keys = bench.client.keys("*$inflight")
        if keys:
            self.evicted_keys += bench.client.delete(*keys)

    @rule(dark=st.booleans())
    def messages_are_held_up(self, dark: bool) -> None:
        """Between this host and everybody's inbox: nobody takes what the reaper sends, its own receiver neither."""
        self.blackout = dark

    # What the reaper does

    moments = st.sampled_from(["counted", "probed", "remembering", "judged", "removing"])
    steps = st.sampled_from(["join", "leave", "freeze", "wake", "crash", "reap"])

    @rule(steps=st.dictionaries(moments, st.tuples(steps, st.integers(0, 2)), max_size=2))
    def reap(self, steps: Mapping[str, tuple[str, int]]) -> None:
        self.between = {moment: self._step(*chosen) for moment, chosen in steps.items()}
        bench.run(self._reap())
        self.between = {}

    def _step(self, what: str, who: int) -> Callable[[], Any]:
        process = self._process(who)
        return {
            "join": lambda: (self.wake(who), self._join(process, GROUPS[0], 0)),
            "leave": lambda: self.discard(who, GROUPS[0], 0),
            "freeze": lambda: self.pause(who),
            "wake": lambda: self.wake(who),
            "crash": lambda: self.crash(who),
            "reap": self._reap,
        }[what]

    async def comes_between(self, moment: str) -> None:
        step = self.between.pop(moment, None)
        self.moment = moment
        outcome = step() if step else None
        self.moment = ""
        if asyncio.iscoroutine(outcome):
            await outcome

    async def _reap(self) -> None:
        self.under_way.append(None)
        self.runs_met |= len(self.under_way) > 1
        self._take_markers()
        bench.opened.home.identity = replace(bench.opened.home.identity, evicted_keys=self.evicted_keys)
        options = ReapOptions(confirm_after_seconds=CONFIRM_SECONDS, probe_timeout_seconds=1.0, max_share=1.0)
        report = await reap.reap(bench.opened, options)
        look = self.under_way.pop()
        self.must(report.complete and look is not None, str(report.notes))
        assert look is not None
        for seen in report.processes:
            self.must(seen.state != "live" or seen.process in look.live, "who is frozen was taken for live")
        self._account_for(report, look)

    def _account_for(self, report: ReapReport, look: Look) -> None:
        """Each removal has one receipt, and was allowed."""
        removed = {
            (ASGI.group_name(key), channel): score
            for key, members in receipts(bench.client, report.run_id).items()
            for channel, score in members.items()
        }
        self.must(report.removed == len(removed), "not each removal has a receipt")
        for member, score in removed.items():
            self.must(self.expected.get(member) in (score, None), "the receipt has another score than the member had")
            self._assert_allowed(member, score, look)
            self.expected.pop(member, None)
        if removed:
            self.runs[report.run_id] = removed

    def _assert_allowed(self, member: tuple[str, bytes], score: float, look: Look) -> None:
        process = next((p for p in self.processes if member[1].startswith(p.inbox.encode())), None)
        self.must(process is not None, "a member that names no process was removed")
        assert process is not None
        if process.state == "crashed":
            return
        self.must(look.trusted, "removed by a look that could not be trusted")
        self.must(process.name in look.silent, "removed though it answered")
        self.must(score <= look.newest[process.name], "removed though it joined after it was judged")
        earlier = [
            before
            for at, before in enumerate(self.looks)
            if before.at <= look.at - CONFIRM_SECONDS
            and (at >= process.woke_after or process.woke_at in ("judged", "removing"))
            and before.trusted
            and process.name in before.silent
            and before.newest.get(process.name, -1.0) >= look.newest[process.name]
            and (self.runs_met or not any(process.name in between.live for between in self.looks[at:]))
        ]
        self.must(bool(earlier), "removed without an earlier silence that has lasted since")

    def must(self, holds: bool, otherwise: str) -> None:
        self.violated |= not holds
        assert holds, otherwise

    @rule(
        who=st.integers(0, 2),
        how=st.sampled_from(
            ["frozen", "crashed", "held up", "frozen twice", "frozen, and joined since", "frozen, and the clock set"]
        ),
    )
    def is_silent_for_a_round(self, who: int, how: str) -> None:
        """What most that can go wrong begins with; chance alone would seldom put it together."""
        if how == "held up":
            self.blackout = True
        else:
            self.pause(who)
        if how == "crashed":
            self.crash(who)
        bench.run(self._reap())
        if how == "frozen, and the clock set":
            self.redis_clock_is_set(CONFIRM_SECONDS + 1)
            return
        self.time_passes(CONFIRM_SECONDS + 1)
        if how in ("frozen twice", "frozen, and joined since"):
            self.wake(who)
            if how == "frozen, and joined since":
                self._join(self._process(who), GROUPS[0], 1)
            self.pause(who)

    @rule(who=st.integers(0, 2), moment=moments)
    def comes_back_while_it_is_reaped(self, who: int, moment: str) -> None:
        self.is_silent_for_a_round(who, "frozen")
        self.reap({moment: ("join", who)})

    @rule(which=st.integers(0, 3))
    def undo(self, which: int) -> None:
        if not self.runs:
            return
        run_id = sorted(self.runs)[which % len(self.runs)]
        bench.run(undo.undo(bench.opened, run_id))
        for member, score in self.runs[run_id].items():
            self.expected.setdefault(member, score)

    # What must be so, always

    @invariant()
    def redis_has_what_should_be_there(self) -> None:
        found = {
            (group, channel): score
            for group in GROUPS
            for channel, score in bench.client.zrange(ASGI.group(group), 0, -1, withscores=True)
        }
        strangers = {(group, channel): score for group in GROUPS for channel, score in STRANGERS.items()}
        self.must(found == {**strangers, **self.expected}, "a group holds others than it should")

    def teardown(self) -> None:
        """Every dead member goes, in three rounds at most."""
        if self.violated:
            return
        self.blackout = False
        for who, process in enumerate(self.processes):
            if process.state == "frozen":
                self.wake(who)
        for _ in range(3):
            bench.run(self._reap())
            self.time_passes(CONFIRM_SECONDS + 1)
        self.redis_has_what_should_be_there()
        dead = [p.inbox.encode() for p in self.processes if p.state == "crashed"]
        left = [member for member in self.expected if member[1].startswith(tuple(dead))] if dead else []
        assert left == [], "dead members are still there after three rounds"

    # What the processes and the reaper's own receiver make of messages

    def take_messages(self, keys: list[bytes]) -> None:
        if self.blackout:
            return
        by_key = {ASGI.inbox(process.inbox): process for process in self.processes}
        for key in keys:
            process = by_key.get(key)
            if process is None or process.state == "awake":  # The reaper's own receiver is no process of ours.
                bench.client.delete(key)
            elif process.holds_out_a_hand:
                bench.client.zpopmin(key)
                process.holds_out_a_hand = False

    def begin_look(self, census: Mapping[str, Any]) -> None:
        silent = {p.name for p in self.processes if p.state != "awake"}
        newest = {name: tally.newest_joined_at for name, tally in census.items()}
        live = set() if self.blackout else {p.name for p in self.processes if p.state == "awake"}
        look = Look(self.clock, silent, not self.blackout, newest, live)
        self.looks.append(look)
        self.under_way[-1] = look


@asynccontextmanager
async def control_of_the_bench(opened: OpenLayer) -> AsyncIterator[dict[int, tuple[str, str]]]:
    name = uuid.uuid4().hex
    yield {0: (name, f"specific.{name}!")}
    bench.client.delete(ASGI.inbox(f"specific.{name}!"))


async def no_pulse(self: Any) -> None:
    await asyncio.Event().wait()


@pytest.fixture(scope="module", autouse=True)
def the_bench(shared_servers: SharedServers) -> Iterator[None]:
    """Set the places up where a step may come in between; all that they stand around is real."""
    server = shared_servers.empty(None)
    virtual, patch = VirtualTime(), pytest.MonkeyPatch()
    real_probe, real_purge, real_send = probes.probe_processes, purge.purge, journal.Remover._send
    real_call, real_census, real_markers = probes.call_script, observe.take_census, reap.place_markers

    async def take_census(*args: Any) -> Any:
        census, notes = await real_census(*args)
        await bench.world.comes_between("counted")
        bench.census = census.processes
        return census, notes

    async def probe_processes(*args: Any, **options: Any) -> Any:
        bench.world.begin_look(bench.census)
        evidence = await real_probe(*args, **options)
        await bench.world.comes_between("probed")
        return evidence

    async def call_script(shard: Any, name: str, keys: Any, args: Any) -> Any:
        reply = await real_call(shard, name, keys, args)
        if name == "place_probes":
            bench.world.take_messages(keys)
        return reply

    async def place_markers(*args: Any) -> Any:
        await bench.world.comes_between("remembering")
        return await real_markers(*args)

    async def purge_(*args: Any, **options: Any) -> None:
        await bench.world.comes_between("judged")
        await real_purge(*args, **options)

    async def send(self: journal.Remover) -> None:
        if self._batch:
            await bench.world.comes_between("removing")
        await real_send(self)

    patch.setattr(probes, "time", virtual)
    patch.setattr(probes, "asyncio", virtual)
    patch.setattr(probes._Round, "_feel_own_pulse", no_pulse)
    patch.setattr(probes, "call_script", call_script)
    patch.setattr(observe, "take_census", take_census)
    patch.setattr(observe, "probe_processes", probe_processes)
    patch.setattr(observe, "control_receivers", control_of_the_bench)
    patch.setattr(reap, "place_markers", place_markers)
    patch.setattr(reap, "purge", purge_)
    patch.setattr(reap, "run_lock", lambda opened: NoLock())
    patch.setattr(journal.Remover, "_send", send)
    patch.setattr(django_settings, "CHANNEL_LAYERS", layer_of(server.url))
    bench.loop, stack = asyncio.new_event_loop(), AsyncExitStack()
    bench.opened = bench.run(stack.enter_async_context(open_layer("default")))
    with redis.Redis.from_url(server.url) as bench.client:
        yield
    bench.run(stack.aclose())
    bench.loop.close()
    patch.undo()


def explore(examples: int, *, shrink: bool) -> None:
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    run_state_machine_as_test(
        World,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=True,
            database=None,
            phases=phases,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        ),
    )


def test_no_interleaving_removes_a_live_member_or_loses_one_or_leaves_a_dead_one() -> None:
    explore(EXAMPLES, shrink=True)


# Without one of the safeties, the same machine must find what is then broken


def without_comparing_join_times(patch: pytest.MonkeyPatch) -> None:
    real = script("purge_members")
    source = real.source.replace(b"if score and score <= limits[at] then", b"if score then")
    assert source != real.source
    patch.setattr(journal, "script", lambda name: Script(source, hashlib.sha1(source).hexdigest().encode()))


def without_a_second_round(patch: pytest.MonkeyPatch) -> None:
    real = observe.judge

    def judge(facts: Any, policy: Any) -> Verdict:
        verdict = real(facts, policy)
        return Verdict(State.DEAD, verdict.evidence) if verdict.state is State.SUSPECT else verdict

    patch.setattr(observe, "judge", judge)


def without_a_control(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(plan, "check_control", lambda controls, timeout: None)


def without_a_second_probe(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(probes._Probed, "answered", property(lambda probed: probed.taken >= 1))


def by_the_clock_of_this_host(patch: pytest.MonkeyPatch) -> None:
    """Who joined before the verdict by our clock may go, whatever the clock of its own host said."""
    real = reap.purge

    async def purge_by_our_clock(opened: Any, removal: Any, *args: Any, **options: Any) -> None:
        for tally in removal.observation.census.processes.values():
            tally.newest_joined_at = 1_000_000.0 + bench.world.clock + 1.0
        await real(opened, removal, *args, **options)

    patch.setattr(reap, "purge", purge_by_our_clock)


def without_a_receipt(patch: pytest.MonkeyPatch) -> None:
    real = script("purge_members")
    source = real.source.replace(b"call('RPUSH', KEYS[1], receipt)", b"call('PING')")
    assert source != real.source
    patch.setattr(journal, "script", lambda name: Script(source, hashlib.sha1(source).hexdigest().encode()))


def without_regard_to_joins_between_two_silences(patch: pytest.MonkeyPatch) -> None:
    """And to markers, which tell the same."""
    _with_signs(patch, lambda signs: Signs(0.0, marks=MARKERS))
    patch.setattr(reap, "came_back", lambda wanted, marks: set())


def without_markers(patch: pytest.MonkeyPatch) -> None:
    _with_signs(patch, lambda signs: replace(signs, marks=MARKERS))
    patch.setattr(reap, "came_back", lambda wanted, marks: set())


def _with_signs(patch: pytest.MonkeyPatch, change: Callable[[Signs], Signs]) -> None:
    real = observe.recall
    patch.setattr(observe, "recall", lambda suspicion, signs, **how: real(suspicion, change(signs), **how))


def by_redis_clock_alone(patch: pytest.MonkeyPatch) -> None:
    real = observe.read_moment

    async def read_moment(opened: OpenLayer) -> Moment:
        return Moment((await real(opened)).redis)

    patch.setattr(observe, "read_moment", read_moment)


@pytest.mark.parametrize(
    ("without", "finds"),
    [
        (without_comparing_join_times, "joined after it was judged"),
        (without_a_second_round, "without an earlier silence"),
        (without_a_control, "could not be trusted"),
        (without_a_second_probe, "who is frozen was taken for live"),
        (by_the_clock_of_this_host, "joined after it was judged|still there after three rounds"),
        (without_a_receipt, "not each removal has a receipt"),
        (without_regard_to_joins_between_two_silences, "without an earlier silence"),
        (without_markers, "without an earlier silence"),
        (by_redis_clock_alone, "without an earlier silence"),
    ],
)
def test_each_safety_is_needed(
    without: Callable[[pytest.MonkeyPatch], None], finds: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch)
    with pytest.raises(AssertionError, match=finds):
        explore(EXAMPLES_TO_FIND_IT_IN, shrink=False)
