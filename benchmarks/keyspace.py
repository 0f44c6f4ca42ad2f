"""The keyspace that everything is measured on: a busy layer of 200 processes, half of which will be found dead.

1,000,000 members are 10 groups of 50,000 and 100,000 groups of 5; other sizes keep these proportions. The same size,
seed and start time give the same keyspace, so each process of the benchmark can know it without asking Redis.
``python -m benchmarks.keyspace URL LAYOUT`` writes it.
"""

from __future__ import annotations

import json
import random
import socket
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import hiredis

PROCESSES = 200
LARGE_GROUPS = 10
SMALL_GROUP = 5
STEP = 2 * LARGE_GROUPS  # what a number of members must be a multiple of
JOINED_WITHIN_SECONDS = 3600.0
GROUP_PREFIX = b"asgi:group:"
GROUP_EXPIRY_SECONDS = b"86400"
MEMBERS_PER_COMMAND = 1000
GROUPS_AT_ONCE = 2000

Member = tuple[bytes, float]
"""A channel name and the unix time at which it joined."""


@dataclass(frozen=True)
class Layout:
    """Which keyspace: how many members, from which seed, seen at which unix time."""

    members: int
    seed: int
    now: float

    @classmethod
    def parse(cls, text: str) -> Layout:
        return cls(**json.loads(text))

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    @property
    def sizes(self) -> list[int]:
        """The number of members of each group."""
        large = self.members // STEP
        return [large] * LARGE_GROUPS + [SMALL_GROUP] * ((self.members - large * LARGE_GROUPS) // SMALL_GROUP)

    @property
    def groups(self) -> int:
        return len(self.sizes)

    @cached_property
    def processes(self) -> list[str]:
        """The ``client_prefix`` of each process."""
        source = random.Random(self.seed)
        return [source.randbytes(16).hex() for _ in range(PROCESSES)]

    @property
    def live(self) -> list[str]:
        return self.processes[PROCESSES // 2 :]

    @property
    def dead(self) -> list[str]:
        return self.processes[: PROCESSES // 2]

    def read(self, processes: Iterable[str] | None = None) -> Iterator[tuple[bytes, list[Member]]]:
        """Each group's key with its members, all or those of ``processes``; groups without any are left out."""
        source = random.Random(f"{self.seed} members")
        heads = [f"specific.{process}!".encode() for process in self.processes]
        wanted = set(heads) if processes is None else {f"specific.{process}!".encode() for process in processes}
        for number, size in enumerate(self.sizes):
            local_parts = source.randbytes(16 * size).hex().encode()
            chosen = source.choices(heads, k=size)
            members = [
                (head + local_parts[32 * at : 32 * at + 32], self.now - JOINED_WITHIN_SECONDS * source.random())
                for at, head in enumerate(chosen)
            ]
            if len(wanted) < PROCESSES:
                members = [member for member, head in zip(members, chosen, strict=True) if head in wanted]
            if members:
                yield GROUP_PREFIX + b"room-%06d" % number, members


def write(url: str, groups: Iterable[tuple[bytes, list[Member]]]) -> int:
    """Add the members as ``group_add`` would, with its expiry, and return how many were new."""
    added = 0
    with Link(url) as link:
        batch: list[bytes] = []
        for number, (key, members) in enumerate(groups, start=1):
            for start in range(0, len(members), MEMBERS_PER_COMMAND):
                part = members[start : start + MEMBERS_PER_COMMAND]
                batch.append(pack(b"ZADD", key, *(word for name, at in part for word in (b"%r" % at, name))))
            batch.append(pack(b"EXPIRE", key, GROUP_EXPIRY_SECONDS))
            if number % GROUPS_AT_ONCE == 0:
                added += sum(link.ask(batch)) - GROUPS_AT_ONCE
                batch = []
        if batch:
            added += sum(link.ask(batch)) - number % GROUPS_AT_ONCE
    return added


def pack(*words: bytes) -> bytes:
    """One command as Redis reads it."""
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


class Link:
    """A bare connection: a client library would take longer to write the keyspace than Redis does."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._socket = socket.create_connection((address.hostname, address.port or 6379))
        self._reader = hiredis.Reader(notEnoughData=...)

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, commands: list[bytes]) -> list[Any]:
        """The replies to packed commands, sent in one write. An error reply is raised."""
        self._socket.sendall(b"".join(commands))
        replies: list[Any] = []
        while len(replies) < len(commands):
            reply = self._reader.gets()
            if reply is ...:
                self._reader.feed(self._socket.recv(1 << 16))
            elif isinstance(reply, Exception):
                raise reply
            else:
                replies.append(reply)
        return replies


def main(url: str, layout: str) -> None:
    wanted = Layout.parse(layout)
    added = write(url, wanted.read())
    if added != wanted.members:
        sys.exit(f"{added:,} members were written instead of {wanted.members:,}")


if __name__ == "__main__":
    main(*sys.argv[1:])
