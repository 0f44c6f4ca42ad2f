"""When an empty part of the hash ring means something, and when names explain it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import pytest
from channels_redis.core import RedisChannelLayer

from ops.model.doctor.facts import KeyspaceFacts, ProcessFacts
from ops.model.doctor.ring import FEWEST_DIFFERENCES, PLACES, RingGap, RingTally, find_gap
from ops.model.liveness.lease import Lease
from ops.model.liveness.stops import OtherHosts
from tests.unit.facts_of import NOW, PROCESS, facts, found, ids

GAP = RingGap(60, 2, (1,), 100, 50)


def random_names(count: int) -> list[str]:
    return [f"room_{hashlib.md5(b'%d' % number).hexdigest()}" for number in range(count)]


def names_of_a_service(count: int) -> list[str]:
    return [f"{kind}.{number}" for number in range(count // 2) for kind in ("user", "notifications")]


SCHEMES = {
    "random": random_names(1000),
    "room.N": [f"room.{number}" for number in range(1, 1001)],
    "chat_NNNN": [f"chat_{number:04}" for number in range(1000)],
    "N in the middle": [f"tenant-{number}-feed" for number in range(1000)],
    "N in front of much": [f"{number}.notifications.of.the.whole.team" for number in range(1000)],
    "even numbers": [f"user_{number}" for number in range(0, 2000, 2)],
    "multiples of 256": [f"h{number:08x}" for number in range(0, 256_000, 256)],
    "hours": [f"stats.2026-01-{day:02}.{hour:02}" for day in range(1, 29) for hour in range(24)],
    "two of each": names_of_a_service(1000),
}


def hosts_of(count: int) -> RedisChannelLayer:
    return RedisChannelLayer(hosts=[{"address": f"redis://shard-{number}:6379"} for number in range(count)])


def tally_of(names: Iterable[str]) -> RingTally:
    tally = RingTally()
    for name in names:
        tally.note(name.encode())
    return tally


def seen_on(names: Iterable[str], shards: set[int], of: int) -> RingTally:
    """What is met on some of the shards of the workers, which have so many."""
    layer = hosts_of(of)
    return tally_of(name for name in names if layer.consistent_hash(name) in shards)


def test_places_are_those_of_channels_redis() -> None:
    layer = hosts_of(2)
    layer.ring_size = PLACES
    for name in SCHEMES["random"]:
        assert tally_of([name]).places == {layer.consistent_hash(name)}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("count", [8, 20, 32, 50, 100, 300, 1000])
def test_nothing_is_said_of_any_fleet_with_the_right_hosts(scheme: str, count: int) -> None:
    assert find_gap(tally_of(dict.fromkeys(SCHEMES[scheme][:count]))) is None


@pytest.mark.parametrize("scheme", ["random", "two of each"])
@pytest.mark.parametrize(
    ("shards", "of", "parts", "empty"),
    [
        ({0}, 2, 2, (1,)),
        ({1}, 2, 2, (0,)),
        ({1}, 3, 3, (0, 2)),
        ({0, 2}, 3, 3, (1,)),
        ({0, 1, 2}, 4, 4, (3,)),
        ({3}, 8, 2, (1,)),
    ],
)
def test_a_host_that_is_missing_leaves_a_part_empty(
    scheme: str, shards: set[int], of: int, parts: int, empty: tuple[int, ...]
) -> None:
    gap = find_gap(seen_on(SCHEMES[scheme], shards, of))
    assert gap is not None
    assert (gap.parts, gap.empty) == (parts, empty)


@pytest.mark.parametrize(("groups", "said"), [(19, False), (24, True)])
def test_few_groups_in_one_half_may_be_chance(groups: int, said: bool) -> None:
    names = [name for name in SCHEMES["random"] if hosts_of(2).consistent_hash(name) == 0]
    tally = tally_of(names[:groups])
    assert tally.differences >= FEWEST_DIFFERENCES
    assert (find_gap(tally) is not None) is said


def names_of_one_half(characters: int = 14) -> list[str]:
    """Each character is one of two, of which the choice does not matter for the half of the ring."""
    layer, name = hosts_of(2), "-" * characters
    choices = []
    for at in range(characters):
        changed = {letter: f"{name[:at]}{letter}{name[at + 1 :]}" for letter in "abcdefghijklmnopqrstuvwxyz"}
        choices.append([letter for letter, other in changed.items() if layer.consistent_hash(other) == 0][:2])
    return ["".join(choice[number >> at & 1] for at, choice in enumerate(choices)) for number in range(1 << characters)]


def test_names_that_lie_in_one_half_by_the_way_they_are_made_say_nothing() -> None:
    # Hashed, so that neighbours are no longer alike: SCAN returns them in no order.
    names = sorted(names_of_one_half(), key=lambda name: hashlib.sha256(name.encode()).digest())[:1000]
    tally = tally_of(names)
    assert {hosts_of(2).consistent_hash(name) for name in names} == {hosts_of(2).consistent_hash(names[0])}
    assert tally.differences >= FEWEST_DIFFERENCES
    assert find_gap(tally) is None


def test_the_finding_says_what_was_counted() -> None:
    finding = found(facts(keyspace=KeyspaceFacts(ring_gap=GAP)))
    assert list(finding) == ["ops.W413"]
    assert finding["ops.W413"].evidence == (
        "of 60 groups none lies in part 2 of the hash ring, cut into 2; of 100 names made up like theirs 50 would",
    )


def test_it_is_not_said_twice() -> None:
    misplaced = KeyspaceFacts(misplaced_groups=1, misplaced=((0, "room", 1),), ring_gap=GAP)
    assert ids(facts(keyspace=misplaced)) == ["ops.E407"]
    told = KeyspaceFacts(other_hosts=(OtherHosts("web-1 pid 7", "shard 0 (redis://r)", "1/2", "1/1"),), ring_gap=GAP)
    assert ids(facts(keyspace=told)) == ["ops.E407"]


@pytest.mark.parametrize(("shard", "expected"), [("1/1", []), ("", ["ops.W413"])])
def test_leases_that_tell_the_same_hosts_explain_it(shard: str, expected: list[str]) -> None:
    lease = Lease(PROCESS, NOW, 30.0, False, "web-1", "7", NOW, "1.0", shard=shard)
    process = ProcessFacts(PROCESS, live=True, silent=False, lease=lease)
    assert ids(facts(keyspace=KeyspaceFacts(ring_gap=GAP), processes=(process,))) == expected
