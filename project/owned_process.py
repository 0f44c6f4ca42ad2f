"""Child processes that are stopped by whoever started them, whatever happens to the starter."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody held a moment ago. Another process may be faster: be ready to try again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Guardian:
    """Tells the guardian process what to end and delete when this process is gone. It is started at the first need."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def tell(self, verb: str, kind: str, name: object) -> None:
        with self._lock:
            pipe = self._pipe()
            # A guardian that somebody killed cannot guard, but that is no reason to fail what it would have guarded.
            with contextlib.suppress(BrokenPipeError):
                pipe.write(f"{verb} {kind} {name}\n".encode())
                pipe.flush()

    def _pipe(self) -> IO[bytes]:
        if self._process is None:
            script = Path(__file__).with_name("guardian.py")
            # In a session of its own: a Ctrl-C in the terminal must not end the one that cleans up after it.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(script)], stdin=subprocess.PIPE, start_new_session=True
            )
            atexit.register(self.dismiss)
        assert self._process.stdin is not None
        return self._process.stdin

    def dismiss(self) -> None:
        """Let the guardian do its work and wait for it: nothing of ours is left when the interpreter has ended."""
        if self._process is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.communicate(timeout=10)


_guardian = Guardian()


def make_folder(prefix: str) -> Path:
    """A temporary folder that is deleted with `delete_folder`, or else when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    _guardian.tell("guard", "folder", folder)
    return folder


def delete_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _guardian.tell("release", "folder", folder)


class OwnedProcess:
    """A running child in a session of its own, with its output in a file; it never outlives this process.

    The separate session keeps a Ctrl-C in the terminal away from it, so that its owner can stop things in order.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log_path: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.log_path = log_path
        with log_path.open("ab") as log:
            self._popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=cwd,
                start_new_session=True,
            )
        _guardian.tell("guard", "process", self.pid)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative is the signal that ended it."""
        return self._popen.poll()

    @property
    def running(self) -> bool:
        return self.returncode is None

    def includes(self, pid: int) -> bool:
        """Whether that process is this one or a child that is in its session."""
        try:
            return os.getsid(pid) == self.pid
        except ProcessLookupError:
            return False

    def output(self) -> str:
        """Everything it has written to stdout and stderr so far."""
        return self.log_path.read_text(errors="replace")

    def wait(self, timeout_seconds: float) -> int:
        """Wait for its end. Raises TimeoutError when it goes on for longer."""
        try:
            returncode = self._popen.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"process {self.pid} is still running after {timeout_seconds:g} s") from None
        _guardian.tell("release", "process", self.pid)
        return returncode

    def kill(self) -> int:
        """SIGKILL, to its children too: no handler runs. Returns the exit code."""
        self._signal_all(signal.SIGKILL)
        return self.wait(10)

    def terminate(self, timeout_seconds: float = 15) -> int:
        """SIGTERM, as a service manager would, and SIGKILL plus TimeoutError when that did not help in time."""
        self.thaw()
        self._popen.terminate()
        try:
            return self.wait(timeout_seconds)
        except TimeoutError:
            self.kill()
            raise

    def freeze(self) -> None:
        """SIGSTOP, to its children too: it lives and keeps its connections but does nothing.

        Returns when it has really stopped.
        """
        if not self.running:
            return
        self._signal_all(signal.SIGSTOP)
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """SIGCONT, to its children too; harmless for a process that was not frozen."""
        if self.running:
            self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)
