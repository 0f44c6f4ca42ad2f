"""What a campaign plays on: Redis shards, proxies, workers and sockets, all real, and what is known of each."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from chaos.proxy import Link, Proxy
from project.embedded_redis import EmbeddedRedis
from project.sockets import FleetSocket, SocketFleet
from project.workers import Kind, Worker

STOCK = "channels_redis.core.RedisChannelLayer"
DROP_IN = "ops.layers.RedisChannelLayer"
PREFIX = "chaos"
GROUPS = [f"group.{number}" for number in range(40)]
CONFIRM_SECONDS = 5.0
LEASE_SECONDS = 3
SKEWED = Path(__file__).parent / "skewed"


@dataclass(eq=False)
class Actor:
    """One worker with its links to Redis, and what was done to it."""

    name: str
    worker: Worker
    proxies: list[Proxy]
    drop_in: bool
    kind: Kind
    skew_seconds: float
    silences: list[tuple[float, float]] = field(default_factory=list)
    busy: bool = False  # a fault is at work
    rests_until: float = 0.0
    lost: bool = False  # it has consumers that died, or sockets that nobody knows of: to be replaced

    @property
    def running(self) -> bool:
        return self.worker.running

    def longest_silence(self, since: float, until: float) -> float:
        """The longest time in one piece, in that span, in which a fault may have kept it silent."""
        return max((min(end, until) - max(start, since) for start, end in self.silences), default=0.0)


@dataclass(eq=False)
class Client:
    """One socket, and the groups it is in for certain (`groups`) or perhaps (`doubtful`)."""

    socket: FleetSocket
    actor: Actor
    groups: set[str]
    doubtful: set[str] = field(default_factory=set)
    closed_by_us: bool = False
    reported: bool = False

    @property
    def process(self) -> str:
        return self.socket.channel.partition("!")[0].rpartition(".")[2]


class Stage:
    """Two shards and `kinds` of workers. Everything ends with it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # a campaign has to be repeatable
        self.shards: list[EmbeddedRedis] = []
        self.actors: list[Actor] = []
        self.clients: list[Client] = []
        self.reaper_proxies: list[list[Proxy]] = []
        self.fleet = SocketFleet()
        self.data_lost = False  # a shard forgot its receipts since the last check
        self._stack = AsyncExitStack()
        self._actors_made = 0

    async def __aenter__(self) -> Stage:
        for _ in range(2):
            self.shards.append(self._stack.enter_context(EmbeddedRedis(config={"maxmemory-policy": "noeviction"})))
        for _ in range(2):
            self.reaper_proxies.append(await self._proxies())
        kinds: list[tuple[Kind, bool, float]] = [
            ("uvicorn", True, 0),
            ("daphne", True, -7200),
            ("uvicorn", False, 0),
            ("daphne", False, 7200),
        ]
        await asyncio.gather(*(self.add_actor(kind, drop_in, skew) for kind, drop_in, skew in kinds))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for client in self.open_clients:
            client.socket.abort()
        for actor in self.actors:
            if actor.running:
                actor.worker.kill()
            actor.worker.close()
        await self._stack.aclose()

    async def _proxies(self) -> list[Proxy]:
        return [await self._stack.enter_async_context(Proxy(shard.port)) for shard in self.shards]

    async def add_actor(self, kind: Kind, drop_in: bool, skew_seconds: float = 0) -> Actor:
        self._actors_made += 1
        proxies = await self._proxies()
        env = {
            "DJANGO_SETTINGS_MODULE": "chaos.settings",
            "REDIS_URL": " ".join(proxy.url for proxy in proxies),
            "CHANNEL_BACKEND": DROP_IN if drop_in else STOCK,
            "CHANNELS_PREFIX": PREFIX,
            "CHANNEL_LAYER_OPTIONS": f'{{"lease_seconds": {LEASE_SECONDS}}}' if drop_in else "{}",
        }
        if skew_seconds:
            paths = filter(None, (str(SKEWED), os.environ.get("PYTHONPATH")))
            env |= {"PYTHONPATH": os.pathsep.join(paths), "CHAOS_SKEW_SECONDS": str(skew_seconds)}
        worker = Worker(kind, env=env, asgi="chaos.application:application")
        clock = f", clock {skew_seconds:+g} s" if skew_seconds else ""
        name = f"{kind} {self._actors_made} ({'drop-in' if drop_in else 'stock'}{clock})"
        actor = Actor(name, worker, proxies, drop_in, kind, skew_seconds)
        self.actors.append(actor)
        await asyncio.to_thread(lambda: worker.start().wait_ready())
        return actor

    @property
    def open_clients(self) -> list[Client]:
        return [client for client in self.clients if client.socket.is_open]

    def calm_actors(self) -> list[Actor]:
        return [actor for actor in self.actors if actor.running and not actor.busy and not actor.lost]

    async def open_clients_on(self, actor: Actor, count: int) -> None:
        await asyncio.gather(*(self._open_client(actor) for _ in range(count)))

    async def _open_client(self, actor: Actor) -> None:
        groups = self.random.sample(GROUPS, self.random.randint(1, 3))
        url = f"{actor.worker.ws_url}/ws/groups/?groups={','.join(groups)}"
        try:
            (socket,) = await asyncio.wait_for(self.fleet.open_urls([url]), 10)
        except Exception:  # refused, cut or too late: whichever, there is no such client
            actor.lost = True
            return
        self.clients.append(Client(socket, actor, set(groups)))

    async def stir(self) -> None:
        """One thing that clients do: come, go, vanish, join or leave."""
        actors = self.calm_actors()
        if not actors:
            return
        actor = self.random.choice(actors)
        mine = [client for client in self.open_clients if client.actor is actor]
        what = self.random.choice(["open", "close", "vanish", "join", "leave"]) if len(mine) > 10 else "open"
        if what == "open":
            await self._open_client(actor)
            return
        client = self.random.choice(mine)
        if what == "close":
            client.closed_by_us = True
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(client.socket.connection.close(), 5)
        elif what == "vanish":
            client.closed_by_us = True
            client.socket.abort()
        else:
            await self._change_groups(client, what)

    async def _change_groups(self, client: Client, what: str) -> None:
        group = self.random.choice(GROUPS if what == "join" else sorted(client.groups) or GROUPS)
        if group in client.doubtful or (group in client.groups) == (what == "join"):
            return
        client.doubtful.add(group)
        before = len(client.socket.received)
        with contextlib.suppress(Exception):
            await client.socket.send({what: group})
        done = {"type": "joined" if what == "join" else "left", "group": group}
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and client.socket.is_open:
            if done in client.socket.received[before:]:
                client.doubtful.discard(group)
                (client.groups.add if what == "join" else client.groups.discard)(group)
                return
            await asyncio.sleep(0.05)
        client.groups.discard(group)

    async def heal(self) -> None:
        """End every fault that lasts."""
        links = [actor.proxies for actor in self.actors] + self.reaper_proxies
        for proxy in [proxy for proxies in links for proxy in proxies]:
            proxy.delay_seconds = 0.0
            await proxy.set_link(Link.OPEN)
        for actor in self.actors:
            if actor.running:
                actor.worker.thaw()

    async def replace(self, actor: Actor) -> None:
        """End it, if it has not ended, and start another of its kind."""
        if actor.running:
            await asyncio.to_thread(actor.worker.kill)
        actor.worker.close()
        self.actors.remove(actor)
        await self.add_actor(actor.kind, actor.drop_in, actor.skew_seconds)
