"""Play faults until time is up, check after each round, and exit with 1 when something was violated."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

from chaos.checker import Checker
from chaos.faults import Faults
from chaos.manage import SAFETIES
from chaos.reapers import Reapers
from chaos.stage import Stage

ROUND_SECONDS = 40.0
SOCKETS_OF_A_WORKER = 25
LOG_LINES = 40
SAFETY_PAGE = Path(__file__).resolve().parent.parent / "docs" / "safety.md"
LEFT_OUT = ("failover of a replica", "replay_disconnects beside the reapers")


class Campaign:
    """One run, from a seed."""

    def __init__(self, stage: Stage, without: str | None) -> None:
        self.stage = stage
        self.faults = Faults(stage)
        self.reapers = Reapers(stage, without)
        self.checker = Checker(stage, self.reapers)
        self.rounds = 0

    async def play(self, seconds: float) -> None:
        """Rounds of faults, each with a check at its end, until time is up or something is violated."""
        until = time.monotonic() + seconds
        await asyncio.gather(*(self.stage.open_clients_on(actor, SOCKETS_OF_A_WORKER) for actor in self.stage.actors))
        reaping = self.reapers.start()
        try:
            while time.monotonic() < until and not self.checker.violations:
                await self._play_round(min(ROUND_SECONDS, max(5.0, until - time.monotonic())))
                self.rounds += 1
            if self.checker.violations:
                self._show_logs()
        finally:
            for task in reaping:
                task.cancel()
            await asyncio.gather(*reaping, return_exceptions=True)

    def _show_logs(self) -> None:
        for actor in self.stage.actors:
            lines = [line for line in actor.worker.output().splitlines() if "Redis" in line or "consumer" in line]
            print(f"== {actor.name}, pid {actor.worker.pid}", *lines[-LOG_LINES:], sep="\n", file=sys.stderr)

    async def _play_round(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        await asyncio.gather(self._stir(until), self._cause_faults(until))
        await self.stage.heal()
        for actor in [actor for actor in self.stage.actors if actor.lost or not actor.running]:
            await self.stage.replace(actor)
        for actor in self.stage.actors:
            missing = SOCKETS_OF_A_WORKER - sum(client.actor is actor for client in self.stage.open_clients)
            await self.stage.open_clients_on(actor, max(0, missing))
        self.reapers.may_be_killed = False  # Each that dies keeps the others waiting for its lock.
        await self.checker.check()
        self.reapers.may_be_killed = True
        self.stage.data_lost = False
        print(
            f"round {self.rounds + 1}: {self.faults.counts.total()} faults, {self.checker.removed} members removed, "
            f"{self.reapers.runs} runs of reap_stale, {len(self.checker.violations)} violations",
            file=sys.stderr,
        )

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
            await asyncio.sleep(self.stage.random.uniform(0.5, 2.5))
            under_way = {task for task in under_way if not task.done() or task.result() is not None}
        await asyncio.gather(*under_way)


async def run(seconds: float, seed: int, without: str | None) -> Campaign:
    async with Stage(seed) as stage:
        campaign = Campaign(stage, without)
        await campaign.play(seconds)
        return campaign


def table(campaign: Campaign, seed: int, seconds: float) -> str:
    counts: Counter[str] = campaign.faults.counts.copy()
    counts["reaper killed at a random moment"] = campaign.reapers.killed
    checker, reapers = campaign.checker, campaign.reapers
    rows = [f"| {name} | {count} |" for name, count in sorted(counts.items())]
    said = (
        f"{counts.total()} faults in {seconds:.0f} s and {campaign.rounds} rounds (`make chaos SECONDS={seconds:.0f} "
        f"SEED={seed}`): {checker.removed} members of dead processes removed by {reapers.runs} runs of `reap_stale`, "
        f"{reapers.stopped} of them safety stops, {checker.undone} undone since the worker was only frozen; "
        f"{checker.members_checked} memberships of open sockets checked; "
        f"violations: {len(checker.violations)}."
    )
    words = [*textwrap.wrap(said, 120, break_on_hyphens=False), "", f"Not part of it: {', '.join(LEFT_OUT)}."]
    return "\n".join(["| fault | times |", "|---|---|", *rows, "", *words])


def write_docs(text: str) -> None:
    """Put the table into docs/safety.md, in place of the one of an earlier run."""
    before, begin, rest = SAFETY_PAGE.read_text().partition("<!-- campaign -->\n")
    _, end, after = rest.partition("<!-- end of campaign -->\n")
    SAFETY_PAGE.write_text(f"{before}{begin}{text}\n{end}{after}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=1, help="of the schedule (default: %(default)s)")
    parser.add_argument("--without", choices=SAFETIES, help="take this safety away: the campaign must then fail")
    parser.add_argument("--write-docs", action="store_true", help="put the table of faults into docs/safety.md")
    options = parser.parse_args()
    campaign = asyncio.run(run(options.seconds, options.seed, options.without))
    print(text := table(campaign, options.seed, options.seconds))
    if options.write_docs:
        write_docs(text)
    for violation in campaign.checker.violations:
        print(f"VIOLATION: {violation}", file=sys.stderr)
    return 1 if campaign.checker.violations else 0


if __name__ == "__main__":
    sys.exit(main())
