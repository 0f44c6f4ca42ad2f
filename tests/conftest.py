"""Fixtures that give tests a real Redis, real workers, real sockets and real commands, each ended with its test.

No test touches a Redis that it did not start: what the environment says about one is forgotten, and without the
`redis_server` fixture the channel layer of the settings points to a port where nobody listens.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import pytest
import pytest_asyncio
import redis
from channels_redis.core import RedisChannelLayer
from django.conf import LazySettings
from django.conf import settings as django_settings

from project.embedded_redis import (
    EmbeddedRedis,
    NoRedisServer,
    RedisNotStarted,
    available_redis_servers,
    redis_server_version,
)
from project.settings import channel_layer as layer_setting
from project.sockets import SocketFleet
from project.workers import Kind, Worker

REPOSITORY = Path(__file__).resolve().parent.parent
STOCK_LAYER = "channels_redis.core.RedisChannelLayer"
NOBODY_LISTENS = "redis://127.0.0.1:1"

FOREIGN = ("REDIS_URL", "CHANNEL_BACKEND", "CHANNEL_LAYER_OPTIONS", "CHANNELS_PREFIX", "OPS_CONFIRM_AFTER_SECONDS")
for foreign in FOREIGN:
    os.environ.pop(foreign, None)
django_settings.CHANNEL_LAYERS = {"default": layer_setting(STOCK_LAYER, [NOBODY_LISTENS], None)}

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# How far a run on several processes has come when the tests of a folder end. Those that start servers need the
# processor and take longest: they begin at once, beside others that mostly wait, and are through before the end.
ENDS_AT = {"acceptance": 0.8, "integration": 0.9}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mix the folders, if xdist hands the tests out one by one."""
    if not hasattr(config, "workerinput"):
        return
    by_folder: dict[str, list[pytest.Item]] = {}
    for item in items:
        by_folder.setdefault(item.path.parent.name, []).append(item)
    places = {
        item: ENDS_AT.get(folder, 1.0) * at / len(of_folder)
        for folder, of_folder in by_folder.items()
        for at, item in enumerate(of_folder)
    }
    items.sort(key=lambda item: places[item])


class CommandResult(NamedTuple):
    out: str
    err: str
    returncode: int


StartRedis = Callable[..., EmbeddedRedis]
StartWorker = Callable[..., Worker]
RunCommand = Callable[..., CommandResult]


def started_redis(*, binary: str | None = None, config: Mapping[str, str] | None = None) -> EmbeddedRedis:
    """A machine without Redis may skip these tests; one that nobody watches must not pass without having run them."""
    try:
        return EmbeddedRedis(binary=binary, config=config).start()
    except (NoRedisServer, RedisNotStarted) as problem:
        if os.environ.get("CI"):
            pytest.fail(str(problem))
        pytest.skip(str(problem))


class SharedServers:
    """One server per binary for the whole session, handed out empty."""

    def __init__(self) -> None:
        self._servers: dict[str | None, EmbeddedRedis] = {}

    def empty(self, binary: str | None) -> EmbeddedRedis:
        if binary not in self._servers:
            self._servers[binary] = started_redis(binary=binary)
        # A test may have killed or frozen it.
        server = self._servers[binary].start()
        server.resume()
        with redis.Redis.from_url(server.url) as client:
            client.flushall()
            client.script_flush()
        return server

    def stop(self) -> None:
        for server in self._servers.values():
            server.stop()


@pytest.fixture(scope="session")
def shared_servers() -> Iterator[SharedServers]:
    servers = SharedServers()
    yield servers
    servers.stop()


def point_settings_to(server: EmbeddedRedis, settings: LazySettings) -> EmbeddedRedis:
    settings.CHANNEL_LAYERS = {"default": layer_setting(STOCK_LAYER, [server.url], None)}
    return server


@pytest.fixture
def redis_server(shared_servers: SharedServers, settings: LazySettings) -> EmbeddedRedis:
    """An empty Redis, to which the default channel layer of the settings points."""
    return point_settings_to(shared_servers.empty(None), settings)


def version_id(binary: str | None) -> str:
    return redis_server_version(binary) if binary else "none"


@pytest.fixture(params=available_redis_servers() or [None], ids=version_id)
def redis_binary(request: pytest.FixtureRequest) -> str | None:
    """Runs the test once with the path of each server binary of this machine; the version is the test's id."""
    return request.param


@pytest.fixture
def each_redis_server(redis_binary: str | None, shared_servers: SharedServers, settings: LazySettings) -> EmbeddedRedis:
    """As `redis_server`, once per server binary."""
    return point_settings_to(shared_servers.empty(redis_binary), settings)


@pytest.fixture
def start_redis() -> Iterator[StartRedis]:
    """`start_redis(binary=None, **config)`: a server of the test's own, to configure, kill and freeze."""
    servers: list[EmbeddedRedis] = []

    def start(*, binary: str | None = None, **config: str) -> EmbeddedRedis:
        directives = {name.replace("_", "-"): value for name, value in config.items()}
        servers.append(started_redis(binary=binary, config=directives))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def redis_client(redis_server: EmbeddedRedis) -> Iterator[redis.Redis]:
    """A synchronous client of `redis_server` that returns bytes."""
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


@pytest_asyncio.fixture
async def channel_layer(redis_server: EmbeddedRedis) -> AsyncIterator[RedisChannelLayer]:
    """A stock layer on `redis_server`: one more application process, as far as Redis can tell."""
    layer = RedisChannelLayer(**layer_setting(STOCK_LAYER, [redis_server.url], None)["CONFIG"])
    yield layer
    await layer.flush()
    await layer.close_pools()


@pytest.fixture
def start_worker(request: pytest.FixtureRequest) -> Iterator[StartWorker]:
    """`start_worker(kind, redis=None, asgi=…, cwd=…, arguments=(), python=…, wait=True, **env)`, on `redis_server`."""
    workers: list[Worker] = []

    def start(kind: Kind, *, redis: EmbeddedRedis | None = None, wait: bool = True, **options: Any) -> Worker:
        own = {name: options.pop(name) for name in ("asgi", "cwd", "arguments", "python") if name in options}
        worker = Worker(kind, env={"REDIS_URL": url_for(request, redis), **options}, **own)
        workers.append(worker.start())
        return worker.wait_ready() if wait else worker

    yield start
    for worker in workers:
        worker.close()


@pytest_asyncio.fixture
async def sockets() -> AsyncIterator[SocketFleet]:
    async with SocketFleet() as fleet:
        yield fleet


@pytest.fixture
def run_command(request: pytest.FixtureRequest) -> RunCommand:
    """`run_command(*argv, env=None, redis=None, stdin=None, timeout=120)`: `manage.py` as a process, on `redis_server`.

    It blocks: where sockets must go on reading meanwhile, use `await asyncio.to_thread(run_command, …)`.
    """

    def run(
        *argv: str,
        env: Mapping[str, str] | None = None,
        redis: EmbeddedRedis | None = None,
        stdin: str | None = None,
        timeout: float = 120,
    ) -> CommandResult:
        own = dict(env or {})
        own.setdefault("REDIS_URL", url_for(request, redis))
        done = subprocess.run(
            [sys.executable, "manage.py", *argv],
            cwd=REPOSITORY,
            env={**os.environ, **own},
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        return CommandResult(done.stdout, done.stderr, done.returncode)

    return run


def url_for(request: pytest.FixtureRequest, server: EmbeddedRedis | None) -> str:
    chosen: EmbeddedRedis = server or request.getfixturevalue("redis_server")
    return chosen.url
