"""Round-trip times in buckets of a fixed relative width, so that any number of them takes the same memory."""

import math
from collections import Counter

WIDTH = 1.05  # of a bucket; what is read from it is off by at most half of that, 2.5 %
SHORTEST_MS = 0.001
LONGEST_MS = 1e9
RANKS = {"min": 0.0, "p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}


class RoundTrips:
    """How long answers took, in milliseconds. The shortest and the longest are exact."""

    __slots__ = ("_buckets", "count", "longest_ms", "shortest_ms")

    def __init__(self) -> None:
        self.count = 0
        self.shortest_ms = math.inf
        self.longest_ms = 0.0
        self._buckets: Counter[int] = Counter()

    def note(self, milliseconds: float, times: int = 1) -> None:
        if times <= 0:
            return
        within = min(max(milliseconds, SHORTEST_MS), LONGEST_MS)
        self._buckets[math.floor(math.log(within, WIDTH))] += times
        self.count += times
        self.shortest_ms = min(self.shortest_ms, within)
        self.longest_ms = max(self.longest_ms, within)

    def add(self, other: "RoundTrips") -> None:
        self._buckets.update(other._buckets)
        self.count += other.count
        self.shortest_ms = min(self.shortest_ms, other.shortest_ms)
        self.longest_ms = max(self.longest_ms, other.longest_ms)

    def percentiles(self) -> dict[str, float]:
        """min, p50, p95, p99 and max by the nearest-rank method; all 0 where there is none."""
        if not self.count:
            return dict.fromkeys(RANKS, 0.0)
        return {name: self._at(rank) for name, rank in RANKS.items()}

    def _at(self, rank: float) -> float:
        wanted = max(1, math.ceil(rank * self.count))
        if wanted == 1:
            return self.shortest_ms
        if wanted == self.count:
            return self.longest_ms
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                return min(max(_middle_ms(bucket), self.shortest_ms), self.longest_ms)
        return self.longest_ms

    def distribution(self) -> list[tuple[float, float, int]]:
        """Counts between 1, 2, 5, 10 … ms: (from, to, how many), without a gap from the shortest to the longest."""
        counts: Counter[int] = Counter()
        for bucket, count in self._buckets.items():
            counts[_step_of(min(max(_middle_ms(bucket), self.shortest_ms), self.longest_ms))] += count
        if not counts:
            return []
        steps = range(min(counts), max(counts) + 1)
        return [(_step_ms(step), _step_ms(step + 1), counts[step]) for step in steps]


def _middle_ms(bucket: int) -> float:
    return float(WIDTH ** (bucket + 0.5))


def _step_ms(step: int) -> float:
    """The steps 0, 1, 2, 3 … are 1, 2, 5, 10 … ms."""
    decade, place = divmod(step, 3)
    return float((1, 2, 5)[place] * 10.0**decade)


def _step_of(milliseconds: float) -> int:
    step = 3 * math.floor(math.log10(milliseconds))
    while _step_ms(step + 1) <= milliseconds:
        step += 1
    return step
