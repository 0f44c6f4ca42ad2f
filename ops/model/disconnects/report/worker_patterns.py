"""Workers that died, were stopped or vanished, from what their websockets' ends have in common. Pure."""

from collections.abc import Callable, Iterable

from ops.model.disconnects.report.pattern import Pattern, at_time, clock, shown
from ops.model.disconnects.report.tally import ORDINARY, REDIS_LOST, WINDOW_SECONDS, DisconnectTally, WorkerTally
from ops.model.text import visible

# Three connections that say that their process ended are no accident. Of one that only looks so, more are needed: far
# more at once than usual, of one kind, and nothing after them for a while in which others were heard of.
WORKER_SAID_SO = 3
WORKER_AT_ONCE = 10
WORKER_TIMES_USUAL = 5.0
WORKER_ONE_CAUSE = 0.8
WORKER_QUIET_SECONDS = 60.0


def workers_died(tally: DisconnectTally) -> Iterable[Pattern]:
    """Processes whose members the reaper removed, though none had recorded that they ended.

    Not those whose consumers died while the process lived on, or that were stopped: their ends are on record, and what
    they left in the groups is reaped as well.
    """
    died = [
        worker
        for worker in named_workers(tally)
        if worker.died >= WORKER_SAID_SO and worker.heard_at <= worker.reaped_at  # Otherwise it lived on.
    ]
    if died:
        yield _of_workers(
            "worker_died",
            "{} died without a word, with {} open",
            "Look for an out-of-memory kill, a crash, a lost host, or a deploy that kills instead of waiting.",
            died,
            lambda worker: worker.died,
            _when_it_died,
        )


def _when_it_died(worker: WorkerTally) -> str:
    heard = (
        f"its own last record is of {clock(worker.heard_at)}" if worker.heard_at > 0 else "it recorded no end itself"
    )
    return f"reaped{at_time(worker.reaped_at)}; {heard}"


def workers_stopped(tally: DisconnectTally) -> Iterable[Pattern]:
    """Processes whose connections were ended by the server, or open at its end."""
    stopped = [worker for worker in named_workers(tally) if worker.stopped >= WORKER_SAID_SO]
    if stopped:
        yield _of_workers(
            "worker_stopped",
            "{} stopped, as in a deploy, with {} open",
            "Expected where you deployed or scaled then. Clients should come back with a random delay.",
            stopped,
            lambda worker: worker.stopped,
            lambda worker: f"open when it was stopped{at_time(worker.stopped_at)}",
        )


def workers_vanished(tally: DisconnectTally) -> Iterable[Pattern]:
    """Processes many of whose connections were cut within seconds, and that were not heard of again."""
    if tally.says_only_cut:
        return
    vanished = [worker for worker in named_workers(tally) if _vanished(worker, tally.last_at)]
    if vanished:
        yield _of_workers(
            "worker_vanished",
            "{} vanished: {} cut at once, and none ended since",
            "A crash or a deploy of the worker, or of the proxy before it.",
            vanished,
            lambda worker: worker.fullest.count,
            lambda worker: f"cut within {2 * WINDOW_SECONDS} s{at_time(worker.fullest.first_at)}",
        )


def named_workers(tally: DisconnectTally) -> list[WorkerTally]:
    """Those of which a record says which they are."""
    return [worker for worker in tally.workers.values() if worker.name]


def _vanished(worker: WorkerTally, log_ends_at: float) -> bool:
    worker.end_window()
    fullest, count = worker.fullest, worker.fullest.count
    if max(worker.died, worker.stopped) >= WORKER_SAID_SO or count < WORKER_AT_ONCE:
        return False
    commonest = max(fullest.causes, key=lambda cause: fullest.causes[cause])
    windows = (worker.last_at - worker.first_at) / (2 * WINDOW_SECONDS)
    return (
        commonest not in ORDINARY | REDIS_LOST
        and fullest.causes[commonest] >= WORKER_ONE_CAUSE * count
        and count * max(1.0, windows) >= WORKER_TIMES_USUAL * (worker.total - count)
        and worker.last_at <= fullest.first_at + 2 * WINDOW_SECONDS
        and worker.last_at <= log_ends_at - WORKER_QUIET_SECONDS
    )


def _of_workers(
    name: str,
    title: str,
    advice: str,
    workers: list[WorkerTally],
    count: Callable[[WorkerTally], int],
    how: Callable[[WorkerTally], str],
) -> Pattern:
    ordered = sorted(workers, key=count, reverse=True)
    number = sum(map(count, ordered))
    which = f"worker {visible(ordered[0].label)}" if len(ordered) == 1 else f"{len(ordered):,} workers"
    evidence = [f"{visible(worker.label)}: {count(worker):,} {how(worker)}" for worker in ordered]
    connections = f"{number:,} connections"
    return Pattern(name, title.format(which, connections), shown(evidence, "more workers"), advice, number)
