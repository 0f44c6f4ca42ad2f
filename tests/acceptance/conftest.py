"""Fixtures of the tests with real processes: a project of somebody else's, on a Redis of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from project.embedded_redis import EmbeddedRedis
from tests.acceptance.bare_project import BareProject, write_project
from tests.conftest import REPOSITORY, StartWorker


@pytest.fixture
def bare_project(tmp_path: Path, redis_server: EmbeddedRedis, start_worker: StartWorker) -> BareProject:
    """A project on `redis_server` that uses the toolkit as it is in this work tree."""
    return write_project(tmp_path, start_worker, redis_urls=[redis_server.url], ops={}, pythonpath=str(REPOSITORY))
