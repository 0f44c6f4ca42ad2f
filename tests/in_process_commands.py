"""Management commands with everything that `manage.py` does around them, without the time that a process takes."""

from __future__ import annotations

import asyncio
import io
from contextlib import redirect_stderr, redirect_stdout

from django.core.management import load_command_class

from ops.management.command import OpsCommand
from tests.conftest import CommandResult


def run_here(name: str, *argv: str) -> CommandResult:
    """The command with its output, its exit code and its one line for an error, on the settings of the test."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with redirect_stdout(out), redirect_stderr(err):
        command = load_command_class("ops", name)
        assert isinstance(command, OpsCommand)
        try:
            command.run_from_argv(["manage.py", name, *argv])
        except SystemExit as end:
            code = end.code or 0
    assert isinstance(code, int)
    return CommandResult(out.getvalue(), err.getvalue(), code)


async def run_beside(name: str, *argv: str) -> CommandResult:
    """As `run_here`, while the processes in this event loop go on."""
    return await asyncio.to_thread(run_here, name, *argv)
