"""What the measurements of the drop-in layer share: databases of their own, and processes in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from benchmarks.figures import FULL_SIZE
from benchmarks.session import Session, await_ready

SUBJECT = "layer"
FEWEST = 20


def scaled(session: Session, full: int) -> int:
    """As many of ``full`` as the benchmark has of its members."""
    return max(FEWEST, full * session.layout.members // FULL_SIZE)


@contextmanager
def database(session: Session, number: int) -> Iterator[str]:
    """The URL of an empty database beside the keyspace; it is emptied afterwards."""
    url = f"{session.server.url}/{number}"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        try:
            yield url
        finally:
            client.flushdb()


@contextmanager
def started(session: Session, *arguments: object) -> Iterator[dict[str, Any]]:
    """Run a process of ``benchmarks.layer_processes``; gives what it says when it is ready. It ends by SIGKILL."""
    log = session.server.directory / "layer_processes.log"  # of all of them: what is there already is another's
    already = log.stat().st_size if log.exists() else 0
    with session.background("layer_processes", *arguments) as process:

        def said() -> bytes:
            return _last_document(log.read_bytes()[already:])

        await_ready(process, lambda: bool(said()), f"a process did not start: {' '.join(map(str, arguments))}")
        yield json.loads(said())


def _last_document(output: bytes) -> bytes:
    lines = [line for line in output.splitlines(keepends=True) if line.startswith(b"{") and line.endswith(b"}\n")]
    return lines[-1] if lines else b""
