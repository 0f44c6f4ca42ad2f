"""What an idle process with the drop-in layer costs: memory in it, and traffic to Redis."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from contextlib import ExitStack

import redis

from benchmarks.figures import Results, Target
from benchmarks.layer_shared import SUBJECT, database, scaled, started
from benchmarks.session import Session

CONNECTIONS = 10_000
MOST_RUNS = 3
WATCHED_SECONDS = 30.0
SHORTEST_WATCH_SECONDS = 2.0
KINDS = {"ours": "drop-in layer", "stock": "stock layer"}
KIB = 1024
DATABASES = {"ours": 1, "stock": 2}


def run(session: Session, results: Results) -> None:
    connections = scaled(session, CONNECTIONS)
    _memory(session, results, connections)
    _traffic(session, results, connections)


def _memory(session: Session, results: Results, connections: int) -> None:
    grown: dict[str, list[float]] = defaultdict(list)
    for number in range(min(results.repeat, MOST_RUNS)):
        session.say(f"memory of {connections:,} connections, {number + 1} of {min(results.repeat, MOST_RUNS)}")
        for kind in KINDS:
            with database(session, DATABASES[kind]) as url, started(session, "idle", url, kind, connections) as said:
                if said["bytes"] is not None:
                    grown[kind].append(said["bytes"] / KIB)
    what = f"the drop-in layer's memory for a connection of {connections:,}, beyond the stock layer's"
    if not grown:
        note = "skipped: this system does not tell"
        results.derive(SUBJECT, "memory_more", what, "KiB", None, note=note)
        return
    held = {
        kind: results.add(SUBJECT, f"memory_{kind}", f"{name}: resident memory for a connection", "KiB", grown[kind])
        for kind, name in KINDS.items()
    }
    results.derive(SUBJECT, "memory_more", what, "KiB", held["ours"] - held["stock"], target=Target(1.0))


def _traffic(session: Session, results: Results, connections: int) -> None:
    seconds = max(SHORTEST_WATCH_SECONDS, min(1.0, scaled(session, CONNECTIONS) / CONNECTIONS) * WATCHED_SECONDS)
    with ExitStack() as stack:
        for kind, number in DATABASES.items():
            url = stack.enter_context(database(session, number))
            stack.enter_context(started(session, "idle", url, kind, connections))
        session.say(f"watching two idle processes for {seconds:g} s")
        sent, done = _watch(session.server.url, seconds)
    for kind, number in DATABASES.items():
        what = f"{KINDS[kind]}: commands that an idle process of {connections:,} connections sends"
        note = f"{done[number] / seconds:.2f} with those inside its scripts; MONITOR, {seconds:g} s"
        target = Target(1.0) if kind == "ours" else None
        rate = sent[number] / seconds
        results.derive(SUBJECT, f"commands_{kind}", what, "commands/s", rate, target=target, note=note)


def _watch(url: str, seconds: float) -> tuple[Counter[int], Counter[int]]:
    """By database: the commands that clients sent, and those that were executed, inside scripts too.

    INFO has only the latter; MONITOR says of each command whether a client sent it or a script.
    """
    sent: Counter[int] = Counter()
    done: Counter[int] = Counter()
    # Nothing may come for longer than the five seconds that redis-py waits for by default.
    with redis.Redis.from_url(url, socket_timeout=None) as client, client.monitor() as monitor:
        threading.Timer(seconds, _end_watch, [url]).start()
        until = time.monotonic() + seconds
        for command in monitor.listen():
            if command["command"].startswith(END_OF_WATCH) or time.monotonic() > until + 1:
                break
            done[int(command["db"])] += 1
            sent[int(command["db"])] += command["client_type"] != "lua"
    return sent, done


END_OF_WATCH = "ECHO end-of-watch"


def _end_watch(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.echo(END_OF_WATCH.partition(" ")[2])
