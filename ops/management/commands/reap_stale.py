from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from ops import api
from ops.api import WAITING, Progress
from ops.conf import ops_settings
from ops.exceptions import InvalidArguments
from ops.management.arguments import seconds, share
from ops.management.command import OpsCommand
from ops.management.exit_codes import ExitCode
from ops.management.files import write_reap_metrics
from ops.model.runs import ReapReport, RunRecord, UndoReport
from ops.output.lines import safety_stop


class Command(OpsCommand):
    help = (
        "Remove the members of dead processes from the groups of a channel layer. Run it each minute: one run "
        "suspects, a later one confirms and removes, with a receipt for each member."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        defaults = ops_settings()
        parser.add_argument("--dry-run", action="store_true", help="go the same way and change nothing")
        parser.add_argument("--match", metavar="GLOB", help="only groups whose name matches this Redis glob")
        parser.add_argument(
            "--confirm-after",
            type=seconds,
            default=defaults.confirm_after_seconds,
            metavar="S",
            help="seconds that a process must stay silent before its members may go (default: %(default)g)",
        )
        parser.add_argument("--wait", action="store_true", help="suspect, wait, confirm and remove in this one run")
        parser.add_argument(
            "--probe-timeout",
            type=seconds,
            default=defaults.probe_timeout_seconds,
            metavar="S",
            help="seconds to wait for processes to take a probe (default: %(default)g)",
        )
        parser.add_argument(
            "--max-share",
            type=share,
            default=defaults.max_share,
            metavar="F",
            help="stop when more than this share of the live processes went silent at once (default: %(default)g); 1 "
            "also switches off the stop for a fleet of which no process was ever seen live",
        )
        parser.add_argument("--history", action="store_true", help="list the runs that can be undone")
        parser.add_argument("--undo", metavar="RUN_ID", help="put back what that run removed, where it is still absent")
        parser.add_argument(
            "--metrics-file", type=Path, metavar="PATH", help="write Prometheus metrics here (node_exporter textfile)"
        )
        super().add_arguments(parser)

    def run(self, **options: Any) -> int:
        _refuse_contradictions(options)
        if options["history"]:
            return self._show_history(self.run_async(api.ahistory(layer=options["layer"])), options)
        if options["undo"] is not None:
            with self.progress(options) as progress:
                undone = self.run_async(api.aundo(options["undo"], layer=options["layer"], progress=progress))
            return self._show_undo(undone, options)
        with self.progress(options) as progress:
            reaping = api.areap(
                match=options["match"],
                dry_run=options["dry_run"],
                wait=options["wait"],
                confirm_after_seconds=options["confirm_after"],
                probe_timeout_seconds=options["probe_timeout"],
                max_share=options["max_share"],
                layer=options["layer"],
                progress=progress if self.stderr.isatty() else self._tell_of_waits(options),
            )
            report = self.run_async(reaping)
        return self._show_report(report, options)

    def _tell_of_waits(self, options: dict[str, Any]) -> Progress:
        """Say once for each wait that the run waits, where no bar does: it takes minutes."""
        waits = False

        def tell(what: str, _groups: int, _members: int) -> None:
            nonlocal waits
            if what.startswith(WAITING) and not waits and options["verbosity"]:
                self.warn(f"--wait: {what}")
            waits = what.startswith(WAITING)

        return tell

    def _show_history(self, runs: Sequence[RunRecord], options: dict[str, Any]) -> int:
        if options["format"] == "json":
            from ops.output.documents import dump, history_document

            self.write(dump(history_document(options["layer"], runs)))
        else:
            from ops.output.tables import history_table

            self.print(options, history_table(runs))
        return ExitCode.DONE

    def _show_undo(self, report: UndoReport, options: dict[str, Any]) -> int:
        if options["format"] == "json":
            from ops.output.documents import dump, undo_document

            self.write(dump(undo_document(report)))
        else:
            self.write(
                f"Run {report.undone_run_id}: {report.restored:,} restored, {report.already_present:,} were there."
            )
            for note in report.notes:
                self.warn(note)
        return ExitCode.DONE

    def _show_report(self, report: ReapReport, options: dict[str, Any]) -> int:
        if options["format"] == "json":
            from ops.output.documents import dump, reap_document

            self.write(dump(reap_document(report)))
        elif report.not_applicable:
            self.write(f"Layer {report.layer!r}: {report.not_applicable}.")
        else:
            from ops.output.tables import reap_report

            self.print(options, reap_report(report, next_step=_next_step(report, options)))
        if report.not_applicable:
            return ExitCode.DONE
        if options["metrics_file"] and not report.dry_run:
            write_reap_metrics(options["metrics_file"], report)
        if not report.complete:
            self.warn(f"nothing was removed: {report.notes[0]}" if not report.removed else report.notes[0])
            return ExitCode.COULD_NOT_RUN
        if report.stopped:
            self.warn(safety_stop(report.stopped, report.removed, report.run_id))
        for finding in report.findings:
            self.warn(finding)
        found = report.stopped or report.findings or (report.dry_run and report.removed)
        return ExitCode.FOUND_SOMETHING if found else ExitCode.DONE


def _next_step(report: ReapReport, options: dict[str, Any]) -> str:
    """What to do about suspects; empty if there is nothing to do."""
    if not report.suspects or report.stopped or not report.complete:
        return ""
    if options["wait"]:
        return "Suspects are left: run it again later."
    if report.dry_run:
        return "A dry run records no suspects, so only --wait can confirm them."
    return f"Run it again in {options['confirm_after']:g} s or more, or use --wait."


def _refuse_contradictions(options: dict[str, Any]) -> None:
    if options["history"] and options["undo"] is not None:
        raise InvalidArguments("give --history or --undo, not both")
    if options["history"] or options["undo"] is not None:
        verb = "--history" if options["history"] else "--undo"
        for name in ("dry_run", "wait", "match", "metrics_file"):
            if options[name]:
                raise InvalidArguments(f"{verb} does not reap, so --{name.replace('_', '-')} cannot go with it")
