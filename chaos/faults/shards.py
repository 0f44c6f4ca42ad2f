"""What can happen to a Redis server. Everybody feels it, and the consumers of all stock workers may die of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import redis
import redis.asyncio

from chaos.actors import Silence
from chaos.faults.ground import AFTERMATH_SECONDS, REST_SECONDS, SHORT_SECONDS, Ground
from chaos.stage import CONFIRM_SECONDS
from ops.store.connection.waiting import end
from project.embedded_redis import EmbeddedRedis

BUSY_MS = 900  # longer than two probes in turn may take, and shorter than anybody's time-out
BUSY = "for step = 1, tonumber(ARGV[1]) do end"
BUSY_STEPS = 1_000_000  # at first, some milliseconds
FAIL_OVER = "failover to a replica"
EVICTING_SECONDS = CONFIRM_SECONDS
CACHED_SECONDS = 12 * 3600  # for longer than probes, markers and locks live, not for so long as groups and leases do
CACHED_AT_ONCE = 50
CACHED_VALUE = b"x" * 4000
CACHED_BEFORE = 10  # times CACHED_AT_ONCE


class ShardFaults:
    """`names` of what ends stock workers; `evict` does not."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._of_a_shard: dict[str, Callable[[EmbeddedRedis], Awaitable[None]]] = {
            "CLIENT KILL": self._client_kill,
            "Redis restarted with its data": lambda shard: self._restart(shard, keep_data=True),
            "Redis killed, and back with an older snapshot": self._go_back,
            "Redis restarted without its data": lambda shard: self._restart(shard, keep_data=False),
            "Redis frozen": self._freeze_shard,
            "memory limit reached": self._fill,
        }
        self.names = [*self._of_a_shard, FAIL_OVER]

    async def play(self, name: str) -> None:
        stage = self._ground.stage
        async with self._ground.one_shard_at_a_time:
            if name in self._of_a_shard:
                await self._of_a_shard[name](self._ground.random.choice(stage.shards))
                return
            async with self._server():
                await self._will_lose_data()
                if not await stage.fail_over():
                    self._ground.counts[name] -= 1

    @asynccontextmanager
    async def _server(self) -> AsyncIterator[None]:
        """It is felt by everybody; but nobody may be taken for dead for it, so no silence is noted."""
        actors = [actor for actor in self._ground.stage.actors if actor.running]
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
        self._ground.stage.data_lost = True
        await asyncio.to_thread(self._ground.stage.note_receipts)

    async def _client_kill(self, shard: EmbeddedRedis) -> None:
        async with self._server():
            await asyncio.to_thread(_tell, shard, "CLIENT KILL TYPE normal SKIPME yes")

    async def _restart(self, shard: EmbeddedRedis, *, keep_data: bool) -> None:
        async with self._server():
            await self._will_lose_data()
            await asyncio.to_thread(shard.restart, keep_data=keep_data)

    async def _go_back(self, shard: EmbeddedRedis) -> None:
        await asyncio.to_thread(shard.save)
        # Clients come, go, join and leave, of which it will know nothing.
        await self._ground.wait(SHORT_SECONDS)
        async with self._server():
            await self._will_lose_data()
            await asyncio.to_thread(shard.kill)
            await asyncio.to_thread(shard.start)

    async def _freeze_shard(self, shard: EmbeddedRedis) -> None:
        async with self._server():
            shard.pause()
            await self._ground.wait(SHORT_SECONDS)
            shard.resume()

    @asynccontextmanager
    async def redis_is_busy(self) -> AsyncIterator[None]:
        """Whoever runs KEYS in production does this. Messages come too late for everybody, the reaper included.

        The control has to see that. But a lease that was not renewed meanwhile counts against its holder once Redis is
        itself again; if then it does not answer for a moment, its members go, and it has to put them back. The first
        shard is spared: what is kept there for the whole layer would make each run take longer than a round.
        """
        self._ground.counts["Redis busy with slow scripts"] += 1
        busy = asyncio.create_task(_keep_busy(self._ground.stage.shards[1]))
        try:
            yield
            if busy.done():
                busy.result()
        finally:
            await end(busy)
            ended = time.time()
            for actor in [actor for actor in self._ground.stage.actors if actor.drop_in]:
                actor.silences.append(Silence(ended - CONFIRM_SECONDS, ended + AFTERMATH_SECONDS))

    async def _fill(self, shard: EmbeddedRedis) -> None:
        async with self._server():
            await asyncio.to_thread(_tell, shard, "CONFIG SET maxmemory 1")
            await self._ground.wait(SHORT_SECONDS)
            await asyncio.to_thread(_tell, shard, "CONFIG SET maxmemory 0")

    async def evict(self) -> None:
        """A cache fills the memory. Redis drops what expires first: messages, probes, markers, the lock, groups."""
        async with self._ground.one_shard_at_a_time:
            started, shard = time.time(), self._ground.random.choice(self._ground.stage.shards)
            try:
                await asyncio.to_thread(_fill_cache, shard, EVICTING_SECONDS)
            finally:
                self._ground.stage.evictions.append(Silence(started, time.time()))


async def _keep_busy(shard: EmbeddedRedis) -> None:
    """In steps, of which there are as many as took BUSY_MS: since Redis 7.2, no clock goes on within a script."""
    steps = BUSY_STEPS
    async with redis.asyncio.Redis.from_url(shard.url) as client:
        while True:
            began = time.monotonic()
            await client.eval(BUSY, 0, steps)
            took_ms = 1000 * (time.monotonic() - began)
            steps = max(BUSY_STEPS, int(steps * min(4.0, BUSY_MS / took_ms)))


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
