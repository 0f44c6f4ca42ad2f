"""How each part of what `manage.py demo` shows is done; demo_script.py has the story."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import redis
from channels_redis.core import RedisChannelLayer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from project.demo_fleet import (
    BIGGEST_ROOM,
    BUSY_ROOMS,
    CONFIRM_AFTER_SECONDS,
    FLEET,
    LAYER_ENV,
    ROOMS,
    SEATS,
    STOCK_LAYER,
    Layer,
)
from project.embedded_redis import EmbeddedRedis
from project.front import Front
from project.settings import channel_layer
from project.sockets import FleetSocket, SocketFleet
from project.workers import LOGGED, REPOSITORY, WITH_OPS_MIDDLEWARE, Worker, start_together

# Together fewer than the 100 messages that an inbox holds: a full one would be skipped, and make sends look cheaper.
SENDS = 50
WARM_UP_SENDS = 10
# An ordinary restart. Where Redis is back sooner, some of the stock workers' sockets stay open, but in no group.
REDIS_AWAY_SECONDS = 2.0
TO_TRY = ("channels_groups --members", "reap_stale --wait", "send_heartbeat room.lobby --depth client")
MEMBERS_BACK_WITHIN_SECONDS = 15.0
BUSY_SECONDS = 3.0
SAY_EVERY_SECONDS = 0.02
CLIENTS_AT_ONCE = 10
GROUPS_LEFT_WITHIN_TENTHS = 50  # of a second


class DemoFailed(Exception):
    """Something did not go as the toolkit promises; the message says what."""


@dataclass(frozen=True)
class Step:
    """A heading, why it is shown, and either a command with the exit code that it must have, or a part of Demo.

    ``restarts_redis``: it does, or it needs a step before that does. So it is shown on the demo's own Redis only.
    """

    title: str
    why: str
    command: tuple[str, ...] = ()
    exit_code: int = 0
    action: Callable[[Demo], Awaitable[None]] | None = None
    restarts_redis: bool = False


@dataclass(frozen=True)
class Measurement:
    """`group_send` to the biggest room: how many members Redis listed, and what a send took."""

    when: str
    members: int
    median_ms: float
    fastest_ms: float


class Demo:
    """One run. Everything that it starts ends with it."""

    def __init__(self, *, console: Console, socket_count: int, keep: bool, redis_url: str | None) -> None:
        self.console = console
        self.socket_count = socket_count
        self.keep = keep
        self.redis_url = redis_url or ""
        # In somebody's own Redis, the commands must see what the demo put there and nothing else.
        self.own_prefix = f"channels-ops-demo-{os.getpid()}" if redis_url else None
        self.own_server: EmbeddedRedis | None = None
        self.workers: list[Worker] = []
        self.measurements: list[Measurement] = []
        self.fleet = SocketFleet()
        self.layer: RedisChannelLayer

    @property
    def extra_env(self) -> dict[str, str]:
        """What a command needs in its environment to see this demo."""
        env = {"REDIS_URL": self.redis_url, "OPS_CONFIRM_AFTER_SECONDS": str(CONFIRM_AFTER_SECONDS)}
        return {**env, "CHANNELS_PREFIX": self.own_prefix} if self.own_prefix else env

    @property
    def env(self) -> dict[str, str]:
        env = {**os.environ, **LAYER_ENV["stock"], **self.extra_env}
        return {**env, "NO_COLOR": "1"} if self.console.no_color else env

    async def run(self, script: Sequence[Step]) -> None:
        """Show all steps. Raises DemoFailed at the first thing that is not as it should be."""
        started_at = time.monotonic()
        async with AsyncExitStack() as stack:
            await self._prepare(stack)
            steps = [step for step in script if self.own_server or not step.restarts_redis]
            for number, step in enumerate(steps, start=1):
                self.console.print(f"\n[bold cyan]{number}. {step.title}[/]")
                self.console.print(step.why)
                if step.action:
                    await step.action(self)
                else:
                    await self._run_command(step)
            if len(steps) < len(script):
                self.console.print("\nSkipped: a restart of Redis, since this one (REDIS_URL) is not the demo's own.")
            seconds = time.monotonic() - started_at
            self.console.print(f"\n[bold green]All as promised[/], in {seconds:.0f} s.")
            if self.keep:
                await self._stay()
        self.console.print("Everything that the demo started has been stopped.")

    async def _prepare(self, stack: AsyncExitStack) -> None:
        if self.own_prefix:
            self._check_redis()
        else:
            self.own_server = stack.enter_context(EmbeddedRedis())
            self.redis_url = self.own_server.url
        config = channel_layer(STOCK_LAYER, self.redis_url.split(), self.own_prefix)["CONFIG"]
        self.layer = RedisChannelLayer(**config)
        stack.push_async_callback(self.layer.close_pools)
        stack.callback(self._delete_own_keys)
        stack.callback(self._end_workers)
        await stack.enter_async_context(self.fleet)

    def _check_redis(self) -> None:
        try:
            for url in self.redis_url.split():
                with redis.Redis.from_url(url) as client:
                    client.ping()
        except (redis.RedisError, ValueError) as problem:
            raise DemoFailed(f"REDIS_URL: {problem}") from problem

    def _end_workers(self) -> None:
        for worker in self.workers:
            worker.close()

    def _delete_own_keys(self) -> None:
        """Leave nothing in somebody's own Redis. An embedded one goes as a whole."""
        for url in self.redis_url.split() if self.own_prefix else ():
            with redis.Redis.from_url(url) as client:
                for key in client.scan_iter(match=f"{self.own_prefix}*", count=1000):
                    client.delete(key)

    async def _run_command(self, step: Step) -> None:
        self.console.print(f"[bold]$ python manage.py {escape(shlex.join(step.command))}[/]\n", soft_wrap=True)
        # It inherits the terminal: what is shown is what the command prints, in its own colours and width.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "manage.py", *step.command, cwd=REPOSITORY, env=self.env
        )
        try:
            exit_code = await process.wait()
        except BaseException:
            process.kill()
            await process.wait()
            raise
        self.console.print(f"[dim](exit code {exit_code})[/]")
        if exit_code != step.exit_code:
            raise DemoFailed(f"{step.command[0]} ended with exit code {exit_code} instead of {step.exit_code}")

    async def start_fleet(self) -> None:
        """The servers and all the sockets."""
        self.workers = [Worker(role.kind, env={**self.env, **LAYER_ENV[role.layer]}) for role in FLEET]
        start_together(self.workers)
        seats = [self.workers[SEATS[i % len(SEATS)]] for i in range(self.socket_count)]
        rooms = [ROOMS[i % len(ROOMS)] for i in range(self.socket_count)]
        await self.fleet.open_many(zip(seats, rooms, strict=True))

        table = Table("worker", "pid", "layer", "sockets", "its name in Redis", "fate", box=None, padding=(0, 2, 0, 0))
        for role, worker in zip(FLEET, self.workers, strict=True):
            served = self.fleet.of_worker(worker)
            name = served[0].channel.partition("!")[0].removeprefix("specific.")
            table.add_row(role.kind, str(worker.pid), role.layer, str(len(served)), name, role.fate)
        self.console.print(table)
        self.console.print(", ".join(f"{room}: {n}" for room, n in Counter(rooms).most_common()), highlight=False)

    async def measure_group_send(self, when: str) -> None:
        """Time `group_send` to the biggest room; between two sends, all who can receive it have done so."""
        times_ms = []
        for number in range(-WARM_UP_SENDS, SENDS):
            text = f"{when} {number}"
            message = {"type": "room.message", "room": BIGGEST_ROOM, "text": text, "from": ""}
            started_at = time.perf_counter()
            await self.layer.group_send(f"room.{BIGGEST_ROOM}", message)
            if number >= 0:
                times_ms.append((time.perf_counter() - started_at) * 1000)
            await self.fleet.await_received(text, among=self.fleet.in_room(BIGGEST_ROOM))
        measured = Measurement(
            when, len(await self._list_members(BIGGEST_ROOM)), statistics.median(times_ms), min(times_ms)
        )
        self.measurements.append(measured)
        self.console.print(
            f"group_send to the {BIGGEST_ROOM}, {when}: {measured.members} members addressed, "
            f"{SENDS} sends took {measured.median_ms:.2f} ms in the median, {measured.fastest_ms:.2f} ms at best"
        )

    async def _list_members(self, *rooms: str) -> list[str]:
        """As Redis has them, asked without the toolkit that is on show."""
        members: list[bytes] = []
        for room in rooms:
            connection = self.layer.connection(self.layer.consistent_hash(f"room.{room}"))
            members += await connection.zrange(self.layer._group_key(f"room.{room}"), 0, -1)
        return [member.decode() for member in members]

    async def end_two_workers(self) -> None:
        """Kill one, stop one, and see what Redis knows of it."""
        ended = [(role, worker) for role, worker in zip(FLEET, self.workers, strict=True) if role.ending]
        for role, worker in ended:
            worker.kill() if role.ending == signal.SIGKILL else worker.terminate()
        gone = [socket for _, worker in ended for socket in self.fleet.of_worker(worker)]
        if await self.fleet.await_closed(gone) != gone:
            raise DemoFailed("a socket of an ended worker is still open")
        self.console.print(
            f"{len(gone)} of {len(self.fleet.sockets)} sockets are closed, "
            f"but Redis still lists {len(await self._list_members(*set(ROOMS)))} members."
        )

    async def await_confirm_time(self) -> None:
        """Let the confirm time pass; it is the time itself that is waited for."""
        with self.console.status("waiting …"):
            await asyncio.sleep(CONFIRM_AFTER_SECONDS)

    async def check_survivors(self) -> None:
        """A broadcast to every room must reach every socket that is open, and Redis must list exactly these."""
        survivors = self.fleet.open_sockets
        reached = await self._broadcast("Still here?")
        members = len(await self._list_members(*set(ROOMS)))
        kept = sum(len(self.fleet.of_worker(w)) for w, role in zip(self.workers, FLEET, strict=True) if not role.ending)
        self.console.print(
            f"{len(reached)} of {kept} surviving sockets received it; Redis lists {members} members.", highlight=False
        )
        if not len(reached) == len(survivors) == kept == members:
            raise DemoFailed(f"{kept} sockets survive, {len(reached)} were reached, {members} members are listed")

    async def _broadcast(self, text: str) -> list[FleetSocket]:
        """Say it in every room, through one of the sockets there; return those that heard it."""
        reached: list[FleetSocket] = []
        for room in dict.fromkeys(ROOMS):
            if listeners := self.fleet.in_room(room):
                await self.fleet.broadcast(room, text)
                reached += await self.fleet.await_received(text, among=listeners)
        return reached

    async def leave_busy_rooms(self) -> None:
        """Have clients come and go in two rooms that are talked to, one of them on a worker with OpsMiddleware."""
        workers = [Worker("uvicorn", env=self.env, asgi=asgi) for asgi in (LOGGED, WITH_OPS_MIDDLEWARE)]
        try:
            start_together(workers)
            talking = asyncio.create_task(self._talk())
            try:
                came = await asyncio.gather(*map(self._come_and_go, workers, BUSY_ROOMS))
            finally:
                talking.cancel()
                await asyncio.wait([talking])
            await self._compare_busy_rooms(workers, came)
        finally:
            for worker in workers:
                worker.close()

    async def _talk(self) -> None:
        while True:
            for room in BUSY_ROOMS:
                message = {"type": "room.message", "room": room, "text": "x" * 1000, "from": ""}
                await self.layer.group_send(f"room.{room}", message)
            await asyncio.sleep(SAY_EVERY_SECONDS)

    async def _come_and_go(self, worker: Worker, room: str) -> int:
        """Every other client closes its socket, the others vanish; returns how many there were."""
        deadline = time.monotonic() + BUSY_SECONDS
        async with SocketFleet() as visitors:
            while time.monotonic() < deadline:
                for number, socket in enumerate(await visitors.open(worker, room, CLIENTS_AT_ONCE)):
                    if number % 2:
                        socket.abort()
                    else:
                        await socket.connection.close()
            return len(visitors.sockets)

    async def _compare_busy_rooms(self, workers: Sequence[Worker], came: Sequence[int]) -> None:
        """What the clients left behind. The worker with OpsMiddleware must have left all groups."""
        [_, with_it] = BUSY_ROOMS
        for _ in range(GROUPS_LEFT_WITHIN_TENTHS):
            if not (left := await self._list_members(with_it)):
                break
            await asyncio.sleep(0.1)
        table = Table("asgi.py", "pid", "clients that left", "members that stay", box=None, padding=(0, 3, 0, 0))
        for asgi, worker, clients, room in zip(("without", "with"), workers, came, BUSY_ROOMS, strict=True):
            table.add_row(
                f"{asgi} OpsMiddleware", str(worker.pid), str(clients), str(len(await self._list_members(room)))
            )
        self.console.print(table)
        if left:
            raise DemoFailed(f"{len(left)} members stay in {with_it} with OpsMiddleware")

    async def restart_redis(self) -> None:
        """Take Redis away, bring it back empty, and see what that leaves of the sockets of each layer."""
        assert self.own_server is not None, "somebody's own"
        before: dict[Layer, list[FleetSocket]] = {"stock": [], "drop-in": []}
        for role, worker in zip(FLEET, self.workers, strict=True):
            before[role.layer] += [socket for socket in self.fleet.of_worker(worker) if socket.is_open]
        # The demo has the stock layer, too: its connections would not outlive this.
        await self.layer.close_pools()
        self.own_server.kill()
        await asyncio.sleep(REDIS_AWAY_SECONDS)
        self.own_server.start()
        back_after = await self._await_members(before["drop-in"])
        self.console.print(
            f"Redis was away for {REDIS_AWAY_SECONDS:g} s and came back empty. {back_after:.1f} s later, "
            "the members of the drop-in layer were back.",
            highlight=False,
        )
        # Counted is what is left in the end.
        await self.fleet.await_closed(before["stock"])
        await self._compare_layers(before)

    async def _await_members(self, sockets: list[FleetSocket]) -> float:
        """Wait until Redis lists exactly these as members; return after how many seconds."""
        expected = sorted(socket.channel for socket in sockets)
        started_at = time.monotonic()
        while (members := sorted(await self._list_members(*set(ROOMS)))) != expected:
            if time.monotonic() - started_at > MEMBERS_BACK_WITHIN_SECONDS:
                raise DemoFailed(
                    f"{MEMBERS_BACK_WITHIN_SECONDS:g} s after the restart, Redis lists {len(members)} members "
                    f"instead of the {len(expected)} of the drop-in layer"
                )
            await asyncio.sleep(0.02)
        return time.monotonic() - started_at

    async def _compare_layers(self, before: dict[Layer, list[FleetSocket]]) -> None:
        """What each layer has of the sockets that it had. The drop-in layer must have them all."""
        reached = await self._broadcast("Still here, after the restart?")
        members = await self._list_members(*set(ROOMS))
        headings = "layer", "sockets before", "still open", "members", "got the broadcast"
        table = Table(*headings, box=None, padding=(0, 3, 0, 0))
        for layer, sockets in before.items():
            still_open = sum(socket.is_open for socket in sockets)
            listed = sum(socket.channel in members for socket in sockets)
            heard = sum(socket in reached for socket in sockets)
            table.add_row(layer, *map(str, (len(sockets), still_open, listed, heard)))
            lost = not len(sockets) == still_open == listed == heard
            if lost and layer == "drop-in":
                raise DemoFailed(
                    f"the drop-in layer had {len(sockets)} sockets: {still_open} are open, {listed} are members, "
                    f"{heard} got the broadcast"
                )
        self.console.print(table)

    async def compare_sends(self) -> None:
        """The three measurements side by side."""
        await self.measure_group_send("after the reap")
        table = Table("group_send", "members addressed", "median ms", "fastest ms", box=None, padding=(0, 3, 0, 0))
        for one in self.measurements:
            table.add_row(one.when, str(one.members), f"{one.median_ms:.2f}", f"{one.fastest_ms:.2f}")
        self.console.print(table)

    async def _stay(self) -> None:
        """Leave everything running for somebody to try by hand, until Ctrl-C."""
        ended = asyncio.Event()
        for which in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(which, ended.set)
        async with Front([worker for worker in self.workers if worker.running]) as front:
            self._print_what_to_try(front)
            await ended.wait()

    def _print_what_to_try(self, front: Front) -> None:
        here = Path(sys.executable)
        python = here.relative_to(REPOSITORY) if here.is_relative_to(REPOSITORY) else here
        settings = [f"{name}={shlex.quote(value)}" for name, value in self.extra_env.items()]
        command = " ".join([*settings, shlex.quote(str(python)), "manage.py"])
        # After a restart of Redis only one of them still has members.
        busiest = max(front.workers, key=lambda worker: sum(socket.is_open for socket in self.fleet.of_worker(worker)))
        layer = FLEET[self.workers.index(busiest)].layer
        lease = f" (its lease must run out first, in {CONFIRM_AFTER_SECONDS} s)" if layer == "drop-in" else ""
        lines = [
            "\n[bold]Left running for you to try; Ctrl-C stops everything.[/]",
            f"Chat page: {front.http_url}/ (in front of {len(front.workers)} workers; kill one and it connects again)",
            *(escape(f"$ {command} {rest}") for rest in TO_TRY),
            f"New orphans: kill -9 {busiest.pid}{lease}",
        ]
        self.console.print("\n".join(lines), soft_wrap=True, highlight=False)
