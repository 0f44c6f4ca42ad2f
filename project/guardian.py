"""A process that outlives its parent by a moment, to end and delete what the parent left behind.

It is told on stdin what the parent has started, and acts when stdin ends: however the parent went, even by SIGKILL,
the kernel closes its pipes. The parent-death signal of Linux would be shorter, but it fires when the *thread* that
started the child ends, exists nowhere else, and needs a hook between fork and exec that is not safe with threads.

One line per message: `guard process 123`, `release process 123`, `guard folder /tmp/x`, `release folder /tmp/x`.
"""

import contextlib
import os
import shutil
import signal
import sys


class ProcessHandle:
    """Names one process; where the system has pidfds, never another one that was given the same number later."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None

    def kill(self) -> None:
        if os.getpgid(self.pid) == self.pid:  # Its children go with it.
            os.killpg(self.pid, signal.SIGKILL)
        elif self.pidfd is None:
            os.kill(self.pid, signal.SIGKILL)
        else:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        if self.pidfd is not None:
            os.close(self.pidfd)


def main() -> None:
    processes: dict[str, ProcessHandle] = {}
    folders: set[str] = set()
    for line in sys.stdin:
        verb, kind, name = line.rstrip("\n").split(" ", 2)
        if (verb, kind) == ("guard", "process"):
            with contextlib.suppress(ProcessLookupError):
                processes[name] = ProcessHandle(int(name))
        elif (verb, kind) == ("release", "process"):
            if handle := processes.pop(name, None):
                handle.close()
        elif verb == "guard":
            folders.add(name)
        else:
            folders.discard(name)

    for handle in processes.values():
        with contextlib.suppress(ProcessLookupError):
            handle.kill()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
