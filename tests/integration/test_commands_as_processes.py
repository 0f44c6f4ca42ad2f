"""Commands as an operator meets them: real processes with pipes, terminals and signals."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from ops.model.disconnects.record import Disconnect, to_json
from project.embedded_redis import EmbeddedRedis
from tests.conftest import NOBODY_LISTENS, REPOSITORY, CommandResult, RunCommand, StartRedis
from tests.in_process_commands import run_here
from tests.layer_builders import (
    ASGI,
    PROBE,
    StartProcess,
    add_members,
    channels_of,
    dump,
    members_of,
    new_process_name,
    suspected,
)
from tests.waiting import until

ESCAPE = "\x1b"


@contextmanager
def started(server: EmbeddedRedis, *argv: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on while the test watches it, and is gone at the end."""
    process = subprocess.Popen(
        [sys.executable, "manage.py", *argv],
        cwd=REPOSITORY,
        text=True,
        **{
            "env": {**os.environ, "REDIS_URL": server.url},
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            **options,
        },
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


# Redis is down


def is_one_line_about_a_redis_that_is_down(result: CommandResult) -> bool:
    assert result.returncode == 1
    assert result.err.count("\n") == 1, result.err
    assert "Traceback" not in result.err
    assert "nobody is connected" not in result.out, "that is not known"
    return "shard 0 (redis://127.0.0.1:1/0) cannot be used: Error 111 connecting" in result.err


@pytest.mark.parametrize("argv", [("channels_groups",), ("reap_stale",)], ids=" ".join)
def test_a_redis_that_is_down_is_one_line_on_stderr(run_command: RunCommand, argv: tuple[str, ...]) -> None:
    assert is_one_line_about_a_redis_that_is_down(run_command(*argv, env={"REDIS_URL": NOBODY_LISTENS}))


@pytest.mark.parametrize(
    "argv",
    [
        ("channels_groups", "--format", "ndjson"),
        ("channels_groups", "--format", "json", "--members"),
        ("channels_groups", "--no-probe", "--summary"),
        ("channels_groups", "room", "--no-probe"),
        ("reap_stale", "--dry-run", "--format", "json"),
        ("reap_stale", "--wait"),
        ("reap_stale", "--history"),
        ("reap_stale", "--undo", "20260102T030405Z-abcdef"),
        ("send_heartbeat", "room"),
        ("send_heartbeat", "room", "--depth", "process", "--format", "json"),
        ("send_heartbeat", "--all", "--count", "2", "--interval", "0.01"),
    ],
    ids=" ".join,
)
def test_a_redis_that_is_down_is_one_line_whatever_was_asked(argv: tuple[str, ...]) -> None:
    assert is_one_line_about_a_redis_that_is_down(run_here(*argv))


# Pipes


def test_a_reader_who_has_seen_enough_is_no_error(redis_server: EmbeddedRedis, redis_client: redis.Redis) -> None:
    pipe = redis_client.pipeline(transaction=False)
    for number in range(3000):
        pipe.zadd(ASGI.group(f"group-with-a-rather-long-name-{number}"), {"general": 1})
    pipe.execute()
    for form in ("ndjson", "table"):
        argv = ("channels_groups", "--no-probe", "--format", form, "--limit", "3000")
        with started(redis_server, *argv) as process:
            assert process.stdout
            assert process.stderr
            assert process.stdout.read(20)
            process.stdout.close()
            said = process.stderr.read()
            # 141 is what a shell shows for a writer that was cut off; rich ends with 1.
            assert (said, process.wait(30) in (0, 1, 141)) == ("", True), form


whatever_it_writes = pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("channels_doctor", "--list"), 1),
        (("channels_doctor", "--list", "--format", "json"), 1),
        (("channels_groups", "--no-probe"), 1),
        (("channels_groups", "--no-probe", "--format", "csv"), 1),
        (("channels_groups", "--no-probe", "--format", "csv", "--limit", "1"), 1),
        (("channels_groups", "--no-probe", "--format", "json", "--watch", "60"), 1),
        (("channels_groups", "--no-probe", "--check"), 3),
        (("channels_groups", "--no-probe", "--check", "--layer", "nosuch"), 3),
        (("send_heartbeat", "--all", "--depth", "process", "--timeout", "0.1", "--format", "json"), 1),
        (("reap_stale", "--dry-run", "--probe-timeout", "0.1"), 1),
        (("replay_disconnects",), 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)


@whatever_it_writes
def test_a_full_disk_under_stdout_is_one_line(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, argv: tuple[str, ...], code: int
) -> None:
    redis_client.xadd(ASGI.disconnects, {"d": to_json(Disconnect(1.0))})
    for number in range(500):  # more than what waits to be written
        add_members(redis_client, f"room-with-a-rather-long-name-{number}", ["general"])
    with open("/dev/full", "w") as full, started(redis_server, *argv, stdout=full) as process:
        _, err = process.communicate(timeout=30)
    said = "CommandError: standard output cannot be written: No space left on device\n"
    assert (err, process.returncode) == (said, code)


@whatever_it_writes
def test_a_closed_stdout_is_one_line(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, argv: tuple[str, ...], code: int
) -> None:
    redis_client.xadd(ASGI.disconnects, {"d": to_json(Disconnect(1.0))})
    add_members(redis_client, "room", ["general"])
    with started(redis_server, *argv, stdout=None, preexec_fn=partial(os.close, 1)) as process:
        _, err = process.communicate(timeout=30)
    assert (err, process.returncode) == ("CommandError: standard output cannot be written: it is closed\n", code)


def test_data_goes_to_stdout_and_warnings_to_stderr(run_command: RunCommand, redis_client: redis.Redis) -> None:
    add_members(redis_client, "room", channels_of(new_process_name(), 2))
    result = run_command("channels_groups", "absent", "--no-probe", "--format", "csv")
    assert (result.returncode, result.err.count("\n")) == (0, 1)
    assert result.err.startswith("no such group: 'absent'")
    assert result.out.splitlines()[0].startswith("group,shard,members")
    assert ESCAPE not in result.out + result.err


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_names_of_any_script_are_shown_on_a_terminal_of_any_encoding(
    run_command: RunCommand, redis_client: redis.Redis, encoding: str
) -> None:
    add_members(redis_client, "чат-部屋", channels_of(new_process_name(), 2))
    argv = ("channels_groups", "--no-probe", "--format")
    for form in ("table", "csv"):
        result = run_command(*argv, form, env={"PYTHONIOENCODING": f"{encoding}:strict", "PYTHONUTF8": "0"})
        assert (result.returncode, result.err) == (0, ""), result.err[-300:]
        if encoding == "utf-8":
            assert "чат-部屋" in result.out


# Terminals


@contextmanager
def on_a_new_terminal(
    server: EmbeddedRedis, *argv: str, **env: str
) -> Iterator[tuple[subprocess.Popen[str], Callable[[], str]]]:
    """A command on a terminal of 80 columns, and how to read more of what that is sent: nothing after the end."""
    leader, follower = pty.openpty()
    terminal = {"TERM": "xterm-256color", "COLUMNS": "80", "REDIS_URL": server.url}

    def read() -> str:
        try:
            return os.read(leader, 65536).decode(errors="replace")
        except OSError:  # Linux tells the end so
            return ""

    try:
        environment = {**os.environ, **terminal, **env}
        with started(server, *argv, env=environment, stdin=follower, stdout=follower, stderr=follower) as process:
            os.close(follower)
            yield process, read
    finally:
        os.close(leader)


def assert_is_said(words: str, read: Callable[[], str]) -> None:
    """Waits for it."""
    said, deadline = "", time.monotonic() + 20
    while words not in said:
        said += read()
        assert time.monotonic() < deadline, said[-2000:]


def on_a_terminal(server: EmbeddedRedis, *argv: str, **env: str) -> str:
    """All that a terminal of 80 columns is sent."""
    with on_a_new_terminal(server, *argv, **env) as (process, read):
        said = "".join(iter(read, ""))
        process.wait(30)
    return said


COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def test_colour_is_for_terminals_that_want_it(redis_server: EmbeddedRedis, redis_client: redis.Redis) -> None:
    add_members(redis_client, "room", ["general"])
    argv = ("channels_groups", "room", "absent", "--no-probe")
    assert COLOUR.search(on_a_terminal(redis_server, *argv))
    for plain in (on_a_terminal(redis_server, *argv, NO_COLOR="1"), on_a_terminal(redis_server, *argv, "--no-color")):
        assert "general" in plain or "room" in plain
        assert ESCAPE not in plain


def test_a_heartbeat_that_takes_a_while_says_how_far_it_is(
    redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    add_members(redis_client, "room", channels_of(new_process_name(), 12))
    argv = ("send_heartbeat", "--all", "--depth", "process", "--timeout")
    assert "asking" in on_a_terminal(redis_server, *argv, "2")
    assert "asking" not in on_a_terminal(redis_server, *argv, "0.1")


def test_a_name_cannot_speak_to_the_terminal(redis_server: EmbeddedRedis, redis_client: redis.Redis) -> None:
    add_members(redis_client, "\x1b]0;owned\x07", ["\x1b[2J", "[bold]x[/bold]", ":smile:"])
    said = on_a_terminal(redis_server, "channels_groups", "--no-probe", "--members", "--no-color")
    assert "\x1b]0;" not in said
    assert "\x1b[2J" not in said
    assert "\x07" not in said
    assert "\\x1b]0;owned\\x07" in said
    assert "[bold]x[/bold]" in said, "rich must not read it as markup"
    assert ":smile:" in said


# Signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_a_waiting_run_that_is_stopped_cleans_up_behind_itself(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    start_process: StartProcess,
    number: signal.Signals,
    code: int,
) -> None:
    dead = await start_process("room", count=2)
    argv = ("reap_stale", "--wait", "--confirm-after", "60", "--probe-timeout", "2")
    with started(redis_server, *argv) as process:
        await until(lambda: suspected(redis_client) == {dead.name})
        assert redis_client.exists(ASGI.lock)

        process.send_signal(number)
        out, err = await asyncio.to_thread(process.communicate, timeout=20)

    assert process.returncode == code
    assert out == ""
    assert re.fullmatch(r"(--wait: next look in \d+ s\n)?", err)  # It may have been stopped just before.
    assert not redis_client.exists(ASGI.lock)
    assert len(members_of(redis_client, "room")) == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_a_command_that_is_stopped_while_it_probes_takes_its_probes_back(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    start_process: StartProcess,
    number: signal.Signals,
    code: int,
) -> None:
    dead = await start_process("room", count=2)
    before = dump(redis_client)
    for argv in (("channels_groups", "--probe-timeout", "60"), ("reap_stale", "--probe-timeout", "60")):
        with started(redis_server, *argv) as process:
            await until(lambda: redis_client.zcard(dead.inbox_key) == 1)
            process.send_signal(number)
            out, err = await asyncio.to_thread(process.communicate, timeout=20)
        assert (process.returncode, out, err) == (code, "", "")
        assert dump(redis_client) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_a_command_that_waits_for_a_writer_of_its_file_can_be_stopped(
    redis_server: EmbeddedRedis, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with started(redis_server, "replay_disconnects", str(fifo)) as process:
        open_files = Path(f"/proc/{process.pid}/fd")
        await until(lambda: fifo in [file.resolve() for file in open_files.iterdir()])
        process.send_signal(number)
        out, err = await asyncio.to_thread(process.communicate, timeout=20)
    assert (process.returncode, out, err) == (code, "", "")


async def test_watching_goes_on_until_it_is_interrupted(redis_server: EmbeddedRedis) -> None:
    argv = ("channels_groups", "--no-probe", "--watch", "0.1", "--format", "json")
    with started(redis_server, *argv) as process:
        assert process.stdout
        for _ in range(3):
            line = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 30)
            assert line.startswith('{"schema_version": 1')
        process.send_signal(signal.SIGINT)
        _, err = await asyncio.to_thread(process.communicate, timeout=20)
    assert (process.returncode, err) == (0, "")


def test_watching_on_a_terminal_says_which_shard_is_missing(start_redis: StartRedis) -> None:
    server = start_redis()
    with redis.Redis.from_url(server.url) as client:
        add_members(client, "room", ["general"])
    with on_a_new_terminal(server, "channels_groups", "--no-probe", "--watch", "0.1") as (process, read):
        assert_is_said("room", read)
        server.kill()
        assert_is_said("cannot be used", read)
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in "".join(iter(read, ""))
        assert process.wait(20) == 0


def test_a_command_asks_nothing_and_reads_no_input(redis_server: EmbeddedRedis) -> None:
    began = time.monotonic()
    with started(redis_server, "reap_stale", *PROBE, stdin=subprocess.PIPE) as process:
        assert process.wait(30) == 0
    assert time.monotonic() - began < 20
