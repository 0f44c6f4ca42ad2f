"""What the index of the drop-in layer is for, and what it takes: reaping a dead process costs what that process had."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import redis

from benchmarks.children import BenchmarkFailed, Measured, measure, module
from benchmarks.figures import Results, Target
from benchmarks.keyspace import STEP, Layout
from benchmarks.layer_processes import DEAD_LEASE_SECONDS
from benchmarks.layer_shared import SUBJECT, database, scaled, started
from benchmarks.reap import CONFIRM_AFTER_SECONDS
from benchmarks.session import Session, await_blocked

DEAD_CONNECTIONS = 2500
GROUPS_OF_EACH = 2
INDEXED_MEMBERS = 50_000
KEYS_AT_ONCE = 1000
TENTH_DATABASE, INDEX_DATABASE = 3, 4


@dataclass(frozen=True)
class Keyspace:
    """A keyspace in a database of its own, all of whose processes live."""

    url: str
    layout: Layout


@dataclass(frozen=True)
class Reaped:
    """One run of ``reap_stale`` that found and removed the dead process."""

    measured: Measured
    purge_seconds: float


def run(session: Session, results: Results) -> None:
    _index_memory(session, results)
    connections = scaled(session, DEAD_CONNECTIONS)
    runs: dict[str, list[Reaped]] = defaultdict(list)
    with _both_sizes(session) as keyspaces:
        for number in range(results.repeat):
            session.say(f"reaping one process, {number + 1} of {results.repeat}")
            for size, keyspace in keyspaces.items():
                runs[size].append(_reap(session, keyspace, connections))
    _note(results, runs, {size: keyspace.layout.members for size, keyspace in keyspaces.items()}, connections)


@contextmanager
def _both_sizes(session: Session) -> Iterator[dict[str, Keyspace]]:
    tenth = replace(session.layout, members=session.layout.members // 10 // STEP * STEP)
    with database(session, TENTH_DATABASE) as url:
        session.say(f"writing {tenth.members:,} members beside")
        _write(url, tenth)
        keyspaces = {"tenth": Keyspace(url, tenth), "full": Keyspace(session.server.url, session.layout)}
        blocked = session.client.info("clients")["blocked_clients"]
        with (
            session.background("fleet", url, *session.layout.processes) as one,
            session.background("fleet", session.server.url, *session.layout.processes) as other,
        ):
            for number, fleet in enumerate((one, other), start=1):
                await_blocked(session.client, blocked + number * len(session.layout.processes), fleet)
            yield keyspaces


def _reap(session: Session, keyspace: Keyspace, connections: int) -> Reaped:
    """Let a process die, and reap it in one run."""
    with started(session, "dead", keyspace.url, connections, keyspace.layout) as said:
        pass
    time.sleep(DEAD_LEASE_SECONDS + CONFIRM_AFTER_SECONDS)
    spans_path = session.server.directory / "spans.json"
    options = ["--confirm-after", f"{CONFIRM_AFTER_SECONDS:g}", "--probe-timeout", f"{session.probe_timeout:g}"]
    argv = module("timed_command", spans_path, "reap_stale", *options, "--format", "json")
    measured = measure(argv, keyspace.url)
    _check(json.loads(measured.out), said["process"], connections * GROUPS_OF_EACH)
    begin, end = json.loads(spans_path.read_text())["purge"]
    with redis.Redis.from_url(keyspace.url) as client:
        replace(session, client=client).forget_runs()
    return Reaped(measured, end - begin)


def _write(url: str, layout: Layout) -> None:
    with redis.Redis.from_url(url) as client:
        pipe = client.pipeline(transaction=False)
        for number, (key, members) in enumerate(layout.read(), start=1):
            pipe.zadd(key, dict(members))
            if number % KEYS_AT_ONCE == 0:
                pipe.execute()
        pipe.execute()


def _check(report: dict[str, Any], dead: str, members: int) -> None:
    """A run that did something else than it should would be timed for nothing."""
    states = {process["process"]: process["state"] for process in report["processes"]}
    others = [process for process, state in states.items() if state != "live" and process != dead]
    if report["removed"] != members or states.get(dead) != "dead" or others or report["leftovers"]:
        raise BenchmarkFailed(
            f"a reap run removed {report['removed']:,} members instead of the {members:,} of one process, "
            f"which it found {states.get(dead)}; stopped: {report['stopped']}; {len(others)} others were not live; "
            f"notes: {report['notes']}"
        )


def _note(results: Results, runs: dict[str, list[Reaped]], sizes: dict[str, int], connections: int) -> None:
    took: dict[str, float] = {}
    members = connections * GROUPS_OF_EACH
    for size, reaped in runs.items():
        what = f"removal of one dead process's {members:,} members among {sizes[size]:,}"
        took[size] = results.add(SUBJECT, f"purge_{size}", what, "ms", [one.purge_seconds * 1000 for one in reaped])
    what = "removal among ten times the members ÷ removal"
    results.derive(SUBJECT, "purge_growth", what, "ratio", took["full"] / took["tenth"], target=Target(1.2))
    for size, reaped in runs.items():
        what = f"the whole reap_stale that does it, among {sizes[size]:,}"
        walls = [one.measured.wall_seconds for one in reaped]
        results.add(SUBJECT, f"reap_{size}", what, "s", walls, note="with the wait for answers")


def _index_memory(session: Session, results: Results) -> None:
    layout = replace(session.layout, members=-(-scaled(session, INDEXED_MEMBERS) // STEP) * STEP)
    session.say(f"indexing {layout.members:,} members")
    with (
        database(session, INDEX_DATABASE) as url,
        started(session, "indexed", url, layout),
        redis.Redis.from_url(url) as client,
    ):
        index = _memory(client, "asgi:ops:index:*")
        groups = _memory(client, "asgi:group:*")
        joined = sum(client.zcard(key) for key in client.scan_iter(match="asgi:group:*", count=KEYS_AT_ONCE))
    if joined != layout.members:
        raise BenchmarkFailed(f"{joined:,} members joined instead of {layout.members:,}")
    what = f"memory in Redis: index ÷ groups, {layout.members:,} members of {len(layout.processes)} processes"
    note = f"{index / layout.members:.0f} B ÷ {groups / layout.members:.0f} B for a member"
    results.derive(SUBJECT, "index_memory", what, "ratio", index / groups, target=Target(0.5), note=note)


def _memory(client: redis.Redis, pattern: str) -> int:
    """What the keys take, with all of their elements."""
    keys = list(client.scan_iter(match=pattern, count=KEYS_AT_ONCE))
    total = 0
    for start in range(0, len(keys), KEYS_AT_ONCE):
        pipe = client.pipeline(transaction=False)
        for key in keys[start : start + KEYS_AT_ONCE]:
            pipe.memory_usage(key, samples=0)
        total += sum(pipe.execute())
    return total
