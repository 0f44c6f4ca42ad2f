"""Counting what never ends in memory that does: the commonest keys, ages, and a timeline. Pure."""

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class TopTally(Generic[K]):
    """Counts by key. Above twice ``capacity`` keys, the rarest go to ``other``: their counts stay, not their names."""

    def __init__(self, capacity: int) -> None:
        self.other = 0
        self._capacity = capacity
        self._counts: dict[K, int] = {}

    def add(self, key: K, count: int = 1) -> None:
        self._counts[key] = self._counts.get(key, 0) + count
        if len(self._counts) > 2 * self._capacity:
            kept = dict(self.ordered()[: self._capacity])
            self.other += sum(self._counts.values()) - sum(kept.values())
            self._counts = kept

    def ordered(self) -> list[tuple[K, int]]:
        """The commonest first."""
        return sorted(self._counts.items(), key=lambda item: (-item[1], str(item[0])))

    def top(self, number: int) -> tuple[list[tuple[K, int]], int]:
        """The ``number`` commonest, and how many all others make."""
        ordered = self.ordered()
        return ordered[:number], self.other + sum(count for _, count in ordered[number:])


class RecentKeys:
    """Whether a key was here before, of the newest ``capacity`` ones, and of as many more at most.

    Kept are hashes, in two generations of which the older is forgotten as a whole: cheaper than forgetting one by one.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._newer: set[int] = set()
        self._older: set[int] = set()

    def add(self, key: Hashable) -> bool:
        """Note ``key``; whether it is new."""
        hashed = hash(key)
        if hashed in self._newer or hashed in self._older:
            return False
        if len(self._newer) >= self._capacity:
            self._older, self._newer = self._newer, set()
        self._newer.add(hashed)
        return True


FINE_SECONDS = 0.5
FINE_UP_TO = 100.0
COARSE_SHARE = 1.005  # half a per cent: 24 h are known to 7 minutes
_FINE_BINS = int(FINE_UP_TO / FINE_SECONDS)
_LAST_BIN = _FINE_BINS + 4000


def age_bin(age_seconds: float) -> int:
    """The bin of an age: half seconds up to 100 s, half per cents above."""
    if age_seconds < FINE_UP_TO:
        return int(age_seconds / FINE_SECONDS)
    return min(_LAST_BIN, _FINE_BINS + int(math.log(age_seconds / FINE_UP_TO) / math.log(COARSE_SHARE)))


TOGETHER_SECONDS = 2.0
KINDS_KEPT = 8


@dataclass(slots=True)
class AgeBin:
    """Ends at about one age: how many, the sum of their ages, when the first and the last of them were, and the
    ``most`` of them within TOGETHER_SECONDS."""

    count: int = 0
    ages: float = 0.0
    first_at: float = math.inf
    last_at: float = -math.inf
    most: int = 0
    causes: dict[str, int] = field(default_factory=dict)
    _number: int = 0
    _now: int = 0

    def add(self, age_seconds: float, at: float, cause: str) -> None:
        self.count += 1
        self.ages += age_seconds
        self.first_at, self.last_at = min(self.first_at, at), max(self.last_at, at)
        self.causes[cause] = self.causes.get(cause, 0) + 1
        number = int(at / TOGETHER_SECONDS)
        self._now = self._now + 1 if number == self._number else 1
        self._number = number
        self.most = max(self.most, self._now)

    def join(self, other: "AgeBin") -> None:
        self.count += other.count
        self.ages += other.ages
        self.first_at, self.last_at = min(self.first_at, other.first_at), max(self.last_at, other.last_at)
        self.most = max(self.most, other.most)
        for cause, count in other.causes.items():
            self.causes[cause] = self.causes.get(cause, 0) + count


_WIDTHS = (1, 5, 10, 30, 60, 300, 600, 1800, 3600, 10800, 21600, 43200, 86400, 604800)


def _wider(width: int) -> int:
    """The next width, a multiple of ``width``."""
    return next((w for w in _WIDTHS if w > width), width * 10)


@dataclass(slots=True)
class Slot:
    """One step of a timeline. ``bad``: ends that were no ordinary ones; ``brief``: soon after the beginning, not of a
    server that was stopped; ``brief_of``: the first KINDS_KEPT kinds of them; ``redis``: since the connection to Redis
    was lost."""

    total: int = 0
    bad: int = 0
    brief: int = 0
    redis: int = 0
    brief_of: dict[str, int] = field(default_factory=dict)

    def add_brief(self, kind: str) -> None:
        """Count an end soon after the beginning, of one ``kind``."""
        self.brief += 1
        self._count(kind, 1)

    def add(self, other: "Slot") -> None:
        self.total += other.total
        self.bad += other.bad
        self.brief += other.brief
        self.redis += other.redis
        for kind, count in other.brief_of.items():
            self._count(kind, count)

    def _count(self, kind: str, count: int) -> None:
        if kind in self.brief_of or len(self.brief_of) < KINDS_KEPT:
            self.brief_of[kind] = self.brief_of.get(kind, 0) + count


@dataclass(slots=True)
class Timeline:
    """Ends over time, in at most ``most_slots`` steps: where they would be more, the steps become longer."""

    most_slots: int
    width_seconds: int = 1
    slots: dict[int, Slot] = field(default_factory=dict)
    _first: int = 0
    _last: int = 0

    def slot(self, at: float) -> Slot:
        """The step that ``at`` falls into, to be counted up."""
        number = math.floor(at / self.width_seconds)
        if not self.slots:
            self._first = self._last = number
        slot = self.slots.get(number)
        if slot is None:
            self._first, self._last = min(self._first, number), max(self._last, number)
            slot = self.slots[number] = Slot()
            while self._last - self._first >= self.most_slots:
                self._widen()
            slot = self.slots[math.floor(at / self.width_seconds)]
        return slot

    def coarser(self, most_slots: int, least_seconds: int = 1) -> "Timeline":
        """The same in fewer and longer steps."""
        slots = {number: replace(slot, brief_of=dict(slot.brief_of)) for number, slot in self.slots.items()}
        other = Timeline(most_slots, self.width_seconds, slots, self._first, self._last)
        while other.width_seconds < least_seconds or other._last - other._first >= most_slots:
            other._widen()
        return other

    def _widen(self) -> None:
        width = _wider(self.width_seconds)
        factor = width // self.width_seconds
        merged: dict[int, Slot] = {}
        for number, slot in self.slots.items():
            merged.setdefault(number // factor, Slot()).add(slot)
        self.slots, self.width_seconds = merged, width
        self._first, self._last = self._first // factor, self._last // factor

    def steps(self) -> Iterator[tuple[float, Slot]]:
        """Each step with the time at which it begins, empty ones too."""
        if self.slots:
            empty = Slot()
            for number in range(self._first, self._last + 1):
                yield float(number * self.width_seconds), self.slots.get(number, empty)


def shares(values: Sequence[int], height: int) -> list[int]:
    """``values`` scaled to 0…``height``; what is not 0 stays visible."""
    most = max(values, default=0)
    return [math.ceil(value * height / most) if value else 0 for value in values]
