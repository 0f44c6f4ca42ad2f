"""What can go wrong, drawn from a seed: each fault is a coroutine that causes it, waits, and ends it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import redis

from chaos.proxy import Link, Proxy
from chaos.stage import CONFIRM_SECONDS, Actor, Stage
from project.embedded_redis import EmbeddedRedis

SHORT_SECONDS = (0.3, CONFIRM_SECONDS / 3)
ALMOST_SECONDS = (CONFIRM_SECONDS * 0.5, CONFIRM_SECONDS * 0.75)  # for a whole round of probes, and no longer
WEIGHTS = {
    "SIGKILL": 2,
    "SIGSTOP for less than the confirm time": 4,
}  # those that matter most
SURVIVED_BY_STOCK = [
    "SIGKILL",
    "SIGTERM",
    "SIGSTOP for less than the confirm time",
    "SIGSTOP for longer than the confirm time",
    "event loop blocked",
    "slow network",
]
LONG_SECONDS = (CONFIRM_SECONDS * 2.5, CONFIRM_SECONDS * 3.5)
REST_SECONDS = CONFIRM_SECONDS + 3  # between two faults of a worker, so that runs can see that it lives
AFTERMATH_SECONDS = 2.0  # until a process that was cut off has connected again and answers


class Faults:
    """Causes faults on a stage and counts them."""

    def __init__(self, stage: Stage) -> None:
        self.counts: Counter[str] = Counter()
        self.of_a_worker: dict[str, Callable[[Actor], Awaitable[None]]] = {
            "SIGKILL": self._kill,
            "SIGTERM": self._terminate,
            "SIGSTOP for less than the confirm time": lambda actor: self._freeze(actor, ALMOST_SECONDS),
            "SIGSTOP for longer than the confirm time": lambda actor: self._freeze(actor, LONG_SECONDS),
            "event loop blocked": self._block,
            "connections cut": lambda actor: self._link(actor, Link.CUT),
            "connections silent": lambda actor: self._link(actor, Link.SILENT),
            "requests lost on the way": lambda actor: self._link(actor, Link.NO_REQUESTS),
            "replies lost on the way": lambda actor: self._link(actor, Link.NO_REPLIES),
            "connections half open": self._forget,
            "slow network": self._delay,
        }
        self.of_a_shard: dict[str, Callable[[EmbeddedRedis], Awaitable[None]]] = {
            "CLIENT KILL": self._client_kill,
            "Redis restarted with its data": lambda shard: self._restart(shard, keep_data=True),
            "Redis restarted without its data": lambda shard: self._restart(shard, keep_data=False),
            "Redis frozen": self._freeze_shard,
            "memory limit reached": self._fill,
        }
        self._stage = stage
        self._random = stage.random

    async def cause_one(self) -> None:
        """A fault of a worker that is undisturbed, or, less often, of a shard that everybody shares."""
        if self._random.random() < 0.05:
            name, of_shard = self._random.choice(list(self.of_a_shard.items()))
            self.counts[name] += 1
            await of_shard(self._random.choice(self._stage.shards))
            return
        if self._random.random() < 0.05:
            self.counts["reaper cut off"] += 1
            await self._cut_off(self._random.choice(self._stage.reaper_proxies))
            return
        calm = [actor for actor in self._stage.calm_actors() if actor.rests_until < time.time()]
        if len(calm) < 2:  # Somebody has to be there for whom nothing may change.
            return
        actor = self._random.choice(calm)
        # What a stock worker's consumers die of leaves nothing to be tested in it for the rest of the round.
        names = [name for name in self.of_a_worker if actor.drop_in or name in SURVIVED_BY_STOCK]
        [name] = self._random.choices(names, [WEIGHTS.get(name, 1) for name in names])
        self.counts[name] += 1
        await self.of_a_worker[name](actor)

    @asynccontextmanager
    async def _silence(self, *actors: Actor, rest_seconds: float = REST_SECONDS) -> AsyncIterator[None]:
        """Note that these may be silent meanwhile, and a little longer."""
        started = time.time()
        for actor in actors:
            actor.busy = True
        try:
            yield
        finally:
            for actor in actors:
                actor.busy = False
                actor.silences.append((started, time.time() + AFTERMATH_SECONDS))
                actor.rests_until = max(actor.rests_until, time.time() + rest_seconds)

    async def _wait(self, between: tuple[float, float]) -> None:
        await asyncio.sleep(self._random.uniform(*between))

    async def _kill(self, actor: Actor) -> None:
        await asyncio.to_thread(actor.worker.kill)

    async def _terminate(self, actor: Actor) -> None:
        async with self._silence(actor):
            with contextlib.suppress(TimeoutError):
                await asyncio.to_thread(actor.worker.terminate, 10)

    async def _freeze(self, actor: Actor, seconds: tuple[float, float]) -> None:
        async with self._silence(actor):
            await asyncio.to_thread(actor.worker.freeze)
            await self._wait(seconds)
            actor.worker.thaw()

    async def _block(self, actor: Actor) -> None:
        mine = [client for client in self._stage.open_clients if client.actor is actor]
        if mine:
            seconds = self._random.uniform(*SHORT_SECONDS)
            async with self._silence(actor):
                with contextlib.suppress(Exception):
                    await self._random.choice(mine).socket.send({"block": seconds})
                await asyncio.sleep(seconds)

    @asynccontextmanager
    async def _network(self, actor: Actor) -> AsyncIterator[None]:
        """A stock worker's consumers die of what happens now, in a process that lives on: it has to be replaced."""
        async with self._silence(actor):
            actor.lost |= not actor.drop_in
            yield

    async def _link(self, actor: Actor, link: Link) -> None:
        async with self._network(actor):
            for proxy in actor.proxies:
                await proxy.set_link(link)
            await self._wait(SHORT_SECONDS)
            for proxy in actor.proxies:
                await proxy.set_link(Link.OPEN)

    async def _forget(self, actor: Actor) -> None:
        async with self._network(actor):
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

    async def _cut_off(self, proxies: list[Proxy]) -> None:
        link = self._random.choice([Link.CUT, Link.SILENT, Link.NO_REPLIES])
        for proxy in proxies:
            await proxy.set_link(link)
        await self._wait(SHORT_SECONDS)
        for proxy in proxies:
            await proxy.set_link(Link.OPEN)

    @asynccontextmanager
    async def _server(self) -> AsyncIterator[None]:
        actors = [actor for actor in self._stage.actors if actor.running]
        for actor in actors:
            actor.lost |= not actor.drop_in
        async with self._silence(*actors, rest_seconds=0):
            yield

    async def _client_kill(self, shard: EmbeddedRedis) -> None:
        async with self._server():
            await asyncio.to_thread(_tell, shard, "CLIENT KILL TYPE normal SKIPME yes")

    async def _restart(self, shard: EmbeddedRedis, *, keep_data: bool) -> None:
        async with self._server():
            self._stage.data_lost = True  # What was removed while the snapshot was written, even with it.
            await asyncio.to_thread(shard.restart, keep_data=keep_data)

    async def _freeze_shard(self, shard: EmbeddedRedis) -> None:
        async with self._server():
            shard.pause()
            await self._wait(SHORT_SECONDS)
            shard.resume()

    async def _fill(self, shard: EmbeddedRedis) -> None:
        async with self._server():
            await asyncio.to_thread(_tell, shard, "CONFIG SET maxmemory 1")
            await self._wait(SHORT_SECONDS)
            await asyncio.to_thread(_tell, shard, "CONFIG SET maxmemory 0")


def _tell(shard: EmbeddedRedis, words: str) -> None:
    with redis.Redis.from_url(shard.url) as client:
        client.execute_command(*words.split())
