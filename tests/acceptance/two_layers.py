"""The same application twice on the same Redis, once with the stock layer and once with the drop-in layer.

Whatever happens to the one happens to the other at the same time; what becomes of their members is the difference.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import redis

from project.sockets import FleetSocket, SocketFleet
from project.workers import Kind, Worker
from tests.acceptance.memberships import Memberships, channels, in_redis, of_sockets
from tests.conftest import STOCK_LAYER, StartWorker

DROP_IN_LAYER = "ops.layers.RedisChannelLayer"
STOCK, DROP_IN = "stock", "dropin"
BACKENDS = {STOCK: STOCK_LAYER, DROP_IN: DROP_IN_LAYER}
LEASE_SECONDS = 3.0


class TwoLayers:
    """Workers of both layers, each layer under a prefix of its own."""

    def __init__(self, start_worker: StartWorker, fleet: SocketFleet) -> None:
        self._start_worker = start_worker
        self.fleet = fleet
        self.workers: dict[str, list[Worker]] = {STOCK: [], DROP_IN: []}

    def start(
        self, *kinds: Kind, options: dict[str, Any] | None = None, lease_seconds: float = LEASE_SECONDS, **worker: Any
    ) -> None:
        """A worker of each kind and layer. ``worker``: as `start_worker` takes it.

        ``options``: of both layers; ``LAYER`` in them stands for the name of the one.
        """
        for layer, backend in BACKENDS.items():
            own = {"lease_seconds": lease_seconds} if layer == DROP_IN else {}
            for kind in kinds:
                started = self._start_worker(
                    kind,
                    wait=False,
                    CHANNEL_BACKEND=backend,
                    CHANNELS_PREFIX=layer,
                    CHANNEL_LAYER_OPTIONS=json.dumps({**(options or {}), **own}).replace("LAYER", layer),
                    **worker,
                )
                self.workers[layer].append(started)
        for started in self.all_workers:
            started.wait_ready()

    @property
    def all_workers(self) -> list[Worker]:
        return [worker for workers in self.workers.values() for worker in workers]

    async def open(self, count: int, room: str = "lobby") -> None:
        """Sockets in that room, ``count`` for each layer."""
        for workers in self.workers.values():
            places = [(workers[number % len(workers)], room) for number in range(count)]
            await self.fleet.open_many(places)

    def sockets(self, layer: str) -> list[FleetSocket]:
        return [socket for worker in self.workers[layer] for socket in self.fleet.of_worker(worker)]

    def still_open(self, layer: str) -> int:
        return sum(socket.is_open for socket in self.sockets(layer))

    def log(self, layer: str) -> str:
        return "".join(worker.output() for worker in self.workers[layer])


def all_are_members(client: redis.Redis, layer: str, sockets: list[FleetSocket]) -> bool:
    """Whether Redis has exactly the memberships of these sockets; a Redis that is away has none."""
    return members(client, layer) == of_sockets(sockets)


def members(client: redis.Redis, layer: str) -> dict[str, set[str]]:
    try:
        return channels(in_redis(client, layer))
    except redis.RedisError:
        return {}


def count_members(memberships: Memberships | dict[str, set[str]]) -> int:
    return sum(map(len, memberships.values()))


async def seconds_until(condition: Callable[[], bool], within_seconds: float) -> float:
    """How long it took; the condition is asked in a thread, since it may wait for Redis."""
    began = time.monotonic()
    while not await asyncio.to_thread(condition):
        assert time.monotonic() - began < within_seconds, "it does not come about"
        await asyncio.sleep(0.02)
    return time.monotonic() - began
