"""What was measured, and what was asked for."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from statistics import median
from typing import Any

from benchmarks.cores import server_cores
from benchmarks.keyspace import Layout
from project.embedded_redis import redis_server_version

SCHEMA_VERSION = 1
FULL_SIZE = 1_000_000
PACKAGES = ("redis", "hiredis", "channels", "channels-redis", "Django", "msgpack")


@dataclass(frozen=True)
class Target:
    """What a figure should be: at most (or, with ``at_least``, at least) ``required``, and better still ``aim``."""

    required: float
    aim: float | None = None
    at_least: bool = False

    def judge(self, value: float) -> str:
        """``met``, ``met, not the aim`` or ``MISSED``."""
        if not self._reached(value, self.required):
            return "MISSED"
        return "met" if self.aim is None or self._reached(value, self.aim) else "met, not the aim"

    def _reached(self, value: float, bound: float) -> bool:
        return value >= bound if self.at_least else value <= bound


@dataclass(frozen=True)
class Figure:
    """One figure. ``value`` is the median of ``runs``, or made of other figures, or None where there is none
    (``note`` says why)."""

    subject: str
    name: str
    what: str
    unit: str
    value: float | None
    runs: Sequence[float] = ()
    target: Target | None = None
    note: str = ""

    def verdict(self, members: int) -> str:
        """Whether the target is reached; targets are for the full size, below it the start of a process decides."""
        if self.target is None or self.value is None:
            return ""
        return self.target.judge(self.value) if members >= FULL_SIZE else "not judged at this size"


@dataclass
class Results:
    """All figures of one run, and what they were measured with. ``failures``: subjects that could not be measured."""

    layout: Layout
    repeat: int
    binary: str
    figures: list[Figure] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    taken_at: float = field(default_factory=time.time)

    def add(
        self,
        subject: str,
        name: str,
        what: str,
        unit: str,
        runs: Sequence[float],
        *,
        target: Target | None = None,
        note: str = "",
    ) -> float:
        """Note the runs of one thing; returns their median."""
        value = median(runs)
        self.figures.append(Figure(subject, name, what, unit, value, tuple(runs), target, note))
        return value

    def derive(
        self,
        subject: str,
        name: str,
        what: str,
        unit: str,
        value: float | None,
        *,
        target: Target | None = None,
        note: str = "",
    ) -> None:
        """Note a figure that is made of others (``value`` None: there is none, for the reason in ``note``)."""
        self.figures.append(Figure(subject, name, what, unit, value, (), target, note))

    def document(self, seconds: float) -> dict[str, Any]:
        """As JSON. ``seconds``: what the whole benchmark took."""
        return {
            "schema_version": SCHEMA_VERSION,
            "taken_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.taken_at)),
            "seconds": round(seconds, 1),
            "members": self.layout.members,
            "groups": self.layout.groups,
            "processes": len(self.layout.processes),
            "seed": self.layout.seed,
            "repeat": self.repeat,
            "cores": os.cpu_count(),
            "server_has_its_own_core": bool(server_cores()),
            "versions": {
                "python": platform.python_version(),
                **{package.lower(): version(package) for package in PACKAGES},
                "redis-server": redis_server_version(self.binary),
                "kernel": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
                "machine": platform.machine(),
            },
            "failures": self.failures,
            "figures": [{**asdict(figure), "verdict": figure.verdict(self.layout.members)} for figure in self.figures],
        }
