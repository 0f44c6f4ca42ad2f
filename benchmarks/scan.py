"""Counting everything: ``channels_groups --summary`` against two other ways, each as a whole process."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict

from benchmarks.children import BenchmarkFailed, Measured, manage, measure, module
from benchmarks.cores import on_cores
from benchmarks.figures import Results, Target
from benchmarks.session import Session

SUBJECT = "scan"
OPTIONS = ("--summary", "--no-probe", "--format", "json")
TARGET = Target(required=0.9, aim=0.5)


def run(session: Session, results: Results) -> None:
    url, port = session.server.url, session.server.port
    ways = {
        "start": manage("channels_groups", "no-such-group", *OPTIONS),
        "pages": module("rivals", "pages", url, session.layout),
    }
    if cli := shutil.which("redis-cli"):
        ways["bigkeys"] = [cli, "-p", str(port), "--bigkeys"]
    runs: dict[str, list[Measured]] = defaultdict(list)
    for number in range(results.repeat):
        session.say(f"scan {number + 1} of {results.repeat}")
        runs["ours"].append(count(session))
        for name, argv in ways.items():
            runs[name].append(measure(argv, url))
        if cli and session.server_cores:
            with on_cores(session.server_cores):
                runs["bigkeys_together"].append(measure(ways["bigkeys"], url))
    _note(results, runs)


def count(session: Session) -> Measured:
    """Run ``channels_groups --summary`` and see to it that it counted everybody."""
    measured = measure(manage("channels_groups", *OPTIONS), session.server.url)
    counted = json.loads(measured.out)["totals"]["members"]
    if counted < session.layout.members:
        raise BenchmarkFailed(f"{counted:,} members were counted instead of {session.layout.members:,}")
    return measured


def _note(results: Results, runs: dict[str, list[Measured]]) -> None:
    def wall(way: str, what: str) -> float:
        return results.add(SUBJECT, way, what, "s", [one.wall_seconds for one in runs[way]])

    ours = wall("ours", "channels_groups --summary --no-probe, whole process")
    results.add(SUBJECT, "ours_cpu", "… of which its own CPU", "s", [one.cpu_seconds for one in runs["ours"]])
    wall("start", "… of which it takes to start, and to ask for a group that does not exist")
    what = "channels_groups ÷ redis-cli --bigkeys"
    if runs["bigkeys"]:
        bigkeys = wall("bigkeys", "redis-cli --bigkeys")
        results.derive(SUBJECT, "to_bigkeys", what, "ratio", ours / bigkeys, target=TARGET)
        if runs["bigkeys_together"]:
            wall("bigkeys_together", "redis-cli --bigkeys on the server's own core, as no other host can")
    else:
        note = "skipped: redis-cli is not on PATH"
        results.derive(SUBJECT, "bigkeys", "redis-cli --bigkeys", "s", None, note=note)
        results.derive(SUBJECT, "to_bigkeys", what, "ratio", None, note=note)
    pages = wall("pages", "redis-py: SCAN and pipelines of ZRANGE, whole process")
    results.derive(SUBJECT, "to_pages", "channels_groups ÷ redis-py", "ratio", ours / pages, target=TARGET)
