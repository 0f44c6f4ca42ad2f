"""Processes with a channel layer, for their cost: ``python -m benchmarks.layer_processes WHAT URL …``.

``idle KIND CONNECTIONS``      each connection is in two groups and waits for a message
``reached CONNECTIONS …``      drop-in layer; each is in one group with all others and in nine of many small ones
``dead CONNECTIONS LAYOUT``    the same, in a large and in a small group of the keyspace; it waits to be killed
``indexed LAYOUT``             the whole of a keyspace, joined through a drop-in layer for each of its processes

Each prints one line of JSON when it is ready, and goes on until it is ended.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

import django
from channels.consumer import AsyncConsumer
from channels.layers import DEFAULT_CHANNEL_LAYER, channel_layers

from benchmarks.keyspace import GROUP_PREFIX, LARGE_GROUPS, SMALL_GROUP, Layout
from benchmarks.layer_speed import make_layer
from ops.model.keys import Keyspace

STARTING_AT_ONCE = 50
DEAD_LEASE_SECONDS = 0.6
EVERYBODY = "everybody"
OTHERS = 9


class Connection(AsyncConsumer):  # type: ignore[misc]  # channels has no types
    """A consumer that joins groups when its client connects, and hears nothing any more."""

    def __init__(self, groups: Iterable[str]) -> None:
        self._groups = groups
        self.joined = asyncio.Event()

    async def run(self) -> None:
        events: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        events.put_nowait({"type": "websocket.connect"})
        await self({}, events.get, events.put)

    async def websocket_connect(self, message: dict[str, str]) -> None:
        for group in self._groups:
            await self.channel_layer.group_add(group, self.channel_name)
        # A layer that remembers a group's name shall not find it paid for by its consumer.
        self._groups = ()
        self.joined.set()


async def idle(url: str, kind: str, connections: str) -> None:
    """Says how many bytes of resident memory each connection has added; null where the system does not tell."""
    count = int(connections)
    layer = make_layer(kind, url)
    await _connect(layer, [(EVERYBODY, "warm-up")])  # Modules, buffers and the pool's first connection are there now.
    before = _resident_bytes()
    tasks = await _connect(layer, [(EVERYBODY, f"room-{number // SMALL_GROUP}") for number in range(count)])
    await asyncio.sleep(1)  # What joining needed is given back.
    after = _resident_bytes()
    _say({"bytes": None if before is None or after is None else (after - before) / count})
    await asyncio.gather(*tasks)


async def reached(url: str, connections: str, first: str, groups: str) -> None:
    """The connections that are the first-th and those that follow, of many in several processes."""
    numbers = range(int(first), int(first) + int(connections))
    layer = make_layer("ours", url)
    tasks = await _connect(
        layer,
        [(EVERYBODY, *(f"room-{(number * OTHERS + n) % int(groups)}" for n in range(OTHERS))) for number in numbers],
    )
    while not await layer.connection(0).exists(Keyspace(layer.prefix).lease(layer.client_prefix)):  # noqa: ASYNC110  # Redis
        await asyncio.sleep(0.05)
    _say({"process": layer.client_prefix})
    await asyncio.gather(*tasks)


async def dead(url: str, connections: str, layout: str) -> None:
    """Says who it is. From then on its lease says how long its index is."""
    count, sizes = int(connections), Layout.parse(layout).sizes
    layer = make_layer("ours", url, lease_seconds=DEAD_LEASE_SECONDS)
    small = len(sizes) - LARGE_GROUPS
    groups = [
        (_room(number % LARGE_GROUPS), _room(LARGE_GROUPS + number * small // count % small)) for number in range(count)
    ]
    tasks = await _connect(layer, groups)
    lease = Keyspace(layer.prefix).lease(layer.client_prefix)
    while await layer.connection(0).hget(lease, "index_parts") != b"%d" % layer.memberships.index_parts:  # noqa: ASYNC110  # Redis
        await asyncio.sleep(0.05)
    _say({"process": layer.client_prefix})
    await asyncio.gather(*tasks)


async def indexed(url: str, layout: str) -> None:
    wanted = Layout.parse(layout)
    layers = {process: make_layer("ours", url) for process in wanted.processes}
    for process, layer in layers.items():
        layer.client_prefix = process
    for key, members in wanted.read():
        group = key.removeprefix(GROUP_PREFIX).decode()
        for start in range(0, len(members), STARTING_AT_ONCE):
            names = [name.decode() for name, _ in members[start : start + STARTING_AT_ONCE]]
            await asyncio.gather(*(layers[_process_of(name)].group_add(group, name) for name in names))
    _say({})
    await asyncio.Event().wait()


async def _connect(layer: Any, groups: Sequence[tuple[str, ...]]) -> list[asyncio.Task[None]]:
    """Start a consumer for each, a few at a time, and return when all of them have joined and wait."""
    channel_layers.set(DEFAULT_CHANNEL_LAYER, layer)
    tasks: list[asyncio.Task[None]] = []
    for start in range(0, len(groups), STARTING_AT_ONCE):
        connections = [Connection(names) for names in groups[start : start + STARTING_AT_ONCE]]
        tasks += [asyncio.create_task(connection.run()) for connection in connections]
        await asyncio.gather(*(connection.joined.wait() for connection in connections))
    return tasks


def _room(number: int) -> str:
    return f"room-{number:06d}"


def _process_of(channel: str) -> str:
    return channel[channel.index(".") + 1 : channel.index("!")]


def _resident_bytes() -> int | None:
    """What the kernel holds in memory for this process (Linux)."""
    gc.collect()
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.exists() else None


def _say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


WHAT: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
    "idle": idle,
    "reached": reached,
    "dead": dead,
    "indexed": indexed,
}


def main(what: str, url: str, *arguments: str) -> None:
    django.setup()
    asyncio.run(WHAT[what](url, *arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
