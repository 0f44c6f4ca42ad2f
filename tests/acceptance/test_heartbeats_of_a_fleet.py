"""A mixed fleet with frozen clients: each depth counts exactly who can be reached, and closes nobody's socket."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest_asyncio

from project.sockets import FleetSocket, SocketFleet
from project.workers import Worker
from tests.acceptance.two_layers import BACKENDS, DROP_IN, STOCK
from tests.conftest import CommandResult, RunCommand, StartWorker
from tests.waiting import until

ANSWER_WITHIN_SECONDS = 5.0
CONSUMERS = ("async", "async-json", "sync", "sync-json")  # all with the mixin, all in the group `joined`
WITH_MIXIN, WITHOUT = 60, 40  # sockets of each worker
FROZEN = 10  # of those with the mixin, at each worker with the drop-in layer


@dataclass
class Fleet:
    """Three workers with 100 sockets each. ``frozen``: clients that answer nothing, half of which read nothing."""

    stock: Worker
    uvicorn: Worker
    daphne: Worker
    sockets: SocketFleet
    frozen: list[FleetSocket]
    run_command: RunCommand

    async def beat(self, depth: str, timeout_seconds: float) -> tuple[CommandResult, dict[str, dict[str, Any]], Any]:
        """The command as a process, its groups by name, and its processes by pid."""
        argv = ("--depth", depth, "--timeout", str(timeout_seconds), "--format", "json")
        done = await asyncio.to_thread(self.run_command, "send_heartbeat", "joined", "room.lobby", *argv)
        document = json.loads(done.out)
        assert all(group["sent"] == group["answered"] + len(group["silent"]) for group in document["groups"])
        groups = {group["group"]: group for group in document["groups"]}
        return done, groups, {found["pid"]: found for found in document["processes"] if found["pid"]}

    async def all_are_open(self, text: str) -> None:
        """And each of them hears what is said in its room, or answers what it says."""
        assert [socket for socket in self.sockets.sockets if not socket.is_open] == []
        await self.sockets.broadcast("lobby", text)
        in_lobby = self.sockets.in_room("lobby")
        speaking = [socket for socket in self.sockets.sockets if socket.room is None]
        await asyncio.gather(*(socket.send({"text": text}) for socket in speaking))
        for socket in self.frozen:
            thaw(socket)
        expected = in_lobby + speaking
        assert len(expected) == 3 * (WITH_MIXIN + WITHOUT)
        said = {text, json.dumps({"text": text})}  # Consumers of text send back the frame as it is.
        await until(lambda: all(said & socket.texts or not socket.is_open for socket in expected))
        assert [socket for socket in self.sockets.sockets if not socket.is_open] == []
        freeze(self.frozen)


def freeze(clients: list[FleetSocket]) -> None:
    """Some go on reading and answer no ping; some do not even read, as a laptop whose lid was shut."""
    for number, client in enumerate(clients):
        client.answers_pings = False
        if number % 2:
            client.connection.transport.pause_reading()


def thaw(client: FleetSocket) -> None:
    if not client.connection.transport.is_reading():
        client.connection.transport.resume_reading()


@pytest_asyncio.fixture
async def fleet(start_worker: StartWorker, sockets: SocketFleet, run_command: RunCommand) -> Fleet:
    options = {
        "asgi": "tests.acceptance.heartbeat_application:application",
        "wait": False,
        # The mixin's own pings, which do close the sockets of frozen clients, never come.
        "HEARTBEAT_INTERVAL": "1000000",
        "HEARTBEAT_TIMEOUT": str(ANSWER_WITHIN_SECONDS),
    }
    stock = start_worker("uvicorn", CHANNEL_BACKEND=BACKENDS[STOCK], **options)
    uvicorn = start_worker("uvicorn", CHANNEL_BACKEND=BACKENDS[DROP_IN], **options)
    daphne = start_worker("daphne", CHANNEL_BACKEND=BACKENDS[DROP_IN], **options)
    workers = [worker.wait_ready() for worker in (stock, uvicorn, daphne)]
    with_mixin = {
        worker: await sockets.open_urls(
            [f"{worker.ws_url}/ws/beat/{CONSUMERS[n % len(CONSUMERS)]}/" for n in range(WITH_MIXIN)]
        )
        for worker in workers
    }
    await sockets.open_many((worker, "lobby") for worker in workers for _ in range(WITHOUT))
    frozen = with_mixin[uvicorn][:FROZEN] + with_mixin[daphne][:FROZEN]
    freeze(frozen)
    return Fleet(stock, uvicorn, daphne, sockets, frozen, run_command)


def counts(group: dict[str, Any]) -> dict[str, int]:
    names = ("members", "sent", "answered", "not_capable", "skipped")
    return {name: group[name] for name in names} | {"silent": len(group["silent"])}


def expected(members: int, answered: int, not_capable: int, silent: int = 0) -> dict[str, int]:
    sent = answered + silent
    found = {"members": members, "sent": sent, "answered": answered, "not_capable": not_capable}
    return found | {"skipped": 0, "silent": silent}


async def test_each_depth_counts_exactly_and_no_socket_is_closed(fleet: Fleet) -> None:
    assert (len(fleet.sockets.open_sockets), len(fleet.frozen)) == (300, 20)

    done, groups, processes = await fleet.beat("process", 15)
    assert {name: counts(group) for name, group in groups.items()} == {
        "joined": expected(180, answered=180, not_capable=0),
        "room.lobby": expected(120, answered=120, not_capable=0),
    }, done
    assert done.returncode == 0
    assert processes.keys() == {str(worker.pid) for worker in (fleet.stock, fleet.uvicorn, fleet.daphne)}
    await fleet.all_are_open("after process")

    done, groups, processes = await fleet.beat("channel", 15)
    assert {name: counts(group) for name, group in groups.items()} == {
        "joined": expected(180, answered=120, not_capable=60),
        "room.lobby": expected(120, answered=80, not_capable=40),
    }, done
    assert (done.returncode, {pid: found["answered"] for pid, found in processes.items()}) == (
        0,
        {str(fleet.stock.pid): 0, str(fleet.uvicorn.pid): 100, str(fleet.daphne.pid): 100},
    )
    await fleet.all_are_open("after channel")

    done, groups, processes = await fleet.beat("client", ANSWER_WITHIN_SECONDS)
    assert {name: counts(group) for name, group in groups.items()} == {
        "joined": expected(180, answered=100, not_capable=60, silent=20),
        "room.lobby": expected(120, answered=0, not_capable=120),
    }, done
    assert (done.returncode, sorted(found["silent"] for found in processes.values())) == (3, [0, FROZEN, FROZEN])
    assert set(groups["joined"]["silent"]) == {socket.channel for socket in fleet.frozen}
    await fleet.all_are_open("after client")

    # A whole process that is frozen is told with its host and pid, and loses nobody when it goes on.
    fleet.daphne.freeze()
    for depth, answering in (("process", 200), ("channel", 100)):
        done, groups, processes = await fleet.beat(depth, 1)
        assert sum(group["answered"] for group in groups.values()) == answering
        assert processes[str(fleet.daphne.pid)]["silent"] == 100
        assert processes[str(fleet.daphne.pid)]["host"]
        silent = {channel for group in groups.values() for channel in group["silent"]}
        assert silent == {socket.channel for socket in fleet.sockets.of_worker(fleet.daphne)}
        assert done.returncode == 3
    fleet.daphne.thaw()
    await fleet.all_are_open("after the freeze")
    for worker in (fleet.stock, fleet.uvicorn, fleet.daphne):
        assert "Traceback" not in worker.output()
