"""`manage.py reap_stale`: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from django.conf import LazySettings
from prometheus_client.parser import text_string_to_metric_families

from ops.model.liveness.stops import IDLE_SHOWS_AFTER_SECONDS
from ops.store.connection.shards import open_layer
from ops.store.removal.locks import run_lock
from project.embedded_redis import EmbeddedRedis
from tests.conftest import CommandResult, StartRedis
from tests.in_process_commands import run_beside
from tests.layer_builders import (
    ASGI,
    PROBE,
    PROBE_TIMEOUT_SECONDS,
    StartProcess,
    add_members,
    channels_of,
    dump,
    layer_of,
    let_time_pass,
    members_of,
    new_process_name,
    suspect_everybody,
)

RUN_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")


async def reap(*argv: str) -> CommandResult:
    return await run_beside("reap_stale", *PROBE, *argv)


async def document(*argv: str, code: int = 0, err: str = "") -> dict[str, Any]:
    result = await run_beside("reap_stale", "--format", "json", *argv)
    assert (re.sub(":.*", "", result.err.strip()), result.returncode) == (err, code)
    assert result.out.isascii()
    assert result.out.count("\n") == 1
    found: dict[str, Any] = json.loads(result.out)
    return found


async def test_the_document_has_the_fields_of_the_contract(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    live = await start_process("room", live=True)
    dead = await start_process("room", count=2)
    redis_client.zadd(dead.inflight_key, {b"popped": 1})
    await suspect_everybody()

    found = await document(*PROBE)

    assert RUN_ID.fullmatch(found.pop("run_id"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found.pop("started_at"))
    assert PROBE_TIMEOUT_SECONDS <= found.pop("duration_seconds") < 60
    processes = {process.pop("process"): process for process in found.pop("processes")}
    assert {name: (p["state"], p["members"], p["removed"]) for name, p in processes.items()} == {
        live.name: ("live", 1, 0),
        dead.name: ("dead", 2, 2),
    }
    assert [words[:18] for words in processes[dead.name]["evidence"]] == [
        "took no probe with",
        "was already silent",
    ]
    (leftover,) = found.pop("leftovers")
    assert leftover == {
        "key": dead.inflight_key.decode(),
        "shard": 0,
        "kind": "inflight",
        "process": dead.name,
        "messages": 1,
    }
    assert found == {
        "schema_version": 1,
        "layer": "default",
        "dry_run": False,
        "complete": True,
        "stopped": None,
        "groups_scanned": 1,
        "members_scanned": 3,
        "suspects": 0,
        "orphans": 2,
        "removed": 2,
        "kept": 0,
        "findings": [],
        "notes": [],
    }


async def test_nothing_to_do_is_a_success(redis_server: EmbeddedRedis) -> None:
    result = await reap()
    assert (result.err, result.returncode) == ("", 0)
    assert "0 removed, 0 under suspicion" in result.out


async def test_two_runs_and_what_they_say(redis_client: redis.Redis, start_process: StartProcess) -> None:
    dead = await start_process("room", count=2)
    first = await reap("--confirm-after", "0.01")
    assert (first.err, first.returncode) == ("", 0)
    assert "0 removed, 2 under suspicion" in first.out
    assert "Run it again in 0.01 s or more, or use --wait." in first.out
    assert re.search(rf"^{dead.name}\s+suspect\s+2\s+0\s+took no probe", first.out, re.MULTILINE)

    let_time_pass(redis_client, IDLE_SHOWS_AFTER_SECONDS)
    second = await reap("--confirm-after", "0.01")

    assert (second.err, second.returncode) == ("", 0)
    assert re.search(rf"^{dead.name}\s+dead\s+2\s+2\s+took no probe", second.out, re.MULTILINE)
    (run_id,) = RUN_ID.findall(second.out)
    assert f"To put them back: manage.py reap_stale --undo {run_id}" in second.out
    undone = await run_beside("reap_stale", "--undo", run_id)
    assert (undone.out, undone.err, undone.returncode) == (f"Run {run_id}: 2 restored, 0 were there.\n", "", 0)
    assert len(members_of(redis_client, "room")) == 2
    assert (await document("--undo", run_id)) == {
        "schema_version": 1,
        "undone_run_id": run_id,
        "restored": 0,
        "already_present": 2,
        "keys_restored": 0,
        "notes": [],
    }
    history = await run_beside("reap_stale", "--history")
    assert re.search(rf"^{run_id}\s+undone\s+\S+ \S+\s+2\s+1$", history.out, re.MULTILINE)
    (run,) = (await document("--history"))["runs"]
    assert (run["run_id"], run["state"], run["removed"], run["match"]) == (run_id, "undone", 2, None)


async def test_history_of_a_layer_without_runs_says_so(redis_server: EmbeddedRedis) -> None:
    result = await run_beside("reap_stale", "--history")
    assert (result.err, result.returncode) == ("", 0)
    assert "No run has removed anything" in result.out
    assert await document("--history") == {"schema_version": 1, "layer": "default", "runs": []}


async def test_a_dry_run_that_finds_orphans_ends_with_3(redis_client: redis.Redis, start_process: StartProcess) -> None:
    await start_process("room", count=2)
    assert (await reap("--dry-run")).returncode == 0, "suspects are no finding"
    await suspect_everybody()
    before = dump(redis_client)

    result = await reap("--dry-run")

    assert (result.err, result.returncode) == ("", 3)
    assert "2 would be removed" in result.out
    assert "--undo" not in result.out
    elsewhere = await reap("--dry-run", "--match", "other*")
    assert (elsewhere.err, elsewhere.returncode) == ("", 0), "no member of a group that matches would go"
    assert dump(redis_client) == before


async def test_a_safety_stop_ends_with_3_and_its_reason(
    redis_client: redis.Redis, redis_server: EmbeddedRedis, settings: LazySettings, start_process: StartProcess
) -> None:
    await start_process("room", count=2)
    await suspect_everybody()
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, backend="tests.layer_builders.DeafLayer")
    result = await reap()
    assert result.returncode == 3
    assert result.err.startswith("safety stop: control: the reaper's own probe")
    assert result.err.endswith("; nothing was removed\n")
    found = await document(*PROBE, code=3, err="safety stop")
    assert found["stopped"].startswith("control: ")
    assert (found["removed"], found["complete"]) == (0, True)
    assert len(members_of(redis_client, "room")) == 2


async def test_another_run_at_work_ends_with_75_and_one_line(redis_server: EmbeddedRedis) -> None:
    async with open_layer("default") as opened, run_lock(opened):
        for argv in ((), ("--format", "json")):
            result = await reap(*argv)
            assert (result.out, result.returncode) == ("", 75)
            assert result.err.count("\n") == 1
            assert "another run is at work on layer 'default'" in result.err


async def test_a_shard_that_is_down_ends_with_1_and_its_reason(
    start_redis: StartRedis, settings: LazySettings, start_process: StartProcess
) -> None:
    up, down = start_redis(), start_redis()
    settings.CHANNEL_LAYERS = layer_of(up.url, down.url)
    with redis.Redis.from_url(up.url) as client:
        add_members(client, "lobby", channels_of(new_process_name(), 3))
        await suspect_everybody()
        down.kill()
        for argv in ((), ("--dry-run",)):
            result = await reap("--format", "json", *argv)
            assert result.returncode == 1
            assert result.err.count("\n") == 1
            assert f"shard 1 (redis://127.0.0.1:{down.port}/0) cannot be used" in result.err
            found = json.loads(result.out)
            assert (found["complete"], found["removed"], found["members_scanned"]) == (False, 0, 3)
        assert len(members_of(client, "lobby")) == 3
        groups = await run_beside("channels_groups", *PROBE, "--format", "json")
        assert (groups.returncode, groups.err.count("\n")) == (1, 1)
        shown = json.loads(groups.out)
        assert (shown["complete"], shown["totals"]["members"]) == (False, 3)
        assert [shard["answered"] for shard in shown["shards"]] == [True, False]


async def test_metrics_are_written_for_a_run_and_not_for_a_dry_run(
    redis_server: EmbeddedRedis, start_process: StartProcess, tmp_path: Path
) -> None:
    await start_process("room", count=2)
    await suspect_everybody()
    path = tmp_path / "channels_ops.prom"
    await reap("--metrics-file", str(path), "--dry-run")
    assert not path.exists()

    result = await reap("--metrics-file", str(path))

    assert result.returncode == 0
    found = {
        sample.name: sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }
    assert found["channels_ops_reap_removed"] == 2
    missing = await reap("--metrics-file", str(tmp_path / "no" / "such.prom"))
    assert (missing.returncode, missing.err.count("\n")) == (1, 1)


async def test_metrics_of_a_run_that_nobody_answered_keep_the_latest_success(
    redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    path = tmp_path / "channels_ops.prom"

    def figure(name: str) -> float:
        families = text_string_to_metric_families(path.read_text())
        (value,) = (one.value for family in families for one in family.samples if one.name.endswith(name))
        return float(value)

    await reap("--metrics-file", str(path))
    succeeded_at = figure("last_success_timestamp_seconds")
    redis_server.kill()
    before = time.time()
    result = await reap("--metrics-file", str(path), "--format", "json")
    assert result.returncode == 1
    started_at = json.loads(result.out)["started_at"]
    assert datetime.fromisoformat(started_at.replace("Z", "+00:00")).timestamp() > before - 1
    assert figure("complete") == 0
    assert figure("last_success_timestamp_seconds") == succeeded_at
    assert figure("last_run_timestamp_seconds") >= before


async def test_an_unknown_run_ends_with_1_and_one_line(redis_server: EmbeddedRedis) -> None:
    for run_id in ("20260102T030405Z-abcdef", "", "red\x1b[31m"):
        result = await run_beside("reap_stale", "--undo", run_id)
        assert (result.out, result.returncode) == ("", 1)
        assert result.err.count("\n") == 1
        assert "--history lists those that are kept" in result.err
        assert "\x1b" not in result.err


async def test_an_empty_run_id_does_not_start_a_run(redis_client: redis.Redis, start_process: StartProcess) -> None:
    """As from a script whose variable is not set."""
    await start_process("room")
    await suspect_everybody()
    assert (await reap("--undo", "")).returncode == 1
    assert len(members_of(redis_client, "room")) == 1


@pytest.mark.parametrize(
    "argv",
    [
        ("--history", "--undo", "x"),
        ("--history", "--undo", ""),
        ("--undo", "x", "--dry-run"),
        ("--undo", "x", "--wait"),
        ("--undo", "x", "--match", "*"),
        ("--history", "--dry-run"),
        ("--confirm-after", "0"),
        ("--confirm-after", "-1"),
        ("--confirm-after", "nan"),
        ("--confirm-after", "1e99"),
        ("--probe-timeout", "inf"),
        ("--max-share", "1.1"),
        ("--max-share", "-0.1"),
        ("--max-share", "half"),
        ("--format", "csv"),
        ("stray",),
    ],
    ids=" ".join,
)
async def test_bad_usage_ends_with_2_and_touches_nothing(
    redis_client: redis.Redis, start_process: StartProcess, argv: tuple[str, ...]
) -> None:
    await start_process("room")
    await suspect_everybody()
    before = dump(redis_client)
    result = await run_beside("reap_stale", *argv)
    assert (result.returncode, result.out) == (2, "")
    assert result.err.strip()
    assert "Traceback" not in result.err
    assert dump(redis_client) == before


async def test_settings_give_the_defaults_and_options_win(
    redis_client: redis.Redis, settings: LazySettings, start_process: StartProcess
) -> None:
    settings.CHANNELS_OPS = {
        "CONFIRM_AFTER_SECONDS": 0.01,
        "PROBE_TIMEOUT_SECONDS": PROBE_TIMEOUT_SECONDS,
        "MAX_SHARE": 1,
        "JOURNAL_SECONDS": 1234,
    }
    await start_process("room", count=2)
    assert (await document())["suspects"] == 2
    assert (await document("--confirm-after", "60"))["removed"] == 0
    found = await document()
    assert found["removed"] == 2
    assert 1200 < redis_client.ttl(ASGI.journal(found["run_id"])) <= 1234


async def test_bad_settings_are_refused_before_anything_is_done(
    redis_client: redis.Redis, settings: LazySettings, start_process: StartProcess
) -> None:
    settings.CHANNELS_OPS = {"CONFIRM_AFTER_SECOND": 5}
    await start_process("room")
    before = dump(redis_client)
    result = await reap()
    assert (result.returncode, result.out) == (1, "")
    assert "the nearest known one is 'CONFIRM_AFTER_SECONDS'" in result.err
    assert dump(redis_client) == before
