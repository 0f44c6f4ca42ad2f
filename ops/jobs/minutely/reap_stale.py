"""Lets `manage.py runjobs minutely` of django-extensions reap, for projects that schedule their chores that way."""

import logging
from io import StringIO

from django.core.management import CommandError, call_command
from django_extensions.management.jobs import MinutelyJob

logger = logging.getLogger("ops.jobs")

DONE = 0
SAFETY_STOP = 3
ANOTHER_RUN_HOLDS_THE_LOCK = 75


class Job(MinutelyJob):
    """Reaps the default layer. `runjobs` goes on to other jobs after an Exception, but would end at a SystemExit."""

    help = "Remove the members of dead processes from the groups of the default channel layer (reap_stale)."

    def execute(self) -> None:
        """Log what the run said to ``ops.jobs``: at info when it did its work, warning at a safety stop.

        Raises CommandError when it could not run, after logging that as an error. A run that finds another one at work
        says nothing.
        """
        code, said = run_command("reap_stale")
        if code == DONE:
            logger.info("reap_stale: %s", said)
        elif code == SAFETY_STOP:
            logger.warning("reap_stale removed nothing: %s", said)
        elif code != ANOTHER_RUN_HOLDS_THE_LOCK:
            logger.error("reap_stale ended with exit code %d: %s", code, said)
            raise CommandError(said, returncode=code)


def run_command(name: str) -> tuple[int, str]:
    """Run a management command in this process; return its exit code and all that it printed or raised."""
    output = StringIO()
    try:
        call_command(name, stdout=output, stderr=output, no_color=True)
    except CommandError as error:
        output.write(str(error))
        return error.returncode, output.getvalue().strip()
    except SystemExit as end:
        return exit_code(end), output.getvalue().strip()
    return DONE, output.getvalue().strip()


def exit_code(end: SystemExit) -> int:
    """As the interpreter reads it: None is success, and a message is exit code 1."""
    if end.code is None:
        return DONE
    return end.code if isinstance(end.code, int) else 1
