"""The demo, as somebody sees it who has never seen the product."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from project.embedded_redis import EmbeddedRedis
from tests.conftest import REPOSITORY, RunCommand

SOCKETS = "40"


@contextmanager
def running_demo(*options: str, redis_url: str | None = None) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "manage.py", "demo", "--sockets", SOCKETS, *options]
    env = {**os.environ, "REDIS_URL": redis_url or "", "COLUMNS": "200"}
    both = subprocess.PIPE, subprocess.STDOUT
    with subprocess.Popen(argv, cwd=REPOSITORY, env=env, stdout=both[0], stderr=both[1], text=True) as demo:
        try:
            yield demo
        finally:
            demo.kill()


def read_until(demo: subprocess.Popen[str], words: str) -> str:
    """What the demo prints up to the line with these words. It must come: otherwise the output ends, and the test."""
    assert demo.stdout is not None
    seen = ""
    for line in demo.stdout:
        seen += line
        if words in line:
            return seen
    pytest.fail(f"{words!r} is not in:\n{seen}")


def workers_in(output: str) -> list[int]:
    return [int(pid) for pid in re.findall(r"^(?:uvicorn|daphne) +(\d+) ", output, re.MULTILINE)]


def numbers_of(layer: str, output: str) -> list[int]:
    """Of the sockets of this layer before Redis restarted: all, those still open, the members, those that heard."""
    [row] = re.findall(rf"^{layer}((?: +\d+){{4}}) *$", output, re.MULTILINE)
    return [int(number) for number in row.split()]


def assert_gone(pids: list[int]) -> None:
    assert len(pids) == 5
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_demo_removes_every_orphan_and_no_survivor_and_the_drop_in_layer_outlives_redis(
    redis_server: EmbeddedRedis, run_command: RunCommand
) -> None:
    done = run_command("demo", "--sockets", SOCKETS, env={"REDIS_URL": "", "COLUMNS": "200"}, timeout=400)
    assert done.returncode == 0, done.out + done.err
    counted = re.search(r"(\d+) of (\d+) surviving sockets received it; Redis lists (\d+) members", done.out)
    assert counted is not None
    assert len({*counted.groups()}) == 1
    assert f"Redis still lists {SOCKETS} members" in done.out
    assert re.search(r"renewed its lease .* pid \d+", done.out)
    assert re.search(r"renewed its lease .* pid \d+", done.out)
    after_restart = {layer: numbers_of(layer, done.out) for layer in ("stock", "drop-in")}
    had, *kept = after_restart["drop-in"]
    assert kept == [had, had, had]
    had_stock, _, *kept_by_stock = after_restart["stock"]  # One may be open still, in no group (see project/demo.py).
    assert (had_stock, kept_by_stock) == (int(counted[2]) - had, [0, 0])
    [(came, left)] = re.findall(r"^with OpsMiddleware +\d+ +(\d+) +(\d+) *$", done.out, re.MULTILINE)
    assert int(came) > 0
    assert left == "0"
    assert "Skipped" not in done.out
    assert "All as promised" in done.out
    assert_gone(workers_in(done.out))


def test_in_somebody_s_own_redis_it_stays_apart_and_leaves_nothing(
    redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    run_id = redis_client.info("server")["run_id"]
    redis_client.zadd("asgi:group:room.lobby", {"specific.theirs!1": 1})
    with running_demo("--keep", redis_url=redis_server.url) as demo:
        shown = read_until(demo, "New orphans")
        assert redis_client.dbsize() > 1
        assert "channels_groups --members" in shown
        assert "Skipped: a restart of Redis" in shown
        assert "Redis was away" not in shown
        [page] = re.findall(r"Chat page: (http://\S+/)", shown)
        with urllib.request.urlopen(page, timeout=10) as answer:
            assert "<title>Channels demo chat</title>" in answer.read().decode()
        demo.send_signal(signal.SIGINT)
        assert demo.wait(30) == 0
    assert redis_client.info("server")["run_id"] == run_id
    assert redis_client.keys() == [b"asgi:group:room.lobby"]
    assert redis_client.zcard("asgi:group:room.lobby") == 1
    assert_gone(workers_in(shown))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_stops_what_it_started(how: signal.Signals, redis_server: EmbeddedRedis) -> None:
    with running_demo() as demo:
        shown = read_until(demo, "members addressed")
        demo.send_signal(how)
        assert "Interrupted" in read_until(demo, "Interrupted")
        assert demo.wait(30) == 130
    assert_gone(workers_in(shown))


def test_a_redis_that_cannot_be_reached_is_one_line(run_command: RunCommand) -> None:
    done = run_command("demo", env={"REDIS_URL": "redis://:secret@127.0.0.1:1"})
    assert done.returncode == 1
    assert "REDIS_URL" in done.err
    assert done.err.count("\n") == 1
    assert "secret" not in done.err
