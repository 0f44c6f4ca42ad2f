import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, NoReturn

from django.core.management.base import CommandError, CommandParser

from ops import api
from ops.api import Progress
from ops.exceptions import InvalidArguments, OutputLost
from ops.management.arguments import count, positive_count, seconds
from ops.management.command import OpsCommand
from ops.management.exit_codes import ExitCode
from ops.model.groups import Group, Inspection
from ops.model.liveness.judge import MEMBER_STATES
from ops.model.text import visible

ROWS_IN_A_TABLE = 50
ROWS_IN_A_FILE = 10_000  # or a pipe; what draws tables takes 10 s for these
SORTS = ("members", "orphans", "name", "age")
STREAMED = ("ndjson", "csv")


class Command(OpsCommand):
    help = "Show the groups of a channel layer, who is in them, and which members are dead, with the evidence."
    formats = ("table", "json", "ndjson", "csv", "prometheus")

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("groups", nargs="*", metavar="GROUP", help="only these groups")
        parser.add_argument("--match", metavar="GLOB", help="only groups whose name matches this Redis glob")
        parser.add_argument("--members", action="store_true", help="list the members of each group")
        parser.add_argument(
            "--state",
            metavar="S[,S…]",
            help=f"only groups and members in these states: {', '.join(MEMBER_STATES)}",
        )
        parser.add_argument("--sort", choices=SORTS, help="order of the groups (default: members, most first)")
        parser.add_argument(
            "--limit",
            type=positive_count,
            metavar="N",
            help=f"show at most N groups (default: {ROWS_IN_A_TABLE} in a table on a terminal, {ROWS_IN_A_FILE} in a "
            "table elsewhere, all otherwise)",
        )
        parser.add_argument("--summary", action="store_true", help="totals and processes only")
        parser.add_argument(
            "--no-probe", action="store_true", help="strictly read-only: send no probes, judge by what is known"
        )
        parser.add_argument(
            "--probe-timeout",
            type=seconds,
            default=api.LOOK_SECONDS,
            metavar="S",
            help="seconds to wait for processes to take a probe (default: %(default)s)",
        )
        parser.add_argument("--watch", type=seconds, metavar="S", help="look again every S seconds, until Ctrl-C")
        parser.add_argument(
            "--check",
            action="store_true",
            help="print one line for a monitoring system, exit 0, 1, 2 or 3 as its plugins do",
        )
        parser.add_argument(
            "--warning", type=count, metavar="N", help="with --check: warn above N silent members (default: 0)"
        )
        parser.add_argument(
            "--critical", type=count, metavar="N", help="with --check: critical above N silent members (default: never)"
        )
        super().add_arguments(parser)

    def execute(self, *args: Any, **options: Any) -> Any:
        """With ``--check``, whatever keeps it from looking is said as a plugin says it; usage errors are not."""
        from ops.output.plugin import UNKNOWN, plugin_line

        try:
            return super().execute(*args, **options)
        except CommandError as error:
            if not options["check"] or error.returncode != ExitCode.COULD_NOT_RUN:
                raise
            self._write_line_for_monitoring(plugin_line(UNKNOWN, str(error)))
            raise SystemExit(UNKNOWN) from None

    def _write_line_for_monitoring(self, line: str) -> None:
        from ops.output.plugin import UNKNOWN

        try:
            with self.reaching_stdout():
                self.write(line)
        except OutputLost as error:
            raise CommandError(str(error), returncode=UNKNOWN) from None

    def run(self, **options: Any) -> int:
        _refuse_contradictions(options)
        if options["check"]:
            return self._check(options)
        if options["watch"]:
            return self._watch(options)
        return self.run_async(self._show(options))

    async def _show(self, options: dict[str, Any]) -> int:
        with self.progress(options) as progress:
            if options["format"] in STREAMED and not options["sort"]:
                inspection = await self._stream(options, progress)
            else:
                inspection = await _collect(options, progress)
        if options["format"] not in STREAMED:
            self._print(inspection, options)
        elif options["sort"]:
            self._write_rows(inspection.groups[: options["limit"]], options)
        return self._conclude(inspection, options)

    def _conclude(self, inspection: Inspection, options: dict[str, Any]) -> int:
        for problem in _problems(inspection, options):
            self.warn(problem)
        return ExitCode.DONE if inspection.complete else ExitCode.COULD_NOT_RUN

    def _print(self, inspection: Inspection, options: dict[str, Any]) -> None:
        if options["format"] == "json":
            from ops.output.documents import dump, inspection_document

            shown = replace(inspection, groups=inspection.groups[: options["limit"]])
            self.write(dump(inspection_document(shown, members=options["members"])))
        elif options["format"] == "prometheus":
            from ops.output.metrics import inspection_metrics

            self.write(inspection_metrics(inspection))
        else:
            self.print(options, _table(inspection, options, for_a_terminal=self.is_for_a_terminal(options)))

    async def _stream(self, options: dict[str, Any], progress: Progress) -> Inspection:
        """Write each group as it is read: a layer of any size in bounded memory."""
        async with api.stream_groups(**_wanted(options), progress=progress) as stream:
            shown = 0
            self._write_header(options)
            async with aclosing(stream.groups()) as groups:
                async for group in groups:
                    if options["limit"] and shown >= options["limit"]:
                        break
                    self._write_row(group, options)
                    shown += 1
            return stream.inspection

    def _write_rows(self, groups: Sequence[Group], options: dict[str, Any]) -> None:
        self._write_header(options)
        for group in groups:
            self._write_row(group, options)

    def _write_header(self, options: dict[str, Any]) -> None:
        if options["format"] == "csv":
            from ops.output.rows import csv_header

            self.write(csv_header(members=options["members"]))

    def _write_row(self, group: Group, options: dict[str, Any]) -> None:
        from ops.output.rows import csv_lines, json_line

        if options["format"] == "csv":
            for line in csv_lines(group, members=options["members"]):
                self.write(line)
        else:
            self.write(json_line(group, members=options["members"]))

    def _watch(self, options: dict[str, Any]) -> int:
        """Redraw in place on a terminal; elsewhere, and in other formats, one answer after the other."""
        in_place = options["format"] == "table" and self.stdout.isatty()
        try:
            # In one event loop for all answers: an interrupt that meets none says things of no use.
            self.run_async(self._redraw(options) if in_place else self._repeat(options, self._show_another))
        except KeyboardInterrupt:
            return ExitCode.DONE

    async def _show_another(self, options: dict[str, Any]) -> None:
        await self._show(options)
        self.stdout.flush()

    async def _redraw(self, options: dict[str, Any]) -> NoReturn:
        from rich.console import Group as Stack
        from rich.live import Live
        from rich.text import Text

        with Live(console=self.console(options), auto_refresh=False, vertical_overflow="crop") as live:

            async def show(options: dict[str, Any]) -> None:
                inspection = await _collect(options, _silent)
                # First: what does not fit below is cropped. On stderr, it would tear what is drawn in place.
                problems = (Text(problem, style="yellow") for problem in _problems(inspection, options))
                live.update(Stack(*problems, _table(inspection, options, for_a_terminal=True)), refresh=True)

            await self._repeat(options, show)

    async def _repeat(self, options: dict[str, Any], show: Callable[[dict[str, Any]], Awaitable[None]]) -> NoReturn:
        while True:
            await show(options)
            await asyncio.sleep(options["watch"])

    def _check(self, options: dict[str, Any]) -> int:
        from ops.output.plugin import plugin_result

        inspection = self.run_async(_collect({**options, "summary": True}, _silent))
        warning = 0 if options["warning"] is None else options["warning"]
        code, line = plugin_result(inspection, warning, options["critical"])
        self._write_line_for_monitoring(line)
        return code


def _silent(_what: str, _groups: int, _members: int) -> None:
    """A monitoring system reads stderr too."""


def _refuse_contradictions(options: dict[str, Any]) -> None:
    if options["groups"] and options["match"] is not None:
        raise InvalidArguments("give group names or --match, not both")
    _refuse_parts_of_a_whole(options)
    if options["summary"] and options["format"] in STREAMED:
        raise InvalidArguments(f"--summary has no rows; --format {options['format']} cannot go with it")
    if not options["check"] and (options["warning"] is not None or options["critical"] is not None):
        raise InvalidArguments("--warning and --critical go with --check")
    if options["check"] and options["watch"]:
        raise InvalidArguments("--check looks once, so --watch cannot go with it")
    for state in (options["state"] or "").split(",") if options["state"] is not None else ():
        if state not in MEMBER_STATES:
            raise InvalidArguments(f"--state: {state!a} is no state; known are {', '.join(MEMBER_STATES)}")


def _refuse_parts_of_a_whole(options: dict[str, Any]) -> None:
    for whole, why in (("summary", "shows no groups"), ("check", "prints one line for all members")):
        for part in ("members", "state", "sort", "limit"):
            if options[whole] and options[part] not in (None, False):
                raise InvalidArguments(f"--{whole} {why}, so --{part} cannot go with it")
    for part in ("members", "state", "sort", "limit"):
        if options["format"] == "prometheus" and options[part] not in (None, False):
            raise InvalidArguments(f"--format prometheus counts all members, so --{part} cannot go with it")
    if options["check"] and options["format"] != "table":
        raise InvalidArguments(f"--check prints one line, so --format {options['format']} cannot go with it")


def _wanted(options: dict[str, Any]) -> dict[str, Any]:
    return {
        "groups": options["groups"],
        "match": options["match"],
        "members": options["members"],
        "states": options["state"].split(",") if options["state"] else MEMBER_STATES,
        "probe": not options["no_probe"],
        "probe_timeout_seconds": options["probe_timeout"],
        "layer": options["layer"],
    }


async def _collect(options: dict[str, Any], progress: Progress) -> Inspection:
    summary = options["summary"] or options["format"] == "prometheus"
    found = await api.ainspect(**_wanted(options), summary=summary, progress=progress)
    return replace(found, groups=_sorted(found.groups, options["sort"] or "members"))


def _problems(inspection: Inspection, options: dict[str, Any]) -> list[str]:
    """Shards that are missing, and groups that were named and do not exist, as they were named."""
    absent = [visible(name) for name in dict.fromkeys(options["groups"]) if name in inspection.absent]
    return [shard.problem for shard in inspection.shards if shard.problem] + [
        f"no such group: '{name}' (a group exists only while it has members)" for name in absent
    ]


def _sorted(groups: Sequence[Group], order: str) -> tuple[Group, ...]:
    """``age``: the group with the oldest member first."""
    keys: dict[str, Any] = {
        "members": lambda group: (-group.counts.members, group.group),
        "orphans": lambda group: (-group.counts.orphan, -group.counts.suspect, group.group),
        "name": lambda group: group.group,
        "age": lambda group: (group.oldest_joined_at is None, group.oldest_joined_at, group.group),
    }
    return tuple(sorted(groups, key=keys[order]))


def _table(inspection: Inspection, options: dict[str, Any], *, for_a_terminal: bool) -> Any:
    from ops.output.tables import inspection_report

    limit = options["limit"] or (ROWS_IN_A_TABLE if for_a_terminal else ROWS_IN_A_FILE)
    hidden = max(0, len(inspection.groups) - limit)
    shown = replace(inspection, groups=inspection.groups[:limit])
    what = {"members": options["members"], "summary": options["summary"], "hidden": hidden}
    return inspection_report(shown, **what, for_a_terminal=for_a_terminal)
