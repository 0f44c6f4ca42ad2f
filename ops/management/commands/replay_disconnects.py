import time
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from ops import api
from ops.exceptions import InvalidArguments
from ops.management.arguments import moment, speed
from ops.management.command import OpsCommand
from ops.management.exit_codes import ExitCode
from ops.management.files import write_page
from ops.model.disconnects.cleanup import CleanupReport
from ops.model.disconnects.emitting import EmitReport
from ops.model.disconnects.report.report import DisconnectReport, Reading
from ops.model.text import visible
from ops.output.lines import safety_stop


class Command(OpsCommand):
    help = (
        "Tell why websockets ended, clean up what they left, or tell it on, from the disconnect log in Redis or from "
        "log files: of the toolkit, of Daphne, uvicorn, gunicorn and runserver, as they are or through a log shipper."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "sources",
            nargs="*",
            metavar="SOURCE",
            help="log files, .gz too, or - for standard input; none: the log in Redis",
        )
        parser.add_argument(
            "--since", type=moment, metavar="WHEN", help="from then on: an ISO time, or a span ago: 2h, 30m, 7d"
        )
        parser.add_argument("--until", type=moment, metavar="WHEN", help="up to then")
        what = parser.add_mutually_exclusive_group()
        what.add_argument(
            "--report", action="store_true", help="say what ended, and which patterns are in it (default)"
        )
        what.add_argument(
            "--cleanup",
            action="store_true",
            help="remove each channel whose end is on record from the groups that it is still in",
        )
        what.add_argument(
            "--emit",
            metavar="CHANNEL_OR_GROUP",
            help="send each end as a message of type ops.disconnect to that channel or group",
        )
        parser.add_argument(
            "--speed",
            type=speed,
            default=1.0,
            metavar="X",
            help="with --emit: X times faster than it was, or max; never more than 100 a second (default: 1)",
        )
        parser.add_argument(
            "--force", action="store_true", help="with --emit: also to members that may not handle it, and die of it"
        )
        parser.add_argument(
            "--html", type=Path, metavar="FILE", help="write the report there too, as a page with charts"
        )
        parser.add_argument("--dry-run", action="store_true", help="go the same way and change nothing")
        parser.add_argument(
            "--resume",
            action="store_true",
            help="with --cleanup: begin where the last clean-up of the log in Redis stopped",
        )
        super().add_arguments(parser)

    def run(self, **options: Any) -> int:
        self._say_span(options)
        _refuse_contradictions(options)
        with self.progress(options) as progress:
            read = {
                "since": options["since"],
                "until": options["until"],
                "layer": options["layer"],
                "progress": progress,
            }
            sources = options["sources"]
            if options["cleanup"]:
                cleaning = api.acleanup(sources, dry_run=options["dry_run"], resume=options["resume"], **read)
                cleaned = self.run_async(cleaning)
            elif options["emit"] is not None:
                how = {name: options[name] for name in ("speed", "force", "dry_run")}
                emitted = self.run_async(api.aemit(options["emit"], sources, **how, **read))
            else:
                report = self.run_async(api.areport(sources, **read))
        if options["cleanup"]:
            return self._show_cleanup(cleaned, options)
        return self._show_report(report, options) if options["emit"] is None else self._show_emit(emitted, options)

    def _say_span(self, options: dict[str, Any]) -> None:
        """Say how times without a zone were understood; the log in Redis and people often think in different ones."""
        for name in ("since", "until"):
            when = options[name]
            if when is None:
                continue
            if when.said:
                self.stderr.write(f"--{name} is taken as {when.said}")
            if name == "since" and when.at > time.time():
                self.warn("--since lies in the future: nothing has ended since")
            options[name] = when.at

    def _say_not_understood(self, reading: Reading) -> bool:
        if reading.not_understood is not None:
            self.warn(reading.not_understood)
        return reading.not_understood is not None

    def _show_emit(self, report: EmitReport, options: dict[str, Any]) -> int:
        if options["format"] == "json":
            from ops.output.disconnect_documents import emit_document
            from ops.output.documents import dump

            self.write(dump(emit_document(report)))
        else:
            what = (
                f"{report.records:,} would be sent" if report.dry_run else f"{report.sent:,} of {report.records:,} sent"
            )
            if report.reaped_later:
                what += f"; {report.reaped_later:,} records of the reaper were left out, their ends being among these"
            self.write(f"Ends to the {report.kind} {visible(report.target)}: {what}.")
        for problem in report.problems:
            self.warn(problem)
        if report.undelivered:
            self.warn(f"{report.undelivered:,} were not sent: the channel stayed full; is it read?")
        return ExitCode.COULD_NOT_RUN if report.problems or report.undelivered else ExitCode.DONE

    def _show_cleanup(self, report: CleanupReport, options: dict[str, Any]) -> int:
        not_understood = self._say_not_understood(report.reading)
        if options["format"] == "json":
            from ops.output.disconnect_documents import cleanup_document
            from ops.output.documents import dump

            self.write(dump(cleanup_document(report)))
        elif report.not_applicable:
            self.write(f"Layer {report.layer!r}: {report.not_applicable}.")
        else:
            from ops.output.disconnect_tables import cleanup_report

            self.print(options, cleanup_report(report))
        for problem in (*report.notes, *report.reading.problems):
            self.warn(problem)
        if not report.complete or not_understood:
            return ExitCode.COULD_NOT_RUN
        if report.stopped:
            self.warn(safety_stop(report.stopped, report.removed, report.run_id))
        found = report.stopped or (report.dry_run and report.removed)
        return ExitCode.FOUND_SOMETHING if found else ExitCode.DONE

    def _show_report(self, report: DisconnectReport, options: dict[str, Any]) -> int:
        not_understood = self._say_not_understood(report.reading)
        if options["format"] == "json":
            from ops.output.disconnect_documents import disconnect_report_document
            from ops.output.documents import dump

            self.write(dump(disconnect_report_document(report)))
        else:
            from ops.output.disconnect_tables import disconnect_report

            self.print(options, disconnect_report(report))
        if options["html"]:
            from ops.output.disconnect_page import disconnect_page

            write_page(options["html"], disconnect_page(report))
        for problem in report.reading.problems:
            self.warn(problem)
        return ExitCode.COULD_NOT_RUN if report.reading.problems or not_understood else ExitCode.DONE


def _refuse_contradictions(options: dict[str, Any]) -> None:
    if options["since"] is not None and options["until"] is not None and options["since"] > options["until"]:
        raise InvalidArguments("--since is later than --until")
    verb = "cleanup" if options["cleanup"] else "report" if options["emit"] is None else "emit"
    goes_with = {"html": ("report",), "resume": ("cleanup",), "dry_run": ("cleanup", "emit")}
    for name, verbs in {**goes_with, "force": ("emit",)}.items():
        if options[name] not in (None, False) and verb not in verbs:
            wanted = " or ".join(f"--{one}" for one in verbs)
            raise InvalidArguments(f"--{name.replace('_', '-')} goes with {wanted}, not with --{verb}")
    if options["resume"] and (options["sources"] or options["since"] is not None):
        raise InvalidArguments(
            "--resume begins where the last clean-up of the log in Redis stopped: no SOURCE, no --since"
        )
