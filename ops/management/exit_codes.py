"""With which codes the commands end. ``channels_groups --check`` ends with those of monitoring plugins instead."""

import signal
from enum import IntEnum

from ops.exceptions import AnotherRunHoldsTheLock, InvalidArguments, OpsError


class ExitCode(IntEnum):
    """What a script may rely on. The codes from 128 on are those of a shell, for a process that a signal ended."""

    DONE = 0
    COULD_NOT_RUN = 1
    BAD_USAGE = 2
    FOUND_SOMETHING = 3  # orphans, silent members, findings, a safety stop
    TRY_LATER = 75  # EX_TEMPFAIL of sysexits.h: another run is at work
    INTERRUPTED = 128 + signal.SIGINT
    PIPE_CLOSED = 128 + signal.SIGPIPE
    TERMINATED = 128 + signal.SIGTERM


def exit_code_of(error: OpsError) -> ExitCode:
    """The code with which a command ends that raised ``error``."""
    if isinstance(error, InvalidArguments):
        return ExitCode.BAD_USAGE
    return ExitCode.TRY_LATER if isinstance(error, AnotherRunHoldsTheLock) else ExitCode.COULD_NOT_RUN
