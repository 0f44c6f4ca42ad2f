"""What can go wrong, drawn from a seed: each fault is a coroutine that causes it, waits, and ends it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import redis
import redis.asyncio
from redis.asyncio.lock import Lock

from chaos.reapers import Reapers
from chaos.stage import CONFIRM_SECONDS, PREFIX, Actor, Silence, Stage
from ops.model.keys import Keyspace
from ops.store.connection.waiting import end
from ops.store.removal.locks import LOCK_SECONDS
from project.embedded_redis import EmbeddedRedis
from project.proxy import Link

SHORT_SECONDS = (0.3, CONFIRM_SECONDS / 3)
ALMOST_SECONDS = (CONFIRM_SECONDS * 0.5, CONFIRM_SECONDS * 0.7)  # for a whole round of probes, and no longer
LONG_SECONDS = (CONFIRM_SECONDS * 2.5, CONFIRM_SECONDS * 3.5)
STALL_SECONDS = CONFIRM_SECONDS - 2
HEALTHY_SECONDS = 6.0  # between two stalls: a process that waits for messages does so anew within five
REAPER_FREEZES_SECONDS = (1.0, CONFIRM_SECONDS)
BEYOND_LOCK_SECONDS = (LOCK_SECONDS + 1, LOCK_SECONDS + 3)
CLOCK_STEP_SECONDS = 600  # longer than a round, and than anything but a suspicion is good for
EVICTING_SECONDS = CONFIRM_SECONDS
CACHED_SECONDS = 12 * 3600  # for longer than probes, markers and locks live, not for so long as groups and leases do
CACHED_AT_ONCE = 50
CACHED_VALUE = b"x" * 4000
CACHED_BEFORE = 10  # times CACHED_AT_ONCE
REST_SECONDS = 4.0  # between two faults of a worker
AFTERMATH_SECONDS = 2.0  # until a process that was cut off has connected again and answers
STUTTERS = 6  # enough for runs to find it silent for the confirm time, even if one is missed
UNTIL_A_RUN_ENDS_SECONDS = 0.3
BACK_AFTER_SECONDS = (0.0, 3.0)  # until a worker that is gone has a successor
BUSY_MS = 900  # longer than two probes in turn may take, and shorter than anybody's time-out
SHARE_OF_SHARDS = 0.25  # of the faults, where any may come: one of a shard touches everybody
KEYSPACE = Keyspace(PREFIX)
FIRST_WORDS_OF_A_REMOVAL = KEYSPACE.journal("")
FREEZE_FOR_LONG = "SIGSTOP for longer than the confirm time"
FREEZE_REAPER = "reaper frozen"
FREEZE_REAPER_FOR_LONG = "reaper frozen for longer than its lock lives"
CLOCK_AHEAD = "SIGSTOP, and the clock of Redis set ahead"
CLOCK_BEHIND = "SIGSTOP, and the clock of Redis set back"
EVICT = "Redis evicts what expires first"
WAKE_WHILE_REAPED = "SIGSTOP until it is being reaped, and a join then"
BUSY = """
local function now() local t = redis.call('TIME') return t[1] * 1000 + t[2] / 1000 end
local until_ms = now() + ARGV[1]
while now() < until_ms do end
"""


@dataclass
class _Deck:
    kinds: list[str]
    left: list[str] = field(default_factory=list)


class Faults:
    """Causes faults on a stage and counts them.

    Chance decides the order; of those of workers, as of those of shards, all kinds come before any comes again.
    """

    def __init__(self, stage: Stage, reapers: Reapers) -> None:
        self.counts: Counter[str] = Counter()
        self.shards_are_spared = False  # What happens to them ends all stock workers.
        self.of_any_worker: dict[str, Callable[[Actor], Awaitable[None]]] = {
            "SIGKILL": self._kill,
            "SIGKILL, and its connections stay open": self._lose_host,
            "SIGTERM": self._terminate,
            "SIGSTOP for less than the confirm time": lambda actor: self._freeze(actor, ALMOST_SECONDS),
            FREEZE_FOR_LONG: lambda actor: self._freeze(actor, LONG_SECONDS),
            WAKE_WHILE_REAPED: self._wake_while_reaped,
            "SIGSTOP twice, healthy for six seconds between": self._stall_twice,
            CLOCK_AHEAD: lambda actor: self._freeze_while_clock_is_set(actor, CLOCK_STEP_SECONDS),
            CLOCK_BEHIND: lambda actor: self._freeze_while_clock_is_set(actor, -CLOCK_STEP_SECONDS),
            "event loop blocked": self._block,
            "slow network": self._delay,
            "exception in a consumer": self._fail,
        }
        # A drop-in worker renews its lease whenever it wakes, which hides what its joins would tell.
        self.of_a_stock_worker: dict[str, Callable[[Actor], Awaitable[None]]] = {
            "SIGSTOP again and again, with a join in between": self._stutter,
        }
        # What a stock worker's consumers die of leaves nothing to be tested in it for the rest of the round.
        self.of_a_drop_in_worker: dict[str, Callable[[Actor], Awaitable[None]]] = {
            "connections cut": lambda actor: self._link(actor, Link.CUT),
            "connections silent": lambda actor: self._link(actor, Link.SILENT),
            "requests lost on the way": lambda actor: self._link(actor, Link.NO_REQUESTS),
            "replies lost on the way": lambda actor: self._link(actor, Link.NO_REPLIES),
            "connections half open": self._forget,
        }
        self.of_a_shard: dict[str, Callable[[EmbeddedRedis], Awaitable[None]]] = {
            "CLIENT KILL": self._client_kill,
            "Redis restarted with its data": lambda shard: self._restart(shard, keep_data=True),
            "Redis killed, and back with an older snapshot": self._go_back,
            "Redis restarted without its data": lambda shard: self._restart(shard, keep_data=False),
            "Redis frozen": self._freeze_shard,
            "memory limit reached": self._fill,
        }
        # These have no worker of their own, and spare the stock workers.
        self.of_the_others: dict[str, Callable[[], Awaitable[None]]] = {
            "reaper cut off": self._cut_off,
            FREEZE_REAPER: lambda: self._freeze_reaper(FREEZE_REAPER, REAPER_FREEZES_SECONDS),
            FREEZE_REAPER_FOR_LONG: lambda: self._freeze_reaper(FREEZE_REAPER_FOR_LONG, BEYOND_LOCK_SECONDS),
            EVICT: self._evict,
        }
        self.until = 0.0  # when the round ends, by the monotonic clock
        self._stage = stage
        self._reapers = reapers
        self._random = random.Random(f"{stage.seed} faults")
        self._decks = {
            False: _Deck([*self._of_workers, *self.of_the_others]),
            True: _Deck([*self.of_a_shard, "failover to a replica"]),
        }
        self._one_shard_at_a_time = asyncio.Lock()
        self._one_step_at_a_time = asyncio.Lock()

    @property
    def _of_workers(self) -> dict[str, Callable[[Actor], Awaitable[None]]]:
        return {**self.of_any_worker, **self.of_a_stock_worker, **self.of_a_drop_in_worker}

    async def cause_one(self) -> None:
        """The next of a deck that can be played now, if any can."""
        of_shards = not self.shards_are_spared and not self._one_shard_at_a_time.locked()
        deck = self._decks[of_shards and self._random.random() < SHARE_OF_SHARDS]
        if not deck.left:
            deck.left = self._random.sample(deck.kinds, len(deck.kinds))
        for name in deck.left:
            play = self._play(name)
            if play is not None:
                deck.left.remove(name)
                self.counts[name] += 1
                await play()
                return

    def _play(self, name: str) -> Callable[[], Awaitable[None]] | None:
        if name in self.of_the_others:
            return self.of_the_others[name] if self._may_play(name) else None
        if name in self.of_a_shard or name == "failover to a replica":
            return lambda: self._of_a_shard(name)
        if name in (CLOCK_AHEAD, CLOCK_BEHIND) and not self._clock_may_be_set:
            return None
        calm = self._stage.calm_actors()
        if len(calm) < 2:  # Somebody has to be there for whom nothing may change.
            return None
        rested = [actor for actor in calm if actor.rests_until < time.time()]
        others = {True: self.of_a_stock_worker, False: self.of_a_drop_in_worker}
        suited = [actor for actor in rested if name not in others[actor.drop_in]]
        if not suited:
            return None
        actor = self._random.choice(suited)
        return lambda: self._of_workers[name](actor)

    def _may_play(self, name: str) -> bool:
        if name in (FREEZE_REAPER, FREEZE_REAPER_FOR_LONG):
            longest = BEYOND_LOCK_SECONDS if name == FREEZE_REAPER_FOR_LONG else REAPER_FREEZES_SECONDS
            return bool(self._reapers.freezable) and time.monotonic() + longest[1] < self.until
        return name != EVICT or not self._one_shard_at_a_time.locked()

    @property
    def _clock_may_be_set(self) -> bool:
        """Only if Redis knows of a look: a host cannot see a step that came before its first one."""
        if not self._stage.clock.can_be_set or self._one_shard_at_a_time.locked():
            return False
        with redis.Redis.from_url(self._stage.shards[0].url) as client:
            if not client.exists(KEYSPACE.looks):
                return False
        return not self._one_step_at_a_time.locked()

    async def _of_a_shard(self, name: str) -> None:
        async with self._one_shard_at_a_time:
            if name in self.of_a_shard:
                await self.of_a_shard[name](self._random.choice(self._stage.shards))
                return
            async with self._server():
                await self._will_lose_data()
                if not await self._stage.fail_over():
                    self.counts[name] -= 1

    @asynccontextmanager
    async def _silence(
        self, actor: Actor, *, aftermath_seconds: float = AFTERMATH_SECONDS, frozen: bool = False
    ) -> AsyncIterator[None]:
        """Note that it may be silent meanwhile, and a little longer."""
        started = time.time()
        try:
            with actor.in_trouble():
                yield
        finally:
            actor.silences.append(Silence(started, time.time() + aftermath_seconds, frozen))
            actor.rests_until = max(actor.rests_until, time.time() + REST_SECONDS)

    async def _wait(self, between: tuple[float, float]) -> None:
        await asyncio.sleep(self._random.uniform(*between))

    async def _kill(self, actor: Actor) -> None:
        actor.will_end()
        await asyncio.to_thread(actor.worker.kill)
        await self._succeed(actor)

    async def _lose_host(self, actor: Actor) -> None:
        """For Redis, it may still be there."""
        actor.will_end()
        for proxy in actor.proxies:
            proxy.forget()
        await asyncio.to_thread(actor.worker.kill)

    async def _terminate(self, actor: Actor) -> None:
        actor.will_end()
        async with self._silence(actor):
            with contextlib.suppress(TimeoutError):
                await asyncio.to_thread(actor.worker.terminate, 10)
        if not actor.running:
            await self._succeed(actor)

    async def _succeed(self, actor: Actor) -> None:
        """Have another one in its place, as whoever supervises it would."""
        with actor.in_trouble():
            await self._wait(BACK_AFTER_SECONDS)
            await self._stage.replace(actor)

    @asynccontextmanager
    async def _frozen(self, actor: Actor) -> AsyncIterator[None]:
        await asyncio.to_thread(actor.worker.freeze)
        try:
            async with self._silence(actor, aftermath_seconds=0, frozen=True):
                yield
        finally:
            if actor.running:
                actor.worker.thaw()

    async def _freeze(self, actor: Actor, seconds: tuple[float, float]) -> None:
        if seconds == LONG_SECONDS:
            await self._keep_clients(actor)
        async with self._frozen(actor):
            await self._wait(seconds)

    async def _keep_clients(self, actor: Actor) -> None:
        """The members of a stock worker that is silent for so long go, and are put back when the round is over."""
        if not actor.drop_in:
            actor.waits_for_undo = True
            # Whoever left a group while its worker was being reaped would be put back by the undo.
            await self._stage.let_clients_finish()

    async def _stutter(self, actor: Actor) -> None:
        """Never silent for the confirm time in one piece, though run after run finds it so: it wakes between them."""
        with actor.in_trouble():
            async with redis.asyncio.Redis.from_url(self._stage.shards[0].url) as client:
                lock = Lock(client, KEYSPACE.lock, timeout=CONFIRM_SECONDS, blocking_timeout=UNTIL_A_RUN_ENDS_SECONDS)
                for _ in range(STUTTERS):
                    async with self._frozen(actor):
                        await self._until_suspected(actor)
                        with contextlib.suppress(redis.RedisError, OSError):
                            await lock.acquire()
                    joined = await self._join_somewhere(actor)
                    with contextlib.suppress(redis.RedisError, OSError):
                        await lock.release()
                    if not joined:
                        break  # Nobody could know that it was awake.

    async def _stall_twice(self, actor: Actor) -> None:
        """At each of two looks it is silent, and it is alive in between, when nobody looks and it joins nothing."""
        with actor.in_trouble():
            async with redis.asyncio.Redis.from_url(self._stage.shards[0].url) as client:
                for is_last in (False, True):
                    until = time.monotonic() + STALL_SECONDS
                    lock = Lock(client, KEYSPACE.lock, timeout=LOCK_SECONDS, blocking_timeout=UNTIL_A_RUN_ENDS_SECONDS)
                    async with self._frozen(actor):
                        await self._until_suspected(actor, STALL_SECONDS - UNTIL_A_RUN_ENDS_SECONDS)
                        with contextlib.suppress(redis.RedisError, OSError):
                            await lock.acquire() if not is_last else None
                        await asyncio.sleep(until - time.monotonic())
                    if not is_last:
                        await asyncio.sleep(HEALTHY_SECONDS)
                        with contextlib.suppress(redis.RedisError, OSError):
                            await lock.release()

    async def _freeze_while_clock_is_set(self, actor: Actor, ahead_seconds: int) -> None:
        """Between two looks that find it silent, within less than the confirm time."""
        async with self._one_step_at_a_time, self._one_shard_at_a_time:
            until = time.monotonic() + STALL_SECONDS
            async with contextlib.AsyncExitStack() as stack:
                async with self._frozen(actor):
                    await self._until_suspected(actor, STALL_SECONDS / 2)
                    await stack.enter_async_context(self._stage.clock_set_ahead(ahead_seconds))
                    await asyncio.sleep(until - time.monotonic())
                await self._wait(SHORT_SECONDS)

    async def _until_suspected(self, actor: Actor, within_seconds: float = ALMOST_SECONDS[1]) -> None:
        """Until a run has found it silent once more, but not for as long as the confirm time."""
        deadline = time.monotonic() + within_seconds
        before = await asyncio.to_thread(self._suspicion_of, actor)
        found = before
        while found in (before, None) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
            found = await asyncio.to_thread(self._suspicion_of, actor)

    def _suspicion_of(self, actor: Actor) -> bytes | None:
        """What the latest run that found it silent wrote down."""
        process = next((client.process for client in self._stage.clients_of(actor)), "")
        with contextlib.suppress(redis.RedisError), redis.Redis.from_url(self._stage.shards[0].url) as client:
            found: bytes | None = client.hget(KEYSPACE.suspects, process)
            return found
        return None

    async def _wake_while_reaped(self, actor: Actor) -> None:
        """After it was judged and before anything is removed: what joins then has to stay."""
        proxies = [proxy for proxies in self._stage.reaper_proxies for proxy in proxies]
        await self._keep_clients(actor)
        with actor.in_trouble():
            async with self._frozen(actor):
                await asyncio.sleep(CONFIRM_SECONDS)  # Whom others died of meanwhile is not waited for.
                for proxy in proxies:
                    proxy.hold_before(FIRST_WORDS_OF_A_REMOVAL)
                holds = [asyncio.create_task(proxy.holds.wait()) for proxy in proxies]
                held, others = await asyncio.wait(
                    holds, timeout=CONFIRM_SECONDS * 2, return_when=asyncio.FIRST_COMPLETED
                )
            for hold in others:
                hold.cancel()
            for _ in range(3):
                await self._join_somewhere(actor)
            for proxy in proxies:
                proxy.hold_before(None)
                await proxy.set_link(Link.OPEN)
        if not held:  # No run came so far: it was frozen, no more.
            self.counts[WAKE_WHILE_REAPED] -= 1
            self.counts[FREEZE_FOR_LONG] += 1

    async def _join_somewhere(self, actor: Actor) -> bool:
        """Have one of its clients join a group; whether one did."""
        for client in self._stage.clients_of(actor):
            if await self._stage.change_groups(client, "join"):
                return True
        return False

    async def _block(self, actor: Actor) -> None:
        if mine := self._stage.clients_of(actor):
            seconds = self._random.uniform(*SHORT_SECONDS)
            async with self._silence(actor):
                with contextlib.suppress(Exception):
                    await self._random.choice(mine).socket.send({"block": seconds})
                await asyncio.sleep(seconds)

    async def _fail(self, actor: Actor) -> None:
        """Under the stock layer its members stay, in a process that lives: only what was recorded can tell."""
        if mine := self._stage.clients_of(actor):
            client = self._random.choice(mine)
            client.closed_by_us = True
            with contextlib.suppress(Exception):
                await client.socket.send({"fail": True})

    async def _link(self, actor: Actor, link: Link) -> None:
        async with self._silence(actor):
            for proxy in actor.proxies:
                await proxy.set_link(link)
            await self._wait(SHORT_SECONDS)
            for proxy in actor.proxies:
                await proxy.set_link(Link.OPEN)

    async def _forget(self, actor: Actor) -> None:
        async with self._silence(actor):
            for proxy in actor.proxies:
                proxy.forget()
            # The drop-in layer gives up on a connection that is silent for longer than BZPOPMIN waits.
            await asyncio.sleep(12)

    async def _delay(self, actor: Actor) -> None:
        async with self._silence(actor):
            for proxy in actor.proxies:
                proxy.delay_seconds = self._random.uniform(0.02, 0.2)
            await self._wait(SHORT_SECONDS)
            for proxy in actor.proxies:
                proxy.delay_seconds = 0.0

    async def _cut_off(self) -> None:
        proxies = self._random.choice([*self._stage.reaper_proxies, self._stage.cleaner_proxies])
        link = self._random.choice([Link.CUT, Link.SILENT, Link.NO_REPLIES])
        for proxy in proxies:
            await proxy.set_link(link)
        await self._wait(SHORT_SECONDS)
        for proxy in proxies:
            await proxy.set_link(Link.OPEN)

    async def _freeze_reaper(self, name: str, seconds: tuple[float, float]) -> None:
        async with self._reapers.one_is_frozen() as frozen:
            if frozen:
                await self._wait(seconds)

    async def _evict(self) -> None:
        """A cache fills the memory. Redis drops what expires first: messages, probes, markers, the lock, groups."""
        async with self._one_shard_at_a_time:
            started = time.time()
            try:
                await asyncio.to_thread(_fill_cache, self._random.choice(self._stage.shards), EVICTING_SECONDS)
            finally:
                self._stage.evictions.append(Silence(started, time.time()))

    @asynccontextmanager
    async def _server(self) -> AsyncIterator[None]:
        """It is felt by everybody; but nobody may be taken for dead for it, so no silence is noted."""
        actors = [actor for actor in self._stage.actors if actor.running]
        with contextlib.ExitStack() as stack:
            for actor in actors:
                if not actor.drop_in:
                    actor.lose()
                stack.enter_context(actor.in_trouble())
            yield
        for actor in actors:
            actor.rests_until = max(actor.rests_until, time.time() + REST_SECONDS)

    async def _will_lose_data(self) -> None:
        """Even a shard that keeps its data loses what is removed while its snapshot is written."""
        self._stage.data_lost = True
        await asyncio.to_thread(self._stage.note_receipts)

    async def _client_kill(self, shard: EmbeddedRedis) -> None:
        async with self._server():
            await asyncio.to_thread(_tell, shard, "CLIENT KILL TYPE normal SKIPME yes")

    async def _restart(self, shard: EmbeddedRedis, *, keep_data: bool) -> None:
        async with self._server():
            await self._will_lose_data()
            await asyncio.to_thread(shard.restart, keep_data=keep_data)

    async def _go_back(self, shard: EmbeddedRedis) -> None:
        await asyncio.to_thread(shard.save)
        await self._wait(SHORT_SECONDS)  # in which clients come, go, join and leave, of which it will know nothing
        async with self._server():
            await self._will_lose_data()
            await asyncio.to_thread(shard.kill)
            await asyncio.to_thread(shard.start)

    async def _freeze_shard(self, shard: EmbeddedRedis) -> None:
        async with self._server():
            shard.pause()
            await self._wait(SHORT_SECONDS)
            shard.resume()

    @asynccontextmanager
    async def redis_is_busy(self) -> AsyncIterator[None]:
        """Whoever runs KEYS in production does this. Messages come too late for everybody, the reaper included.

        The control has to see that. But a lease that was not renewed meanwhile counts against its holder once Redis is
        itself again; if then it does not answer for a moment, its members go, and it has to put them back. The first
        shard is spared: what is kept there for the whole layer would make each run take longer than a round.
        """
        self.counts["Redis busy with slow scripts"] += 1
        busy = asyncio.create_task(_keep_busy(self._stage.shards[1]))
        try:
            yield
            if busy.done():
                busy.result()
        finally:
            await end(busy)
            ended = time.time()
            for actor in [actor for actor in self._stage.actors if actor.drop_in]:
                actor.silences.append(Silence(ended - CONFIRM_SECONDS, ended + AFTERMATH_SECONDS))

    async def _fill(self, shard: EmbeddedRedis) -> None:
        async with self._server():
            await asyncio.to_thread(_tell, shard, "CONFIG SET maxmemory 1")
            await self._wait(SHORT_SECONDS)
            await asyncio.to_thread(_tell, shard, "CONFIG SET maxmemory 0")


async def _keep_busy(shard: EmbeddedRedis) -> None:
    async with redis.asyncio.Redis.from_url(shard.url) as client:
        while True:
            await client.eval(BUSY, 0, BUSY_MS)


def _fill_cache(shard: EmbeddedRedis, seconds: float) -> None:
    """Write what expires into a server that has no room, for so long; then it has room again, and never evicts."""
    until, numbers = time.monotonic() + seconds, itertools.count()
    with redis.Redis.from_url(shard.url) as client:
        for _ in range(CACHED_BEFORE):  # With nothing to evict it would refuse what the applications write.
            _cache_more(client, numbers)
        room = client.info("memory")["used_memory"]
        for name, value in (("samples", 64), ("policy", "volatile-ttl")):
            client.config_set(f"maxmemory-{name}", value)
        client.config_set("maxmemory", room)
        try:
            while time.monotonic() < until:
                _cache_more(client, numbers)
                time.sleep(0.1)
        finally:
            client.config_set("maxmemory", 0)
            client.config_set("maxmemory-policy", "noeviction")
            if cached := list(client.scan_iter("cache:*", count=500)):
                client.unlink(*cached)


def _cache_more(client: redis.Redis, numbers: Iterator[int]) -> None:
    pipe = client.pipeline(transaction=False)
    for number in itertools.islice(numbers, CACHED_AT_ONCE):
        pipe.set(f"cache:{number}", CACHED_VALUE, ex=CACHED_SECONDS)
    pipe.execute(raise_on_error=False)  # It may have no room for a moment.


def _tell(shard: EmbeddedRedis, words: str) -> None:
    with redis.Redis.from_url(shard.url) as client:
        client.execute_command(*words.split())
