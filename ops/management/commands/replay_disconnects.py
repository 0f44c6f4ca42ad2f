from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser
from django.utils.timezone import get_default_timezone

from ops.conf import ops_settings
from ops.exceptions import InvalidArguments
from ops.management.arguments import moment
from ops.management.command import OpsCommand
from ops.model.cleanup import CleanupReport
from ops.model.disconnect_report import DisconnectReport
from ops.operations.cleanup import CleanupOptions, clean_up
from ops.operations.observe import Progress
from ops.operations.replay import Span, report_files, report_stream
from ops.operations.undo import refuse_missing_shards
from ops.store.shards import open_layer

FINDINGS = 3
NOTHING_TO_CLEAN = "publish/subscribe memberships end with their connection: there is nothing to clean up"


class Command(OpsCommand):
    help = (
        "Tell why websockets ended, or clean up what they left, from the disconnect log in Redis or from log files: of "
        "the toolkit, of Daphne, of uvicorn."
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
        _refuse_contradictions(options)
        with self.progress(options) as progress:
            if options["cleanup"]:
                cleaned = self.run_async(_clean_up(options, progress))
            else:
                report = self.run_async(_report(options, progress))
        return self._show_cleanup(cleaned, options) if options["cleanup"] else self._show_report(report, options)

    def _show_cleanup(self, report: CleanupReport | None, options: dict[str, Any]) -> int:
        if report is None:
            return self._show_nothing_to_clean(options)
        if options["format"] == "json":
            from ops.output.disconnect_documents import cleanup_document
            from ops.output.documents import dump

            self.write(dump(cleanup_document(report)))
        else:
            from ops.output.disconnect_tables import cleanup_report

            self.print(options, cleanup_report(report))
        for problem in (*report.notes, *report.reading.problems):
            self.warn(problem)
        if not report.complete:
            return 1
        return FINDINGS if report.dry_run and report.removed else 0

    def _show_nothing_to_clean(self, options: dict[str, Any]) -> int:
        if options["format"] == "json":
            from ops.output.documents import dump, nothing_to_reap_document

            self.write(dump(nothing_to_reap_document(options["layer"], options["dry_run"], NOTHING_TO_CLEAN)))
        else:
            self.write(f"Layer {options['layer']!r}: {NOTHING_TO_CLEAN}.")
        return 0

    def _show_report(self, report: DisconnectReport, options: dict[str, Any]) -> int:
        if options["format"] == "json":
            from ops.output.disconnect_documents import disconnect_report_document
            from ops.output.documents import dump

            self.write(dump(disconnect_report_document(report)))
        else:
            from ops.output.disconnect_tables import disconnect_report

            self.print(options, disconnect_report(report))
        if options["html"]:
            from ops.output.disconnect_page import write_disconnect_page

            write_disconnect_page(options["html"], report)
        for problem in report.reading.problems:
            self.warn(problem)
        return 1 if report.reading.problems else 0


def _refuse_contradictions(options: dict[str, Any]) -> None:
    if options["since"] is not None and options["until"] is not None and options["since"] > options["until"]:
        raise InvalidArguments("--since is later than --until")
    if not options["cleanup"]:
        for name in ("dry_run", "resume"):
            if options[name]:
                raise InvalidArguments(f"a report changes nothing: --{name.replace('_', '-')} goes with --cleanup")
    elif options["html"]:
        raise InvalidArguments("--html is for a report, not for --cleanup")
    if options["resume"] and (options["sources"] or options["since"] is not None):
        raise InvalidArguments(
            "--resume begins where the last clean-up of the log in Redis stopped: no SOURCE, no --since"
        )


async def _report(options: dict[str, Any], progress: Progress) -> DisconnectReport:
    span = Span(options["since"], options["until"])
    if options["sources"]:
        return await report_files(options["layer"], options["sources"], get_default_timezone(), span, progress)
    async with open_layer(options["layer"]) as opened:
        refuse_missing_shards(opened)
        return await report_stream(opened, span, progress)


async def _clean_up(options: dict[str, Any], progress: Progress) -> CleanupReport | None:
    wanted = CleanupOptions(
        zone=get_default_timezone(),
        sources=options["sources"],
        span=Span(options["since"], options["until"]),
        dry_run=options["dry_run"],
        resume=options["resume"],
        journal_seconds=ops_settings().journal_seconds,
    )
    async with open_layer(options["layer"]) as opened:
        return None if opened.is_pubsub else await clean_up(opened, wanted, progress)
