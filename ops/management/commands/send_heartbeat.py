import asyncio
import time
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from django.core.management.base import CommandParser

from ops import api
from ops.exceptions import InvalidArguments
from ops.management.arguments import positive_count, seconds
from ops.management.command import OpsCommand
from ops.management.exit_codes import ExitCode
from ops.model.heartbeats.message import DEPTHS
from ops.model.heartbeats.report import GroupHeartbeat, HeartbeatReport
from ops.model.text import visible
from ops.output.documents import HeartbeatDocument

if TYPE_CHECKING:
    from ops.api import HeartbeatRun

INTERVAL_SECONDS = 1.0


class Command(OpsCommand):
    _run: "HeartbeatRun | None" = None

    help = "Ask the members of groups whether a message reaches them, and say who is silent."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("groups", nargs="*", metavar="GROUP", help="these groups")
        parser.add_argument("--all", action="store_true", help="all groups")
        parser.add_argument("--match", metavar="GLOB", help="the groups whose name matches this Redis glob")
        parser.add_argument(
            "--depth",
            choices=DEPTHS,
            default="channel",
            help="how far it goes: process works with any application, channel needs the drop-in layer, client also a "
            "consumer that can ping its client (default: %(default)s)",
        )
        parser.add_argument(
            "--timeout",
            type=seconds,
            default=api.HEARTBEAT_SECONDS,
            metavar="S",
            help="seconds to wait for an answer (default: %(default)s)",
        )
        parser.add_argument(
            "--count",
            type=positive_count,
            metavar="N",
            help="ask N times, a line for each, and sum up (default: once; without end where --interval is given)",
        )
        parser.add_argument(
            "--interval",
            type=seconds,
            metavar="S",
            help=f"seconds from one round to the next, until Ctrl-C or --count (default: {INTERVAL_SECONDS:g})",
        )
        parser.add_argument(
            "--rate",
            type=positive_count,
            default=api.HEARTBEATS_A_SECOND,
            metavar="N",
            help="ask at most N members a second; at depth process each process is asked once, whatever the rate "
            "(default: %(default)s)",
        )
        super().add_arguments(parser)

    def run(self, **options: Any) -> int:
        if bool(options["groups"]) + options["all"] + (options["match"] is not None) != 1:
            raise InvalidArguments("give group names, --match or --all: one of them")
        document = None
        if options["format"] == "json":
            document = HeartbeatDocument(partial(self.stdout.write, ending=""))
        interrupted, whole = False, False
        try:
            self.run_async(self._rounds(options, document))
            whole = True
        except KeyboardInterrupt:
            interrupted = True
        finally:
            if document is not None and self._run is not None:
                report = self._run.report
                document.end(report, complete=whole and report.complete)
        if self._run is None:
            return ExitCode.INTERRUPTED
        return self._conclude(options, self._run.report, interrupted=interrupted)

    def _conclude(self, options: dict[str, Any], report: HeartbeatReport, *, interrupted: bool) -> int:
        if options["format"] != "json":
            self._print(options, report)
        for said in (*report.findings, *report.problems):
            self.warn(said)
        nobody = bool(report.totals.members and not report.totals.sent)
        if nobody and not report.problems:
            self.warn(f"nobody was asked: {_why_nobody(report)}")
        if interrupted and not (_several(options) and report.rounds):
            return ExitCode.INTERRUPTED
        if report.problems:
            return ExitCode.COULD_NOT_RUN
        return ExitCode.FOUND_SOMETHING if report.silent_somewhere or nobody else ExitCode.DONE

    async def _rounds(self, options: dict[str, Any], document: HeartbeatDocument | None) -> None:
        rounds = api.heartbeat_rounds(
            options["groups"],
            match=options["match"],
            depth=options["depth"],
            timeout_seconds=options["timeout"],
            rate=options["rate"],
            layer=options["layer"],
        )
        last = options["count"] or (None if options["interval"] else 1)
        async with rounds as run:
            self._run = run
            if document is not None:
                document.begin(options["depth"])
            while True:
                began = time.monotonic()
                await self._round(options, run, document)
                if _several(options) and document is None:
                    self._say_round(run)
                if run.rounds == last:
                    return
                interval = options["interval"] or INTERVAL_SECONDS
                await asyncio.sleep(max(0.0, began + interval - time.monotonic()))

    async def _round(self, options: dict[str, Any], run: "HeartbeatRun", document: HeartbeatDocument | None) -> None:
        number = run.rounds + 1
        with self.progress(options) as progress:
            async with aclosing(run.round(progress)) as groups:
                async for found in groups:
                    if document is not None:
                        document.add(found, number)
                    self._warn_if_absent(found, number)

    def _warn_if_absent(self, found: GroupHeartbeat, number: int) -> None:
        if not found.counts.members and number == 1:
            self.warn(f"no such group: '{visible(found.group)}' (a group exists only while it has members)")

    def _say_round(self, run: "HeartbeatRun") -> None:
        from ops.output.heartbeats import round_line

        self.write(round_line(run.rounds, *run.latest))
        self.stdout.flush()

    def _print(self, options: dict[str, Any], report: HeartbeatReport) -> None:
        from ops.output.heartbeats import heartbeat_report

        self.print(options, heartbeat_report(report))


def _several(options: dict[str, Any]) -> bool:
    return options["interval"] is not None or (options["count"] or 1) > 1


def _why_nobody(report: HeartbeatReport) -> str:
    if report.totals.skipped:
        return "; ".join(dict.fromkeys(process.skipped_why for process in report.processes if process.skipped_why))
    advice = "" if report.depth == "process" else "; --depth process works with any application"
    return f"no member can answer at depth {report.depth}{advice}"
