"""What can go wrong, drawn from a seed: each fault is a coroutine that causes it, waits, and ends it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import redis

from chaos.faults.ground import KEYSPACE, Ground, OfAWorker
from chaos.faults.reapers import ReaperFaults
from chaos.faults.settings import SettingsFaults
from chaos.faults.shards import ShardFaults
from chaos.faults.workers import CLOCK_AHEAD, CLOCK_BEHIND, WorkerFaults
from chaos.reapers import Reapers
from chaos.stage import Stage

SHARE_OF_SHARDS = 0.25  # of the faults, where any may come: one of a shard touches everybody
EVICT = "Redis evicts what expires first"


@dataclass
class _Deck:
    kinds: list[str]
    left: list[str] = field(default_factory=list)


class Faults:
    """Causes faults on a stage and counts them.

    Chance decides the order; of those of workers, as of those of shards, all kinds come before any comes again.
    """

    def __init__(self, stage: Stage, reapers: Reapers) -> None:
        self.shards_are_spared = False  # What happens to them ends all stock workers.
        self._ground = ground = Ground(stage, reapers)
        self.shards = ShardFaults(ground)
        self._settings = SettingsFaults(ground)
        self._reapers = ReaperFaults(ground)
        self._of_workers: dict[str, OfAWorker] = {**WorkerFaults(ground).faults, **self._settings.of_workers}
        self._of_the_others: dict[str, Callable[[], Awaitable[None]]] = {
            **self._reapers.faults,
            **self._settings.of_reapers,
            EVICT: self.shards.evict,
        }
        self._decks = {
            False: _Deck([*self._of_workers, *self._of_the_others]),
            True: _Deck(self.shards.names),
        }

    @property
    def counts(self) -> Counter[str]:
        return self._ground.counts

    def begin_round(self, until: float, *, shards_are_spared: bool) -> None:
        self._ground.until = until
        self.shards_are_spared = shards_are_spared

    async def cause_one(self) -> None:
        """The next of a deck that can be played now, if any can."""
        of_shards = not self.shards_are_spared and not self._ground.one_shard_at_a_time.locked()
        deck = self._decks[of_shards and self._ground.random.random() < SHARE_OF_SHARDS]
        if not deck.left:
            deck.left = self._ground.random.sample(deck.kinds, len(deck.kinds))
            deck.left.sort(key=self._lasts_long, reverse=True)  # These cannot begin late in a round.
        for name in deck.left:
            play = self._play(name) if self._may_play(name) else None
            if play is not None:
                deck.left.remove(name)
                self.counts[name] += 1
                await play()
                return

    def _lasts_long(self, name: str) -> bool:
        return name in self._settings.of_reapers or (name in self._of_workers and self._of_workers[name].seconds > 0)

    def _may_play(self, name: str) -> bool:
        if name in self._of_workers and not self._ground.has_time_for(self._of_workers[name].seconds):
            return False
        if name in self._settings.of_workers or name in self._settings.of_reapers:
            return self.shards_are_spared and self._settings.may_play()
        if name in self._reapers.faults:
            return self._reapers.may_play(name)
        if name in (CLOCK_AHEAD, CLOCK_BEHIND):
            return self._clock_may_be_set
        return name != EVICT or not self._ground.one_shard_at_a_time.locked()

    def _play(self, name: str) -> Callable[[], Awaitable[None]] | None:
        if name in self._of_the_others:
            return self._of_the_others[name]
        if name in self.shards.names:
            return lambda: self.shards.play(name)
        calm = self._ground.stage.calm_actors()
        if len(calm) < 2:  # Somebody has to be there for whom nothing may change.
            return None
        fault = self._of_workers[name]
        suited = [actor for actor in calm if actor.rests_until < time.time() and fault.suits(actor.role)]
        if not suited:
            return None
        actor = self._ground.random.choice(suited)
        return lambda: fault.play(actor)

    @property
    def _clock_may_be_set(self) -> bool:
        """Only if Redis knows of a look: a host cannot see a step that came before its first one."""
        ground = self._ground
        if not ground.stage.clock.can_be_set or ground.one_shard_at_a_time.locked():
            return False
        with redis.Redis.from_url(ground.stage.shards[0].url) as client:
            if not client.exists(KEYSPACE.looks):
                return False
        return not ground.one_step_at_a_time.locked()
