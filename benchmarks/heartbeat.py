"""Heartbeats at depth channel: how many members a second, in how much memory, and what other traffic notices."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from benchmarks.blocking import QUIET_SECONDS, Watch, note_sends, sending, watching
from benchmarks.children import BenchmarkFailed, Measured, manage, measure
from benchmarks.figures import Results
from benchmarks.layer_processes import EVERYBODY, OTHERS
from benchmarks.layer_shared import database, scaled, started
from benchmarks.session import Session

SUBJECT = "heartbeat"
DATABASE = 6
CONNECTIONS = 10_000
PROCESSES = 4
UNBOUNDED = ("--rate", "1000000")
DURING = {
    "quiet": "while nothing else goes on",
    "paced": "during send_heartbeat --all at its default rate",
    "unbounded": "during send_heartbeat at any rate",
}


@dataclass(frozen=True)
class Heartbeat:
    measured: Measured
    document: dict[str, Any]

    @property
    def rate(self) -> float:
        answered: int = self.document["totals"]["answered"]
        return answered / float(self.document["duration_seconds"])


def run(session: Session, results: Results) -> None:
    connections = scaled(session, CONNECTIONS) // PROCESSES * PROCESSES
    groups = connections - 1  # and one with everybody
    share = connections // PROCESSES
    with ExitStack() as stack:
        url = stack.enter_context(database(session, DATABASE))
        for number in range(PROCESSES):
            session.say(f"joining groups: process {number + 1} of {PROCESSES} with {share:,} connections")
            stack.enter_context(started(session, "reached", url, share, number * share, groups))
        _measure(session, results, url, connections)


def _measure(session: Session, results: Results, url: str, connections: int) -> None:
    members = connections * (1 + OTHERS)
    session.say(f"heartbeats to {connections:,} members, {results.repeat} times")
    fast = [_beat(url, connections, EVERYBODY, *UNBOUNDED) for _ in range(results.repeat)]
    session.say(f"heartbeats to {members:,} members in {connections:,} groups")
    everything = _beat(url, members, "--all", *UNBOUNDED)
    watches = {name: Watch() for name in DURING}
    with sending(session) as read_sends:
        session.say("sending while nothing else goes on, then meanwhile")
        with watching(session, watches["quiet"]):
            time.sleep(QUIET_SECONDS * results.repeat)
        with watching(session, watches["paced"]):
            paced = _beat(url, members, "--all")
        for _ in range(results.repeat):
            with watching(session, watches["unbounded"]):
                _beat(url, connections, EVERYBODY, *UNBOUNDED)
        sends = read_sends()
    _note(results, connections, fast, everything, paced)
    for name, watch in watches.items():
        note_sends(results, SUBJECT, name, DURING[name], watch, sends)


def _beat(url: str, members: int, *argv: str) -> Heartbeat:
    """Run the command; everybody must have answered."""
    measured = measure(manage("send_heartbeat", *argv, "--timeout", "30", "--format", "json"), url)
    document = json.loads(measured.out)
    if document["totals"]["answered"] != members:
        raise BenchmarkFailed(f"{document['totals']['answered']:,} members answered instead of {members:,}")
    return Heartbeat(measured, document)


def _note(results: Results, connections: int, fast: list[Heartbeat], everything: Heartbeat, paced: Heartbeat) -> None:
    one = f"send_heartbeat, one group of {connections:,} members of {PROCESSES} processes"
    results.add(SUBJECT, "rate", f"{one}, at any rate", "members/s", [beat.rate for beat in fast])
    what = "… whole process"
    results.add(SUBJECT, "wall", what, "s", [beat.measured.wall_seconds for beat in fast])
    members = everything.document["totals"]["members"]
    many = f"send_heartbeat --all, {members:,} members in {len(everything.document['groups']):,} groups"
    results.derive(SUBJECT, "all_rate", f"{many}, at any rate", "members/s", everything.rate)
    for name, beat in (("all", everything), ("paced", paced)):
        which = "at any rate" if name == "all" else "at its default rate"
        results.derive(SUBJECT, f"{name}_memory", f"… {which}: peak memory", "MB", beat.measured.peak_mb)
    rtt = paced.document["totals"]["rtt_ms"]
    note = f"{paced.rate:,.0f} members/s"
    for name in ("p50", "p99"):
        results.derive(SUBJECT, f"rtt_{name}", f"… at its default rate: round trip, {name}", "ms", rtt[name], note=note)
