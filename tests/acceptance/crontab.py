"""Commands as cron runs them: `/bin/sh`, nearly no environment, no terminal, nobody who answers."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.conftest import CommandResult

CRON_ENVIRONMENT = ("HOME=/", "LOGNAME=nobody", "SHELL=/bin/sh", "PATH=/usr/bin:/bin")
TIMEOUT_SECONDS = 120


def run_as_cron(line: str) -> CommandResult:
    """Run the command of a crontab line. When it has ended, nothing that it started may still run."""
    with subprocess.Popen(
        ["env", "-i", *CRON_ENVIRONMENT, "sh", "-c", line],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as job:
        try:
            out, err = job.communicate(timeout=TIMEOUT_SECONDS)
        except BaseException:
            os.killpg(job.pid, 9)
            raise
    with pytest.raises(ProcessLookupError):
        os.killpg(job.pid, 0)
    return CommandResult(out, err, job.returncode)
