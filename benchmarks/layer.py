"""The drop-in layer beside the stock one: how fast it is, what it costs while idle, and what its index is good for."""

from __future__ import annotations

import json
from statistics import median

from benchmarks import layer_idle, layer_reap
from benchmarks.children import measure, module
from benchmarks.figures import FULL_SIZE, Results, Target
from benchmarks.layer_shared import SUBJECT, database
from benchmarks.layer_speed import CASES, MEMBERS, Case
from benchmarks.session import Session

SPEED_DATABASE = 5
SLICES_PER_REPETITION = 4
FASTER = Target(1.3, at_least=True)
NOT_SLOWER = Target(1.0, at_least=True)
TARGETS = {"group_add": FASTER, "send": FASTER, "group_send": NOT_SLOWER, "receive": NOT_SLOWER}


def run(session: Session, results: Results) -> None:
    _speed(session, results)
    layer_idle.run(session, results)
    layer_reap.run(session, results)


def _speed(session: Session, results: Results) -> None:
    slices = results.repeat * SLICES_PER_REPETITION
    share = min(1.0, session.layout.members / FULL_SIZE)
    session.say(f"both layers at work in turn, {slices} slices of each of {len(CASES)} kinds of work")
    with database(session, SPEED_DATABASE) as url:
        rates = json.loads(measure(module("layer_speed", url, slices, share), url).out)
    for case in CASES:
        ours, stock = (median(rates[str(case)][kind]) for kind in ("ours", "stock"))
        note = f"{ours:,.0f} ÷ {stock:,.0f} in a second"
        target = TARGETS[case.operation]
        results.derive(SUBJECT, str(case), _what(case), "ratio", ours / stock, target=target, note=note)


def _what(case: Case) -> str:
    operation = f"group_send to {MEMBERS}" if case.operation == "group_send" else case.operation
    processes = "1 process" if case.processes == 1 else f"{case.processes} processes"
    tasks = "one at a time" if case.tasks == 1 else f"{case.tasks} at once"
    return f"{operation}, {processes}, {tasks}: drop-in ÷ stock"
