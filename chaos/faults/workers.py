"""What can happen to one worker: its end, silence of all kinds, its network, and what its consumers and clients do."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import redis
import redis.asyncio
from redis.asyncio.lock import Lock

from chaos.actors import RAISE_WHEN_A_CLIENT_HAS_LEFT, Actor, Client, Role
from chaos.faults.ground import ALMOST_SECONDS, KEYSPACE, LONG_SECONDS, SHORT_SECONDS, Ground, OfAWorker
from chaos.stage import CONFIRM_SECONDS
from ops.store.connection.waiting import end
from ops.store.removal.locks import LOCK_SECONDS
from project.proxy import Link

STALL_SECONDS = CONFIRM_SECONDS - 2
HEALTHY_SECONDS = 6.0  # between two stalls: a process that waits for messages does so anew within five
CLOCK_STEP_SECONDS = 600  # longer than a round, and than anything but a suspicion is good for
STUTTERS = 6  # enough for runs to find it silent for the confirm time, even if one is missed
UNTIL_A_RUN_ENDS_SECONDS = 0.3
BACK_AFTER_SECONDS = (0.0, 3.0)  # until a worker that is gone has a successor
ENDS_WITHIN_SECONDS = 10.0
FIRST_WORDS_OF_A_REMOVAL = KEYSPACE.journal("")
CROWD = "crowd"
CROWD_WAVES = 3
CROWD_SOCKETS = 8  # of each wave
CROWD_SECONDS = 0.5  # for which a wave stays
SAY_EVERY_SECONDS = 0.03
SAID_WITHIN_SECONDS = 2.0
TALK = "x" * 1000
BUSY = "busy"
FREEZE_FOR_LONG = "SIGSTOP for longer than the confirm time"
CLOCK_AHEAD = "SIGSTOP, and the clock of Redis set ahead"
CLOCK_BEHIND = "SIGSTOP, and the clock of Redis set back"
WAKE_WHILE_REAPED = "SIGSTOP until it is being reaped, and a join then"


class WorkerFaults:
    """`faults`: by name."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.faults = {
            "SIGKILL": OfAWorker(self._kill),
            "SIGKILL, and its connections stay open": OfAWorker(self._lose_host),
            "SIGTERM": OfAWorker(self._terminate),
            "SIGSTOP for less than the confirm time": OfAWorker(lambda actor: self._freeze(actor, ALMOST_SECONDS)),
            FREEZE_FOR_LONG: OfAWorker(lambda actor: self._freeze(actor, LONG_SECONDS), seconds=LONG_SECONDS[1]),
            WAKE_WHILE_REAPED: OfAWorker(self._wake_while_reaped, seconds=CONFIRM_SECONDS * 3),
            "SIGSTOP twice, healthy for six seconds between": OfAWorker(
                self._stall_twice, seconds=STALL_SECONDS * 2 + HEALTHY_SECONDS
            ),
            CLOCK_AHEAD: OfAWorker(lambda actor: self._freeze_while_clock_is_set(actor, CLOCK_STEP_SECONDS)),
            CLOCK_BEHIND: OfAWorker(lambda actor: self._freeze_while_clock_is_set(actor, -CLOCK_STEP_SECONDS)),
            "event loop blocked": OfAWorker(self._block),
            "slow network": OfAWorker(self._delay),
            "exception in a consumer": OfAWorker(self._fail),
            "clients leave while they are sent to": OfAWorker(self._leave_while_talked_to),
            # Without a lease, such a process looks dead.
            "all consumers busy for longer than the confirm time": OfAWorker(
                self._keep_busy, _has_lease, seconds=LONG_SECONDS[1]
            ),
            # A lease is renewed whenever a worker wakes, which hides what its joins would tell.
            "SIGSTOP again and again, with a join in between": OfAWorker(
                self._stutter, _has_no_lease, seconds=STUTTERS * ALMOST_SECONDS[1]
            ),
            # What a stock worker's consumers die of leaves nothing to be tested in it for the rest of the round.
            "connections cut": OfAWorker(self._link(Link.CUT), _has_drop_in_layer),
            "connections silent": OfAWorker(self._link(Link.SILENT), _has_drop_in_layer),
            "requests lost on the way": OfAWorker(self._link(Link.NO_REQUESTS), _has_drop_in_layer),
            "replies lost on the way": OfAWorker(self._link(Link.NO_REPLIES), _has_drop_in_layer),
            "connections half open": OfAWorker(self._forget, _has_drop_in_layer),
        }

    async def _kill(self, actor: Actor) -> None:
        actor.will_end()
        await asyncio.to_thread(actor.worker.kill)
        await self._succeed(actor)

    async def _lose_host(self, actor: Actor) -> None:
        """For Redis, it may still be there."""
        actor.will_end()
        for proxy in actor.proxies:
            proxy.forget()
        await asyncio.to_thread(actor.worker.kill)

    async def _terminate(self, actor: Actor) -> None:
        async with self._ground.silence(actor):
            await asyncio.to_thread(actor.end_in_order, ENDS_WITHIN_SECONDS)
        if not actor.running:
            await self._succeed(actor)

    async def _succeed(self, actor: Actor) -> None:
        """Have another one in its place, as whoever supervises it would."""
        with actor.in_trouble():
            await self._ground.wait(BACK_AFTER_SECONDS)
            await self._ground.stage.replace(actor)

    async def _freeze(self, actor: Actor, seconds: tuple[float, float]) -> None:
        if seconds == LONG_SECONDS:
            await self._keep_clients(actor)
        async with self._ground.frozen(actor):
            await self._ground.wait(seconds)

    async def _keep_clients(self, actor: Actor) -> None:
        """The members of a stock worker that is silent for so long go, and are put back when the round is over."""
        if not actor.drop_in:
            actor.waits_for_undo = True
            # Whoever left a group while its worker was being reaped would be put back by the undo.
            await self._ground.stage.let_clients_finish()

    async def _stutter(self, actor: Actor) -> None:
        """Never silent for the confirm time in one piece, though run after run finds it so: it wakes between them."""
        with actor.in_trouble():
            async with redis.asyncio.Redis.from_url(self._ground.stage.shards[0].url) as client:
                lock = Lock(client, KEYSPACE.lock, timeout=CONFIRM_SECONDS, blocking_timeout=UNTIL_A_RUN_ENDS_SECONDS)
                for _ in range(STUTTERS):
                    async with self._ground.frozen(actor):
                        await self._until_suspected(actor)
                        with contextlib.suppress(redis.RedisError, OSError):
                            await lock.acquire()
                    joined = await self._join_somewhere(actor)
                    with contextlib.suppress(redis.RedisError, OSError):
                        await lock.release()
                    if not joined:
                        break  # Nobody could know that it was awake.

    async def _stall_twice(self, actor: Actor) -> None:
        """At each of two looks it is silent, and it is alive in between, when nobody looks and it joins nothing."""
        with actor.in_trouble():
            async with redis.asyncio.Redis.from_url(self._ground.stage.shards[0].url) as client:
                for is_last in (False, True):
                    until = time.monotonic() + STALL_SECONDS
                    lock = Lock(client, KEYSPACE.lock, timeout=LOCK_SECONDS, blocking_timeout=UNTIL_A_RUN_ENDS_SECONDS)
                    async with self._ground.frozen(actor):
                        await self._until_suspected(actor, STALL_SECONDS - UNTIL_A_RUN_ENDS_SECONDS)
                        with contextlib.suppress(redis.RedisError, OSError):
                            await lock.acquire() if not is_last else None
                        await asyncio.sleep(until - time.monotonic())
                    if not is_last:
                        await asyncio.sleep(HEALTHY_SECONDS)
                        with contextlib.suppress(redis.RedisError, OSError):
                            await lock.release()

    async def _freeze_while_clock_is_set(self, actor: Actor, ahead_seconds: int) -> None:
        """Between two looks that find it silent, within less than the confirm time."""
        async with self._ground.one_step_at_a_time, self._ground.one_shard_at_a_time:
            until = time.monotonic() + STALL_SECONDS
            async with contextlib.AsyncExitStack() as stack:
                async with self._ground.frozen(actor):
                    await self._until_suspected(actor, STALL_SECONDS / 2)
                    await stack.enter_async_context(self._ground.stage.clock_set_ahead(ahead_seconds))
                    await asyncio.sleep(until - time.monotonic())
                await self._ground.wait(SHORT_SECONDS)

    async def _until_suspected(self, actor: Actor, within_seconds: float = ALMOST_SECONDS[1]) -> None:
        """Until a run has found it silent once more, but not for as long as the confirm time."""
        deadline = time.monotonic() + within_seconds
        before = await asyncio.to_thread(self._suspicion_of, actor)
        found = before
        while found in (before, None) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
            found = await asyncio.to_thread(self._suspicion_of, actor)

    def _suspicion_of(self, actor: Actor) -> bytes | None:
        """What the latest run that found it silent wrote down."""
        process = next((client.process for client in self._ground.stage.clients_of(actor)), "")
        with contextlib.suppress(redis.RedisError), redis.Redis.from_url(self._ground.stage.shards[0].url) as client:
            found: bytes | None = client.hget(KEYSPACE.suspects, process)
            return found
        return None

    async def _wake_while_reaped(self, actor: Actor) -> None:
        """After it was judged and before anything is removed: what joins then has to stay."""
        proxies = [proxy for proxies in self._ground.stage.reaper_proxies for proxy in proxies]
        await self._keep_clients(actor)
        with actor.in_trouble():
            async with self._ground.frozen(actor):
                await asyncio.sleep(CONFIRM_SECONDS)  # Whom others died of meanwhile is not waited for.
                for proxy in proxies:
                    proxy.hold_before(FIRST_WORDS_OF_A_REMOVAL)
                holds = [asyncio.create_task(proxy.holds.wait()) for proxy in proxies]
                held, others = await asyncio.wait(
                    holds, timeout=CONFIRM_SECONDS * 2, return_when=asyncio.FIRST_COMPLETED
                )
            for hold in others:
                hold.cancel()
            for _ in range(3):
                await self._join_somewhere(actor)
            for proxy in proxies:
                proxy.hold_before(None)
                await proxy.set_link(Link.OPEN)
        if not held:  # No run came so far: it was frozen, no more.
            self._ground.counts[WAKE_WHILE_REAPED] -= 1
            self._ground.counts[FREEZE_FOR_LONG] += 1

    async def _join_somewhere(self, actor: Actor) -> bool:
        """Have one of its clients join a group; whether one did."""
        for client in self._ground.stage.clients_of(actor):
            if await self._ground.stage.change_groups(client, "join"):
                return True
        return False

    async def _block(self, actor: Actor) -> None:
        if mine := self._ground.stage.clients_of(actor):
            seconds = self._ground.random.uniform(*SHORT_SECONDS)
            async with self._ground.silence(actor):
                with contextlib.suppress(Exception):
                    await self._ground.random.choice(mine).socket.send({"block": seconds})
                await asyncio.sleep(seconds)

    async def _fail(self, actor: Actor) -> None:
        """Under the stock layer its members stay, in a process that lives: only what was recorded can tell."""
        if mine := self._ground.stage.clients_of(actor):
            client = self._ground.random.choice(mine)
            client.closed_by_us = client.died = True
            with contextlib.suppress(Exception):
                await client.socket.send({"fail": True})

    def _link(self, link: Link) -> Callable[[Actor], Awaitable[None]]:
        async def break_link(actor: Actor) -> None:
            async with self._ground.silence(actor):
                for proxy in actor.proxies:
                    await proxy.set_link(link)
                await self._ground.wait(SHORT_SECONDS)
                for proxy in actor.proxies:
                    await proxy.set_link(Link.OPEN)

        return break_link

    async def _forget(self, actor: Actor) -> None:
        async with self._ground.silence(actor):
            for proxy in actor.proxies:
                proxy.forget()
            # The drop-in layer gives up on a connection that is silent for longer than BZPOPMIN waits.
            await asyncio.sleep(12)

    async def _delay(self, actor: Actor) -> None:
        async with self._ground.silence(actor):
            for proxy in actor.proxies:
                proxy.delay_seconds = self._ground.random.uniform(0.02, 0.2)
            await self._ground.wait(SHORT_SECONDS)
            for proxy in actor.proxies:
                proxy.delay_seconds = 0.0

    async def _leave_while_talked_to(self, actor: Actor) -> None:
        """Many leave a group at once, half of them without a word, while it is talked to; others come instead."""
        stage = self._ground.stage
        with actor.in_trouble():
            await stage.let_clients_finish()
            mine = stage.clients_of(actor)
            if not mine:
                return
            talking = asyncio.create_task(_talk(mine[0]))
            try:
                for _ in range(CROWD_WAVES):
                    crowd = await stage.open_clients_on(actor, CROWD_SOCKETS, [CROWD])
                    await asyncio.sleep(CROWD_SECONDS)
                    for client in crowd:
                        client.closed_by_us = True
                        client.died = actor.worker.kind in RAISE_WHEN_A_CLIENT_HAS_LEFT
                        if self._ground.random.random() < 0.5:
                            client.socket.abort()
                    await asyncio.gather(*(client.socket.connection.close() for client in crowd))
            finally:
                await end(talking)

    async def _keep_busy(self, actor: Actor) -> None:
        """None of its consumers waits for a message, as each has one that it will look at when it is done."""
        stage, seconds = self._ground.stage, self._ground.random.uniform(*LONG_SECONDS)
        with actor.in_trouble():
            await stage.let_clients_finish()
            mine = stage.clients_of(actor)
            joined = await asyncio.gather(*(stage.change_groups(client, "join", BUSY) for client in mine))
            if not mine or not all(joined):
                return
            with contextlib.suppress(Exception):  # Its socket may be closed.
                for client in mine[1:]:
                    await client.socket.send({"keep_busy": seconds})
                await mine[0].socket.send({"say": "for when you are done", "group": BUSY, "keep_busy": seconds})
            await asyncio.sleep(seconds)


def _has_lease(role: Role) -> bool:
    return role.has_lease


def _has_no_lease(role: Role) -> bool:
    return not role.has_lease


def _has_drop_in_layer(role: Role) -> bool:
    return role.drop_in


async def _talk(client: Client) -> None:
    """Each text when the one before is said: what piles up would keep later messages out of a full inbox."""
    received = client.socket.received
    while True:
        before, deadline = len(received), time.monotonic() + SAID_WITHIN_SECONDS
        with contextlib.suppress(Exception):  # Its socket may be closed.
            await client.socket.send({"say": TALK, "group": CROWD})
        await asyncio.sleep(SAY_EVERY_SECONDS)
        while len(received) == before and time.monotonic() < deadline:  # noqa: ASYNC110  # a socket has no event
            await asyncio.sleep(SAY_EVERY_SECONDS)
