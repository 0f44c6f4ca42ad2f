"""Bytes that atheris makes up, guided by what they reach, for every parser of what anybody may have written.

``make fuzz SECONDS=300``; a crash is written to the current directory, as libFuzzer does. What it finds becomes an
example of a test in tests/integration/test_hostile_records.py or tests/unit.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timezone
from types import SimpleNamespace
from typing import Any

import atheris

with atheris.instrument_imports(include=["ops"]):
    import argparse

    import django
    import msgpack
    from django.conf import settings

    settings.configure()
    django.setup()

    from ops.management import arguments
    from ops.model.disconnects.logs.reader import LogReader
    from ops.model.disconnects.record import Disconnect, parse_json, to_json
    from ops.model.heartbeats.message import parse_heartbeat
    from ops.model.keys import decode_name, encode_name, inbox_of, parse_index_entry
    from ops.model.text import visible
    from ops.store import heartbeats
    from ops.store.disconnects import log as disconnect_log
    from ops.store.liveness import leases, suspects
    from ops.store.removal import journal

PROCESS = "a" * 32


def read_record(raw: bytes) -> None:
    record = parse_json(raw)
    if record is not None:
        again = parse_json(to_json(record))
        assert again is not None
        # Some thousand years from now a float does not hold milliseconds any more.
        assert to_json(replace(again, at=record.at)) == to_json(record)


def read_reaped(raw: bytes) -> None:
    entry = disconnect_log._parse_reaped(raw)
    assert entry is None or all(isinstance(count, int) for count in entry[2].values())


def read_suspicion(raw: bytes) -> None:
    suspects._parse(PROCESS, raw)


def read_lease(raw: bytes) -> None:
    fields = [field or None for field in raw.split(b"\0")]
    leases._parse(PROCESS, (fields + [None] * len(leases.FIELDS))[: len(leases.FIELDS)])


def read_receipt(raw: bytes) -> None:
    for _, members, scores in journal.parse_receipt(raw):
        assert len(members) == len(scores)


def read_index_entry(raw: bytes) -> None:
    entry = parse_index_entry(PROCESS, raw)
    assert entry is None or inbox_of(decode_name(entry[1])) is not None


def read_name(raw: bytes) -> None:
    name = decode_name(raw)
    assert encode_name(name) == raw
    assert visible(name).isprintable()
    inbox_of(name)


def read_acknowledgement(raw: bytes) -> None:
    question = heartbeats._Question()
    reader: Any = SimpleNamespace(_questions={1: question})
    heartbeats.Asker._note(reader, raw)
    assert question.answers.answered == {}


def read_heartbeat(raw: bytes) -> None:
    try:
        message = msgpack.unpackb(raw)
    except Exception:  # the layer's serializer, not ours
        return
    if isinstance(message, dict):
        parse_heartbeat(message)


def read_log(raw: bytes) -> None:
    found: list[Disconnect] = []
    reader = LogReader(timezone.utc, found.append)
    for line in raw.split(b"\n"):
        reader.feed(line)
    reader.end()
    for one in found:
        json.loads(to_json(one))


def read_argument(raw: bytes) -> None:
    text = decode_name(raw)
    kinds: tuple[Callable[[str], object], ...] = (arguments.moment, arguments.seconds, arguments.speed, arguments.count)
    for kind in kinds:
        said = ""
        try:
            kind(text)
        except argparse.ArgumentTypeError as problem:
            said = str(problem)
        assert said.isprintable()


TARGETS = (
    read_record,
    read_reaped,
    read_suspicion,
    read_lease,
    read_receipt,
    read_index_entry,
    read_name,
    read_acknowledgement,
    read_heartbeat,
    read_log,
    read_argument,
)


def read_one(data: bytes) -> None:
    """The first byte says which parser reads the rest."""
    if data:
        TARGETS[data[0] % len(TARGETS)](data[1:])


if __name__ == "__main__":
    atheris.Setup(sys.argv, read_one)
    atheris.Fuzz()
