"""A fleet that a deploy makes smaller, again and again, reaped with the stop for the share of the fleet on.

It has a Redis of its own, without proxies: whether such a stop may end is told by the connections that Redis lists, and
any other fault would be another reason to stop.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import redis

from chaos.actors import STOCK, Servers
from chaos.reapers import PROBE_TIMEOUT_SECONDS, Reapers
from chaos.stage import PREFIX, make_worker
from ops.model.keys import Keyspace
from ops.model.liveness.stops import IDLE_SHOWS_AFTER_SECONDS
from project.embedded_redis import EmbeddedRedis
from project.sockets import FleetSocket, SocketFleet
from project.workers import Worker

OLD_WORKERS = 5
NEW_WORKERS = 2
SOCKETS_OF_A_WORKER = 3
GROUP = "everybody"
FROZEN_SECONDS = IDLE_SHOWS_AFTER_SECONDS + 15.0  # would the stop end by then, it would end too early
ENDS_WITHIN_SECONDS = 120.0
SEEN_WITHIN_RUNS = 10
PAUSE_SECONDS = 2.0
KEYSPACE = Keyspace(PREFIX)


@dataclass
class ShrinkingFleet:
    """Counts the deploys that it came to the end of, their stops, and the members that went."""

    reapers: Reapers
    seed: int
    deploys: int = 0
    stops: int = 0
    removed: int = 0
    slowest_seconds: float = 0.0  # from when nobody was frozen until the last orphan was gone
    violations: list[str] = field(default_factory=list)
    _sockets: SocketFleet = field(default_factory=SocketFleet)
    _opened: dict[Worker, list[FleetSocket]] = field(default_factory=dict)

    async def go_on(self) -> None:
        """For ever. The first deploy leaves one of the old workers frozen for a while, the others if chance will."""
        draw = random.Random(f"{self.seed} deploys")
        self.servers = Servers(f"{self.seed} servers of deploys")
        one_is_frozen = True
        while True:
            with EmbeddedRedis(config={"maxmemory-policy": "noeviction"}) as self.server:
                await self._deploy(one_is_frozen)
            self.deploys += 1
            one_is_frozen = draw.random() < 0.5

    async def _deploy(self, one_is_frozen: bool) -> None:
        async with self._workers(OLD_WORKERS) as old:
            await self._be_seen(len(old))
            async with self._workers(NEW_WORKERS) as new:
                for worker in old[one_is_frozen:]:
                    await asyncio.to_thread(worker.kill)
                if one_is_frozen:
                    await self._stay_while_frozen(old[0], [old[0], *new])
                    await asyncio.to_thread(old[0].kill)
                await self._have_orphans_go(new)

    @asynccontextmanager
    async def _workers(self, count: int) -> AsyncIterator[list[Worker]]:
        config = {"hosts": [{"address": self.server.url, "socket_timeout": None}]}
        workers = [make_worker(self.servers.draw(), STOCK, config) for _ in range(count)]
        try:
            await asyncio.gather(*(asyncio.to_thread(worker.__enter__) for worker in workers))
            for worker in workers:
                url = f"{worker.ws_url}/ws/groups/?groups={GROUP}"
                self._opened[worker] = await self._sockets.open_urls([url] * SOCKETS_OF_A_WORKER)
            yield workers
        finally:
            for worker in workers:
                for socket in self._opened.pop(worker, []):
                    socket.abort()
                if worker.running:
                    worker.kill()
                worker.close()

    async def _be_seen(self, count: int) -> None:
        """A run takes all of them for live: only then have they gone silent at once later."""
        for _ in range(SEEN_WITHIN_RUNS):
            report = await self._reap()
            if [seen["state"] for seen in report.get("processes", ())] == ["live"] * count:
                return
        self.violations.append(f"no run of {SEEN_WITHIN_RUNS} took {count} idle workers for live: {report}")

    async def _stay_while_frozen(self, frozen: Worker, live: list[Worker]) -> None:
        until = time.monotonic() + FROZEN_SECONDS
        await asyncio.to_thread(frozen.process.freeze)
        try:
            while time.monotonic() < until:
                await self._reap()
                if gone := self._channels(live) - await self._members():
                    self.violations.append(f"a stop ended while a frozen worker had its connections: {len(gone)} gone")
                    return
        finally:
            frozen.process.thaw()

    async def _have_orphans_go(self, live: list[Worker]) -> None:
        started = time.monotonic()
        wanted = self._channels(live)
        report: dict[str, Any] = {}
        while (found := await self._members()) != wanted:
            if wanted - found:
                self.violations.append(f"a deploy removed {len(wanted - found)} members of live workers: {report}")
                return
            if time.monotonic() > started + ENDS_WITHIN_SECONDS:
                connections = await asyncio.to_thread(self._connections)
                self.violations.append(
                    f"an orphan stays: {len(found - wanted)} of a deploy; connections: {connections}; {report}"
                )
                return
            report = await self._reap()
        self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - started)

    async def _reap(self) -> dict[str, Any]:
        """One run, as cron would make it: the share that may go silent at once is the one of the settings."""
        hosts = [{"address": self.server.url, "socket_timeout": None}]
        words = ["reap_stale", "--probe-timeout", str(PROBE_TIMEOUT_SECONDS), "--format", "json"]
        out, err, code = await self.reapers.run(hosts, *words)
        if "Traceback" in err or code not in (0, 3):
            self.violations.append(f"reap_stale ended with {code} in a deploy: {err[-3000:]}")
            return {}
        report: dict[str, Any] = json.loads(out)
        self.stops += (report["stopped"] or "").startswith(("share: ", "nobody live: "))
        self.removed += report["removed"]
        await asyncio.sleep(PAUSE_SECONDS)
        return report

    def _channels(self, workers: list[Worker]) -> set[str]:
        return {socket.channel for worker in workers for socket in self._opened[worker]}

    async def _members(self) -> set[str]:
        return await asyncio.to_thread(self._read_members)

    def _read_members(self) -> set[str]:
        with redis.Redis.from_url(self.server.url) as client:
            return {raw.decode() for raw in client.zrange(KEYSPACE.group(GROUP), 0, -1)}

    def _connections(self) -> list[tuple[str, str]]:
        with redis.Redis.from_url(self.server.url) as client:
            return [(line["cmd"], line["idle"]) for line in client.client_list()]
