"""Play faults until time is up, check after each round, and exit with 1 when something was violated."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from chaos import safety_page
from chaos.checker import Checker
from chaos.faults import Faults
from chaos.reapers import Reapers
from chaos.safeties import SAFETIES
from chaos.shrinking import ShrinkingFleet
from chaos.stage import Stage
from ops.store.connection.waiting import end

ROUND_SECONDS = 40.0
REDIS_IS = ("left alone", "faulty", "busy")  # in one round after the other: its faults end all stock workers
SOCKETS_OF_A_WORKER = 16
LOG_LINES = 40
FILLED_UP_WITHIN_SECONDS = 60.0
TWO_RUNS_WITHIN_SECONDS = 60.0  # one takes a quarter of that while Redis is busy
THREADS = 64


class Campaign:
    """One run, from a seed."""

    def __init__(self, stage: Stage, without: str | None) -> None:
        self.stage = stage
        self.reapers = Reapers(stage, without)
        self.faults = Faults(stage, self.reapers)
        self.checker = Checker(stage, self.reapers)
        self.shrinking = ShrinkingFleet(self.reapers, stage.seed)
        self.rounds = 0
        self._reaping: list[asyncio.Task[None]] = []

    async def play(self, seconds: float) -> None:
        """Rounds of faults, each with a check at its end, until time is up or something is violated."""
        until = time.monotonic() + seconds
        await asyncio.gather(*(self.stage.open_clients_on(actor, SOCKETS_OF_A_WORKER) for actor in self.stage.actors))
        self._reaping = [*self.reapers.start(), asyncio.create_task(self.shrinking.go_on())]
        try:
            while time.monotonic() < until and not self.checker.violations:
                await self._play_round(min(ROUND_SECONDS, max(5.0, until - time.monotonic())))
                self.rounds += 1
            if self.checker.violations:
                await self._show_logs()
        finally:
            await end(*self._reaping)

    async def _show_logs(self) -> None:
        await self.reapers.have_them_tell()
        for actor in self.stage.actors:
            lines = [line for line in actor.worker.output().splitlines() if "Redis" in line or "consumer" in line]
            processes = {client.process for client in self.stage.clients_of(actor)}
            who = f"== {actor.name}, pid {actor.worker.pid}, {processes}"
            print(who, *lines[-LOG_LINES:], sep="\n", file=sys.stderr)
        print("== the latest runs", *self.reapers.latest, sep="\n", file=sys.stderr)

    async def _play_round(self, seconds: float) -> None:
        redis_is = REDIS_IS[self.rounds % len(REDIS_IS)]
        async with self.faults.shards.redis_is_busy() if redis_is == "busy" else contextlib.nullcontext():
            until = time.monotonic() + seconds
            self.faults.begin_round(until, shards_are_spared=redis_is != "faulty")
            await asyncio.gather(self._stir(until), self._cause_faults(until))
            self.reapers.may_be_killed = False  # Each that dies keeps the others waiting for its lock.
            if redis_is == "busy":
                await self._have_two_runs()
        await self._fill_up()
        await self.checker.check()
        self.checker.violations += self.shrinking.violations
        self.shrinking.violations.clear()
        for reaper in self._reaping:
            if reaper.done():
                reaper.result()  # It goes on for ever, or raises.
        self.reapers.may_be_killed = True
        self.stage.data_lost = False
        self.stage.forget_closed()
        print(
            f"round {self.rounds + 1}: {self.faults.counts.total()} faults, {self.checker.removed} members removed, "
            f"{self.reapers.runs} runs of reap_stale, {self.shrinking.deploys} deploys, "
            f"{len(self.checker.violations)} violations",
            file=sys.stderr,
        )

    async def _have_two_runs(self) -> None:
        """As many as it takes to remove somebody, while nothing else is wrong than what everybody suffers from."""
        deadline = time.monotonic() + TWO_RUNS_WITHIN_SECONDS
        before = self.reapers.completed
        while self.reapers.completed < before + 2 and time.monotonic() < deadline:  # noqa: ASYNC110  # processes
            await asyncio.sleep(0.1)

    async def _fill_up(self) -> None:
        """Have every worker serve its share of sockets again, those in the place of lost ones too."""
        stage, deadline = self.stage, time.monotonic() + FILLED_UP_WITHIN_SECONDS
        while True:
            for actor in [actor for actor in stage.actors if actor.lost or not actor.running]:
                await stage.replace(actor)
            missing = {actor: SOCKETS_OF_A_WORKER - len(stage.clients_of(actor)) for actor in stage.actors}
            for actor, count in missing.items():
                await stage.open_clients_on(actor, count)
            if not any(actor.lost or count > 0 for actor, count in missing.items()):
                return
            if time.monotonic() > deadline:
                words = (f"{actor.name} lacks {count}" for actor, count in missing.items() if count > 0 or actor.lost)
                self.checker.violations.append(f"sockets cannot be opened when all faults are over: {', '.join(words)}")
                return
            await asyncio.sleep(0.5)

    async def _stir(self, until: float) -> None:
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                await self.stage.stir()
            await asyncio.sleep(0.05)

    async def _cause_faults(self, until: float) -> None:
        under_way: set[asyncio.Task[None]] = set()
        while time.monotonic() < until:
            task = asyncio.create_task(self.faults.cause_one())
            under_way.add(task)
            await asyncio.sleep(self.stage.random.uniform(0.2, 1.0))
            for done in [task for task in under_way if task.done()]:
                under_way.remove(done)
                done.result()  # None, or it raises
        await asyncio.gather(*under_way)


async def run(seconds: float, seed: int, without: str | None = None) -> Campaign:
    # By default there are a few more than processors: a fault that waits in one would keep the others waiting.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    async with Stage(seed, without) as stage:
        campaign = Campaign(stage, without)
        await campaign.play(seconds)
        return campaign


def run_controls(seconds: float, seed: int) -> dict[str, tuple[str, float, int] | None]:
    """The campaign without one safety at a time: each must fail, for the reason that this safety is there for."""
    found: dict[str, tuple[str, float, int] | None] = {}
    for name, safety in SAFETIES.items():
        started = time.monotonic()
        campaign = asyncio.run(run(seconds, seed, name))
        violations = campaign.checker.violations
        words = [match[0] for violation in violations if (match := re.search(safety.finds, violation))]
        found[name] = (words[0], time.monotonic() - started, campaign.faults.counts.total()) if words else None
        print(f"without {name}: {found[name] or violations or 'nothing found'}", file=sys.stderr)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long at most (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=1, help="of the schedule (default: %(default)s)")
    parser.add_argument("--without", choices=SAFETIES, help="take this safety away: the campaign must then fail")
    parser.add_argument("--controls", action="store_true", help="do so with one safety after the other")
    parser.add_argument("--write-docs", action="store_true", help="put what came of it into docs/safety.md")
    options = parser.parse_args()
    if options.controls:
        found = run_controls(options.seconds, options.seed)
        print(text := safety_page.controls(found, seed=options.seed))
        if options.write_docs:
            safety_page.write(text, "controls")
        return 0 if all(found.values()) else 1
    campaign = asyncio.run(run(options.seconds, options.seed, options.without))
    checker = campaign.checker
    text = safety_page.campaign(
        campaign.faults.counts,
        campaign.reapers,
        checker,
        campaign.shrinking,
        seconds=options.seconds,
        seed=options.seed,
        rounds=campaign.rounds,
    )
    print(text)
    if options.write_docs:
        safety_page.write(text, "campaign")
    for violation in checker.violations:
        print(f"VIOLATION: {violation}", file=sys.stderr)
    return 1 if checker.violations else 0


if __name__ == "__main__":
    sys.exit(main())
