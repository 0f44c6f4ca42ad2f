"""The workers of a campaign and their clients, and what is known of each for certain."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, get_args

from project.proxy import Proxy
from project.sockets import FleetSocket
from project.workers import Kind, Worker

STOCK = "channels_redis.core.RedisChannelLayer"
DROP_IN = "ops.layers.RedisChannelLayer"
RAISE_WHEN_A_CLIENT_HAS_LEFT: tuple[Kind, ...] = ("uvicorn", "gunicorn")
SERVERS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Role:
    """A place in the fleet. The server that fills it is drawn anew each time that a worker starts.

    ``application``: with nothing around it, with the disconnect log, or with OpsMiddleware.
    """

    backend: str
    application: Literal["plain", "logged", "ops"]
    skew_seconds: float = 0.0  # by how much its clock is wrong
    asks_sentinel: bool = False

    @property
    def drop_in(self) -> bool:
        return self.backend == DROP_IN

    @property
    def has_lease(self) -> bool:
        """Whether it tells that it lives and what it reads."""
        return self.drop_in or self.application == "ops"

    @property
    def keeps_members_of_the_ended(self) -> bool:
        """Whether consumers that die leave members in a process that lives on, and nothing tells of them."""
        return not self.drop_in and self.application == "plain"

    def __str__(self) -> str:
        clock = f", clock {self.skew_seconds:+g} s" if self.skew_seconds else ""
        return f"{'drop-in' if self.drop_in else 'stock'}, {self.application}{clock}"


ROLES = (
    Role(DROP_IN, "logged", asks_sentinel=True),
    Role(DROP_IN, "ops", skew_seconds=-7200),
    Role(DROP_IN, "plain", skew_seconds=7200),
    Role(STOCK, "plain"),
    Role(STOCK, "logged", skew_seconds=-7200),
    Role(STOCK, "ops"),
    Role(STOCK, "ops", skew_seconds=7200),
)


class Servers:
    """Draws servers: all five before any comes again."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)
        self._left: list[Kind] = []

    def draw(self) -> Kind:
        if not self._left:
            self._left = self._random.sample(SERVERS, len(SERVERS))
        return self._left.pop()


@dataclass(frozen=True)
class Silence:
    """A time, unix seconds, in which a fault may have kept a worker silent. ``frozen``: it did for certain."""

    start: float
    end: float
    frozen: bool = False

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(eq=False)
class Actor:
    """One worker with its links to Redis, and what was done to it.

    ``groups``: those that its clients join. ``reads_otherwise``: it has another serializer or encryption key than the
    reapers.
    """

    name: str
    worker: Worker
    proxies: list[Proxy]
    role: Role
    groups: Sequence[str]
    reads_otherwise: bool = False
    silences: list[Silence] = field(default_factory=list)
    faults: int = 0  # that are at work on it
    rests_until: float = 0.0
    ended_at: float = math.inf  # when somebody began to end it
    lost_at: float = math.inf  # since then it has consumers that died, or sockets that nobody knows of
    ended_in_order: bool = False
    waits_for_undo: bool = False  # until then its clients stay where they are, or what is put back would be orphans

    @property
    def drop_in(self) -> bool:
        return self.role.drop_in

    @property
    def lost(self) -> bool:
        """To be replaced."""
        return self.lost_at < math.inf

    def lose(self) -> None:
        self.lost_at = min(self.lost_at, time.time())

    def will_end(self) -> None:
        self.ended_at = min(self.ended_at, time.time())

    @contextmanager
    def in_trouble(self) -> Iterator[None]:
        """Nobody else is to do anything to it meanwhile."""
        self.faults += 1
        try:
            yield
        finally:
            self.faults -= 1

    @property
    def running(self) -> bool:
        return self.worker.running

    def silences_at(self, since: float, until: float) -> list[Silence]:
        return [silence for silence in self.silences if silence.start < until and silence.end > since]

    def end_in_order(self, within_seconds: float) -> None:
        """SIGTERM. Granian 2.8 crashes in some of its stops, which is as SIGKILL."""
        self.will_end()
        try:
            self.worker.terminate(within_seconds)
        except TimeoutError:
            return
        self.ended_in_order = "panicked at" not in self.worker.output()


@dataclass(eq=False)
class Client:
    """One socket, and the groups it is in for certain (`groups`) or perhaps (`doubtful`)."""

    socket: FleetSocket
    actor: Actor
    groups: set[str]
    doubtful: set[str] = field(default_factory=set)
    closed_by_us: bool = False
    died: bool = False  # its consumer ended, or may have, without its disconnect()
    reported: bool = False

    @property
    def process(self) -> str:
        return self.socket.channel.partition("!")[0].rpartition(".")[2]

    @property
    def may_have_left_members(self) -> bool:
        """Documented: a consumer that died in a living process with the stock layer, of which nothing was recorded."""
        return self.died and self.actor.role.keeps_members_of_the_ended and self.actor.running

    @property
    def may_be_unknown_for_ever(self) -> bool:
        """Documented: a process that could not be asked, and did not say that it left."""
        return self.actor.reads_otherwise and not self.actor.running and not self.actor.ended_in_order

    @property
    def is_remembered(self) -> bool:
        """Whether members of it may be found after this round."""
        return self.socket.is_open or self.may_have_left_members or self.may_be_unknown_for_ever
