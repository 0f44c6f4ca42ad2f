"""How fast the drop-in layer is beside the stock one: ``python -m benchmarks.layer_speed URL ROUNDS SHARE``.

Both work in one event loop on one server, in turn, slice by slice: whatever else the machine does falls on both.
Prints for each case the operations per second of each slice, as JSON. ``SHARE``: of the operations of a full run.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from channels_redis.core import RedisChannelLayer as StockLayer

from ops.layers import RedisChannelLayer as DropInLayer

PREFIX = "speed"
ROOM = "room"
MEMBERS = 100
TASKS = 20
MESSAGE = {"type": "chat.message", "text": "hello", "user": "somebody"}
CAPACITY = 1_000_000
OPERATIONS = {"group_add": 200, "send": 200, "group_send": 60, "receive": 200}
"""How many make a slice."""
FEWEST = 20
KINDS = ("ours", "stock")

Step = tuple[Callable[..., Awaitable[Any]], tuple[Any, ...]]


@dataclass(frozen=True)
class Case:
    """``processes``: layer instances, each with its own inbox; ``tasks``: how many operations are under way at once."""

    operation: str
    processes: int
    tasks: int

    def __str__(self) -> str:
        return f"{self.operation}_{self.processes}_{self.tasks}"


CASES = [
    Case(operation, processes, tasks)
    for operation, processes, tasks in itertools.product(OPERATIONS, (1, 100), (1, TASKS))
]


def make_layer(kind: str, url: str, **options: Any) -> Any:
    """One process's layer. The stock one is told not to time out, without which it does not work with redis-py 8."""
    if kind == "stock":
        return StockLayer(hosts=[{"address": url, "socket_timeout": None}], **options)
    return DropInLayer(hosts=[{"address": url}], **options)


class Contender:
    """One kind of layer in one case."""

    def __init__(self, kind: str, url: str, case: Case, client: redis.Redis) -> None:
        self._case = case
        self._client = client
        self._layers = [make_layer(kind, url, prefix=PREFIX, capacity=CAPACITY) for _ in range(case.processes)]
        self._channels = [self._new_channel(number) for number in range(MEMBERS)]

    def _layer(self, number: int) -> Any:
        return self._layers[number % len(self._layers)]

    def _new_channel(self, number: int) -> str:
        return f"specific.{self._layer(number).client_prefix}!{uuid.uuid4().hex}"

    async def slice(self, count: int) -> float:
        """Do ``count`` operations; returns how many it did in a second."""
        steps: list[Step] = getattr(self, f"_{self._case.operation}")(count)
        gc.collect()
        began = time.perf_counter()
        if self._case.tasks == 1:
            await _one_after_another(steps)
        else:
            await asyncio.gather(*(_one_after_another(steps[at :: self._case.tasks]) for at in range(self._case.tasks)))
        for layer in self._layers:  # The stock layer acknowledges in the background what it has received.
            await layer.wait_received()
        seconds = time.perf_counter() - began
        self._empty()
        return count / seconds

    def _empty(self) -> None:
        """Take everything away but the leases, whose loss would be repaired."""
        keys = [key for key in self._client.scan_iter(count=10_000) if b":ops:lease:" not in key]
        if keys:
            self._client.unlink(*keys)

    async def close(self) -> None:
        for layer in self._layers:
            await layer.close_pools()

    # Each new connection joins everybody's group or one of five.

    def _group_add(self, count: int) -> list[Step]:
        groups = [ROOM if number % 2 else f"{ROOM}-{number // 10}" for number in range(count)]
        return [(self._layer(number).group_add, (groups[number], self._new_channel(number))) for number in range(count)]

    def _send(self, count: int) -> list[Step]:
        return [
            (self._layer(number).send, (self._channels[(7 * number + 1) % MEMBERS], MESSAGE)) for number in range(count)
        ]

    def _group_send(self, count: int) -> list[Step]:
        now = time.time()
        self._client.zadd(f"{PREFIX}:group:{ROOM}", dict.fromkeys(self._channels, now))
        return [(self._layer(number).group_send, (ROOM, MESSAGE)) for number in range(count)]

    def _receive(self, count: int) -> list[Step]:
        """Messages wait in the inboxes. Each task stands for consumers of its own, and receives on their channels."""
        channels = self._channels[: max(self._case.processes, self._case.tasks)]
        pipe, now = self._client.pipeline(transaction=False), time.time()
        for number in range(count):
            channel = channels[number % len(channels)]
            inbox = channel[: channel.index("!") + 1]
            content = self._layer(number).serialize({**MESSAGE, "__asgi_channel__": channel})
            pipe.zadd(PREFIX + inbox, {content: now + number / 1e4})
        pipe.execute()
        return [(self._layer(number).receive, (channels[number % len(channels)],)) for number in range(count)]


async def _one_after_another(steps: Sequence[Step]) -> None:
    for function, arguments in steps:
        await function(*arguments)


async def measure(url: str, case: Case, rounds: int, share: float, client: redis.Redis) -> dict[str, list[float]]:
    """The rates of both, from slices in turn; the first of each opens connections and is not counted."""
    contenders = {kind: Contender(kind, url, case, client) for kind in KINDS}
    count = max(FEWEST, round(OPERATIONS[case.operation] * share))
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(rounds + 1):
        for kind in KINDS if number % 2 else reversed(KINDS):
            rate = await contenders[kind].slice(max(count, case.processes))
            if number:
                rates[kind].append(rate)
    for contender in contenders.values():
        await contender.close()
    return rates


def main(url: str, rounds: str, share: str) -> None:
    with redis.Redis.from_url(url) as client:
        # A loop for each case: layers stay hooked into the closing of the loop that they were used in.
        rates = {str(case): asyncio.run(measure(url, case, int(rounds), float(share), client)) for case in CASES}
    print(json.dumps(rates))


if __name__ == "__main__":
    main(*sys.argv[1:])
