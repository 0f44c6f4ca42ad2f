"""`manage.py demo`: the toolkit at work on real servers and sockets, in under a minute."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rich.console import Console

from project.demo import Demo, DemoFailed
from project.demo_script import SCRIPT
from project.embedded_redis import NoRedisServer, RedisNotStarted
from project.workers import WorkerNotReady


class Command(BaseCommand):
    help = (
        "Shows the toolkit: starts Redis (or uses REDIS_URL), five workers and real websockets, ends two of the "
        "workers, finds and removes the members that they leave behind, and restarts Redis (never that of REDIS_URL). "
        "Everything is stopped at the end."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C, to try by hand")
        parser.add_argument("--sockets", type=int, default=300, metavar="N", help="how many websockets (default: 300)")

    def handle(self, *args: Any, keep: bool, sockets: int, no_color: bool, **options: Any) -> None:
        if sockets < 20:
            raise CommandError("--sockets must be 20 or more, or there is little to see.", returncode=2)
        console = Console(no_color=no_color or "NO_COLOR" in os.environ, highlight=False)
        demo = Demo(console=console, socket_count=sockets, keep=keep, redis_url=os.environ.get("REDIS_URL"))
        # As Ctrl-C, so that a service manager's or a terminal's goodbye is followed by the same cleaning up.
        for which in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(which, signal.default_int_handler)
        try:
            asyncio.run(demo.run(SCRIPT))
        except (DemoFailed, NoRedisServer, RedisNotStarted, WorkerNotReady) as problem:
            raise CommandError(str(problem)) from problem
        except KeyboardInterrupt:
            console.print("Interrupted: everything that the demo started has been stopped.")
            sys.exit(130)
