"""Two hosts that run `reap_stale` again and again, each with its own links to Redis, and sometimes die of it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass, field
from typing import Any

from chaos.proxy import Proxy
from chaos.stage import CONFIRM_SECONDS, PREFIX, STOCK, Stage
from project.workers import REPOSITORY

PROBE_TIMEOUT_SECONDS = 1
PAUSE_SECONDS = 2.0


@dataclass
class Reapers:
    """`reports`: run id -> the report of each run that came to its end."""

    stage: Stage
    without: str | None = None
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: int = 0
    killed: int = 0
    stopped: int = 0
    unexpected: list[str] = field(default_factory=list)
    may_be_killed: bool = True

    def start(self) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self._go_on(proxies)) for proxies in self.stage.reaper_proxies]

    async def _go_on(self, proxies: list[Proxy]) -> None:
        while True:
            kill_after = self.stage.random.uniform(0.4, 1.5) if self.stage.random.random() < 0.1 else None
            await self.reap(proxies, kill_after if self.may_be_killed else None)
            await asyncio.sleep(PAUSE_SECONDS * self.stage.random.uniform(0.5, 1.5))

    async def reap(self, proxies: list[Proxy], kill_after_seconds: float | None = None) -> None:
        words = ["reap_stale", "--format", "json", "--probe-timeout", str(PROBE_TIMEOUT_SECONDS)]
        out, err, code = await self.command(proxies, *words, kill_after_seconds=kill_after_seconds)
        self.runs += 1
        if code < 0:
            self.killed += 1
        elif "Traceback" in err or code not in (0, 1, 3, 75):
            self.unexpected.append(f"reap_stale ended with {code}: {err[-500:]}")
        elif code in (0, 3):
            report = json.loads(out)
            self.stopped += report["stopped"] is not None
            self.reports[report["run_id"]] = report

    async def command(
        self, proxies: list[Proxy], *words: str, kill_after_seconds: float | None = None
    ) -> tuple[str, str, int]:
        env = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "chaos.settings",
            "REDIS_URL": " ".join(proxy.url for proxy in proxies),
            "CHANNEL_BACKEND": STOCK,
            "CHANNELS_PREFIX": PREFIX,
            "OPS_CONFIRM_AFTER_SECONDS": str(CONFIRM_SECONDS),
            "CHAOS_WITHOUT": self.without or "",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "chaos.manage", *words, cwd=REPOSITORY, env=env,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            if kill_after_seconds is not None:
                asyncio.get_running_loop().call_later(kill_after_seconds, _kill, process)
            out, err = await process.communicate()
        finally:
            _kill(process)
        return out.decode(), err.decode(), process.returncode or 0


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
