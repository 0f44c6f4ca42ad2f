"""Reading groups: every member is counted once, whatever its name, and whatever else lies in that Redis."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import redis
from django.conf import LazySettings
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ops.model.groups import Group, Inspection
from ops.model.keys import Keyspace, decode_name, escape_glob, inbox_of
from ops.operations.inspect import InspectOptions, inspect, summarize
from ops.operations.observe import Look, observe
from ops.store.connection.shards import OpenLayer, open_layer
from ops.store.groups.census import Census, GroupSlice, ScanNotes, Selection, read_slices
from project.embedded_redis import EmbeddedRedis
from tests.conftest import StartRedis
from tests.layer_builders import ASGI, add_members, channels_of, layer_of, new_process_name


async def take_census(alias: str = "default", **look: Any) -> Census:
    async with open_layer(alias) as opened:
        observation = await observe(opened, Look(**{"probe": False, **look}), suspicions={})
        assert opened.complete, opened.problems
        return observation.census


async def read_groups(alias: str = "default", **look: Any) -> tuple[Inspection, dict[str, Group]]:
    async with open_layer(alias) as opened:
        stream = await inspect(opened, InspectOptions(Look(**{"probe": False, **look}), members=True))
        found = await stream.collect()
    assert len(found.groups) == len({group.group for group in found.groups}), "a group is shown twice"
    return found, {group.group: group for group in found.groups}


@pytest_asyncio.fixture
async def opened(redis_server: EmbeddedRedis) -> AsyncIterator[OpenLayer]:
    async with open_layer("default") as layer:
        yield layer


# Sizes


@pytest.mark.parametrize("protocol", [2, 3])
async def test_groups_of_every_size_are_counted_exactly(
    each_redis_server: EmbeddedRedis, settings: LazySettings, protocol: int
) -> None:
    settings.CHANNEL_LAYERS = layer_of({"address": each_redis_server.url, "socket_timeout": None, "protocol": protocol})
    sizes = [1, 2, 99, 100, 101, 199, 200, 999, 1000, 1001, 1999, 2000, 2001, 5000, 10_001]
    processes = [new_process_name() for _ in range(3)]
    with redis.Redis.from_url(each_redis_server.url) as client:
        for size in sizes:
            for at, process in enumerate(processes):
                count = size // 3 + (at < size % 3)
                if count:
                    add_members(client, f"size-{size}", channels_of(process, count), joined_at=1000.5 + at + size)

    for scores in (False, True):
        census = await take_census(scores=scores)
        assert (census.groups, census.members, census.unnamed) == (len(sizes), sum(sizes), 0)
        expected = {process: sum(s // 3 + (at < s % 3) for s in sizes) for at, process in enumerate(processes)}
        assert {process: tally.members for process, tally in census.processes.items()} == expected
        newest = [tally.newest_joined_at for tally in census.processes.values()]
        assert sorted(newest) == ([1000.5 + at + 10_001 for at in range(3)] if scores else [0.0] * 3)

    inspection, groups = await read_groups()
    assert {name: group.counts.members for name, group in groups.items()} == {f"size-{n}": n for n in sizes}
    assert (inspection.total_groups, inspection.totals.members) == (len(sizes), sum(sizes))
    for group in groups.values():
        assert len({member.channel for member in group.channels}) == group.counts.members
        joined = [member.joined_at for member in group.channels]
        assert joined == sorted(joined)
        assert group.oldest_joined_at == joined[0]


async def test_each_of_2500_groups_is_counted_once(redis_client: redis.Redis) -> None:
    process = new_process_name()
    pipe = redis_client.pipeline(transaction=False)
    for number in range(2500):
        pipe.zadd(ASGI.group(f"g{number}"), dict.fromkeys(channels_of(process, 2), 1.0))
    pipe.execute()

    census = await take_census()

    assert (census.groups, census.members) == (2500, 5000)
    assert census.processes[process].members == 5000
    _, groups = await read_groups()
    assert set(groups) == {f"g{number}" for number in range(2500)}


async def test_an_empty_layer_has_nothing(redis_server: EmbeddedRedis) -> None:
    assert await take_census() == Census()
    inspection, groups = await read_groups()
    assert (inspection.total_groups, inspection.totals.members, groups) == (0, 0, {})


# Names


async def test_names_that_new_channel_did_not_make_are_counted_for_the_process_that_they_name(
    redis_client: redis.Redis,
) -> None:
    process = new_process_name()
    of_process = [
        f"specific.{process}!",
        f"specific.{process}!x",
        f"specific.{process}!{'a' * 31}",
        f"specific.{process}!{'a' * 33}",
        f"specific.{process}!two!marks",
        f"my.app.v2.{process}!{'a' * 32}",
        f".{process}!{'a' * 32}",
        f"{'long' * 10}.{process}!{'a' * 32}",
        f"ünï.{process}!{'é' * 32}".encode(),
        b"\xff\xfe." + process.encode() + b"!\xff",
    ]
    of_nobody = [
        "general",
        "g" * 90,
        process,
        f"{process}!{'a' * 32}",
        f"specific{process}!{'a' * 32}",
        f"specific.{process[1:]}!{'a' * 32}",
        f"specific.{process}0!{'a' * 32}"[1:],
        f"specific.{process.upper()}!{'a' * 32}" if process.upper() != process else "x",
        f"a!b.{process}!{'a' * 32}",
        b"\x80" * 70,
        "",
    ]
    for group in ("one", "two"):
        add_members(redis_client, group, [*of_process, *of_nobody], joined_at=7.5)

    for scores in (False, True):
        census = await take_census(scores=scores)
        assert (census.members, census.unnamed) == (2 * (len(of_process) + len(of_nobody)), 2 * len(of_nobody))
        assert {name: tally.members for name, tally in census.processes.items()} == {process: 2 * len(of_process)}
        assert census.processes[process].inboxes == {
            f"specific.{process}!",
            f"my.app.v2.{process}!",
            f".{process}!",
            f"{'long' * 10}.{process}!",
            f"ünï.{process}!",
            f"\udcff\udcfe.{process}!",
        }
        assert census.processes[process].newest_joined_at == (7.5 if scores else 0)

    _, groups = await read_groups()
    states = Counter(member.process for member in groups["one"].channels)
    assert states == {process: len(of_process), None: len(of_nobody)}
    assert groups["one"].counts.unknown == len(of_process) + len(of_nobody), "not probed, so nothing is known"


async def test_the_newest_join_of_a_process_is_its_own(redis_client: redis.Redis) -> None:
    """Odd names are read one by one: what others joined must not count for them."""
    mine, other = new_process_name(), new_process_name()
    add_members(redis_client, "room", [f"specific.{mine}!x"], joined_at=100)
    add_members(redis_client, "room", [f"specific.{mine[:4]}{other[4:]}!x", "general"], joined_at=200)
    add_members(redis_client, "room", channels_of(mine, 1), joined_at=90)

    census = await take_census(scores=True)

    assert census.processes[mine].newest_joined_at == 100


PROCESSES = ["0" * 32, "0123456789abcdef" * 2, "f" * 32]
locals_ = st.sampled_from(["", "x", "a" * 31, "b" * 32, "c" * 33, "!", "\xff"])
channel_names = st.one_of(
    st.builds(
        "{}.{}!{}".format, st.sampled_from(["specific", "a.b", "", "ü"]), st.sampled_from(PROCESSES), locals_
    ).map(lambda name: name.encode()),
    st.binary(max_size=12),
    st.builds(lambda process: b"\xfe." + process.encode() + b"!x", st.sampled_from(PROCESSES)),
    st.text("0f!.", max_size=80).map(lambda name: name.encode()),
)
layers = st.dictionaries(
    st.text(max_size=6).map(lambda name: name.encode("utf-8", "replace")),
    st.dictionaries(channel_names, st.floats(min_value=0, max_value=2e9), min_size=1, max_size=8),
    max_size=5,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layer=layers)
@example(layer={b"\xff\n": {b"\x00": 0.0}})
async def test_the_census_counts_what_one_who_reads_name_by_name_counts(
    redis_server: EmbeddedRedis, layer: dict[bytes, dict[bytes, float]]
) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
        for group, members in layer.items():
            client.zadd(ASGI.group_prefix + group, members)
    expected: Counter[str | None] = Counter()
    newest: dict[str, float] = {}
    inboxes: dict[str, set[str]] = {}
    for members in layer.values():
        for raw, score in members.items():
            inbox = inbox_of(decode_name(raw))
            expected[inbox.process if inbox else None] += 1
            if inbox:
                newest[inbox.process] = max(newest.get(inbox.process, 0), score)
                inboxes.setdefault(inbox.process, set()).add(inbox.name)
    unnamed = expected.pop(None, 0)

    for scores in (False, True):
        census = await take_census(scores=scores)
        assert (census.groups, census.unnamed) == (len(layer), unnamed)
        assert {name: tally.members for name, tally in census.processes.items()} == expected
        assert {name: tally.inboxes for name, tally in census.processes.items()} == inboxes
    assert {name: tally.newest_joined_at for name, tally in census.processes.items()} == newest
    inspection, groups = await read_groups()
    assert {process.process: process.members for process in inspection.processes} == expected
    assert {name.encode("utf-8", "surrogateescape") for name in groups} == set(layer)


# Other keys


async def test_keys_that_are_no_groups_are_not_counted(redis_client: redis.Redis) -> None:
    add_members(redis_client, "room", channels_of(new_process_name(), 3))
    member = channels_of(new_process_name(), 1)[0]
    foreign = [
        "asgi:groups:x",
        "asgi:group",
        "xasgi:group:x",
        "asgi2:group:x",
        "ASGI:group:x",
        "asgi.group.x",
        "asgi::group:x",
    ]
    for key in foreign:
        redis_client.zadd(key, {member: 1})
    redis_client.zadd(f"asgi{member}", {b"message": 1})

    for look in ({}, {"leftovers": True}):
        census = await take_census(**look)
        assert (census.groups, census.members) == (1, 3), look


@pytest.mark.parametrize(
    "command", ["SET {} x", "RPUSH {} x", "SADD {} x", "HSET {} x y", "XADD {} * x y", "PFADD {} x"]
)
async def test_group_keys_of_another_type_are_noted_and_the_rest_is_read(
    redis_client: redis.Redis, command: str
) -> None:
    add_members(redis_client, "room", channels_of(new_process_name(), 3))
    redis_client.execute_command(*command.format("asgi:group:odd\x1b").split(" "))

    async with open_layer("default") as opened:
        observation = await observe(opened, Look(probe=False), suspicions={})
    assert (observation.census.groups, observation.census.members) == (1, 3)
    assert observation.notes == ["1 group key holds something else and cannot be read, 'odd\\x1b' among them"]
    inspection, groups = await read_groups()
    assert (inspection.complete, list(groups)) == (True, ["room"])


@pytest.mark.parametrize("prefix", ["as*", "as?i", "[a]sgi", "as\\gi", "as[^x]gi", "*", "ünï", "a b\n", ""])
async def test_a_prefix_stands_for_itself_whatever_its_characters(
    redis_client: redis.Redis, redis_server: EmbeddedRedis, settings: LazySettings, prefix: str
) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, prefix=prefix)
    mine = new_process_name()
    add_members(redis_client, "room", channels_of(mine, 2), prefix=prefix)
    for other in ("asgi", "asxi", "asgi2", "as"):
        add_members(redis_client, "room", channels_of(new_process_name(), 1), prefix=other)
    redis_client.zadd(Keyspace(prefix).inflight(f"specific.{'0' * 32}!"), {b"message": 1})

    assert set((await take_census()).processes) == {mine}
    assert set((await take_census(leftovers=True)).processes) == {mine, "0" * 32}


# Some groups


async def test_a_glob_and_names_choose_groups(redis_client: redis.Redis) -> None:
    for name in ("room.1", "room.2", "lobby", "room[1]", "ROOM.1", "room"):
        add_members(redis_client, name, channels_of(new_process_name(), 1))

    for glob, expected in {
        "room.*": {"room.1", "room.2"},
        "room?1": {"room.1"},
        "room.[1-2]": {"room.1", "room.2"},
        "room\\[1\\]": {"room[1]"},
        "*": {"room.1", "room.2", "lobby", "room[1]", "ROOM.1", "room"},
        "": set(),
        "*b*": {"lobby"},
    }.items():
        assert (await take_census(glob=glob)).groups == len(expected)
        _, groups = await read_groups(glob=glob)
        assert set(groups) == expected, glob
    inspection, groups = await read_groups(names=("room[1]", "absent", "room.1", "room.1"))
    assert {name: group.counts.members for name, group in groups.items()} == {"room[1]": 1, "absent": 0, "room.1": 1}
    assert inspection.totals.members == 2
    assert (await take_census(names=("room[1]", "absent", "room.1", "room.1"))).groups == 2


async def test_a_large_group_can_be_named(redis_client: redis.Redis) -> None:
    add_members(redis_client, "large", channels_of(new_process_name(), 3456))
    _, groups = await read_groups(names=("large",))
    assert groups["large"].counts.members == 3456


# While others write


async def slices_of(opened: OpenLayer, selection: Selection) -> AsyncIterator[GroupSlice]:
    async with opened.home.wire() as wire:
        async for slices in read_slices(wire, opened.keyspace, selection, ScanNotes()):
            for found in slices:
                yield found


async def test_groups_that_come_and_go_while_reading_do_no_harm(redis_client: redis.Redis, opened: OpenLayer) -> None:
    stable = {ASGI.group(f"stable{number}") for number in range(3000)}
    pipe = redis_client.pipeline(transaction=False)
    for key in stable:
        pipe.zadd(key, {b"general": 1.0})
    for number in range(1000):
        pipe.zadd(ASGI.group(f"going{number}"), {b"general": 1.0})
    pipe.execute()

    seen: Counter[bytes] = Counter()
    step = 0
    async for found in slices_of(opened, Selection(pattern=ASGI.groups_pattern())):
        seen[found.key] += 1
        if sum(seen.values()) % 500 == 1:
            step += 1
            pipe = redis_client.pipeline(transaction=False)
            for number in range(2000):  # so that the server's hash table grows under the cursor
                pipe.zadd(ASGI.group(f"coming{step}.{number}"), {b"general": 1.0})
            for number in range(step * 100, step * 100 + 100):
                pipe.delete(ASGI.group(f"going{number}"))
            pipe.execute()

    assert stable <= seen.keys()
    assert max(seen.values()) == 1, "a group is read twice"


async def test_members_that_come_and_go_behind_the_reader_move_no_others(
    redis_client: redis.Redis, opened: OpenLayer
) -> None:
    """It reads from the newest to the oldest: what it has read may go, and what joins is newer."""
    names = [f"{number:05d}" for number in range(9000)]
    redis_client.zadd(ASGI.group("large"), {name: float(at) for at, name in enumerate(names)})
    seen: Counter[bytes] = Counter()
    async for found in slices_of(opened, Selection(pattern=ASGI.groups_pattern())):
        seen.update(found.members)
        if found.members:
            redis_client.zrem(ASGI.group("large"), *found.members)
        redis_client.zadd(ASGI.group("large"), {f"new{len(seen)}.{number}": 1e9 for number in range(300)})

    assert {name.encode() for name in names} <= seen.keys()
    assert max(seen.values()) == 1


@pytest.mark.parametrize("left", [0, 1, 50, 500, 3000])
async def test_a_large_group_that_shrinks_before_it_is_read_in_full_does_no_harm(
    redis_client: redis.Redis, opened: OpenLayer, left: int
) -> None:
    names = [f"{number:05d}" for number in range(5000)]
    redis_client.zadd(ASGI.group("large"), {name: float(at) for at, name in enumerate(names)})
    redis_client.zadd(ASGI.group("small"), {"general": 1.0})

    seen: set[bytes] = set()
    shrunk = False
    async for found in slices_of(opened, Selection(pattern=ASGI.groups_pattern())):
        if found.key == ASGI.group("large"):
            seen.update(found.members)
        if not shrunk:  # the small groups of a page come first
            shrunk = True
            redis_client.zremrangebyrank(ASGI.group("large"), left, -1)

    assert {name.encode() for name in names[:left]} <= seen


async def test_both_passes_agree_on_a_layer_at_rest_on_two_shards(
    start_redis: StartRedis, settings: LazySettings
) -> None:
    settings.CHANNEL_LAYERS = layer_of(start_redis().url, start_redis().url)
    async with open_layer("default") as opened:
        for number in range(40):
            name = f"{number * 37}.group"
            members = dict.fromkeys(channels_of(new_process_name(), 5), time.time())
            await opened.shard_of_group(name).client.zadd(ASGI.group(name), members)
        assert all([await shard.client.dbsize() for shard in opened.shards])
        summary = await summarize(opened, InspectOptions(Look(probe=False)))
    inspection, groups = await read_groups()
    assert (summary.total_groups, summary.totals) == (inspection.total_groups, inspection.totals)
    assert {group.shard for group in groups.values()} == {0, 1}
    assert [shard.answered for shard in inspection.shards] == [True, True]


# Globs


special = st.lists(st.sampled_from([b"*", b"?", b"[", b"]", b"\\", b"^", b"-", b"a", b"b", b"\n", b"\xff"]), max_size=6)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(special.map(b"".join), min_size=1, max_size=6, unique=True))
def test_an_escaped_glob_matches_only_itself(redis_server: EmbeddedRedis, names: list[bytes]) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
        client.mset({b"k" + name: 1 for name in [*names, b"a", b"b", b"ab"]})
        for name in names:
            _, found = client.scan(match=escape_glob(b"k" + name), count=1000)
            assert found == [b"k" + name]
