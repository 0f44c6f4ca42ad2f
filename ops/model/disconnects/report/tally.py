"""What is counted of the ends of websockets, in memory that does not grow with their number. Pure."""

import math
import re
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import lru_cache

from ops.model.disconnects.cause import Cause, CauseKind, is_five_second_race, of_kind
from ops.model.disconnects.record import Disconnect, is_timed
from ops.model.disconnects.report.counting import AgeBin, Timeline, TopTally, age_bin
from ops.model.disconnects.report.known_ends import KnownEnds

KEYS_KEPT = 2000
WORKERS_KEPT = 2000
MOST_SLOTS = 10_000
BRIEF_SECONDS = 10.0
WINDOW_SECONDS = 10
CUT = 1006
ONLY_CUT_AT_LEAST = 50
YOUNGEST_SECONDS = 5.0

AGE_LIMITS = (1, 10, 60, 600, 3600, 86400)
"""Seconds that bound the rows of how long connections lived."""

ORDINARY = of_kind(CauseKind.ORDINARY)
REDIS_LOST = of_kind(CauseKind.REDIS_LOST)
_STOPPED = of_kind(CauseKind.STOPPED)
# What dies together did not die of its age. With redis-py 8 the pauses between the time-outs tell more than the ages.
_NO_AGE = of_kind(CauseKind.REDIS_LOST, CauseKind.DIED, CauseKind.STOPPED, CauseKind.REDIS_TIMEOUT) | {
    Cause.REJECTED,
    Cause.NO_ROUTE,
}

_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_HEX = re.compile(r"(?=[^0-9]*[0-9])[0-9a-fA-F]{12,}")
_TOKEN = re.compile(r"(?=[^0-9]*[0-9])[A-Za-z0-9_\-.~+=]{20,}")


@lru_cache(maxsize=10_000)
def normalised(path: str) -> str:
    """``path`` with numbers, UUIDs and tokens in it replaced, so that one kind of socket has one path."""
    return "/".join(_normalised_part(part) for part in path.split("/"))


def _normalised_part(part: str) -> str:
    if part.isdigit():
        return "{number}"
    if _UUID.fullmatch(part):
        return "{uuid}"
    if _HEX.fullmatch(part):
        return "{hex}"
    return "{token}" if _TOKEN.fullmatch(part) else part


@dataclass(slots=True)
class Window:
    """Ends of one worker within two windows of time that touch."""

    first_at: float = 0.0
    causes: dict[str, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return sum(self.causes.values())

    def after(self, before: "Window") -> "Window":
        causes = {name: self.causes.get(name, 0) + before.causes.get(name, 0) for name in self.causes | before.causes}
        return Window(before.first_at if before.causes else self.first_at, causes)


@dataclass(slots=True)
class WorkerTally:
    """``died``: members that the reaper removed, at ``reaped_at``, and whose end nobody had recorded; ``heard_at``: the
    last end that the process recorded itself; ``stopped``: ends whose cause says that it was stopped, the last at
    ``stopped_at``; ``lost``: those of a lost connection to Redis; ``fullest``: when most ended at once; ``ticks``:
    time-outs of Redis that came five seconds after the one before, or after the socket's beginning."""

    name: str
    label: str
    total: int = 0
    died: int = 0
    reaped_at: float = -math.inf
    heard_at: float = -math.inf
    stopped: int = 0
    stopped_at: float = -math.inf
    lost: int = 0
    first_at: float = math.inf
    last_at: float = -math.inf
    fullest: Window = field(default_factory=Window)
    timeouts: int = 0
    ticks: int = 0
    timeout_at: float = -math.inf
    _number: int = 0
    _most: int = 0
    _now: Window = field(default_factory=Window)
    _before: Window = field(default_factory=Window)

    def add(self, one: Disconnect) -> None:
        self.total += 1
        self.died += one.cause == Cause.PROCESS_DIED
        self.stopped += one.cause in _STOPPED
        self.lost += one.cause in REDIS_LOST
        if not is_timed(one):
            return
        self.first_at, self.last_at = min(self.first_at, one.at), max(self.last_at, one.at)
        if one.cause == Cause.PROCESS_DIED:
            self.reaped_at = max(self.reaped_at, one.at)
        else:
            self.heard_at = max(self.heard_at, one.at)
        if one.cause in _STOPPED:
            self.stopped_at = max(self.stopped_at, one.at)
        self._note_window(one)
        if one.cause == Cause.REDIS_TIMEOUT:
            self.timeouts += 1
            self.ticks += is_five_second_race(one.at - self.timeout_at) or is_five_second_race(one.lived_seconds or 0)
            self.timeout_at = one.at

    def join(self, other: "WorkerTally") -> None:
        """It is the same worker, of which some records did not name the process."""
        for name in ("total", "died", "stopped", "lost", "timeouts", "ticks"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("reaped_at", "heard_at", "stopped_at", "last_at", "timeout_at"):
            setattr(self, name, max(getattr(self, name), getattr(other, name)))
        self.first_at = min(self.first_at, other.first_at)
        other.end_window()
        if other.fullest.count > self._most:
            self.fullest, self._most = other.fullest, other.fullest.count

    def _note_window(self, one: Disconnect) -> None:
        number = int(one.at // WINDOW_SECONDS)
        if number != self._number:
            self.end_window()
            self._before = self._now if number == self._number + 1 else Window()
            self._number, self._now = number, Window(one.at)
        self._now.causes[one.cause] = self._now.causes.get(one.cause, 0) + 1

    def end_window(self) -> None:
        """The window that goes on, with the one before it, is the fullest if none was fuller."""
        together = self._now.after(self._before)
        if together.count >= self._most:
            self.fullest, self._most = together, together.count


class DisconnectTally:
    """``add`` each end; the rest reads what has been counted. Of the worker without a name nothing more is known.

    ``reaped_later``: records of the reaper that tell of no further end, as KnownEnds has it; they are counted nowhere
    else.
    """

    def __init__(self) -> None:
        self.records = 0
        self.reaped_later = 0
        self.untimed = 0
        self.dropped = 0
        self.first_at = math.inf
        self.last_at = -math.inf
        self.by_code: TopTally[int] = TopTally(KEYS_KEPT)
        self.by_cause: TopTally[str] = TopTally(KEYS_KEPT)
        self.by_closer: TopTally[str] = TopTally(KEYS_KEPT)
        self.by_path_and_cause: TopTally[tuple[str, str]] = TopTally(KEYS_KEPT)
        self.by_exception: TopTally[str] = TopTally(KEYS_KEPT)
        self.workers: dict[str, WorkerTally] = {}
        self.other_workers = 0
        self.ages: dict[int, AgeBin] = {}
        self.aged = 0
        self.lived = [0] * (len(AGE_LIMITS) + 1)
        self.timeline = Timeline(MOST_SLOTS)
        self.left_behind: TopTally[str] = TopTally(KEYS_KEPT)
        self._places: dict[str, str] = {}
        self._known = KnownEnds()

    @property
    def says_only_cut(self) -> bool:
        """Whether all of many close codes are 1006, which Hypercorn gives for every end by the client."""
        codes, other = self.by_code.top(2)
        return not other and len(codes) == 1 and codes[0][0] == CUT and codes[0][1] >= ONLY_CUT_AT_LEAST

    def add(self, one: Disconnect) -> None:
        if self._known.has(one):
            self.reaped_later += 1
            return
        self.records += 1
        self.dropped += one.dropped_before
        if one.code is not None:
            self.by_code.add(one.code)
        self.by_cause.add(one.cause)
        self.by_closer.add(one.closed_by)
        path = None if one.path is None else normalised(one.path)
        if path is not None:
            self.by_path_and_cause.add((path, one.cause))
        if one.exception:
            self.by_exception.add(one.exception[0])
        if one.groups and one.cause != Cause.PROCESS_DIED:
            self.left_behind.add(one.exception[0] if one.exception else one.cause)
        self._add_to_worker(one)
        if not is_timed(one):
            self.untimed += 1
            return
        self.first_at, self.last_at = min(self.first_at, one.at), max(self.last_at, one.at)
        slot = self.timeline.slot(one.at)
        slot.total += 1
        slot.bad += one.cause not in ORDINARY
        slot.redis += one.cause in REDIS_LOST
        if one.lived_seconds is not None:
            if one.lived_seconds < BRIEF_SECONDS and one.cause not in _STOPPED and one.closed_by != "shutdown":
                slot.add_brief(f"{path or ''} {one.cause}".strip())
            self._add_age(one, one.lived_seconds)

    def _add_age(self, one: Disconnect, age_seconds: float) -> None:
        self.lived[bisect_right(AGE_LIMITS, age_seconds)] += 1
        if age_seconds >= YOUNGEST_SECONDS and one.cause not in _NO_AGE:
            self.aged += 1
            number = age_bin(age_seconds)
            found = self.ages.get(number)
            if found is None:
                found = self.ages[number] = AgeBin()
            found.add(age_seconds, one.at, one.cause)

    def _add_to_worker(self, one: Disconnect) -> None:
        place = " ".join([*([one.host] if one.host else []), *([f"pid {one.pid}"] if one.pid is not None else [])])
        worker = self._worker(one.process, place)
        if place:
            worker.label = place  # The reaper knew no more than the process.
        worker.add(one)
        if len(self.workers) > 2 * WORKERS_KEPT:
            ordered = sorted(self.workers.values(), key=lambda w: w.total, reverse=True)
            self.other_workers += sum(w.total for w in ordered[WORKERS_KEPT:])
            self.workers = {w.name: w for w in ordered[:WORKERS_KEPT]}
            self._places = {place: name for place, name in self._places.items() if name in self.workers}

    def _worker(self, process: str | None, place: str) -> WorkerTally:
        """The one of that process, or of that place if the record names no process."""
        if process and place:
            self._places[place] = process
            before = self.workers.pop(place, None)
            if before is not None and process not in self.workers:
                before.name = process
                self.workers[process] = before
            elif before is not None:
                self.workers[process].join(before)
        name = process or self._places.get(place, place)
        worker = self.workers.get(name)
        if worker is None:
            worker = self.workers[name] = WorkerTally(name, place or name)
        return worker
