"""Redis servers whose clock can be set while they run: for TIME, and for whatever expires."""

from __future__ import annotations

import shlex
import shutil
import struct
import subprocess
from pathlib import Path

from project.embedded_redis import find_redis_server

SOURCE = Path(__file__).parent / "skewed" / "redis_clock.c"
COMPILERS = ("cc", "gcc", "clang")
_SECONDS = struct.Struct("q")  # the C compiler's `long long`, as the library reads it


class SettableClock:
    """The clock of one server, started as `binary`. `can_be_set` only if this machine has a C compiler."""

    def __init__(self, folder: Path, name: str) -> None:
        self.binary = find_redis_server()
        self._file = folder / f"{name}.clock"
        self.can_be_set = (library := _library(folder)) is not None
        if library is not None:
            self._file.write_bytes(_SECONDS.pack(0))
            script = folder / f"{name}.sh"
            settings = [f"LD_PRELOAD={library}", f"CHAOS_CLOCK={self._file}"]
            words = " ".join(shlex.quote(word) for word in ["env", *settings, self.binary])
            script.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
            script.chmod(0o700)
            self.binary = str(script)

    def set_ahead(self, seconds: int) -> None:
        """Of the right time; negative is behind it, 0 right."""
        with self._file.open("r+b") as file:  # never truncated: the server has it mapped
            file.write(_SECONDS.pack(seconds))


def _library(folder: Path) -> Path | None:
    library = folder / "redis_clock.so"
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if not library.exists() and compiler is not None:
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE)]
        subprocess.run(command, check=True, timeout=60)
    return library if library.exists() else None
