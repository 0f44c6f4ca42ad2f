import argparse
from typing import Any

from django.core.management.base import CommandParser

from ops import api
from ops.management.command import OpsCommand
from ops.management.exit_codes import ExitCode
from ops.model.doctor.diagnosis import CHECKS, IDS, Diagnosis
from ops.model.doctor.findings import LEVELS


class Command(OpsCommand):
    help = "Say what is wrong with a channel layer: the cause, the evidence, and the setting or command that fixes it."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--fail-level",
            choices=LEVELS,
            default="warning",
            help="exit 3 where a finding is of this level or above it (default: %(default)s)",
        )
        parser.add_argument("--list", action="store_true", help="list what can be found, and examine nothing")
        parser.add_argument(
            "--only", type=_finding_ids, default=IDS, metavar="ID[,ID…]", help="only these findings (default: all)"
        )
        super().add_arguments(parser)

    def run(self, **options: Any) -> int:
        if options["list"]:
            self._list(options)
            return ExitCode.DONE
        diagnosis = self._examine(options)
        if options["format"] == "json":
            from ops.output.documents import diagnosis_document, dump

            self.write(dump(diagnosis_document(diagnosis)))
        else:
            from ops.output.diagnosis import diagnosis_report

            self.print(options, diagnosis_report(diagnosis))
        for problem in diagnosis.problems:
            self.warn(problem)
        if not diagnosis.complete and not (diagnosis.answered and diagnosis.findings):
            return ExitCode.COULD_NOT_RUN
        failing = LEVELS[LEVELS.index(options["fail_level"]) :]
        failed = any(finding.level in failing for finding in diagnosis.findings)
        return ExitCode.FOUND_SOMETHING if failed else ExitCode.DONE

    def _examine(self, options: dict[str, Any]) -> Diagnosis:
        with self.progress(options) as progress:
            progress("examining", 0, 0)
            return self.run_async(api.adiagnose(only=options["only"], layer=options["layer"]))

    def _list(self, options: dict[str, Any]) -> None:
        checks = [check for check in CHECKS if check.id in options["only"]]
        if options["format"] == "json":
            from ops.output.documents import checks_document, dump

            self.write(dump(checks_document(checks)))
        else:
            from ops.output.diagnosis import checks_table

            self.print(options, checks_table(checks))


def _finding_ids(text: str) -> tuple[str, ...]:
    """Ids of findings, separated by commas."""
    chosen = tuple(text.split(","))
    unknown = [name for name in chosen if name not in IDS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!a} is no id of a finding; --list shows them")
    return chosen
