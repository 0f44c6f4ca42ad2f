"""Starts one process and writes what it took: ``python -I -S launcher.py FD PROGRAM …``.

Linux counts the memory of whoever starts a process in that process's own peak. This starter imports next to nothing,
so that its share is smaller than any interpreter that is measured.
"""

import os
import sys
import time


def main(descriptor: str, *argv: str) -> None:
    began = time.perf_counter()
    _, status, usage = os.wait4(os.posix_spawnp(argv[0], argv, os.environ), 0)
    wall = time.perf_counter() - began
    code = os.waitstatus_to_exitcode(status)
    os.write(int(descriptor), f"{code} {wall!r} {usage.ru_utime + usage.ru_stime!r} {usage.ru_maxrss}".encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
