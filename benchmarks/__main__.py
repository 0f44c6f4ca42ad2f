"""``python -m benchmarks``: build a large keyspace in a Redis of its own, measure, print."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path

from redis.exceptions import RedisError
from rich.console import Console

from benchmarks import blocking, disconnects, heartbeat, huge, layer, many_groups, memory, reap, replay, scan
from benchmarks.children import BenchmarkFailed
from benchmarks.figures import FULL_SIZE, Results
from benchmarks.keyspace import STEP, Layout
from benchmarks.report import beside, print_report, write_docs
from benchmarks.session import open_session
from project.embedded_redis import NoRedisServer, RedisNotStarted

SUBJECTS = {
    "scan": scan,
    "reap": reap,
    "block": blocking,
    "memory": memory,
    "layer": layer,
    "heartbeat": heartbeat,
    "disconnects": disconnects,
    "replay": replay,
    "huge": huge,
    "groups": many_groups,
}
SMALLEST = 100 * STEP
INTERRUPTED = 128 + signal.SIGINT
NARROWEST = 150  # a report that goes to a file has no width of its own


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--members", type=_members, default=FULL_SIZE, metavar="N", help="how many members (default: %(default)s)"
    )
    parser.add_argument(
        "--repeat", type=_positive, default=5, metavar="N", help="how often each is measured (default: %(default)s)"
    )
    parser.add_argument(
        "--only", type=_subjects, default=list(SUBJECTS), metavar="S[,S…]", help=f"some of: {', '.join(SUBJECTS)}"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="another keyspace of the same shape")
    parser.add_argument(
        "--probe-timeout",
        type=float,
        default=2.0,
        metavar="S",
        help="seconds that a reap run waits for signs of life (default: %(default)g); it is given beside its time",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the results there too, beside what it has of other subjects"
    )
    parser.add_argument(
        "--write-docs",
        type=Path,
        metavar="FILE",
        help="measure nothing; put the results in FILE into the documentation",
    )
    return parser.parse_args(argv)


def _members(text: str) -> int:
    value = _positive(text)
    if value < SMALLEST or value % STEP:
        raise argparse.ArgumentTypeError(f"{text} is not a multiple of {STEP} from {SMALLEST:,} on")
    return value


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!a} is not a whole number above 0")
    return int(text)


def _subjects(text: str) -> list[str]:
    wanted = text.split(",")
    for name in wanted:
        if name not in SUBJECTS:
            raise argparse.ArgumentTypeError(f"{name!a} is none of {', '.join(SUBJECTS)}")
    return [name for name in SUBJECTS if name in wanted]


def benchmark(options: argparse.Namespace) -> dict[str, object]:
    """Measure what was asked for; returns the results as a document."""
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {what}", file=sys.stderr, flush=True)

    layout = Layout(options.members, options.seed, now=time.time())
    with open_session(layout, options.probe_timeout, say) as session:
        results = Results(layout, options.repeat, session.server.binary)
        session.fill()
        for name in options.only:
            try:
                SUBJECTS[name].run(session, results)
            except (BenchmarkFailed, RedisError) as problem:
                # Minutes of other measurements are not lost for it; but what it left is not what they start from.
                results.failures[name] = str(problem)
                say(f"{name} failed: {problem}")
                session.fill()
    return results.document(time.monotonic() - began)


def main() -> int:
    options = parse_arguments()
    if options.write_docs:
        write_docs(json.loads(options.write_docs.read_text()))
        return 0
    # As Ctrl-C, so that everything that was started is stopped.
    for which in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(which, signal.default_int_handler)
    try:
        document = benchmark(options)
    except (BenchmarkFailed, NoRedisServer, RedisNotStarted) as problem:
        print(f"The benchmark failed: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: everything that the benchmark started has been stopped.", file=sys.stderr)
        return INTERRUPTED
    if options.json:
        kept = json.loads(options.json.read_text()) if options.json.exists() else None
        options.json.write_text(json.dumps(beside(kept, document), indent=1) + "\n")
    console = Console(highlight=False)
    print_report(console if console.is_terminal else Console(width=NARROWEST, highlight=False), document)
    return 1 if document["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
