from contextlib import aclosing
from typing import Any

from django.core.management.base import CommandParser

from ops.exceptions import InvalidArguments
from ops.management.arguments import seconds
from ops.management.command import OpsCommand
from ops.model.heartbeats import DEPTHS, GroupHeartbeat
from ops.operations.heartbeat import HeartbeatOptions, heartbeat
from ops.operations.observe import Look, Progress
from ops.store.shards import open_layer

SILENT = 3


class Command(OpsCommand):
    help = "Ask the members of groups whether a message reaches them, and say who is silent."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("groups", nargs="*", metavar="GROUP", help="these groups")
        parser.add_argument("--all", action="store_true", help="all groups, one after the other")
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
            default=5.0,
            metavar="S",
            help="seconds to wait for a group's answers (default: %(default)s)",
        )
        super().add_arguments(parser)

    def run(self, **options: Any) -> int:
        if bool(options["groups"]) + options["all"] + (options["match"] is not None) != 1:
            raise InvalidArguments("give group names, --match or --all: one of them")
        with self.progress(options) as progress:
            groups, problems = self.run_async(_collect(options, progress))
        if options["format"] == "json":
            from ops.output.documents import dump, heartbeat_document

            self.write(dump(heartbeat_document(options["depth"], not problems, groups)))
        else:
            from ops.output.tables import heartbeat_report

            self.print(options, heartbeat_report(groups))
        for problem in problems:
            self.warn(problem)
        if problems:
            return 1
        return SILENT if any(found.silent for found in groups) else 0


async def _collect(options: dict[str, Any], progress: Progress) -> tuple[list[GroupHeartbeat], list[str]]:
    look = Look(names=tuple(options["groups"]), glob=options["match"])
    wanted = HeartbeatOptions(look, options["depth"], options["timeout"])
    groups: list[GroupHeartbeat] = []
    members = 0
    async with open_layer(options["layer"]) as opened:
        async with aclosing(heartbeat(opened, wanted)) as found:
            async for group in found:
                groups.append(group)
                members += group.members
                progress("asking", len(groups), members)
        return groups, opened.problems
