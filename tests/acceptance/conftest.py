"""Fixtures of the tests with real processes: projects of somebody else's, on a Redis of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import pytest

from project.embedded_redis import EmbeddedRedis
from tests.acceptance.bare_project import BareProject, write_project
from tests.conftest import REPOSITORY, StartWorker

INSTALL_WITHIN_SECONDS = 600


@pytest.fixture
def bare_project(tmp_path: Path, redis_server: EmbeddedRedis, start_worker: StartWorker) -> BareProject:
    """A project on `redis_server` that uses the toolkit as it is in this work tree."""
    return write_project(tmp_path, start_worker, redis_urls=[redis_server.url], ops={}, pythonpath=str(REPOSITORY))


@dataclass(frozen=True)
class Installed:
    """The toolkit's wheel, and an interpreter into whose environment it has been installed."""

    wheel: Path
    python: str


@pytest.fixture(scope="session")
def installed_toolkit(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A virtualenv of its own with the wheel, what the wheel asks for, and the servers.

    All in the versions that the other tests run with, as far as those have them: what is released tomorrow cannot fail
    a test today.
    """
    folder = tmp_path_factory.mktemp("installed")
    run_installer(sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(REPOSITORY))
    [wheel] = folder.glob("*.whl")
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(f"{found.name}=={found.version}\n" for found in distributions()))
    run_installer(sys.executable, "-m", "venv", str(folder / "venv"))
    python = str(folder / "venv" / "bin" / "python")
    packages = (str(wheel), "daphne", "uvicorn", "websockets")
    run_installer(
        python, "-m", "pip", "install", "--quiet", "--no-compile", "--constraint", str(constraints), *packages
    )
    return Installed(wheel, python)


def run_installer(*argv: str) -> None:
    """A machine without a package index may skip what needs one; one that nobody watches must not."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=INSTALL_WITHIN_SECONDS)
    if done.returncode and "No matching distribution" in done.stdout + done.stderr and not os.environ.get("CI"):
        pytest.skip(f"cannot install packages here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def second_project(
    tmp_path: Path, redis_server: EmbeddedRedis, start_worker: StartWorker, installed_toolkit: Installed
) -> BareProject:
    """A project on `redis_server` that knows nothing of this work tree: it has the toolkit from the wheel."""
    return write_project(
        tmp_path,
        start_worker,
        redis_urls=[redis_server.url],
        ops={"CONFIRM_AFTER_SECONDS": 2, "PROBE_TIMEOUT_SECONDS": 2},
        python=installed_toolkit.python,
        pythonpath=None,
    )
