"""A password that would be noticed wherever it came out: whatever fails, it does not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
from channels.layers import channel_layers
from django.conf import LazySettings
from redis import asyncio as aioredis

from ops.application.layer.outages import Outages
from ops.layers import RedisChannelLayer as DropInLayer
from ops.model.disconnects.record import Disconnect, to_json
from ops.operations.doctor import collect
from project.embedded_redis import EmbeddedRedis
from project.owned_process import free_port
from tests.conftest import REPOSITORY, StartRedis, StartWorker
from tests.in_process_commands import run_beside
from tests.layer_builders import ASGI, app_processes, close_layer, layer_of, suspect_everybody
from tests.waiting import until

CANARY = "hunter2/is secret"
# As it might be written: as it is, in a URL, in the repr of a URL or of bytes.
SPELLINGS = (CANARY, quote(CANARY, safe=""), quote(CANARY), quote(CANARY, safe="/ "), "hunter2")
DROP_IN = "ops.layers.RedisChannelLayer"
COMMANDS = [
    ("channels_groups", "--probe-timeout", "0.2"),
    ("channels_groups", "--format", "json", "--probe-timeout", "0.2"),
    ("channels_groups", "--format", "prometheus", "--probe-timeout", "0.2"),
    ("channels_groups", "--format", "csv", "--members", "--no-probe"),
    ("channels_groups", "--check", "--no-probe"),
    ("reap_stale", "--probe-timeout", "0.2", "--metrics-file", "METRICS"),
    ("reap_stale", "--probe-timeout", "0.2", "--format", "json"),
    ("reap_stale", "--history"),
    ("reap_stale", "--undo", "20260101T000000Z-000000"),
    ("send_heartbeat", "--all", "--timeout", "0.2"),
    ("send_heartbeat", "--all", "--depth", "process", "--timeout", "0.2", "--format", "json"),
    ("send_heartbeat", "room", "--depth", "client", "--timeout", "0.2"),
    ("channels_doctor",),
    ("channels_doctor", "--format", "json"),
    ("replay_disconnects",),
    ("replay_disconnects", "--format", "json"),
    ("replay_disconnects", "--cleanup"),
    ("replay_disconnects", "--cleanup", "--resume", "--format", "json"),
    ("replay_disconnects", "--emit", "work", "--force"),
]
Hosts = Callable[[EmbeddedRedis], Any]


def url(server: EmbeddedRedis, *, scheme: str = "redis", user: str = "", port: int | None = None) -> str:
    return f"{scheme}://{user}:{quote(CANARY, safe='')}@127.0.0.1:{port or server.port}"


HOSTS: dict[str, Hosts] = {
    "right": url,
    "in a dict": lambda server: {"host": "127.0.0.1", "port": server.port, "password": CANARY},
    "wrong user": lambda server: url(server, user="nobody"),
    "user who may nothing": lambda server: url(server, user="useless"),
    "nobody listens": lambda server: url(server, port=1),
    "a scheme that is none": lambda server: url(server, scheme="http"),
    "a port that is none": lambda server: f"redis://:{quote(CANARY, safe='')}@127.0.0.1:sixty",
    "an option that is none": lambda server: {"host": "127.0.0.1", "port": server.port, "pasword": CANARY},
    "Sentinel": lambda server: {
        "sentinels": [("127.0.0.1", 1)],
        "master_name": "main",
        "sentinel_kwargs": {"password": CANARY},
        "password": CANARY,
    },
}


@pytest.fixture
def secret_server(start_redis: StartRedis) -> EmbeddedRedis:
    return start_redis(requirepass=f'"{CANARY}"', **{"user useless": f'on ">{CANARY}" ~* -@all'})


def assert_kept(*said: str) -> None:
    for text in said:
        for spelling in SPELLINGS:
            assert spelling not in text


@pytest.mark.parametrize("backend", ["channels_redis.core.RedisChannelLayer", DROP_IN], ids=["stock", "drop-in"])
@pytest.mark.parametrize("hosts", HOSTS)
async def test_no_command_says_it_whatever_fails(
    secret_server: EmbeddedRedis,
    settings: LazySettings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    hosts: str,
    backend: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(collect, "PROBE_TIMEOUT_SECONDS", 0.2)
    settings.CHANNEL_LAYERS = layer_of(
        HOSTS[hosts](secret_server), backend=backend, symmetric_encryption_keys=[f"{CANARY} too"]
    )
    for argv in COMMANDS[:1] if hosts == "Sentinel" else COMMANDS:  # redis-py asks a Sentinel again and again
        metrics = tmp_path / "metrics.prom"
        result = await run_beside(*(str(metrics) if word == "METRICS" else word for word in argv))
        assert_kept(result.out, result.err)
        assert "Traceback" not in result.err
        assert result.err.count("\n") <= 1, result.err
        if hosts not in ("right", "in a dict"):
            assert result.returncode in (1, 3), (argv, result)
        if metrics.exists():
            assert_kept(metrics.read_text())
    assert_kept(caplog.text)


@pytest.mark.parametrize("password", [CANARY, CANARY * 10], ids=["short", "cut off by the server"])
@pytest.mark.parametrize("backend", ["channels_redis.core.RedisChannelLayer", DROP_IN], ids=["stock", "drop-in"])
async def test_a_server_that_quotes_what_it_was_sent_is_not_quoted(
    start_redis: StartRedis, settings: LazySettings, caplog: pytest.LogCaptureFixture, password: str, backend: str
) -> None:
    """As Redis does with a command that it does not know: redis-py 8 sends the password with HELLO."""
    server = start_redis(requirepass=f'"{password}"', rename_command='HELLO ""')
    settings.CHANNEL_LAYERS = layer_of(f"redis://:{quote(password, safe='')}@127.0.0.1:{server.port}", backend=backend)
    for command in ("channels_groups", "channels_doctor", "reap_stale"):
        result = await run_beside(command)
        assert CANARY[:8] not in result.out + result.err
    assert CANARY[:8] not in caplog.text


async def test_a_sentinel_that_is_away_is_not_described_with_its_password(
    settings: LazySettings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is by redis-py before 8, which says all options of the connections to each Sentinel."""
    monkeypatch.setattr(aioredis.ConnectionPool, "SENSITIVE_REPR_KEYS", frozenset(), raising=False)
    host = {"sentinels": [("127.0.0.1", 1)], "master_name": "main", "sentinel_kwargs": {"password": CANARY}}
    settings.CHANNEL_LAYERS = layer_of(host, backend=DROP_IN)
    result = await run_beside("channels_groups")
    assert_kept(result.out, result.err)
    assert "No master found for 'main'; no Sentinel that answers knows it" in result.err
    with pytest.raises(redis.ConnectionError) as error:
        await DropInLayer(hosts=[host]).group_add("room", "specific.channel")
    assert CANARY in str(error.value)
    outages = Outages()
    await outages.wait(0, error.value)
    assert "Redis shard 0 is away" in caplog.text
    assert_kept(caplog.text)


async def test_it_is_neither_in_what_is_stored_nor_in_what_is_shown_of_a_run(
    secret_server: EmbeddedRedis, settings: LazySettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    settings.CHANNEL_LAYERS = layer_of(url(secret_server), backend=DROP_IN, lease_seconds=1)
    async with app_processes() as start:
        await start("room", live=True)
        await start("room", count=3)
        await suspect_everybody()
        result = await run_beside("reap_stale", "--probe-timeout", "1", "--format", "json")
        assert json.loads(result.out)["removed"] == 3
    assert_kept(result.out, result.err, caplog.text)
    with redis.Redis(port=secret_server.port, password=CANARY) as client:
        for key in client.scan_iter("*"):
            assert_kept(key.decode("latin-1"), (client.dump(key) or b"").decode("latin-1"))


async def test_the_drop_in_layer_never_logs_or_raises_it_through_an_outage_and_a_changed_password(
    secret_server: EmbeddedRedis, settings: LazySettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    settings.CHANNEL_LAYERS = layer_of(url(secret_server), backend=DROP_IN, lease_seconds=0.3)
    layer = channel_layers.make_backend("default")
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    receiving = asyncio.create_task(layer.receive(channel))
    await layer.send(channel, {"type": "hello"})
    assert (await receiving)["type"] == "hello"
    receiving = asyncio.create_task(layer.receive(channel))
    secret_server.kill()
    await until(lambda: "is away" in caplog.text)
    secret_server.config["requirepass"] = "another"
    secret_server.start()
    raised = []
    for attempt in (layer.send(channel, {"type": "hello"}), layer.group_add("room", channel)):
        with pytest.raises(redis.RedisError) as caught:
            await attempt
        raised.append(repr(caught.value) + str(caught.value) + repr(caught.value.__context__))
    receiving.cancel()
    with contextlib.suppress(asyncio.CancelledError, redis.RedisError):
        await receiving
    await close_layer(layer)
    assert_kept(caplog.text, *raised)


def test_it_is_in_no_process_list_and_in_no_workers_output(
    secret_server: EmbeddedRedis, start_worker: StartWorker
) -> None:
    """The environment of a process is for its own user alone; its command line is for everybody."""
    environment = {"REDIS_URL": url(secret_server), "CHANNEL_BACKEND": DROP_IN}
    worker = start_worker("uvicorn", redis=secret_server, **environment)
    with redis.Redis.from_url(url(secret_server)) as client:
        client.xadd(ASGI.disconnects, {"d": to_json(Disconnect(1.0))})
    commands = [
        subprocess.Popen(
            [sys.executable, "manage.py", *argv],
            cwd=REPOSITORY,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for argv in (["channels_groups"], ["channels_doctor"], ["replay_disconnects"], ["send_heartbeat", "--all"])
    ]
    listed = 0
    while any(command.poll() is None for command in commands):
        for process in (*(command.pid for command in commands), worker.pid, secret_server.pid):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                assert_kept(Path(f"/proc/{process}/cmdline").read_text())
                listed += 1
        # The next look, or the end of a command: no event says that a command line has changed.
        with contextlib.suppress(subprocess.TimeoutExpired):
            next((command for command in commands if command.poll() is None), commands[0]).wait(0.02)
    for command in commands:
        said, _ = command.communicate()
        assert command.returncode in (0, 3), said
        assert "Traceback" not in said
        assert_kept(said)
    assert listed > 0
    assert_kept(worker.output())


def test_the_canary_would_be_noticed() -> None:
    with pytest.raises(AssertionError):
        assert_kept(f"connecting to {url(EmbeddedRedis(), port=free_port())} failed")
