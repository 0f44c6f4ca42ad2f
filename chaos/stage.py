"""What a campaign plays on: Redis shards, proxies, workers and sockets, all real, and what is known of each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType

from chaos.actors import ROLES, Actor, Client, Role, Servers, Silence
from chaos.clocks import SettableClock
from chaos.led_by_sentinel import LedBySentinel
from project.embedded_redis import EmbeddedRedis
from project.owned_process import delete_folder, make_folder
from project.proxy import Proxy
from project.sockets import SocketFleet
from project.workers import Kind, Worker

PREFIX = "chaos"
GROUPS = [f"group.{number}" for number in range(40)]
CONFIRM_SECONDS = 8.0
LEASE_SECONDS = 3
OPEN_WITHIN_SECONDS = 10.0
LEAVING_TRIES = 3  # the first may meet a connection that was cut
SKEWED = Path(__file__).parent / "skewed"


class Stage:
    """Two shards, one of them led by Sentinel, and a worker for each of ROLES. Everything ends with it."""

    def __init__(self, seed: int, without: str | None = None) -> None:
        self.seed = seed
        self.without = without
        self.servers = Servers(f"{seed} servers")
        self.servers_seen: set[Kind] = set()
        self.random = random.Random(f"{seed} clients")  # what each draws does not depend on how fast another one is
        self.shards: list[EmbeddedRedis] = []
        self.actors: list[Actor] = []
        self.clients: list[Client] = []
        self.reaper_proxies: list[list[Proxy]] = []
        self.cleaner_proxies: list[Proxy] = []
        self.fleet = SocketFleet()
        self.set_clocks: list[tuple[int, Silence]] = []  # by how many seconds ahead, and when, since the last check
        self.evictions: list[Silence] = []  # when a shard dropped keys, whichever these were, since the last check
        self.data_lost = False  # a shard forgot its receipts since the last check
        self.note_receipts: Callable[[], None] = lambda: None  # before they are forgotten
        self.unexpected: list[str] = []
        self._stack = AsyncExitStack()
        self._actors_made = 0
        self._stirring = asyncio.Lock()

    async def __aenter__(self) -> Stage:
        self.folder = make_folder("chaos-")
        self._stack.callback(delete_folder, self.folder)
        self.clock = SettableClock(self.folder, "first")
        config = {"maxmemory-policy": "noeviction"}
        alone = self._stack.enter_context(EmbeddedRedis(config=config, binary=self.clock.binary))
        self.led = await asyncio.to_thread(self._stack.enter_context, LedBySentinel())
        self.shards = [alone, self.led.master]
        self.reaper_proxies = [await self._proxies() for _ in range(2)]
        self.cleaner_proxies = await self._proxies()
        await asyncio.gather(*(self.add_actor(role) for role in ROLES))
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
        for proxy in self.all_proxies:
            await proxy.close()
        await self._stack.aclose()

    async def _proxies(self) -> list[Proxy]:
        return [await Proxy(shard.port).__aenter__() for shard in self.shards]

    @property
    def all_proxies(self) -> list[Proxy]:
        links = [*(actor.proxies for actor in self.actors), *self.reaper_proxies, self.cleaner_proxies]
        return [proxy for proxies in links for proxy in proxies]

    def hosts(self, proxies: list[Proxy], *, asks_sentinel: bool) -> list[object]:
        """`hosts` of a layer, for who sees the shards through these, or asks where the second one is."""
        urls: list[object] = [{"address": proxy.url, "socket_timeout": None} for proxy in proxies]
        return [urls[0], self.led.host] if asks_sentinel else urls

    @asynccontextmanager
    async def clock_set_ahead(self, seconds: int) -> AsyncIterator[None]:
        """Set the clock of the first shard, by which processes are judged."""
        started = time.time()
        self.clock.set_ahead(seconds)
        try:
            yield
        finally:
            self.clock.set_ahead(0)
            self.set_clocks.append((seconds, Silence(started, time.time())))

    def really(self, at: float) -> float:
        """When it was, by the right clock, that the first shard said ``at``: in this round, so it is one or the other.

        Each of the steps is longer than a round.
        """
        for seconds, while_ in self.set_clocks:
            if while_.start - 1 <= at - seconds <= while_.end + 1:
                return at - seconds
        return at

    async def fail_over(self) -> bool:
        """The replica takes over, if there is one that can.

        The proxies between the processes and the master follow Sentinel, as HAProxy can.
        """
        before = self.led.master.port
        if not await asyncio.to_thread(self.led.fail_over):
            return False
        self.shards[1] = self.led.master
        for proxy in self.all_proxies:
            if proxy.target_port == before:
                await proxy.follow(self.led.master.port)
        return True

    async def add_actor(self, role: Role, options: Mapping[str, object] | None = None) -> Actor:
        """Start a worker of that role. With ``options`` of its layer it reads and writes otherwise."""
        self._actors_made = number = self._actors_made + 1
        proxies = await self._proxies()
        config: dict[str, object] = {"hosts": self.hosts(proxies, asks_sentinel=role.asks_sentinel), **(options or {})}
        if role.drop_in:
            config["lease_seconds"] = LEASE_SECONDS
            if not role.asks_sentinel:
                config["hosts"] = [proxy.url for proxy in proxies]  # It chooses its time-outs itself.
        kind = self.servers.draw()
        self.servers_seen.add(kind)
        env = {"CHAOS_APPLICATION": role.application, "CHAOS_WITHOUT": self.without or ""}
        if role.skew_seconds:
            paths = filter(None, (str(SKEWED), os.environ.get("PYTHONPATH")))
            env |= {"PYTHONPATH": os.pathsep.join(paths), "CHAOS_SKEW_SECONDS": str(role.skew_seconds)}
        worker = make_worker(kind, role.backend, config, env)
        other = f", {', '.join(options)}" if options else ""
        actor = Actor(f"{kind} {number} ({role}{other})", worker, proxies, role, GROUPS, bool(options))
        if actor.reads_otherwise:  # What is said there, no other worker could read.
            actor.groups = [f"own.{number}.{group}" for group in range(5)]
        self.actors.append(actor)
        with actor.in_trouble():
            await asyncio.to_thread(lambda: worker.start().wait_ready())
        return actor

    @property
    def open_clients(self) -> list[Client]:
        return [client for client in self.clients if client.socket.is_open]

    def forget_closed(self) -> None:
        """Everything about these has been checked."""
        self.clients = [client for client in self.clients if client.is_remembered]
        self.set_clocks.clear()
        self.evictions.clear()

    def calm_actors(self) -> list[Actor]:
        """Those with whose clients anything may be done, and to which another fault may come."""
        undisturbed = [actor for actor in self.actors if actor.running and not actor.faults and not actor.lost]
        return [actor for actor in undisturbed if not actor.waits_for_undo]

    def clients_of(self, actor: Actor) -> list[Client]:
        return [client for client in self.open_clients if client.actor is actor]

    async def open_clients_on(self, actor: Actor, count: int, groups: Sequence[str] = ()) -> list[Client]:
        """Open sockets, each in ``groups`` and some others; returns those that could be opened."""
        opened = await asyncio.gather(*(self._open_client(actor, groups) for _ in range(count)))
        return [client for client in opened if client is not None]

    async def _open_client(self, actor: Actor, more_groups: Sequence[str] = ()) -> Client | None:
        groups = [*self.random.sample(actor.groups, self.random.randint(1, 3)), *more_groups]
        url = f"{actor.worker.ws_url}/ws/groups/?groups={','.join(groups)}"
        try:
            (socket,) = await asyncio.wait_for(self.fleet.open_urls([url]), OPEN_WITHIN_SECONDS)
        except Exception:  # refused, cut or too late: whichever, there is no such client
            if not actor.drop_in:
                actor.lose()
            return None
        if not actor.worker.process.includes(socket.pid):  # Its port has gone to another one.
            socket.abort()
            actor.lose()
            return None
        self.clients.append(client := Client(socket, actor, set(groups)))
        return client

    async def let_clients_finish(self) -> None:
        """Wait for what a client is just doing, however long its worker's Redis takes for that."""
        async with self._stirring:
            pass

    async def stir(self) -> None:
        """One thing that clients do: come, go, vanish, join or leave."""
        async with self._stirring:
            await self._stir()

    async def _stir(self) -> None:
        actors = self.calm_actors()
        if not actors:
            return
        actor = self.random.choice(actors)
        mine = self.clients_of(actor)
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
            await self.change_groups(client, what)

    async def change_groups(self, client: Client, what: str, group: str | None = None) -> bool:
        """Join or leave one, and note it once it is done; whether it was."""
        if group is None:
            group = self.random.choice(GROUPS if what == "join" else sorted(client.groups) or GROUPS)
            if group in client.doubtful or (group in client.groups) == (what == "join"):
                return False
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
                return True
            await asyncio.sleep(0.05)
        client.groups.discard(group)
        return False

    async def settle_doubts(self, client: Client) -> None:
        """Have it leave the groups of which nobody was told whether it is in them: what is said last counts."""
        for group in sorted(client.doubtful):
            for _ in range(LEAVING_TRIES):
                if left := await self.change_groups(client, "leave", group):
                    break
            if not left and client.socket.is_open and client.actor.drop_in:
                self.unexpected.append(f"{client.socket.channel} of {client.actor.name} cannot leave {group}")

    async def replace(self, actor: Actor, options: Mapping[str, object] | None = None) -> Actor:
        """End it, if it has not ended, and start another one in its place."""
        actor.will_end()
        if actor.running:
            await asyncio.to_thread(actor.worker.kill)
        actor.worker.close()
        self.actors.remove(actor)
        for proxy in actor.proxies:
            await proxy.close()
        return await self.add_actor(actor.role, options)


def make_worker(kind: Kind, backend: str, config: Mapping[str, object], env: Mapping[str, str] | None = None) -> Worker:
    """A worker that serves the campaign's application."""
    own = {
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "CHANNEL_BACKEND": backend,
        "CHANNELS_PREFIX": PREFIX,
        "CHANNEL_LAYER_OPTIONS": json.dumps(config),
    }
    # Its main process kills a child that was frozen for longer.
    arguments = ("--timeout", "300") if kind == "gunicorn" else ()
    return Worker(kind, env={**own, **(env or {})}, asgi="chaos.application:application", arguments=arguments)
