"""Processes of the benchmark: those that are measured, and those that work in the background meanwhile."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from project.embedded_redis import EmbeddedRedis
from project.owned_process import OwnedProcess

LAUNCHER = Path(__file__).with_name("launcher.py")
REPOSITORY = Path(__file__).resolve().parent.parent
LONGEST_SECONDS = 300.0
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024
# What the environment could say about another Redis, layer or way to print must not reach what is measured.
FOREIGN = (
    "REDIS_URL",
    "CHANNEL_BACKEND",
    "CHANNELS_PREFIX",
    "OPS_CONFIRM_AFTER_SECONDS",
    "DJANGO_SETTINGS_MODULE",
    "FORCE_COLOR",
)


class BenchmarkFailed(Exception):
    """Something that is measured did not do its work, so that its time would say nothing; the message says what."""


@dataclass(frozen=True)
class Measured:
    """One process, from its start to its end. ``peak_bytes``: the most memory that it held (resident set)."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    out: str

    @property
    def peak_mb(self) -> float:
        return self.peak_bytes / 1e6


def environment(url: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    return {**own, "REDIS_URL": url, "DJANGO_SETTINGS_MODULE": "project.settings"}


def measure(argv: Sequence[str], url: str, *, accepted: Collection[int] = (0,)) -> Measured:
    """Run a process to its end and say what it took. Raises BenchmarkFailed unless it ends with one of ``accepted``."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as usage:
        # In a session of its own: on Ctrl-C only the benchmark is interrupted, and ends what it has started.
        launcher = subprocess.Popen(
            [sys.executable, "-I", "-S", str(LAUNCHER), str(usage.fileno()), *argv],
            cwd=REPOSITORY,
            env=environment(url),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            pass_fds=(usage.fileno(),),
            start_new_session=True,
        )
        try:
            launcher.wait(LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            raise BenchmarkFailed(f"did not end within {LONGEST_SECONDS:g} s: {_shown(argv)}") from None
        finally:
            if launcher.returncode is None:
                os.killpg(launcher.pid, signal.SIGKILL)
                launcher.wait()
        said, complained, took = (_text(stream) for stream in (out, err, usage))
    code, wall, cpu, peak = took.split() if took else ("unknown", "0", "0", "0")
    if code not in map(str, accepted):
        raise BenchmarkFailed(f"exit code {code} of: {_shown(argv)}\n{said}{complained}".rstrip())
    return Measured(float(wall), float(cpu), int(peak) * MAXRSS_UNIT, said)


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode(errors="replace")


def _shown(argv: Sequence[str]) -> str:
    return shlex.join([Path(argv[0]).name, *argv[1:]])


def manage(*arguments: str) -> list[str]:
    return [sys.executable, "manage.py", *arguments]


def module(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)]


def start(server: EmbeddedRedis, name: str, *arguments: object) -> OwnedProcess:
    """Start ``benchmarks.{name}`` in the background; it ends with this process at the latest."""
    return OwnedProcess(
        module(name, *arguments),
        log_path=server.directory / f"{name}.log",
        env=environment(server.url),
        cwd=REPOSITORY,
    )
