"""What the application notices: the longest that the server is held up, and what a send takes meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import reap, scan
from benchmarks.figures import Results
from benchmarks.fleet import channel_name
from benchmarks.keyspace import SMALL_GROUP
from benchmarks.session import Session, await_blocked, await_ready

SUBJECT = "block"
SLOW_MICROSECONDS = 2000
LOGGED_MICROSECONDS = 300  # lower than what counts as slow, so that the longest command has a name in any case
LOG_LENGTH = 100_000
QUIET_SECONDS = 1.0  # per repetition
COMMANDS = ("scan", "zrange", "evalsha")
OWN_COMMANDS = ("SLOWLOG", "CONFIG", "UNLINK")  # what the watching itself takes
ROOM = "lobby"
RECEIVER = "ab" * 16
DURING = {
    "quiet": "while nothing else goes on",
    "scan": "during channels_groups",
    "reap": "during the purge",
    "undo": "during --undo",
}

Window = tuple[float, float]


@dataclass
class Watch:
    """What the server says it did, and the times when it was watched. ``commands``: name -> (calls, microseconds).

    ``waited_seconds``: for how long the server was ready to run and had no core, which SLOWLOG counts as if it had been
    at work; None where the system does not tell.
    """

    windows: list[Window] = field(default_factory=list)
    waited_seconds: float | None = None
    slow: int = 0
    longest: tuple[int, str] = (0, "")
    commands: dict[str, tuple[int, int]] = field(default_factory=dict)
    seconds: float = 0.0


def run(session: Session, results: Results) -> None:
    dead_members = sum(len(members) for _, members in session.layout.read(session.layout.dead))
    with session.live_fleet():
        # The server is watched while it has a core to itself, as far as the machine has two.
        session.say("watching the server")
        server = _watch_all(session, results.repeat, dead_members)
        with sending(session) as read_sends:
            session.say("sending while nothing else goes on")
            quiet = Watch()
            with watching(session, quiet):
                time.sleep(QUIET_SECONDS * results.repeat)
            session.say("sending meanwhile")
            meanwhile = {"quiet": quiet, **_watch_all(session, results.repeat, dead_members)}
    sends = read_sends()
    for name, watch in meanwhile.items():
        note_sends(results, SUBJECT, name, DURING[name], watch, sends)
    for name, watch in server.items():
        _note_server(results, name, watch)


def _watch_all(session: Session, scans: int, dead_members: int) -> dict[str, Watch]:
    """Watch some scans, one confirming reap run, and how it is undone."""
    watches = {"scan": Watch(), "reap": Watch(), "undo": Watch()}
    for _ in range(scans):
        with watching(session, watches["scan"]):
            scan.count(session)
    reap.suspect(session)
    with watching(session, watches["reap"]):
        reaped = reap.confirm(session, dead_members)
    # Sends are slowed where members are removed; while the run waits for answers nothing happens.
    watches["reap"].windows = [reaped.purge]
    with watching(session, watches["undo"]):
        reap.undo(session, reaped)
    return watches


@contextmanager
def sending(session: Session) -> Iterator[Callable[[], list[tuple[float, float]]]]:
    """Send to a small group of one receiver all the time. Gives a function that returns the sends: (when, seconds)."""
    path = session.server.directory / "sends"
    group = f"asgi:group:{ROOM}"
    members = {channel_name(RECEIVER, number): session.layout.now for number in range(SMALL_GROUP)}
    blocked = session.client.info("clients")["blocked_clients"]
    with session.background("fleet", session.server.url, f"{RECEIVER}={SMALL_GROUP}") as receiver:
        await_blocked(session.client, blocked + 1, receiver)
        session.client.zadd(group, members)
        with session.background("sender", session.server.url, ROOM, path) as sender:
            _await_sends(path, sender)
            yield lambda: _read_sends(path)
    session.client.delete(group)


def _await_sends(path: Path, sender: Any) -> None:
    await_ready(sender, lambda: path.exists() and path.stat().st_size > 0, "the sender does not send")


def _read_sends(path: Path) -> list[tuple[float, float]]:
    # The last line may be cut off, as the sender was.
    lines = path.read_text().splitlines()[:-1]
    return [(float(when), float(seconds)) for when, _, seconds in (line.partition(" ") for line in lines)]


@contextmanager
def watching(session: Session, watch: Watch) -> Iterator[None]:
    """Add to ``watch`` what the server does meanwhile."""
    client = session.client
    client.config_set("slowlog-max-len", LOG_LENGTH)
    client.config_set("slowlog-log-slower-than", LOGGED_MICROSECONDS)
    client.config_resetstat()
    client.slowlog_reset()
    began, waited = time.monotonic(), _waited_seconds(session.server.pid)
    yield
    watch.windows.append((began, time.monotonic()))
    watch.seconds += time.monotonic() - began
    if waited is not None:
        watch.waited_seconds = (watch.waited_seconds or 0.0) + (_waited_seconds(session.server.pid) or 0.0) - waited
    for entry in client.slowlog_get(LOG_LENGTH):
        microseconds, command = entry["duration"], entry["command"].split()[0].decode()
        if command not in OWN_COMMANDS:
            watch.slow += microseconds > SLOW_MICROSECONDS
            watch.longest = max(watch.longest, (microseconds, command))
    for name, stats in client.info("commandstats").items():
        calls, total = watch.commands.get(name, (0, 0))
        watch.commands[name] = (calls + stats["calls"], total + stats["usec"])


def _waited_seconds(pid: int) -> float | None:
    """How long the process has waited for a core so far (Linux)."""
    path = Path(f"/proc/{pid}/schedstat")
    return int(path.read_text().split()[1]) / 1e9 if path.exists() else None


def note_sends(
    results: Results, subject: str, name: str, during: str, watch: Watch, sends: list[tuple[float, float]]
) -> None:
    """Note how long those sends took that began while ``watch`` was watching."""
    took = sorted(
        seconds * 1000 for when, seconds in sends if any(start <= when <= end for start, end in watch.windows)
    )
    for percent in (50, 99):
        what = f"group_send to {SMALL_GROUP} members {during}, p{percent}"
        value = took[min(len(took) - 1, len(took) * percent // 100)] if took else None
        note = f"of {len(took):,} sends" if took else "too short for a send"
        results.derive(subject, f"send_{name}_p{percent}", what, "ms", value, note=note)


def _note_server(results: Results, name: str, watch: Watch) -> None:
    during = {"scan": "channels_groups", "reap": "reap_stale", "undo": "--undo"}[name]
    microseconds, command = watch.longest
    limit = f"{SLOW_MICROSECONDS / 1000:g} ms"
    what = f"commands above {limit} during {during} (SLOWLOG)"
    results.derive(SUBJECT, f"slow_{name}", what, "commands", watch.slow)
    what = f"longest command during {during}"
    note = command or f"none took {LOGGED_MICROSECONDS / 1000:g} ms"
    results.derive(SUBJECT, f"longest_{name}", what, "ms", microseconds / 1000 if command else None, note=note)
    if watch.waited_seconds is not None:
        what = f"the server had no core during {during}; the above counts this as its work"
        results.derive(SUBJECT, f"waited_{name}", what, "s", watch.waited_seconds, note=f"of {watch.seconds:.1f} s")
    for wanted in COMMANDS:
        calls, total = watch.commands.get(f"cmdstat_{wanted}", (0, 0))
        what = f"{wanted.upper()} during {during}, mean"
        if calls:
            note = f"of {calls:,} calls"
            results.derive(SUBJECT, f"{wanted}_{name}", what, "µs", total / calls, note=note)
