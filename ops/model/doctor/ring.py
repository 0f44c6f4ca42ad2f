"""The hash ring on which channels_redis lays its groups, and the parts of it that hold none.

The ring has 4096 places. A group lies at the CRC32 of its name, and each of ``k`` hosts has one ``k``-th of the ring.
If the processes have more hosts than this configuration, or another host in the place of one of these, then a part of
the ring is somewhere else, and no group of that part is met here.

An empty part alone says little, because CRC32 is linear: names that are made alike, such as ``room.1`` to ``room.99``,
may all fall into the same part. So two more things must hold. The names must differ in enough ways, and names put
together from their characters must fall into the empty part as often as into any other.
"""

import binascii
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

PLACES = 4096
MOST_PARTS = 4
LARGEST_CHANCE = 1e-6
FEWEST_DIFFERENCES = 12
MOST_DIFFERENCES = 32  # CRC32 has no more bits
MOST_NAMES = 200
FEWEST_MADE_UP = 8
SMALLEST_SHARE = 0.4


@dataclass(slots=True)
class RingTally:
    """Where groups lie on the ring. ``names``: some of them.

    ``_basis``: independent differences between their CRC32, as bits.
    """

    groups: int = 0
    places: set[int] = field(default_factory=set)
    names: list[bytes] = field(default_factory=list)
    _first: int = 0
    _basis: list[int] = field(default_factory=list)

    @property
    def differences(self) -> int:
        """In how many independent ways the names differ: 1 for ``a`` and ``b``, 32 at most."""
        return len(self._basis)

    def note(self, name: bytes) -> None:
        hashed = binascii.crc32(name)
        if not self.groups:
            self._first = hashed
        self.groups += 1
        self.places.add(hashed % PLACES)
        if len(self.names) < MOST_NAMES:
            self.names.append(name)
        if len(self._basis) < MOST_DIFFERENCES:
            self._note_difference(hashed ^ self._first)

    def _note_difference(self, difference: int) -> None:
        for known in self._basis:
            difference = min(difference, difference ^ known)
        if difference:
            self._basis.append(difference)


@dataclass(frozen=True, slots=True)
class RingGap:
    """``groups`` groups, and none of them in the parts ``empty`` (from 0) of the ring cut into ``parts``.

    ``made_up``: how many names were made up like theirs; ``made_up_there`` of these belong into the empty parts.
    """

    groups: int
    parts: int
    empty: tuple[int, ...]
    made_up: int
    made_up_there: int


def find_gap(tally: RingTally) -> RingGap | None:
    """The first empty part that neither chance nor the way the names are made explains."""
    if tally.differences < FEWEST_DIFFERENCES:
        return None
    for parts in range(2, MOST_PARTS + 1):
        used = {_part_of(place, parts) for place in tally.places}
        chance = math.comb(parts, len(used)) * (len(used) / parts) ** tally.groups
        if len(used) < parts and chance <= LARGEST_CHANCE:
            return _checked_by_other_names(tally, parts, used)
    return None


def _checked_by_other_names(tally: RingTally, parts: int, used: set[int]) -> RingGap | None:
    made_up = set(_made_up(tally.names))
    there = sum(_part_of(binascii.crc32(name) % PLACES, parts) not in used for name in made_up)
    expected = len(made_up) * (1 - len(used) / parts)
    if there < FEWEST_MADE_UP or there < SMALLEST_SHARE * expected:
        return None
    empty = tuple(part for part in range(parts) if part not in used)
    return RingGap(tally.groups, parts, empty, len(made_up), there)


def _made_up(names: Sequence[bytes]) -> Iterator[bytes]:
    """Names that differ from one of ``names`` in one character, which another one of the same length has there."""
    taken = set(names)
    by_length: defaultdict[int, list[bytes]] = defaultdict(list)
    for name in names:
        by_length[len(name)].append(name)
    for alike in by_length.values():
        for one, other in zip(alike, alike[len(alike) // 2 :] + alike[: len(alike) // 2], strict=True):
            for at in range(len(one)):
                made_up = one[:at] + other[at : at + 1] + one[at + 1 :]
                if made_up not in taken:
                    yield made_up


def _part_of(place: int, parts: int) -> int:
    """As channels_redis has it: the host, of so many, that this place belongs to."""
    return int(place / (PLACES / parts))
