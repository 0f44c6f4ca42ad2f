"""What all faults share: where they play, what they have noted, and which of them exclude each other."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from chaos.actors import Actor, Role, Silence
from chaos.reapers import Reapers
from chaos.stage import CONFIRM_SECONDS, PREFIX, Stage
from ops.model.keys import Keyspace

SHORT_SECONDS = (0.3, CONFIRM_SECONDS / 3)
ALMOST_SECONDS = (CONFIRM_SECONDS * 0.5, CONFIRM_SECONDS * 0.7)  # for a whole round of probes, and no longer
LONG_SECONDS = (CONFIRM_SECONDS * 2.5, CONFIRM_SECONDS * 3.5)
LATE_SECONDS = CONFIRM_SECONDS  # by which a fault may make a round longer
REST_SECONDS = 4.0  # between two faults of a worker
AFTERMATH_SECONDS = 2.0  # until a process that was cut off has connected again and answers
KEYSPACE = Keyspace(PREFIX)


def anybody(_: Role) -> bool:
    return True


@dataclass(frozen=True)
class OfAWorker:
    """A fault of one worker, whose role has to be one that it ``suits``. ``seconds``: how long it lasts at most."""

    play: Callable[[Actor], Awaitable[None]]
    suits: Callable[[Role], bool] = anybody
    seconds: float = 0.0  # of those that take long; the others last for a few seconds


@dataclass
class Ground:
    """``until``: when the round ends, by the monotonic clock."""

    stage: Stage
    reapers: Reapers
    counts: Counter[str] = field(default_factory=Counter)
    until: float = 0.0
    one_shard_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)
    one_step_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.random = random.Random(f"{self.stage.seed} faults")

    def has_time_for(self, seconds: float) -> bool:
        return time.monotonic() + seconds < self.until + LATE_SECONDS

    async def wait(self, between: tuple[float, float]) -> None:
        await asyncio.sleep(self.random.uniform(*between))

    @asynccontextmanager
    async def silence(
        self, actor: Actor, *, aftermath_seconds: float = AFTERMATH_SECONDS, frozen: bool = False
    ) -> AsyncIterator[None]:
        """Note that it may be silent meanwhile, and a little longer."""
        started = time.time()
        try:
            with actor.in_trouble():
                yield
        finally:
            actor.silences.append(Silence(started, time.time() + aftermath_seconds, frozen))
            actor.rests_until = max(actor.rests_until, time.time() + REST_SECONDS)

    @asynccontextmanager
    async def frozen(self, actor: Actor) -> AsyncIterator[None]:
        await asyncio.to_thread(actor.worker.freeze)
        try:
            async with self.silence(actor, aftermath_seconds=0, frozen=True):
                yield
        finally:
            if actor.running:
                actor.worker.thaw()
