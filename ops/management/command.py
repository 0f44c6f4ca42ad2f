"""What all commands share: options, streams, exit codes, signals. The commands themselves are thin."""

import asyncio
import contextlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from channels import DEFAULT_CHANNEL_LAYER
from django.core.management.base import BaseCommand, CommandError, CommandParser, OutputWrapper
from redis.exceptions import RedisError

from ops import compat
from ops.api import Progress, no_progress
from ops.checks import TAG
from ops.exceptions import OpsError, OutputLost
from ops.management.exit_codes import ExitCode, exit_code_of

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

T = TypeVar("T")
PROGRESS_AFTER_SECONDS = 1.0
UNFOLDED = 1_000_000  # columns


class OpsCommand(BaseCommand):
    """A command whose ``run`` returns its exit code. OpsError becomes one line on stderr and its own exit code."""

    requires_system_checks = (TAG,)
    formats: Sequence[str] = ("table", "json")

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--layer",
            default=DEFAULT_CHANNEL_LAYER,
            metavar="ALIAS",
            help="the channel layer, a key of CHANNEL_LAYERS (default: %(default)s)",
        )
        parser.add_argument(
            "--format", choices=self.formats, default="table", help="how to print the answer (default: %(default)s)"
        )

    def check(self, *args: Any, **options: Any) -> None:
        """The API refuses settings that cannot work. Warnings are for ``manage.py check``, not for each run."""

    def run(self, **options: Any) -> int:
        raise NotImplementedError

    def execute(self, *args: Any, **options: Any) -> Any:
        if os.environ.get("NO_COLOR") and not options["force_color"]:  # https://no-color.org
            options["no_color"] = True
        return super().execute(*args, **options)

    def handle(self, *args: Any, **options: Any) -> None:
        _escape_what_cannot_be_encoded()
        try:
            with self.reaching_stdout():
                code = self.run(**options)
        except OpsError as error:
            raise CommandError(str(error), returncode=exit_code_of(error)) from None
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
        except BrokenPipeError:  # Whoever read our output has seen enough.
            code = ExitCode.PIPE_CLOSED
        if code:
            raise SystemExit(code)

    def run_async(self, work: Awaitable[T]) -> T:
        """Run ``work``; SIGTERM cancels it, so that it cleans up behind itself as it does on Ctrl-C."""

        async def main() -> T:
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            assert task is not None
            loop.set_exception_handler(_report_unheard)
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(signal.SIGTERM, task.cancel)
            return await work

        before = signal.getsignal(signal.SIGTERM)
        try:
            return asyncio.run(main())
        except asyncio.CancelledError:
            raise SystemExit(ExitCode.TERMINATED) from None
        finally:
            # The loop leaves the default behind, and whoever called the command may have had one of its own.
            if before is not None and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)

    # Output

    @contextlib.contextmanager
    def reaching_stdout(self) -> Iterator[None]:
        """What is written within has been written at the end, not left for the exit of the process. Raises OutputLost
        where it cannot be."""
        stdout = self.stdout
        stream: Any = _Stdout(compat.stream_of(stdout))
        self.stdout = OutputWrapper(stream)
        try:
            yield
            self.stdout.flush()
        except BaseException:
            with contextlib.suppress(OutputLost, BrokenPipeError):  # What it ends with already matters more.
                self.stdout.flush()
            raise
        finally:
            self.stdout = stdout

    def write(self, text: str) -> None:
        self.stdout.write(text, ending="" if text.endswith("\n") else "\n")

    def warn(self, text: str) -> None:
        self.stderr.write(self.style.WARNING(text))

    def is_for_a_terminal(self, options: dict[str, Any]) -> bool:
        """Whether lines are folded and lists are cut to what a screen holds. Programs get whole lines, and all."""
        return bool(options["force_color"]) or self.stdout.isatty()

    def console(self, options: dict[str, Any], *, stderr: bool = False) -> "Console":
        from rich.console import Console

        # Django's wrapper styles and ends each write as a line of its own, which tears what rich draws in place.
        stream: Any = compat.stream_of(self.stderr if stderr else self.stdout)
        return Console(
            file=stream,
            color_system=None if options["no_color"] else "auto",
            force_terminal=True if options["force_color"] else None,
            width=None if stderr or self.is_for_a_terminal(options) else UNFOLDED,
            soft_wrap=False,
        )

    def print(self, options: dict[str, Any], report: "RenderableType") -> None:
        self.console(options).print(report, markup=False, highlight=False, emoji=False)

    @contextlib.contextmanager
    def progress(self, options: dict[str, Any]) -> Iterator[Progress]:
        """A bar on stderr that says how far the work is, once it has taken a second and where a person looks."""
        if options["verbosity"] == 0 or not self.stderr.isatty():
            yield no_progress
            return
        bar = _ProgressBar(lambda: self.console(options, stderr=True))
        try:
            yield bar.update
        finally:
            bar.close()


def _report_unheard(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Say what a task died of that nobody waits for, but not where Redis went away: whoever waits for an answer of it
    says so in one line. channels_redis tidies up behind each message in such a task (``receive_cleaners``)."""
    if not isinstance(context.get("exception"), (RedisError, OSError)):
        loop.default_exception_handler(context)


class _Stdout:
    """The stream that a command writes to, whose failures are told from those of all else that can be an OSError.

    None where the process was started without one (``>&-``).
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> None:
        with self._naming_failures():
            self._stream.write(text)

    def flush(self) -> None:
        with self._naming_failures():
            self._stream.flush()

    @contextlib.contextmanager
    def _naming_failures(self) -> Iterator[None]:
        if self._stream is None:
            raise OutputLost("standard output cannot be written: it is closed")
        try:
            yield
        except OSError as error:
            if self._stream is sys.stdout:  # What it still holds would be tried once more at the exit of the process.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if isinstance(error, BrokenPipeError):
                raise
            raise OutputLost(f"standard output cannot be written: {error.strerror or error}") from None


def _escape_what_cannot_be_encoded() -> None:
    """A name may hold any script, and a terminal or a pipe may be set up for one only."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _ProgressBar:
    """A bar with counts; how much is left is not known, so it pulses. The library is loaded when there is need."""

    def __init__(self, console: Callable[[], "Console"]) -> None:
        self._console = console
        self._started = time.monotonic()
        self._bar: Any = None

    def update(self, what: str, groups: int, members: int) -> None:
        if time.monotonic() - self._started < PROGRESS_AFTER_SECONDS:
            return
        if self._bar is None:
            self._bar = self._draw()
        counts = f"{groups:,} groups, {members:,} members" if groups or members else ""
        self._bar.update(self._bar.task_ids[0], description=what, counts=counts)

    def _draw(self) -> Any:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[counts]}"))
        bar = Progress(*columns, TimeElapsedColumn(), console=self._console(), transient=True)
        bar.add_task("", total=None, counts="")
        bar.start()
        return bar

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
