"""Shapes at which a command could run out of memory, or hold the server up: each alone in the keyspace.

One group of all members, one dead process with a tenth of them, and inboxes at capacity with a tenth of them as
messages; a group for each member is a subject of its own (many_groups). For each command: the most memory that it held,
and the longest command of the server.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from channels_redis.core import RedisChannelLayer

from benchmarks.blocking import Watch, watching
from benchmarks.children import BenchmarkFailed, Measured, manage, measure
from benchmarks.figures import Results, Target
from benchmarks.fleet import channel_name
from benchmarks.keyspace import GROUP_PREFIX, Member, write
from benchmarks.session import Session, await_blocked

SUBJECT = "huge"
MEMORY = Target(150.0)
CONFIRM_AFTER_SECONDS = 0.5
LIVE = 10  # processes that answer, beside those that are measured
CAPACITY = 100  # messages in an inbox, as the layer has it
TEXT = "x" * 500
FINDINGS = 3

Groups = Iterator[tuple[bytes, list[Member]]]


@dataclass(frozen=True)
class Shape:
    """``keys``: what to write. ``dead``: how many members two rounds of reaping must remove, None where none is made.

    ``heartbeat``: whether one is sent, which says a line about each group.
    """

    name: str
    what: str
    keys: Callable[[Session], Groups]
    dead: Callable[[int], int] | None = None
    heartbeat: bool = True
    subject: str = SUBJECT


def one_group(session: Session) -> Groups:
    yield GROUP_PREFIX + b"all", list(members_of_all(session))


def one_process(session: Session) -> Groups:
    """All of them in one group, and each in another one besides."""
    channels = [_member(session, session.layout.dead[0], number) for number in range(session.layout.members // 10)]
    yield GROUP_PREFIX + b"all", channels
    for number, member in enumerate(channels):
        yield GROUP_PREFIX + b"room-%06d" % number, [member]


def backlog(session: Session) -> Groups:
    """Inboxes of processes that read nothing, each with as many messages as it may hold."""
    layer = RedisChannelLayer()
    for number in range(max(1, session.layout.members // 10 // CAPACITY)):
        process = f"{number:032x}"
        channel = channel_name(process, 0)
        message = {"type": "chat.message", "text": TEXT, "__asgi_channel__": channel}
        messages = [(layer.serialize({**message, "number": n}), time.time()) for n in range(CAPACITY)]
        yield f"asgispecific.{process}!".encode(), messages
        yield GROUP_PREFIX + b"room-%06d" % number, [(channel.encode(), session.layout.now)]


def members_of_all(session: Session) -> Iterable[Member]:
    """Half of them of processes that live."""
    processes = [*session.layout.live[:LIVE], *session.layout.dead[:LIVE]]
    for number in range(session.layout.members):
        yield _member(session, processes[number % len(processes)], number)


def _member(session: Session, process: str, number: int) -> Member:
    return channel_name(process, number).encode(), session.layout.now


SHAPES = (
    Shape("one_group", "one group of all members", one_group, lambda members: members // 2),
    Shape("one_process", "a dead process with a tenth as many channels", one_process, lambda members: members // 5),
    Shape("backlog", "inboxes at capacity with a tenth as many messages", backlog),
)


def run(session: Session, results: Results) -> None:
    for shape in SHAPES:
        measure_shape(session, results, shape)
    session.fill()


def measure_shape(session: Session, results: Results, shape: Shape) -> None:
    session.say(f"huge: {shape.what}")
    session.client.flushall()
    write(session.server.url, shape.keys(session))
    live = session.layout.live[:LIVE]
    with session.background("fleet", session.server.url, *live) as fleet:
        await_blocked(session.client, len(live), fleet)
        for name, argv in _commands(session, shape):
            _note(results, shape, name, *_watched(session, argv))
        if shape.dead is not None:
            _reap(session, results, shape, shape.dead(session.layout.members))


def _commands(session: Session, shape: Shape) -> Iterator[tuple[str, list[str]]]:
    yield "channels_groups --summary", manage("channels_groups", "--summary", "--no-probe", "--format", "json")
    yield "channels_doctor", manage("channels_doctor", "--format", "json")
    if shape.heartbeat:
        timeout = f"{session.probe_timeout:g}"
        argv = manage("send_heartbeat", "--all", "--depth", "process", "--timeout", timeout, "--format", "json")
        yield "send_heartbeat --all --depth process", argv


def _watched(session: Session, argv: list[str]) -> tuple[Measured, Watch]:
    watch = Watch()
    with watching(session, watch):
        measured = measure(argv, session.server.url, accepted=(0, FINDINGS))
    return measured, watch


def _reap(session: Session, results: Results, shape: Shape, dead: int) -> None:
    """Two rounds; the second removes them, and is what is noted. Without a live process, they are known to be gone."""
    seconds = (
        "--max-share",
        "1",
        "--confirm-after",
        f"{CONFIRM_AFTER_SECONDS:g}",
        "--probe-timeout",
        f"{session.probe_timeout:g}",
    )
    argv = manage("reap_stale", *seconds, "--format", "json")
    measure(argv, session.server.url)
    measured, watch = _watched(session, argv)
    report = json.loads(measured.out)
    if report["removed"] != dead:
        raise BenchmarkFailed(f"{report['removed']:,} members were removed instead of {dead:,}: {report['notes']}")
    _note(results, shape, "reap_stale", measured, watch)


def _note(results: Results, shape: Shape, command: str, measured: Measured, watch: Watch) -> None:
    key = f"{shape.name}_{command.partition(' ')[0]}"
    what = f"{shape.what}: {command}"
    peak, took = f"{what}, peak memory", f"in {measured.wall_seconds:.1f} s"
    results.derive(shape.subject, f"{key}_memory", peak, "MB", measured.peak_mb, target=MEMORY, note=took)
    microseconds, longest = watch.longest
    value = microseconds / 1000 if longest else None
    note = longest or "none took long enough to be logged"
    results.derive(shape.subject, f"{key}_longest", f"{what}, longest command of the server", "ms", value, note=note)
