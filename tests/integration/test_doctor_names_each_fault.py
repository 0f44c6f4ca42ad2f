"""Twenty faults, twenty right first findings; and nothing to say of systems that are well.

docs/findings.md has a table of this run: WRITE_FINDINGS_TABLE=1 writes it, and without that it must say the same.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import redis
from django.conf import LazySettings

from ops.operations.doctor import collect
from project.embedded_redis import EmbeddedRedis
from project.sockets import SocketFleet
from tests.conftest import REPOSITORY, StartRedis, StartWorker
from tests.in_process_commands import run_beside
from tests.integration.faults import FAULTS, PUBSUB, Fault, System
from tests.layer_builders import BUSY, StartProcess

DROP_IN = "ops.layers.RedisChannelLayer"
STOCK = "channels_redis.core.RedisChannelLayer"
DOCUMENT = REPOSITORY / "docs" / "findings.md"
SHARD = re.compile(r"^shard \d+ \(\S+\): ")
OWN_NAMES = re.compile(r"\b[0-9a-f]{32}\b|127\.0\.0\.1:\d+")


@pytest.fixture(autouse=True)
def short_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "PROBE_TIMEOUT_SECONDS", 2.5 * BUSY)


@pytest_asyncio.fixture
async def system(
    settings: LazySettings,
    each_or_default: EmbeddedRedis,
    start_process: StartProcess,
    start_worker: StartWorker,
    start_redis: StartRedis,
    sockets: SocketFleet,
) -> AsyncIterator[System]:
    with redis.Redis.from_url(each_or_default.url) as client:
        client.config_resetstat()
        client.slowlog_reset()
        client.latency_reset()
        yield System(settings, each_or_default, client, start_process, start_worker, start_redis, sockets)
        client.execute_command("FLUSHALL")


@pytest.fixture
def each_or_default(request: pytest.FixtureRequest) -> EmbeddedRedis:
    wanted = "each_redis_server" if "redis_binary" in request.fixturenames else "redis_server"
    return request.getfixturevalue(wanted)


async def examined() -> dict[str, Any]:
    done = await run_beside("channels_doctor", "--format", "json")
    document = json.loads(done.out)
    document["returncode"] = done.returncode
    return document


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.number}-{fault.inject.__name__}")
async def test_the_finding_that_names_the_fault_comes_first(fault: Fault, system: System) -> None:
    async with fault.inject(system):
        document = await examined()
    first = document["findings"][0] if document["findings"] else None
    assert first is not None
    assert first["id"] == fault.expected, document
    # A layer in memory cannot be looked into from here.
    assert document["returncode"] == (1 if fault.expected == "ops.W205" else 3)
    ROWS[fault] = first
    if not os.environ.get("WRITE_FINDINGS_TABLE"):
        assert row(fault, first)[:3] in table_in_the_document()


@pytest.mark.parametrize("kind", ["stock", "drop-in", "pub/sub", "two shards", "two shards, pub/sub"])
async def test_nothing_is_found_where_all_is_well(kind: str, redis_binary: str, system: System) -> None:
    backend = PUBSUB if "pub/sub" in kind else STOCK if kind == "stock" else DROP_IN
    hosts = [system.server.url, system.database(1)] if "two shards" in kind else [system.server.url]
    system.use(*hosts, backend=backend)
    process = await system.start_process() if backend != PUBSUB else None
    if process is not None:
        for channel in await process.join("lobby", "room", count=2):
            await process.live(channel)
        await process.layer.group_send("lobby", {"type": "x"})
    document = await examined()
    assert document["findings"] == []
    assert document["skipped"] == []
    assert (document["healthy"], document["complete"], document["returncode"]) == (True, True, 0)


# The table of this run


ROWS: dict[Fault, dict[str, Any]] = {}


def row(fault: Fault, first: dict[str, Any]) -> list[str]:
    evidence = OWN_NAMES.sub("…", SHARD.sub("", first["evidence"][0]))
    return [
        fault.number,
        fault.what,
        f"[`{first['id']}`](#{first['id'].replace('.', '').lower()}) {first['title']}",
        evidence,
    ]


def table_in_the_document() -> list[list[str]]:
    """The first three columns: the evidence is of the run that wrote it."""
    lines = DOCUMENT.read_text("utf-8").splitlines() if DOCUMENT.exists() else []
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")][:3] for line in lines if re.match(r"\| \d+ \|", line)
    ]


# It needs the findings that the tests above collect in ROWS, so it is a test, too. It changes a file of the repository,
# which a test run must not do by itself: WRITE_FINDINGS_TABLE=1 asks for it.
@pytest.mark.skipif(not os.environ.get("WRITE_FINDINGS_TABLE"), reason="writes the table only when asked to")
def test_the_table_is_written() -> None:
    assert set(ROWS) == set(FAULTS)
    lines = ["| # | fault | first finding | its evidence, in the run that wrote this |", "|---|---|---|---|"]
    lines += [
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row(fault, ROWS[fault]))} |" for fault in FAULTS
    ]
    text = DOCUMENT.read_text("utf-8")
    before, _, rest = text.partition("<!-- table -->\n")
    after = rest.partition("<!-- end of table -->\n")[2]
    DOCUMENT.write_text(f"{before}<!-- table -->\n" + "\n".join(lines) + f"\n<!-- end of table -->\n{after}", "utf-8")


def test_the_document_has_no_fault_that_is_not_tried() -> None:
    assert [line[:2] for line in table_in_the_document()] == [[fault.number, fault.what] for fault in FAULTS]
