"""The command on real files and on the stream of a real Redis."""

from __future__ import annotations

import gzip
import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest
import redis
from django.conf import LazySettings

from ops.model.disconnects.record import Disconnect, to_json
from ops.store.connection.shards import open_layer
from project.embedded_redis import EmbeddedRedis
from tests.conftest import REPOSITORY, RunCommand, StartRedis
from tests.in_process_commands import run_beside, run_here
from tests.layer_builders import add_members, channels_of, layer_of, members_of, new_process_name, record_ends

CAPTURED = REPOSITORY / "tests" / "data" / "logs"


def report(*argv: str, code: int = 0) -> dict[str, Any]:
    result = run_here("replay_disconnects", *argv, "--format", "json")
    assert result.returncode == code, result.err
    document: dict[str, Any] = json.loads(result.out)
    return document


def test_files_are_reported_on_without_any_redis() -> None:
    document = report(*(str(CAPTURED / f"{name}.jsonl") for name in ("daphne", "uvicorn")))
    assert document["records"] == 32
    assert document["unreadable"] == 0
    assert [pattern["id"] for pattern in document["patterns"]] == ["redis_lost", "redis_py_8_timeout"]


def test_packed_files_and_several_kinds_go_together(tmp_path: Path) -> None:
    packed = tmp_path / "daphne.log.1.gz"
    packed.write_bytes(gzip.compress((CAPTURED / "daphne.log").read_bytes()))
    document = report(str(packed), str(CAPTURED / "uvicorn.jsonl"))
    assert document["records"] == 34


def test_standard_input_is_a_source(run_command: RunCommand, redis_server: EmbeddedRedis) -> None:
    text = (CAPTURED / "uvicorn-timed.log").read_text()
    result = run_command("replay_disconnects", "-", "--format", "json", stdin=text)
    assert result.returncode == 0, result.err
    assert json.loads(result.out)["records"] == 12


def test_only_what_lies_in_the_span_counts() -> None:
    path = str(CAPTURED / "daphne.jsonl")
    whole = report(path)["records"]
    early = report(path, "--until", "2026-11-25T12:49:45Z")["records"]
    late = report(path, "--since", "2026-11-25T06:49:45-06:00")["records"]
    assert (early, early + late) == (7, whole)
    # Without a zone it is the project's, as the times in Daphne's log are.
    assert report(path, "--since", "2026-11-25T06:49:45")["records"] == late
    assert report(str(CAPTURED / "uvicorn.log"), "--since", "2020-01-01")["records"] == 0  # it says no times


async def test_the_log_in_redis_is_the_source_where_none_is_named(redis_server: EmbeddedRedis) -> None:
    now = time.time()
    async with open_layer("default") as opened:
        await record_ends(opened, [Disconnect(now - number, "normal", "client", code=1000) for number in range(2500)])
        await opened.home.execute("XADD", opened.keyspace.disconnects, "*", "d", "rubbish")
    result = await run_beside("replay_disconnects", "--since", "2h", "--format", "json")
    assert result.returncode == 0, result.err
    document = json.loads(result.out)
    assert (document["records"], document["unreadable"], document["by_code"]["rows"][0]["code"]) == (2500, 1, 1000)
    assert document["sources"] == ["the disconnect log in Redis"]
    for since, until, records in (
        ("1d", "2h", 0),
        ("3000w", "0s", 2500),
        ("1960-01-01T00:00Z", "9999-01-01T00:00Z", 2500),
        ("0001-01-01T00:00Z", "1960-01-01T00:00Z", 0),
    ):
        some = await run_beside("replay_disconnects", "--since", since, "--until", until, "--format", "json")
        assert (some.returncode, some.err, json.loads(some.out)["records"]) == (0, "", records), (since, until)


async def test_where_another_shard_does_not_answer_the_log_is_reported_on_all_the_same(
    start_redis: StartRedis, settings: LazySettings
) -> None:
    servers = [start_redis(), start_redis()]
    settings.CHANNEL_LAYERS = layer_of(*(server.url for server in servers))
    async with open_layer("default") as opened:
        await record_ends(opened, [Disconnect(time.time(), "normal", "client", code=1000)] * 3)
    servers[1].kill()
    result = await run_beside("replay_disconnects", "--format", "json")
    document = json.loads(result.out)
    assert (result.returncode, document["complete"], document["records"]) == (1, False, 3), result
    assert document["problems"] == [result.err.rstrip("\n")]
    assert result.err.startswith("shard 1 (redis://")
    assert "3 websockets ended" in (await run_beside("replay_disconnects")).out
    # The log itself is on the first one.
    servers[1].start()
    servers[0].kill()
    result = await run_beside("replay_disconnects", "--format", "json")
    assert (result.returncode, result.out, result.err.count("\n")) == (1, "", 1)
    assert "shard 0 (redis://" in result.err


def test_a_source_that_is_missing_is_said_and_the_others_are_read(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere.log")
    result = run_here("replay_disconnects", nowhere, str(CAPTURED / "daphne.jsonl"))
    assert result.returncode == 1
    assert result.err == f"{nowhere} cannot be read: No such file or directory\n"
    assert "15 websockets ended" in result.out


def test_lines_that_cannot_be_read_are_shown_escaped(tmp_path: Path) -> None:
    path = tmp_path / "some.log"
    path.write_bytes(b"\x1b[2J\xff what\n" * 10 + to_json(Disconnect(1_795_608_000.0)).encode())
    result = run_here("replay_disconnects", str(path))
    assert (result.returncode, result.err) == (
        1,
        "only 1 of 11 entries or lines could be read: what follows tells little\n",
    )
    assert "10 entries or lines of 11 could not be read" in result.out
    assert "\\x1b[2J\\xff what" in result.out


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (['{"level": "info"}'] * 3, "3 of 3 lines of JSON were not understood"),
        (["what is this"] * 3, "none of 3 entries or lines could be read"),
        (["what is this"] * 2 + ["INFO:     Started"] * 2, ""),
    ],
)
def test_a_log_that_is_not_understood_is_no_log_without_ends(tmp_path: Path, lines: list[str], says: str) -> None:
    path = tmp_path / "some.log"
    path.write_text("\n".join(lines))
    for argv in ((), ("--format", "json")):
        result = run_here("replay_disconnects", str(path), *argv)
        assert result.returncode == (1 if says else 0)
        assert result.err.startswith(says)
    assert (json.loads(result.out)["not_understood"] is None) is not says


@pytest.mark.parametrize("argv", [(), ("--cleanup",), ("--cleanup", "--dry-run"), ("--emit", "nobody", "--force")])
def test_without_a_log_nothing_is_said_to_be_well(redis_server: EmbeddedRedis, argv: tuple[str, ...]) -> None:
    result = run_here("replay_disconnects", *argv)
    assert (result.returncode, result.out) == (1, "")
    assert result.err == "CommandError: There is no disconnect log yet: is the middleware in asgi.py?\n"


def test_a_time_without_a_zone_is_said_in_both_and_the_future_is_warned_of(tmp_path: Path) -> None:
    path = str(CAPTURED / "daphne.jsonl")
    result = run_here("replay_disconnects", path, "--since", "2026-11-25T06:49:45", "--until", "2026-11-25T13:00Z")
    assert result.err == ("--since is taken as 2026-11-25 06:49:45 America/Chicago, 2026-11-25 12:49:45 UTC\n")
    result = run_here("replay_disconnects", path, "--since", "9000-01-01T00:00Z")
    assert (result.returncode, result.err) == (0, "--since lies in the future: nothing has ended since\n")


def test_a_record_that_a_client_may_have_forged_removes_nobody(
    redis_client: redis.Redis, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    """It counts in the report; as its own line it removes the member."""
    channel = channels_of(new_process_name(), 1)[0]
    name = channel.decode() if isinstance(channel, bytes) else channel
    end = Disconnect(time.time() + 1, "normal", "client", channel=name, consumer="chat.Chat", groups=("room",))
    record = to_json(end)
    forms = [
        f"web-1  | {record}",
        f"bob | {record}",
        f"[bob] {record}",
        f"2026-11-28T10:00:09.120000000Z stderr F {record}",
        json.dumps({"log": record + "\n", "stream": "stderr"}),
        json.dumps({"MESSAGE": record}),
        json.dumps({"event": record, "level": "info"}),
        json.dumps({"message": json.loads(record)}),
        json.dumps({"log": json.dumps({"log": record})}),
        "web-1  | " + json.dumps({"message": record}),
        f"\x1b[0m{record}",
    ]
    path = tmp_path / "some.log"
    add_members(redis_client, "room", [channel])
    for form in forms:
        path.write_text(form)
        assert run_here("replay_disconnects", "--cleanup", str(path)).returncode in (0, 1)
        assert members_of(redis_client, "room") != {}, form
    path.write_text("\n".join(forms[:-1]))
    assert report(str(path))["records"] == len(forms) - 1
    path.write_text(record)
    assert run_here("replay_disconnects", "--cleanup", str(path)).returncode == 0
    assert not members_of(redis_client, "room")


def test_a_page_is_written_beside_the_report(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    result = run_here("replay_disconnects", str(CAPTURED / "daphne.jsonl"), "--html", str(page))
    assert result.returncode == 0
    assert page.read_text().startswith("<!DOCTYPE html>")
    lost = run_here("replay_disconnects", str(CAPTURED / "daphne.jsonl"), "--html", str(tmp_path / "no" / "page"))
    assert (lost.returncode, lost.err.count("\n")) == (1, 1)


@pytest.mark.parametrize("existing", [None, "file", "link"])
def test_a_page_is_written_beside_its_place_and_put_there_in_one_step(tmp_path: Path, existing: str | None) -> None:
    """A link is replaced, and what it points to stays as it was."""
    page, other = tmp_path / "report.html", tmp_path / "other"
    other.write_text("precious")
    other.chmod(0o640)
    if existing == "link":
        page.symlink_to(other)
    elif existing == "file":
        page.write_text("the page of yesterday")
        page.chmod(0o600)
    result = run_here("replay_disconnects", str(CAPTURED / "daphne.jsonl"), "--html", str(page))

    assert result.returncode == 0
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert (other.read_text(), page.is_symlink()) == ("precious", False)
    assert stat.S_IMODE(page.stat().st_mode) == {None: 0o666 & ~current_umask(), "file": 0o600, "link": 0o640}[existing]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "report.html"]


def current_umask() -> int:
    before = os.umask(0o022)
    os.umask(before)
    return before


def test_a_page_is_not_written_onto_what_is_no_file_and_the_error_says_what_to_do(
    tmp_path: Path, run_command: RunCommand, redis_server: EmbeddedRedis
) -> None:
    """A FIFO that nobody reads would hold the command for ever."""
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    for path in (fifo, link, tmp_path):
        argv = ("replay_disconnects", str(CAPTURED / "daphne.jsonl"), "--html", str(path))
        result = run_command(*argv, timeout=30)
        assert (result.returncode, result.err.count("\n")) == (1, 1)
        assert result.err.endswith("not a regular file; give --html another path\n")
    missing = run_command("replay_disconnects", str(CAPTURED / "daphne.jsonl"), "--html", str(tmp_path / "no" / "page"))
    assert "the directory must exist and be writable" in missing.err


@pytest.mark.parametrize(
    "argv",
    [
        ("--since", "yesterday"),
        ("--since", "2h30"),
        ("--until", "2026-13-01T00:00Z"),
        ("--since", "1h", "--until", "2h"),
    ],
)
def test_bad_usage_exits_with_2(argv: tuple[str, ...]) -> None:
    result = run_here("replay_disconnects", *argv)
    assert result.returncode == 2
    assert "Traceback" not in result.err


def test_without_redis_it_says_so() -> None:
    result = run_here("replay_disconnects")
    assert result.returncode == 1
    assert result.err.count("\n") == 1
