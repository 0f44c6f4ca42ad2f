"""As many recorded ends as there are members: the report on them, and the clean-up after them, as whole processes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from benchmarks.children import BenchmarkFailed, Measured, manage, measure
from benchmarks.figures import Results, Target
from benchmarks.session import Session
from ops.model.disconnects.record import Disconnect, to_json

SUBJECT = "replay"
TARGET = Target(150.0)
COMMAND = "replay_disconnects"
SECONDS_APART = 0.05


def run(session: Session, results: Results) -> None:
    members = session.layout.members
    # All ends are over by now: one that is yet to come proves nothing.
    ended = replace(session, layout=replace(session.layout, now=session.layout.now - members * SECONDS_APART))
    ended.fill()
    with tempfile.TemporaryDirectory() as folder:
        whole, tenth = Path(folder, "whole.jsonl"), Path(folder, "tenth.jsonl")
        session.say(f"writing {members:,} records")
        write(ended, whole, members)
        write(ended, tenth, members // 10)
        session.say("reports")
        small = checked(
            measure(manage(COMMAND, str(tenth), "--format", "json"), session.server.url), "records", members // 10
        )
        reports = [
            checked(measure(manage(COMMAND, str(whole), "--format", "json"), session.server.url), "records", members)
            for _ in range(min(2, results.repeat))
        ]
        session.say("clean-up")
        argv = manage(COMMAND, "--cleanup", str(whole), "--format", "json")
        cleaned = checked(measure(argv, session.server.url), "removed", members)
    seconds = results.add(
        SUBJECT, "report", f"report on {members:,} records", "s", [one.wall_seconds for one in reports]
    )
    results.derive(SUBJECT, "report_rate", "… records a second", "/s", members / seconds)
    results.derive(SUBJECT, "report_tenth", "… peak memory at a tenth of them", "MB", small.peak_mb)
    peak = max(one.peak_mb for one in reports)
    results.derive(SUBJECT, "report_memory", "… peak memory", "MB", peak, target=TARGET)
    what = f"clean-up after {members:,} records, each of a member"
    results.derive(SUBJECT, "cleanup", what, "s", cleaned.wall_seconds)
    results.derive(SUBJECT, "cleanup_memory", "… peak memory", "MB", cleaned.peak_mb, target=TARGET)
    session.fill()


def write(session: Session, path: Path, count: int) -> None:
    """The ends of that many members of the layout, one line each."""
    with path.open("w") as file:
        file.writelines(f"{to_json(one)}\n" for one in islice(ends(session), count))


def ends(session: Session) -> Iterator[Disconnect]:
    """An end of each member, all after the latest of them joined."""
    at, number = session.layout.now, 0
    for group, members in session.layout.read():
        name = group.decode().removeprefix("asgi:group:")
        for raw, joined_at in members:
            channel = raw.decode()
            number += 1
            yield Disconnect(
                at + number * SECONDS_APART,
                "handler_exception",
                "application",
                lived_seconds=at - joined_at,
                exception=("KeyError: 'room'",),
                path=f"/ws/room/{number}/",
                consumer="project.consumers.RoomConsumer",
                channel=channel,
                process=channel[9:41],
                host="web-1",
                pid=int(channel[9:13], 16),
                groups=(name,),
                layer="default",
            )


def checked(measured: Measured, field: str, expected: int) -> Measured:
    found = json.loads(measured.out)[field]
    if found != expected:
        raise BenchmarkFailed(f"{field} is {found:,} instead of {expected:,}")
    return measured
