"""Two hosts that run `reap_stale` again and again, a third that cleans up after recorded ends, all with links of their
own to Redis. Some of these runs die."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from chaos.actors import STOCK
from chaos.stage import CONFIRM_SECONDS, PREFIX, Stage
from project.proxy import Proxy
from project.workers import REPOSITORY

PROBE_TIMEOUT_SECONDS = 1
PAUSE_SECONDS = 2.0
CLEANER_PAUSE_SECONDS = 4.0
KILLED_SHARE = 0.15
LATEST_RUNS = 8
ARRANGEMENTS: dict[str, Callable[[list[object]], list[object]]] = {
    "the first shard alone": lambda hosts: hosts[:1],
    "the second shard alone": lambda hosts: hosts[1:],
    "in another order": lambda hosts: hosts[::-1],
}
"""Of a list of hosts that is not the one of the workers."""

TELL_SECONDS = 1.0
ENDS_WITHIN_SECONDS = 120.0  # also while a shard is busy for all of a run


@dataclass
class Reapers:
    """`reports`: run id -> the report of each run that said something, complete or not."""

    stage: Stage
    without: str | None = None
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: int = 0
    completed: int = 0
    killed: int = 0
    stopped: int = 0
    runs_with_other_hosts: int = 0  # that came to their end
    cleanups: int = 0
    cleaned: int = 0
    unexpected: list[str] = field(default_factory=list)
    may_be_killed: bool = True
    running: set[asyncio.subprocess.Process] = field(default_factory=set)
    freezable: set[asyncio.subprocess.Process] = field(default_factory=set)
    arranged: dict[int, str] = field(default_factory=dict)  # which reaper has other hosts, and which (ARRANGEMENTS)
    _at_work: list[asyncio.Lock] = field(default_factory=list)  # by host
    latest: deque[str] = field(default_factory=lambda: deque(maxlen=LATEST_RUNS))

    def start(self) -> list[asyncio.Task[None]]:
        hosts = [(self._reap(proxies), PAUSE_SECONDS) for proxies in self.stage.reaper_proxies]
        hosts.append((self._clean_up, CLEANER_PAUSE_SECONDS))
        self._at_work = [asyncio.Lock() for _ in hosts]
        return [asyncio.create_task(self._go_on(number, *host)) for number, host in enumerate(hosts)]

    async def _go_on(self, host: int, run: Callable[[float | None], Awaitable[None]], pause_seconds: float) -> None:
        draw = random.Random(f"{self.stage.seed} host {host}")
        while True:
            kill_after_seconds = draw.uniform(0.4, 1.5) if draw.random() < KILLED_SHARE else None
            async with self._at_work[host]:
                await run(kill_after_seconds if self.may_be_killed else None)
            await asyncio.sleep(pause_seconds * draw.uniform(0.5, 1.5))

    def _reap(self, proxies: list[Proxy]) -> Callable[[float | None], Awaitable[None]]:
        host = self.stage.reaper_proxies.index(proxies)
        metrics = self.stage.folder / f"reaper-{host}.prom"

        async def run(kill_after_seconds: float | None) -> None:
            # It is not the share of the fleet that is to save anybody here.
            words = ["reap_stale", "--probe-timeout", str(PROBE_TIMEOUT_SECONDS), "--max-share", "1"]
            words += ["--metrics-file", str(metrics)]
            self.runs += 1
            arrangement = self.arranged.get(host)
            if (report := await self._report(proxies, words, kill_after_seconds, arrangement)) is not None:
                self.completed += report["complete"]
                self.stopped += report["stopped"] is not None
                self.reports[report["run_id"]] = report
                if report["complete"] and (told := _removed_by(metrics)) != report["removed"]:
                    self.unexpected.append(f"run {report['run_id']} told Prometheus {told}, not {report['removed']}")
                if arrangement is not None and report["complete"]:
                    self._check_other_hosts(report, arrangement)

        return run

    def _check_other_hosts(self, report: dict[str, Any], arrangement: str) -> None:
        self.runs_with_other_hosts += 1
        if report["removed"] or not report["stopped"]:
            self.unexpected.append(
                f"run {report['run_id']} with other hosts ({arrangement}) removed {report['removed']}, and was stopped "
                f"by {report['stopped']}"
            )

    @asynccontextmanager
    async def with_other_hosts(self, host: int, arrangement: str) -> AsyncIterator[None]:
        """Runs of that reaper that begin meanwhile have other hosts than the workers. None is left at the end."""
        self.arranged[host] = arrangement
        try:
            yield
        finally:
            del self.arranged[host]
            async with self._at_work[host]:
                pass

    async def _clean_up(self, kill_after_seconds: float | None) -> None:
        words = ["replay_disconnects", "--cleanup", "--resume"]
        self.cleanups += 1
        if (report := await self._report(self.stage.cleaner_proxies, words, kill_after_seconds)) is not None:
            self.cleaned += report["removed"]
            if report["run_id"] is not None:
                self.reports[report["run_id"]] = report

    @asynccontextmanager
    async def one_is_frozen(self) -> AsyncIterator[bool]:
        """Stop a run, wherever it is, if one is under way; whether one was."""
        process = next(iter(self.freezable), None)
        if process is None:
            yield False
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGSTOP)
        try:
            yield True
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)

    async def have_them_tell(self) -> None:
        """End the runs that are under way; before, each says what it waits for."""
        for process in self.running:
            with contextlib.suppress(ProcessLookupError):  # It has ended meanwhile.
                os.kill(process.pid, signal.SIGUSR1)
        await asyncio.sleep(TELL_SECONDS)
        for process in self.running:
            _kill(process)
        await asyncio.sleep(TELL_SECONDS)

    async def _report(
        self, proxies: list[Proxy], words: list[str], kill_after_seconds: float | None, arrangement: str | None = None
    ) -> dict[str, Any] | None:
        """What a run says that it did; None where it could not, or was killed."""
        words = [*words, "--format", "json"]
        out, err, code = await self.command(
            proxies, *words, kill_after_seconds=kill_after_seconds, arrangement=arrangement
        )
        self.latest.append(f"{words[0]} ended with {code}: {out}{err}")
        if code == -signal.SIGKILL and kill_after_seconds is not None:
            self.killed += 1
        elif "Traceback" in err or code not in (0, 1, 3, 75):
            self.unexpected.append(f"{words[0]} ended with {code}: {err[-3000:]}")
        elif out:
            report: dict[str, Any] = json.loads(out)
            return report
        return None

    async def command(
        self,
        proxies: list[Proxy],
        *words: str,
        kill_after_seconds: float | None = None,
        arrangement: str | None = None,
    ) -> tuple[str, str, int]:
        asks_sentinel = proxies is self.stage.reaper_proxies[-1]
        hosts = self.stage.hosts(proxies, asks_sentinel=asks_sentinel)
        if arrangement is not None:
            hosts = ARRANGEMENTS[arrangement](hosts)
        return await self.run(hosts, *words, kill_after_seconds=kill_after_seconds, freezable=True)

    async def run(
        self, hosts: Sequence[object], *words: str, kill_after_seconds: float | None = None, freezable: bool = False
    ) -> tuple[str, str, int]:
        """What a command wrote to stdout and stderr, and its exit code."""
        env = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "CHANNEL_BACKEND": STOCK,
            "CHANNEL_LAYER_OPTIONS": json.dumps({"hosts": hosts}),
            "CHANNELS_PREFIX": PREFIX,
            "OPS_CONFIRM_AFTER_SECONDS": str(CONFIRM_SECONDS),
            "CHAOS_WITHOUT": self.without or "",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "chaos.manage", *words, cwd=REPOSITORY, env=env,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self.running.add(process)
        if freezable:
            self.freezable.add(process)
        try:
            if kill_after_seconds is not None:
                asyncio.get_running_loop().call_later(kill_after_seconds, _kill, process)
            out, err = await asyncio.wait_for(process.communicate(), ENDS_WITHIN_SECONDS)
        except asyncio.TimeoutError:
            self.unexpected.append(f"{' '.join(words)} did not end within {ENDS_WITHIN_SECONDS:g} s")
            return "", "", -signal.SIGKILL
        finally:
            self.running.discard(process)
            self.freezable.discard(process)
            _kill(process)
        return out.decode(), err.decode(), process.returncode or 0


def _removed_by(metrics: Path) -> float:
    families = text_string_to_metric_families(metrics.read_text())
    return next(family.samples[0].value for family in families if family.name == "channels_ops_reap_removed")


def _kill(process: asyncio.subprocess.Process) -> None:
    # Its own kill() would ask for the exit code, which whoever waits for it would miss then.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
