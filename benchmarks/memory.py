"""The most memory that the commands hold, at a tenth of the members and at all of them."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import reap, scan
from benchmarks.figures import Results, Target
from benchmarks.keyspace import STEP
from benchmarks.session import Session

SUBJECT = "memory"
TARGET = Target(150.0)


def run(session: Session, results: Results) -> None:
    peaks: dict[str, list[float]] = {"channels_groups --summary": [], "reap_stale": []}
    tenth = session.layout.members // 10 // STEP * STEP
    sizes = (tenth, session.layout.members)
    with session.live_fleet():
        for members in sizes:
            sized = session.sized(members)
            sized.fill()
            sized.say(f"memory at {members:,} members")
            peaks["channels_groups --summary"].append(scan.count(sized).peak_mb)
            peaks["reap_stale"].append(_reap(sized))
    for command, (small, large) in peaks.items():
        _note(results, command, sizes, small, large)


def _reap(session: Session) -> float:
    dead_members = sum(len(members) for _, members in session.layout.read(session.layout.dead))
    reap.suspect(session)
    reaped = reap.confirm(session, dead_members)
    reap.undo(session, reaped)
    return reaped.measured.peak_mb


def _note(results: Results, command: str, sizes: Sequence[int], small: float, large: float) -> None:
    name = command.partition(" ")[0]
    results.derive(SUBJECT, f"{name}_tenth", f"{command} at {sizes[0]:,} members", "MB", small)
    results.derive(SUBJECT, f"{name}_full", f"{command} at {sizes[1]:,} members", "MB", large, target=TARGET)
    what = f"{command}, growth for ten times the members"
    results.derive(SUBJECT, f"{name}_growth", what, "MB", large - small)
