"""Lets `manage.py runjobs minutely` of django-extensions reap, for projects that schedule their chores that way."""

import logging

from django.core.management import CommandError
from django_extensions.management.jobs import MinutelyJob

from ops import api
from ops.exceptions import AnotherRunHoldsTheLock, OpsError
from ops.management.exit_codes import ExitCode, exit_code_of
from ops.output.lines import reap_line

logger = logging.getLogger("ops.jobs")


class Job(MinutelyJob):
    """Reaps the default layer. `runjobs` goes on to other jobs after an Exception."""

    help = "Remove the members of dead processes from the groups of the default channel layer (reap_stale)."

    def execute(self) -> None:
        """Log to ``ops.jobs`` what the run did: at info when it did its work, at warning after a safety stop.

        Raises CommandError when it could not run, after logging that as an error. A run that finds another one at work
        says nothing.
        """
        try:
            report = api.reap()
        except AnotherRunHoldsTheLock:
            return
        except OpsError as error:
            raise _failed(str(error), exit_code_of(error)) from None
        if not report.complete:
            raise _failed(reap_line(report), ExitCode.COULD_NOT_RUN)
        level = logging.WARNING if report.stopped or report.findings else logging.INFO
        logger.log(level, "reap_stale: %s", "; ".join([reap_line(report), *report.findings]))


def _failed(why: str, code: ExitCode) -> CommandError:
    logger.error("reap_stale could not run: %s", why)
    return CommandError(why, returncode=code)
