"""The scripts that remove and restore: the receipt comes first and says exactly what went."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator

import msgpack
import pytest
import pytest_asyncio
import redis

from ops.model.keys import inbox_part
from ops.store.connection.scripts import script
from ops.store.connection.shards import OpenLayer, open_layer
from ops.store.removal.journal import GroupMembers, RemovalTally, Remover, parse_receipt, restore_members, set_aside
from ops.store.removal.judgement import Judgement
from ops.store.removal.retention import read_retention
from project.embedded_redis import EmbeddedRedis
from tests.layer_builders import ASGI, NoLock, channels_of, dump, members_of, new_process_name, receipts

RUN = "20260102T030405Z-abcdef"
ROOM = ASGI.group("room")


@pytest_asyncio.fixture
async def opened(redis_server: EmbeddedRedis) -> AsyncIterator[OpenLayer]:
    async with open_layer("default") as layer:
        yield layer


async def purge(opened: OpenLayer, *doomed: GroupMembers, journal_seconds: int = 1000) -> RemovalTally:
    async with opened.home.wire() as wire:
        judgement = Judgement(opened, RUN, NoLock())
        purge = Remover(wire, opened.home, opened.keyspace.journal(RUN), journal_seconds, judgement)
        await purge.load()
        for key, members, scores in doomed:
            await purge.remove(key, members, scores)
        return await purge.finish()


def names(count: int, process: str | None = None) -> list[bytes]:
    return [name.encode() for name in channels_of(process or new_process_name(), count)]


async def test_a_member_goes_only_if_it_has_not_joined_since_it_was_judged(
    opened: OpenLayer, redis_client: redis.Redis
) -> None:
    same, newer, older, absent = names(4)
    redis_client.zadd(ROOM, {same: 100.5, newer: 100.5000001, older: 99})

    purged = await purge(opened, (ROOM, [same, newer, older, absent], [100.5] * 4))

    assert (purged.removed, purged.kept) == (2, 2)
    assert members_of(redis_client, "room") == {newer.decode(): 100.5000001}
    assert receipts(redis_client, RUN) == {ROOM: {same: 100.5, older: 99}}
    assert purged.kept_inboxes == {inbox_part(newer)}


async def test_each_member_has_a_time_of_its_own(opened: OpenLayer, redis_client: redis.Redis) -> None:
    """The clocks of two hosts may differ: what is late for one process is not for another."""
    early, late, later = names(3)
    other = ASGI.group("other")
    redis_client.zadd(ROOM, {early: 100, late: 200})
    redis_client.zadd(other, {later: 300})

    purged = await purge(opened, (ROOM, [late, early], [150.0, 100.0]), (other, [later], [300.0]))

    assert (purged.removed, purged.kept) == (2, 1)
    assert members_of(redis_client, "room") == {late.decode(): 200}
    assert receipts(redis_client, RUN) == {ROOM: {early: 100}, other: {later: 300}}


@pytest.mark.parametrize(
    "score", [0.1 + 0.2, 1795333170.9731126, 0.0, -1.5, 5e-324, 1.7976931348623157e308, 2.0**53 + 2, 1e21]
)
async def test_every_score_survives_the_way_through_the_receipt(each_redis_server: EmbeddedRedis, score: float) -> None:
    with redis.Redis.from_url(each_redis_server.url) as client:
        (member,) = names(1)
        client.zadd(ROOM, {member: score})
        async with open_layer("default") as opened:
            assert (await purge(opened, (ROOM, [member], [score]))).removed == 1
            assert receipts(client, RUN) == {ROOM: {member: score}}
            assert await restore_members(opened, opened.home, [(ROOM, [member], [score])]) == (1, 0, 0)
        assert client.zscore(ROOM, member) == score


async def test_the_receipt_is_written_before_the_removal(opened: OpenLayer, redis_client: redis.Redis) -> None:
    """A script that is cut short between its commands has more receipts than removals, never fewer."""
    source = script("purge_members").source.decode()
    assert source.index("'RPUSH'") < source.index("'ZREM'")
    (member,) = names(1)
    redis_client.zadd(ROOM, {member: 1})
    # Where the receipt cannot be written, nothing is removed.
    redis_client.set(ASGI.journal(RUN), "in the way")
    with pytest.raises(Exception, match="WRONGTYPE"):
        await purge(opened, (ROOM, [member], [1.0]))
    assert redis_client.zcard(ROOM) == 1


async def test_a_group_that_became_something_else_is_skipped_and_the_rest_of_the_batch_is_done(
    opened: OpenLayer, redis_client: redis.Redis
) -> None:
    first, _, third = chosen = names(3)
    redis_client.zadd(ASGI.group("a"), {first: 1})
    redis_client.set(ASGI.group("b"), "not a group")
    redis_client.zadd(ASGI.group("c"), {third: 1})

    purged = await purge(
        opened, *[(ASGI.group(group), [name], [1.0]) for group, name in zip("abc", chosen, strict=True)]
    )

    assert (purged.removed, purged.kept) == (2, 1)
    assert redis_client.keys("asgi:group:*") == [ASGI.group("b")]
    assert receipts(redis_client, RUN) == {ASGI.group("a"): {first: 1}, ASGI.group("c"): {third: 1}}


async def test_nothing_to_remove_leaves_no_journal(opened: OpenLayer, redis_client: redis.Redis) -> None:
    assert (await purge(opened, (ROOM, names(3), [1.0] * 3))).kept == 3
    assert redis_client.keys("*") == []


async def test_receipts_expire_after_the_journal_time_counted_from_the_last(
    opened: OpenLayer, redis_client: redis.Redis
) -> None:
    (member,) = names(1)
    redis_client.zadd(ROOM, {member: 1})
    await purge(opened, (ROOM, [member], [1.0]), journal_seconds=13)
    assert 12 <= redis_client.ttl(ASGI.journal(RUN)) <= 13
    redis_client.zadd(ROOM, {member: 1})
    await purge(opened, (ROOM, [member], [1.0]), journal_seconds=5000)
    assert redis_client.ttl(ASGI.journal(RUN)) > 4000


@pytest.mark.parametrize(("groups", "members"), [(1, 20_000), (2500, 3), (120, 251)])
async def test_big_removals_are_whole_and_every_receipt_is_exact(
    each_redis_server: EmbeddedRedis, groups: int, members: int
) -> None:
    with redis.Redis.from_url(each_redis_server.url) as client:
        expected: dict[bytes, dict[bytes, float]] = {}
        pipe = client.pipeline(transaction=False)
        for number in range(groups):
            key = ASGI.group(f"g{number}")
            expected[key] = {name: 1000.0 + at for at, name in enumerate(names(members))}
            pipe.zadd(key, expected[key])
        pipe.execute()

        async with open_layer("default") as opened:
            doomed = [(key, list(found), list(found.values())) for key, found in expected.items()]
            purged = await purge(opened, *doomed)

            assert (purged.removed, purged.kept) == (groups * members, 0)
            assert client.keys("asgi:group:*") == []
            assert receipts(client, RUN) == expected
            assert max(map(len, client.lrange(ASGI.journal(RUN), 0, -1))) < 100_000


@pytest.mark.parametrize("name", [b"\xff\x00!\r\n", "ünï!cödé".encode(), b"x" * 5000, b"$5\r\nhello\r\n"])
async def test_any_bytes_are_removed_and_restored_as_they_are(
    opened: OpenLayer, redis_client: redis.Redis, name: bytes
) -> None:
    key = ASGI.group_prefix + name
    redis_client.zadd(key, {name: 1.5})

    assert (await purge(opened, (key, [name], [1.5]))).removed == 1
    assert receipts(redis_client, RUN) == {key: {name: 1.5}}
    assert await restore_members(opened, opened.home, [(key, [name], [1.5])]) == (1, 0, 0)
    assert redis_client.zrange(key, 0, -1, withscores=True) == [(name, 1.5)]


# A judgement that is too old


@pytest.mark.parametrize("seconds", [-100, 100])
async def test_a_judgement_that_is_too_old_removes_nothing_and_says_so(
    each_redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Or one that is yet to come, by a clock that was set back: its age is not known."""
    with redis.Redis.from_url(each_redis_server.url) as client:
        members = names(3)
        client.zadd(ROOM, dict.fromkeys(members, 1))
        async with open_layer("default") as opened, opened.home.wire() as wire:
            judgement = Judgement(opened, RUN, NoLock())
            now = opened.home.now

            async def at_another_time() -> float:
                return await now() + seconds

            monkeypatch.setattr(opened.home, "now", at_another_time)
            script = Remover(wire, opened.home, opened.keyspace.journal(RUN), 1000, judgement)
            await script.load()
            await script.remove(ROOM, members, [1.0] * 3)
            purged = await script.finish()

        assert (purged.removed, purged.kept, client.zcard(ROOM)) == (0, 0, 3)
        assert judgement.stopped
        assert judgement.stopped.startswith("judgement: it was more than 30 s old")
        assert not client.exists(ASGI.journal(RUN))


# Putting back


async def test_restoring_keeps_the_newer_score_of_a_member_that_is_there(
    opened: OpenLayer, redis_client: redis.Redis
) -> None:
    there, absent = names(2)
    redis_client.zadd(ROOM, {there: 200})
    redis_client.expire(ROOM, 1234)

    assert await restore_members(opened, opened.home, [(ROOM, [there, absent], [100.0, 101.0])]) == (1, 1, 0)

    assert members_of(redis_client, "room") == {there.decode(): 200, absent.decode(): 101}
    assert 1200 < redis_client.ttl(ROOM) <= 1234, "a group that is there keeps its time"


async def test_a_group_that_had_gone_expires_again(opened: OpenLayer, redis_client: redis.Redis) -> None:
    assert await restore_members(opened, opened.home, [(ROOM, names(1), [1.0])]) == (1, 0, 0)
    assert 86300 < redis_client.ttl(ROOM) <= 86400


async def test_restoring_leaves_a_key_alone_that_holds_something_else_and_does_the_rest(
    opened: OpenLayer, redis_client: redis.Redis
) -> None:
    redis_client.set(ASGI.group("a"), "not a group")
    groups = [(ASGI.group(name), names(2), [1.0, 2.0]) for name in "ab"]

    assert await restore_members(opened, opened.home, groups) == (2, 0, 1)

    assert redis_client.get(ASGI.group("a")) == b"not a group"
    assert redis_client.zcard(ASGI.group("b")) == 2


async def test_restoring_writes_no_key_but_groups_of_this_layer(opened: OpenLayer, redis_client: redis.Redis) -> None:
    elsewhere = [b"sessions", b"asgi2:group:room", b"asgi:ops:lock", b"asgi:group", b""]
    assert await restore_members(opened, opened.home, [(key, names(1), [1.0]) for key in elsewhere]) == (0, 0, 0)
    assert redis_client.keys("*") == []


# Setting aside


async def put_aside(opened: OpenLayer, key: bytes, *, expiring_too: bool) -> int:
    retention = await read_retention(opened, 1000)
    return await set_aside(opened, RUN, retention, opened.home, key, expiring_too=expiring_too)


async def test_a_key_is_set_aside_whole_and_expires_later(opened: OpenLayer, redis_client: redis.Redis) -> None:
    key = ASGI.inbox("specific.x!")
    redis_client.zadd(key, {b"one": 1, b"two": 2})
    assert await put_aside(opened, key, expiring_too=True) == 2
    aside = ASGI.aside(RUN, key)
    assert redis_client.keys("*") == [aside]
    assert 0 < redis_client.ttl(aside) <= 60, "as long as a message can be used"
    assert redis_client.zrange(aside, 0, -1) == [b"one", b"two"]


async def test_a_key_that_expires_by_itself_may_stay(opened: OpenLayer, redis_client: redis.Redis) -> None:
    key = ASGI.inbox("specific.x!")
    redis_client.zadd(key, {b"one": 1})
    redis_client.expire(key, 60)
    assert await put_aside(opened, key, expiring_too=False) == 0
    redis_client.persist(key)
    assert await put_aside(opened, key, expiring_too=False) == 1


async def test_probes_and_markers_are_not_counted_as_messages(opened: OpenLayer, redis_client: redis.Redis) -> None:
    key = ASGI.inbox("specific.x!")
    redis_client.zadd(key, {b"probe": -1, b"one": 1, b"marker": math.inf})
    assert await put_aside(opened, key, expiring_too=True) == 1


@pytest.mark.parametrize("command", ["SET {} x", "RPUSH {} x", "SADD {} x", "HSET {} x y", "ZADD {} -1 x +inf y"])
async def test_a_key_that_holds_no_messages_is_not_set_aside(
    opened: OpenLayer, redis_client: redis.Redis, command: str
) -> None:
    key = ASGI.inbox("specific.x!")
    assert await put_aside(opened, key, expiring_too=True) == 0
    redis_client.execute_command(*command.format(key.decode()).split())
    before = dump(redis_client)
    assert await put_aside(opened, key, expiring_too=True) == 0
    assert dump(redis_client) == before


async def test_a_server_that_forgot_the_scripts_gets_them_again(opened: OpenLayer, redis_client: redis.Redis) -> None:
    key = ASGI.inbox("specific.x!")
    for _ in range(2):
        redis_client.script_flush()
        redis_client.zadd(key, {b"one": 1})
        assert await put_aside(opened, key, expiring_too=True) == 1


async def test_a_receipt_has_one_form_whoever_stays(opened: OpenLayer, redis_client: redis.Redis) -> None:
    """Other versions of the toolkit read it: a change needs a new journal key."""
    going, staying = names(2)
    redis_client.zadd(ROOM, {going: 1.5, staying: 2.5})
    await purge(opened, (ROOM, [going, staying], [1.5, 1.5]))
    redis_client.zadd(ROOM, {going: 1.5})
    await purge(opened, (ROOM, [going], [1.5]))

    raws = redis_client.lrange(ASGI.journal(RUN), 0, -1)
    assert [msgpack.unpackb(raw, raw=True) for raw in raws] == [[[[ROOM, [going]]], [1.5]]] * 2
    assert [parse_receipt(raw) for raw in raws] == [[(ROOM, [going], [1.5])]] * 2


async def test_a_server_that_forgets_the_scripts_during_the_removal_gets_them_again(
    each_redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several calls are under way then, of which each did nothing."""
    with redis.Redis.from_url(each_redis_server.url) as client:
        expected = {name: 1000.0 + at for at, name in enumerate(names(3000))}
        client.zadd(ROOM, expected)
        send, sent = Remover._send, iter(range(10**9))

        async def forget_now_and_then(purge: Remover) -> None:
            if next(sent) in (3, 4, 11, 27):
                client.script_flush()
            await send(purge)

        monkeypatch.setattr(Remover, "_send", forget_now_and_then)
        async with open_layer("default") as opened:
            purged = await purge(opened, (ROOM, list(expected), list(expected.values())))

        assert (purged.removed, purged.kept) == (3000, 0)
        assert receipts(client, RUN) == {ROOM: expected}
        assert not client.exists(ROOM)
