"""Management commands that are stopped or killed at a chosen write to Redis, many of them, one after the other.

    async with Interruptible(REDIS_URL=…) as commands:
        ended = await commands.run("reap_stale", interrupt=Interrupt(nth=5, when="before"))

`python -m tests.acceptance.interrupted_command` is the process behind it: it loads Django once and forks for each run.
It reads requests and writes answers, one JSON object per line:

    {"argv": ["reap_stale"], "interrupt": {"nth": 5, "since": null, …, "signal": 9}, "broken": false}
    {"returncode": -9, "writes": ["PING", …], "out": "…", "err": "…"}      it has ended
    {"stopped": true}                                                      it waits for {"continue": true}
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import IO, Any, Literal

from project.workers import REPOSITORY

READY = {"ready": True}
When = Literal["before", "after"]
READS = "EXISTS HGETALL HMGET LLEN LRANGE SCAN TTL ZCARD ZRANGE ZREVRANGE ZSCORE"
QUESTIONS = frozenset(f"CLIENT HELLO INFO PING TIME {READS}".split())


@dataclass(frozen=True)
class Interrupt:
    """At which write to Redis, and by which signal.

    It is the `nth` one from 1, counted from the first one with the words `since` in it where they are given. Unless
    `questions` count too, only what may change something in Redis does: to die before a question is to die after the
    change that went before it.
    """

    nth: int = 1
    since: str | None = None
    questions: bool = False
    when: When = "before"
    signal: int = signal.SIGKILL


@dataclass(frozen=True)
class Ended:
    """How a run ended. `writes`: the first command of each write that was begun."""

    returncode: int
    writes: list[str]
    out: str
    err: str


class Interruptible:
    """Runs one command at a time, in forks of a process that has loaded Django already. `env` adds to ours."""

    def __init__(self, **env: str) -> None:
        self.settings = env
        self._env = {**os.environ, "DJANGO_SETTINGS_MODULE": "project.settings", **env}
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Interruptible:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.acceptance.interrupted_command",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=REPOSITORY,
            env=self._env,
            limit=1 << 24,
        )
        assert await self._answer() == READY
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    async def run(self, *argv: str, interrupt: Interrupt | None = None, broken: bool = False) -> Ended:
        """Run it to its end, which may be the interrupt. `broken`: as a control, see `separate_receipt_from_removal`"""
        return Ended(**await self._ask(argv=argv, interrupt=interrupt and asdict(interrupt), broken=broken))

    async def run_until_stopped(self, *argv: str, words: str, nth: int = 1, questions: bool = True) -> None:
        """Run it, and hold it right before the first write with these words, or later; `go_on()` lets it continue."""
        interrupt = Interrupt(nth=nth, since=words, questions=questions, signal=signal.SIGSTOP)
        answer = await self._ask(argv=argv, interrupt=asdict(interrupt), broken=False)
        assert answer == {"stopped": True}, answer

    async def go_on(self) -> Ended:
        return Ended(**await self._ask(**{"continue": True}))

    async def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        return await self._answer()

    async def _answer(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), 120)
        answer: dict[str, Any] = json.loads(line)
        return answer


# What follows runs in the other process.


class Interrupter:
    """Sees every write to Redis, notes it, and sends this process the signal at the chosen one."""

    def __init__(self, interrupt: dict[str, Any] | None, trace: IO[bytes]) -> None:
        self._interrupt = interrupt
        self._since: str | None = interrupt["since"] if interrupt else None
        self._ignored = frozenset() if interrupt and interrupt["questions"] else QUESTIONS
        self._trace = trace
        self._counted = 0

    def install(self) -> None:
        """At the two places where commands leave the process."""
        from redis.asyncio.connection import AbstractConnection

        from ops.store.connection.wire import Wire

        send_packed_command, send = AbstractConnection.send_packed_command, Wire.send

        async def send_packed(connection: Any, command: Any, *args: Any, **kwargs: Any) -> None:
            nth = self._begin(_bytes(command))
            await send_packed_command(connection, command, *args, **kwargs)
            self._act(nth, "after")

        async def send_on_wire(wire: Wire, packed: bytes) -> None:
            nth = self._begin(packed)
            await send(wire, packed)
            self._act(nth, "after")

        AbstractConnection.send_packed_command = send_packed
        Wire.send = send_on_wire

    def _begin(self, packed: bytes) -> int:
        """Note a write; returns its number, 0 if it does not count."""
        if not packed:  # a last page without a key
            return 0
        command = packed.split(b"\r\n", 3)[2]
        self._trace.write(command + b"\n")
        self._trace.flush()
        if self._since is not None and self._since.encode() in packed:
            self._since = None
        if self._since is not None or command.decode() in self._ignored:
            return 0
        self._counted += 1
        self._act(self._counted, "before")
        return self._counted

    def _act(self, nth: int, when: str) -> None:
        wanted = self._interrupt
        if wanted and (wanted["nth"], wanted["when"]) == (nth, when):
            self._interrupt = None
            os.kill(os.getpid(), wanted["signal"])


def _bytes(command: bytes | str | Iterable[bytes]) -> bytes:
    if isinstance(command, str):
        return command.encode()
    return command if isinstance(command, bytes) else b"".join(command)


def separate_receipt_from_removal() -> None:
    """Break the purge the way it must not be: the receipt is written by a second command, after the removal."""
    from ops.store.connection.scripts import Script, script
    from ops.store.connection.wire import pack
    from ops.store.removal import journal

    write_receipt, returned = b"call('RPUSH', KEYS[1], receipt)", b"return {at - #kept, kept}"
    whole = script("purge_members").source
    assert write_receipt in whole
    assert returned in whole
    source = whole.replace(write_receipt, b"").replace(returned, b"return {at - #kept, kept, receipt}")
    sha = hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()

    async def collect(purge: Any, calls: int) -> None:
        for _, kept, receipt in await purge._wire.replies(calls):
            await purge._wire.send(pack(b"RPUSH", purge._journal, receipt))
            await purge._wire.replies(1)
            purge.tally.note(purge._under_way.popleft(), kept)

    journal.script = lambda _: Script(source, sha)
    journal.Remover._collect = collect


class Run:
    """One command in a fork of this process, with its output in files."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._out, self._err, self._trace = (_nameless_file() for _ in range(3))
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            self._become_the_command(request)

    def _become_the_command(self, request: dict[str, Any]) -> None:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(self._out.fileno(), 1)
            os.dup2(self._err.fileno(), 2)
            code = _run_command(request, self._trace)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def answer(self) -> dict[str, Any]:
        """Wait until it ends or stops."""
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            return {"stopped": True}
        self.pid = 0
        out, err, trace = (self._text(file) for file in (self._out, self._err, self._trace))
        code = os.waitstatus_to_exitcode(status)
        return {"returncode": code, "writes": trace.split(), "out": out, "err": err}

    @staticmethod
    def _text(file: IO[bytes]) -> str:
        with file:
            file.seek(0)
            return file.read().decode()


def _nameless_file() -> IO[bytes]:
    """Open in both processes for as long as the command runs; whoever reads it closes it."""
    return tempfile.TemporaryFile()


def _run_command(request: dict[str, Any], trace: IO[bytes]) -> int:
    from django.core.management import execute_from_command_line

    if request["broken"]:
        separate_receipt_from_removal()
    Interrupter(request["interrupt"], trace).install()
    try:
        execute_from_command_line(["manage.py", *request["argv"]])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def load() -> None:
    """Whatever a run needs, before the first fork. No thread and no event loop may exist by then."""
    import django

    django.setup()
    for name in ("ops.management.commands.reap_stale", "ops.output.documents", "ops.output.tables"):
        importlib.import_module(name)


def say(document: Any) -> None:
    """One line to the test that has started this process."""
    sys.stdout.write(f"{json.dumps(document)}\n")
    sys.stdout.flush()


def main() -> None:
    load()
    run: Run | None = None
    say(READY)
    for line in sys.stdin:
        request = json.loads(line)
        if run is not None and run.pid:
            os.kill(run.pid, signal.SIGCONT)
        else:
            run = Run(request)
        say(run.answer())
    if run is not None and run.pid:
        os.kill(run.pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
