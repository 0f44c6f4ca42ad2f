"""Who is in which group: as Redis has it, and as the sockets were told when they were welcomed."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any

from project.sockets import FleetSocket

Memberships = dict[str, dict[str, float]]
"""Group -> channel -> score."""


def in_redis(client: Any, prefix: str = "asgi") -> Memberships:
    head = f"{prefix}:group:".encode()
    return {
        key[len(head) :].decode(): {
            channel.decode("utf-8", "surrogateescape"): score
            for channel, score in client.zrange(key, 0, -1, withscores=True)
        }
        for key in client.scan_iter(head + b"*")
    }


def channels(memberships: Memberships) -> dict[str, set[str]]:
    return {group: set(members) for group, members in memberships.items()}


def without(memberships: Memberships, gone: Collection[str]) -> Memberships:
    """What is left of them without the channels in `gone`: a group without members is none."""
    left = {
        group: {channel: score for channel, score in members.items() if channel not in gone}
        for group, members in memberships.items()
    }
    return {group: members for group, members in left.items() if members}


def of_sockets(sockets: Iterable[FleetSocket]) -> dict[str, set[str]]:
    """Group -> the channels which are in it, if nobody took any out."""
    truth: dict[str, set[str]] = defaultdict(set)
    for socket in sockets:
        for group in groups_of(socket):
            truth[group].add(socket.channel)
    return dict(truth)


def groups_of(socket: FleetSocket) -> list[str]:
    return [f"room.{socket.room}"] if socket.room is not None else list(socket.welcome["groups"])


def process_of(socket: FleetSocket) -> str:
    """The process part of its channel name, as reports show it."""
    return socket.channel.partition("!")[0].rpartition(".")[2]


def suspects(client: Any, prefix: str = "asgi") -> dict[str, float]:
    """Process -> since when it has been silent (unix seconds of Redis), as the last run of the reaper remembers it."""
    stored = client.hgetall(f"{prefix}:ops:suspects")
    return {process.decode(): float(json.loads(said)["since"]) for process, said in stored.items()}


def let_confirm_time_pass(client: Any, seconds: float, prefix: str = "asgi") -> None:
    """Return when everybody who is suspected now has been so for that long, by the clock that the reaper goes by."""
    suspected = suspects(client, prefix)
    assert suspected, "nobody is suspected"
    while True:
        now, micros = client.time()
        left = max(suspected.values()) + seconds - now - micros / 1e6
        if left < 0:
            return
        # The confirm time is real here, as for a user. Redis' clock says how much is left; no event tells its end.
        time.sleep(left + 0.001)
