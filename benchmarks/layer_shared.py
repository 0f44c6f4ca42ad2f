"""What the measurements of the drop-in layer share: databases of their own, and processes in them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from benchmarks.children import BenchmarkFailed
from benchmarks.figures import FULL_SIZE
from benchmarks.session import Session

SUBJECT = "layer"
FEWEST = 20
READY_WITHIN_SECONDS = 60.0
POLL_SECONDS = 0.05


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
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        while not (said := _last_document(log.read_bytes()[already:])):
            if not process.running or time.monotonic() > deadline:
                raise BenchmarkFailed(f"a process did not start: {' '.join(map(str, arguments))}\n{process.output()}")
            time.sleep(POLL_SECONDS)
        yield json.loads(said)


def _last_document(output: bytes) -> bytes:
    lines = [line for line in output.splitlines(keepends=True) if line.startswith(b"{") and line.endswith(b"}\n")]
    return lines[-1] if lines else b""
