from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser
from django.utils.timezone import get_default_timezone

from ops.exceptions import InvalidArguments
from ops.management.arguments import moment
from ops.management.command import OpsCommand
from ops.model.disconnect_report import DisconnectReport
from ops.operations.observe import Progress
from ops.operations.replay import Span, report_files, report_stream
from ops.operations.undo import refuse_missing_shards
from ops.store.shards import open_layer


class Command(OpsCommand):
    help = (
        "Tell why websockets ended, from the disconnect log in Redis or from log files: of the toolkit, of Daphne, of "
        "uvicorn."
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
        parser.add_argument(
            "--report", action="store_true", help="say what ended, and which patterns are in it (default)"
        )
        parser.add_argument(
            "--html", type=Path, metavar="FILE", help="write the report there too, as a page with charts"
        )
        super().add_arguments(parser)

    def run(self, **options: Any) -> int:
        _refuse_contradictions(options)
        with self.progress(options) as progress:
            report = self.run_async(_report(options, progress))
        return self._show_report(report, options)

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


async def _report(options: dict[str, Any], progress: Progress) -> DisconnectReport:
    span = Span(options["since"], options["until"])
    if options["sources"]:
        return await report_files(options["layer"], options["sources"], get_default_timezone(), span, progress)
    async with open_layer(options["layer"]) as opened:
        refuse_missing_shards(opened)
        return await report_stream(opened, span, progress)
