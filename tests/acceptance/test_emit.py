"""Recorded ends told on to a real `runworker` process."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import redis
from django.conf import LazySettings

from ops.model.disconnects.emitting import disconnect_message
from ops.model.disconnects.record import Disconnect
from ops.store.connection.shards import open_layer
from project.embedded_redis import EmbeddedRedis
from project.owned_process import OwnedProcess
from tests.conftest import REPOSITORY
from tests.in_process_commands import run_beside
from tests.layer_builders import record_ends
from tests.waiting import until

NOON = 1_795_608_000.0
SPEED = 3600
AFTER_SECONDS = (0, 0, 1440, 1440, 5400)  # of the records; by that speed 0.4 s and 1.1 s between them


@pytest.fixture
def auditor(redis_server: EmbeddedRedis, tmp_path: Path) -> Iterator[OwnedProcess]:
    """`manage.py runworker audit`, with the consumer of `emit_application`."""
    process = OwnedProcess(
        [sys.executable, "manage.py", "runworker", "audit"],
        log_path=tmp_path / "runworker.log",
        env={
            **os.environ,
            "REDIS_URL": redis_server.url,
            "DJANGO_SETTINGS_MODULE": "tests.integration.emit_settings",
        },
        cwd=REPOSITORY,
    )
    yield process
    process.kill()


def received(worker: OwnedProcess) -> list[tuple[float, dict[str, Any]]]:
    """When each message came, and the message."""
    whole, _, _ = worker.output().rpartition("\n")
    return [(at, message) for at, message in map(json.loads, filter(is_of_the_consumer, whole.splitlines()))]


def is_of_the_consumer(line: str) -> bool:
    return line.startswith("[")


async def test_a_worker_gets_each_end_in_the_order_and_in_the_rhythm_of_the_records(
    auditor: OwnedProcess, redis_client: redis.Redis, settings: LazySettings
) -> None:
    settings.ASGI_APPLICATION = "tests.integration.emit_application.application"
    ends = [Disconnect(NOON + after, "normal", path=f"/{number}/") for number, after in enumerate(AFTER_SECONDS)]
    async with open_layer("default") as opened:
        await record_ends(opened, ends)
    await until(lambda: bool(redis_client.info("clients")["blocked_clients"]), 30)  # It waits for messages.

    started = monotonic()
    sending = run_beside("replay_disconnects", "--emit", "audit", "--speed", str(SPEED), "--format", "json")
    result = await asyncio.wait_for(sending, 60)
    assert (result.returncode, json.loads(result.out)["sent"]) == (0, len(ends)), result
    await until(lambda: len(received(auditor)) >= len(ends))

    assert [message for _, message in received(auditor)] == [disconnect_message(one) for one in ends]
    too_early = [
        (came - started, after)
        for (came, _), after in zip(received(auditor), AFTER_SECONDS, strict=True)
        if came - started < after / SPEED
    ]
    assert not too_early
