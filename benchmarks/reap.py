"""Removing the members of half of the processes, against the least it can cost and against what people do today."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from benchmarks.children import BenchmarkFailed, Measured, manage, measure, module
from benchmarks.figures import Results, Target
from benchmarks.session import Session

SUBJECT = "reap"
CONFIRM_AFTER_SECONDS = 0.5


@dataclass(frozen=True)
class Reaped:
    """One confirming run. ``census`` and ``purge``: its phases, from one monotonic time to another."""

    measured: Measured
    run_id: str
    removed: int
    census: tuple[float, float]
    purge: tuple[float, float]

    @property
    def purge_seconds(self) -> float:
        return self.purge[1] - self.purge[0]

    @property
    def census_seconds(self) -> float:
        return self.census[1] - self.census[0]


def run(session: Session, results: Results) -> None:
    runs: dict[str, list[float]] = defaultdict(list)
    dead_members = sum(len(members) for _, members in session.layout.read(session.layout.dead))
    with session.live_fleet():
        for number in range(results.repeat):
            session.say(f"reap {number + 1} of {results.repeat}")
            _measure_in_turn(session, runs, dead_members)
    _note(session, results, runs, dead_members)


def _measure_in_turn(session: Session, runs: dict[str, list[float]], dead_members: int) -> None:
    suspected = suspect(session)
    reaped = confirm(session, dead_members)
    undone, restored = undo(session, reaped)
    floor = _rival(session, "zrem")
    if floor["members"] != dead_members:
        raise BenchmarkFailed(f"the floor removed {floor['members']:,} members instead of {dead_members:,}")
    loop = _rival(session, "discard")
    runs["suspect"].append(suspected.wall_seconds)
    runs["wall"].append(reaped.measured.wall_seconds)
    runs["without_wait"].append(reaped.measured.wall_seconds - session.probe_timeout)
    runs["cpu"].append(reaped.measured.cpu_seconds)
    runs["census"].append(reaped.census_seconds)
    runs["purge"].append(reaped.purge_seconds)
    runs["undo"].append(undone.wall_seconds)
    runs["undo_rate"].append(restored / undone.wall_seconds)
    runs["floor"].append(floor["seconds"])
    runs["loop"].append(loop["seconds"] / loop["members"] * dead_members)
    runs["sample"] = [loop["members"]]


def suspect(session: Session) -> Measured:
    """The first round: it finds half of the processes silent, and removes nothing."""
    measured = measure(manage("reap_stale", *_options(session)), session.server.url)
    report = json.loads(measured.out)
    _check(report, session, removed=0, state="suspect")
    return measured


def confirm(session: Session, dead_members: int) -> Reaped:
    """The second round: it confirms that they are dead, and removes their members."""
    spans_path = session.server.directory / "spans.json"
    command = module("timed_command", spans_path, "reap_stale", *_options(session))
    measured = measure(command, session.server.url)
    report = json.loads(measured.out)
    _check(report, session, removed=dead_members, state="dead")
    spans = json.loads(spans_path.read_text())
    return Reaped(measured, report["run_id"], report["removed"], tuple(spans["census"]), tuple(spans["purge"]))


def undo(session: Session, reaped: Reaped) -> tuple[Measured, int]:
    """Put back what was removed. Returns how many members that were."""
    measured = measure(manage("reap_stale", "--undo", reaped.run_id, "--format", "json"), session.server.url)
    restored = json.loads(measured.out)["restored"]
    if restored != reaped.removed:
        raise BenchmarkFailed(f"{restored:,} members were restored instead of {reaped.removed:,}")
    session.forget_runs()
    return measured, restored


def _options(session: Session) -> list[str]:
    seconds = {"--confirm-after": CONFIRM_AFTER_SECONDS, "--probe-timeout": session.probe_timeout}
    return [*(word for name, value in seconds.items() for word in (name, f"{value:g}")), "--format", "json"]


def _check(report: dict[str, Any], session: Session, *, removed: int, state: str) -> None:
    """A run that did something else than it should would be timed for nothing."""
    states = {process["process"]: process["state"] for process in report["processes"]}
    # In a very small keyspace, some processes have no members and are not there.
    wrong = [process for process in session.layout.dead if states.get(process, state) != state]
    wrong += [process for process in session.layout.live if states.get(process, "live") != "live"]
    if report["stopped"] or wrong or report["removed"] != removed:
        raise BenchmarkFailed(
            f"a reap run removed {report['removed']:,} members instead of {removed:,}; stopped: {report['stopped']}; "
            f"{len(wrong)} processes were judged otherwise than they are; notes: {report['notes']}"
        )


def _rival(session: Session, what: str) -> dict[str, Any]:
    measured = measure(module("rivals", what, session.server.url, session.layout), session.server.url)
    printed: dict[str, Any] = json.loads(measured.out)
    return printed


def _note(session: Session, results: Results, runs: dict[str, list[float]], dead_members: int) -> None:
    def add(name: str, what: str, unit: str = "s", note: str = "") -> float:
        return results.add(SUBJECT, name, what, unit, runs[name], note=note)

    waited = f"{session.probe_timeout:g} s for answers"
    purge = add("purge", f"purge: second read and removal of {dead_members:,} members, with receipts")
    floor = add("floor", "floor: bare ZREM of these known members, redis-py pipelines")
    sample = f"measured on {runs['sample'][0]:,.0f} members and scaled"
    loop = add("loop", "loop over the stock layer's group_discard", note=sample)
    results.derive(SUBJECT, "to_floor", "purge ÷ floor", "ratio", purge / floor, target=Target(2.0))
    target = Target(10.0, at_least=True)
    results.derive(SUBJECT, "to_loop", "loop ÷ purge", "times", loop / purge, target=target, note=sample)
    add("census", "first read of the confirming run, with join times")
    add("without_wait", f"confirming reap_stale, whole process without the wait of {waited}")
    add("wall", f"confirming reap_stale, whole process with the wait of {waited}")
    add("cpu", "… of which its own CPU")
    add("suspect", f"suspecting reap_stale, whole process with the wait of {waited}")
    add("undo", "reap_stale --undo, whole process")
    add("undo_rate", "reap_stale --undo", "members/s")
