"""Real application servers as child processes, to be used and then killed, stopped or frozen."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

from project.owned_process import OwnedProcess, delete_folder, free_port, make_folder
from project.polling import came_true

Kind = Literal["daphne", "uvicorn", "gunicorn", "hypercorn", "granian"]

REPOSITORY = Path(__file__).resolve().parent.parent
PORT_ATTEMPTS = 3
# Without OpsMiddleware, or there would be little to find and to remove.
LOGGED = "project.asgi:logged_application"
WITH_OPS_MIDDLEWARE = "project.asgi:application"
LISTENING = "0A"  # in /proc/net/tcp


class WorkerNotReady(RuntimeError):
    """The server ended, or does not listen after the time allowed; the message ends with what it wrote."""


class Worker:
    """One server that serves `asgi` on a free port of 127.0.0.1: with gunicorn and Granian a child of it does.

    `env` adds to this process's environment; `asgi` is `module:name`, found from `cwd`; `arguments` go to the server,
    which is run by the interpreter `python`.
    As a context manager it is started and ready, and gone at the end.
    """

    def __init__(
        self,
        kind: Kind,
        *,
        env: Mapping[str, str] | None = None,
        asgi: str = LOGGED,
        cwd: Path = REPOSITORY,
        arguments: Sequence[str] = (),
        python: str = sys.executable,
    ) -> None:
        self.kind = kind
        self.asgi = asgi
        self.cwd = cwd
        self.arguments = tuple(arguments)
        self.python = python
        self.env = {"DJANGO_SETTINGS_MODULE": "project.settings", **os.environ, **(env or {})}
        self._port: int | None = None
        self._folder: Path | None = None
        self._process: OwnedProcess | None = None

    def __enter__(self) -> Worker:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Worker {self.kind} port={self._port} pid={self._process.pid if self._process else None}>"

    @property
    def process(self) -> OwnedProcess:
        assert self._process is not None, "not started"
        return self._process

    @property
    def port(self) -> int:
        assert self._port is not None, "not started"
        return self._port

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def returncode(self) -> int | None:
        return self.process.returncode

    @property
    def log_path(self) -> Path:
        return self.process.log_path

    def output(self) -> str:
        """Everything the server has written so far, access log included."""
        return self.process.output()

    def start(self) -> Worker:
        """Start the process and return at once; `wait_ready()` waits, so that several can start side by side."""
        self._folder = self._folder or make_folder("worker-")
        self._port = free_port()
        self._process = OwnedProcess(
            self._command(self._port), log_path=self._folder / f"{self.kind}.log", env=self.env, cwd=self.cwd
        )
        return self

    def _command(self, port: int) -> list[str]:
        host, address = "127.0.0.1", str(port)
        own: dict[Kind, list[str]] = {
            "daphne": ["-b", host, "-p", address],
            # Without --workers or --reload, uvicorn is one process. The other implementation of the protocol on top of
            # the websockets library uses a part of it that calls itself deprecated.
            "uvicorn": ["--host", host, "--port", address, "--ws", "websockets-sansio", "--no-use-colors"],
            "gunicorn": ["-b", f"{host}:{address}", "-k", "uvicorn_worker.UvicornWorker", "--no-control-socket"],
            "hypercorn": ["-b", f"{host}:{address}", "-w", "0"],  # no children
            "granian": ["--interface", "asgi", "--host", host, "--port", address],
        }
        return [self.python, "-m", self.kind, *own[self.kind], *self.arguments, self.asgi]

    def wait_ready(self, timeout_seconds: float = 120) -> Worker:
        """Return when the port accepts connections. Raises WorkerNotReady with what the server wrote."""
        attempts_left = PORT_ATTEMPTS - 1

        def is_ready() -> bool:
            nonlocal attempts_left
            if self.running:
                return self._accepts_connections()
            if not attempts_left or "ddress already in use" not in self.output():
                raise WorkerNotReady(f"{self!r} ended with exit code {self.returncode}:\n{self.output()}")
            attempts_left -= 1
            self.log_path.unlink()
            self.start()
            return False

        if not came_true(is_ready, timeout_seconds):
            raise WorkerNotReady(f"{self!r} does not listen after {timeout_seconds:g} s:\n{self.output()}")
        return self

    def _accepts_connections(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return self.running and (self.kind == "granian" or self._listens_itself())

    def _listens_itself(self) -> bool:
        """Whether it is not another process that was faster to take the port. Only Linux tells."""
        try:
            sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            mine = {os.readlink(descriptor) for descriptor in Path(f"/proc/{self.pid}/fd").iterdir()}
        except OSError:
            return not Path("/proc/net/tcp").exists()
        inodes = [fields[9] for fields in sockets if fields[3] == LISTENING and fields[1].endswith(f":{self.port:04X}")]
        return any(f"socket:[{inode}]" in mine for inode in inodes)

    def kill(self) -> int:
        """SIGKILL, as the kernel does when memory runs out. Returns the exit code."""
        return self.process.kill()

    def terminate(self, timeout_seconds: float = 15) -> int:
        """SIGTERM, as an ordinary deploy does, and wait for the end. Returns the exit code."""
        return self.process.terminate(timeout_seconds)

    def freeze(self) -> None:
        """SIGSTOP: alive, connected, doing nothing."""
        self.process.freeze()

    def thaw(self) -> None:
        self.process.thaw()

    def close(self) -> None:
        """End it if it still runs, and delete its log. Harmless when it was never started."""
        if self.running:
            self.kill()
        if self._folder is not None:
            delete_folder(self._folder)
            self._folder = None


def start_together(workers: Iterable[Worker]) -> list[Worker]:
    """Start all, then wait for all: as fast as the slowest. When one fails, none of them stays."""
    together = list(workers)
    try:
        for worker in together:
            worker.start()
        for worker in together:
            worker.wait_ready()
    except BaseException:
        for worker in together:
            worker.close()
        raise
    return together
