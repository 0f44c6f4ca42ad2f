"""What the drop-in layer does for its memberships, seen from Redis and from inside the process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import redis
from asgiref.sync import async_to_sync
from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer
from channels.layers import channel_layers, get_channel_layer
from channels_redis import core
from django.conf import LazySettings
from redis.exceptions import TimeoutError as RedisTimeoutError

from ops.application.layer import keeper as keeper_module
from ops.application.layer import memberships, own_index, repairs
from ops.layers import RedisChannelLayer
from ops.model.keys import index_entry
from ops.model.settings import DEFAULTS
from ops.operations.reaping import purge
from ops.operations.reaping.undo import undo
from ops.store.connection.failures import will_pass
from ops.store.connection.shards import open_layer
from ops.store.liveness.leases import read_leases
from ops.store.removal import journal
from project.embedded_redis import EmbeddedRedis
from project.proxy import Proxy
from tests.conftest import REPOSITORY, StartRedis
from tests.layer_builders import (
    ASGI,
    MakeLayer,
    has_a_lease,
    keeper_of,
    layer_of,
    members_of,
    run_reap,
    suspect_everybody,
)
from tests.waiting import until

DROP_IN_LAYER = "ops.layers.RedisChannelLayer"
CONSUMING: list[asyncio.Task[None]] = []
"""What `consume` started; the loop of each test ends its own."""


async def consume(layer: RedisChannelLayer, *groups: str) -> str:
    """A channel that somebody waits on, in these groups."""
    channel = await layer.new_channel()
    CONSUMING.append(asyncio.create_task(consume_forever(layer, channel)))
    for group in groups:
        await layer.group_add(group, channel)
    await has_a_lease(layer)
    return channel


async def consume_forever(layer: RedisChannelLayer, channel: str) -> None:
    while True:
        await layer.receive(channel)


@contextmanager
def default_layer(layer: RedisChannelLayer) -> Iterator[None]:
    """Consumers that start meanwhile use it."""
    before = channel_layers.set("default", layer)
    try:
        yield
    finally:
        channel_layers.set("default", before)
        if before is None:
            del channel_layers.backends["default"]


async def consumer_that_dies(
    layer: RedisChannelLayer, *groups: str, then: Callable[[str], object] = lambda name: None
) -> str:
    """What Channels does for a socket, until a handler raises. ``then`` is called when it has joined."""
    names: list[str] = []

    class Fragile(AsyncConsumer):
        async def websocket_connect(self, _message: Any) -> None:
            for group in groups:
                await self.channel_layer.group_add(group, self.channel_name)
            then(self.channel_name)
            names.append(self.channel_name)

    messages: asyncio.Queue[Any] = asyncio.Queue()
    messages.put_nowait({"type": "websocket.connect"})
    with default_layer(layer):
        task = asyncio.create_task(Fragile()({"type": "websocket"}, messages.get, None))
        await until(lambda: bool(names))
        await layer.send(names[0], {"type": "nobody.handles.this"})
        with pytest.raises(ValueError, match="No handler"):
            await asyncio.wait_for(task, 30)
    return names[0]


# Putting back


async def leave_and_restart(server: EmbeddedRedis, client: redis.Redis, layer: RedisChannelLayer, channel: str) -> None:
    """Leave `left`, have the server return with its latest snapshot, and wait until only `stays` has the channel."""
    await layer.group_discard("left", channel)
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    await until(lambda: not client.exists(ASGI.group("left")))
    await until(lambda: set(members_of(client, "stays")) == {channel})


@pytest.mark.parametrize("parts_before", [0, 3])
async def test_what_was_left_stays_left_when_a_server_returns_with_an_older_snapshot(
    parts_before: int, start_redis: StartRedis, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memberships, "INDEXED_CHANNELS", 1)
    monkeypatch.setattr(own_index, "PARTS_AT_ONCE", 2)
    server = await asyncio.to_thread(start_redis)
    layer = make_layer(server)
    for _ in range(parts_before):
        gone = await layer.new_channel()
        await layer.group_add("gone", gone)
        await layer.group_discard("gone", gone)
    channel = await consume(layer, "stays", "left")
    with redis.Redis.from_url(server.url) as client:
        client.save()
        await leave_and_restart(server, client, layer, channel)


async def test_so_does_it_where_the_snapshot_was_written_while_members_were_put_back(
    start_redis: StartRedis, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await asyncio.to_thread(start_redis)
    layer = make_layer(server)
    channel = await consume(layer, "stays", "left")
    real = repairs.execute

    with redis.Redis.from_url(server.url) as client:

        async def save_first(pipe: Any) -> None:
            monkeypatch.setattr(repairs, "execute", real)
            client.save()
            await real(pipe)

        monkeypatch.setattr(repairs, "execute", save_first)
        client.delete(ASGI.lease(layer.client_prefix))
        await keeper_of(layer).look()
        await leave_and_restart(server, client, layer, channel)


async def test_members_that_are_put_back_are_in_the_index_once_even_if_something_else_was_in_its_place(
    redis_client: Any, redis_server: EmbeddedRedis, make_layer: MakeLayer
) -> None:
    layer = make_layer(redis_server)
    channel = await consume(layer, "a", "b")
    for put_in_its_place in (None, "no list"):
        if put_in_its_place:
            redis_client.set(layer.index_key(channel), put_in_its_place)
        redis_client.delete(ASGI.lease(layer.client_prefix))
        await keeper_of(layer).look()
        assert sorted(redis_client.lrange(layer.index_key(channel), 0, -1)) == [
            index_entry("a", channel),
            index_entry("b", channel),
        ]


async def test_who_was_reaped_when_one_shard_had_lost_its_lease_puts_back_what_it_had_on_the_others(
    start_redis: StartRedis, make_layer: MakeLayer, settings: LazySettings
) -> None:
    """What is known of leases is read on the first shard."""
    servers = [await asyncio.to_thread(start_redis) for _ in range(2)]
    settings.CHANNEL_LAYERS = layer_of(*(server.url for server in servers))
    layer = make_layer(*servers)
    channel = await layer.new_channel()
    receiving = asyncio.create_task(consume_forever(layer, channel))
    groups = [str(number) for number in range(20)]
    for group in groups:
        await layer.group_add(group, channel)
    await has_a_lease(layer)
    clients = [redis.Redis.from_url(server.url) for server in servers]
    await keeper_of(layer).stop()
    receiving.cancel()

    clients[0].flushdb()
    await suspect_everybody()
    report = await run_reap(max_share=1.0)
    assert report.removed == sum(layer.consistent_hash(group) == 1 for group in groups) > 0
    assert not any(client.exists(ASGI.group(group)) for client in clients for group in groups)

    await keeper_of(layer).look()
    for group in groups:
        assert set(members_of(clients[layer.consistent_hash(group)], group)) == {channel}
    for client in clients:
        client.close()


async def test_a_shard_that_stands_still_keeps_nobody_from_renewing_the_lease_on_another(
    start_redis: StartRedis, make_layer: MakeLayer
) -> None:
    """What is known of leases is read on the first shard: one that lapsed there tells against its holder."""
    servers = [await asyncio.to_thread(start_redis) for _ in range(2)]
    layer = make_layer(*servers)
    channel = await consume(layer)
    gone = await consumer_that_dies(layer, *(str(number) for number in range(20)))
    with redis.Redis.from_url(servers[0].url) as client:
        renewals = {client.hget(ASGI.lease(layer.client_prefix), "renewed_at")}

        def were_four() -> bool:
            renewals.add(client.hget(ASGI.lease(layer.client_prefix), "renewed_at"))
            return len(renewals) > 4

        servers[1].pause()
        # One that waited for the other shard would come after the time-out of its socket, which is 10 s.
        await until(were_four, within_seconds=9.5)
        servers[1].resume()
        await layer.group_add("room", channel)
        await until(lambda: not any(client.exists(ASGI.group(str(number))) for number in range(20)))
        assert gone not in layer.memberships.joined_before(float("inf"))


async def go_silent(layer: RedisChannelLayer, client: Any, *groups: str) -> str:
    """Have joined these groups, and be found dead by the next run."""
    channel = await layer.new_channel()
    receiving = asyncio.create_task(consume_forever(layer, channel))
    for group in groups:
        await layer.group_add(group, channel)
    await has_a_lease(layer)
    await keeper_of(layer).stop()
    receiving.cancel()
    client.hset(ASGI.lease(layer.client_prefix), "renewed_at", f"{time.time() - 100:.6f}")
    await suspect_everybody()
    return channel


async def test_who_comes_back_while_it_is_being_reaped_keeps_the_index_that_it_writes(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without, nobody could say later what it has left, where a server returns with an older snapshot."""
    layer = make_layer(redis_server)
    channel = await go_silent(layer, redis_client, "room")
    forget_index = purge.forget_index

    async def come_back_first(*arguments: Any) -> None:
        assert members_of(redis_client, "room") == {}
        await keeper_of(layer).look()
        await forget_index(*arguments)

    monkeypatch.setattr(purge, "forget_index", come_back_first)
    assert (await run_reap()).removed == 1
    assert set(members_of(redis_client, "room")) == {channel}
    assert redis_client.lrange(layer.index_key(channel), 0, -1) == [index_entry("room", channel)]


async def test_an_undo_brings_back_whom_another_process_had_put_in_and_not_who_has_left_since(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer
) -> None:
    """The process puts back what it knows of, which is not what others have done."""
    layer, other = make_layer(redis_server), make_layer(redis_server)
    channel = await go_silent(layer, redis_client, "stays", "left")
    await other.group_add("put.in", channel)
    await suspect_everybody()
    report = await run_reap()
    assert report.removed == 3
    assert report.run_id is not None
    await layer.group_discard("left", channel)
    await keeper_of(layer).look()
    assert set(members_of(redis_client, "stays")) == {channel}

    async with open_layer("default") as opened:
        undone = await undo(opened, report.run_id)

    assert undone.restored == 1
    assert set(members_of(redis_client, "put.in")) == {channel}
    assert members_of(redis_client, "left") == {}
    assert 0 < redis_client.ttl(ASGI.journal(report.run_id)) <= DEFAULTS.journal_seconds


async def test_who_joins_while_it_is_being_reaped_is_counted_once(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_layer(redis_server)
    channel = await go_silent(layer, redis_client, "joins", "does.not")
    send = journal.Remover._send

    async def join_first(script: journal.Remover) -> None:
        await layer.group_add("joins", channel)
        await send(script)

    monkeypatch.setattr(journal.Remover, "_send", join_first)
    report = await run_reap()
    assert (report.removed, report.kept) == (1, 1)


async def test_who_left_a_group_that_another_process_had_taken_it_out_of_is_in_the_index_no_more(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer
) -> None:
    """Another one may put it into the group again, and then it has to stay there."""
    layer, other = make_layer(redis_server), make_layer(redis_server)
    channel = await consume(layer, "room")
    await other.group_discard("room", channel)
    await layer.group_discard("room", channel)
    await other.group_add("room", channel)
    redis_client.delete(ASGI.lease(layer.client_prefix))
    await keeper_of(layer).look()
    assert set(members_of(redis_client, "room")) == {channel}


async def test_memberships_are_put_back_on_each_server_version_when_the_lease_is_gone(
    each_redis_server: EmbeddedRedis, make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    layer = make_layer(each_redis_server)
    channel = await consume(layer, "a", "b")
    with redis.Redis.from_url(each_redis_server.url) as client:
        client.flushall()
        await until(lambda: set(members_of(client, "a")) == set(members_of(client, "b")) == {channel})
        assert client.ttl("asgi:group:a") > 0
        await until(lambda: "2 were put back" in caplog.text)
        counts = client.hgetall(ASGI.lease(layer.client_prefix))
        await until(lambda: client.hget(ASGI.lease(layer.client_prefix), "members_put_back") == b"2")
        assert b"renewed_at" in counts


async def test_nothing_is_said_of_memberships_that_were_never_lost(
    redis_server: EmbeddedRedis, make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    layer = make_layer(redis_server)
    for _ in range(5):
        await consume(layer, "a")
    for _ in range(3):
        await keeper_of(layer).look()
    assert caplog.messages == []
    assert keeper_of(layer).members_put_back == 0


async def test_a_put_back_that_was_cut_short_is_done_again(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_layer(redis_server, lease_seconds=0.3)
    channel = await consume(layer, "a")
    real, failed = repairs.execute, []

    async def fail_twice(pipe: Any) -> None:
        if len(failed) < 2:
            failed.append(pipe)
            raise redis.ConnectionError("cut")
        await real(pipe)

    monkeypatch.setattr(repairs, "execute", fail_twice)
    redis_client.flushall()
    await until(lambda: set(members_of(redis_client, "a")) == {channel})
    assert len(failed) == 2


async def test_who_leaves_during_a_put_back_is_not_resurrected_even_if_that_is_cut_short(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_layer(redis_server)
    stays, leaves, leaves_too = [await consume(layer, "a") for _ in range(3)]
    real = repairs.execute

    async def leave_meanwhile(pipe: Any) -> None:
        # They leave after the decision to put them back, and before it is carried out; sync code does not wait for it.
        monkeypatch.setattr(repairs, "execute", real)
        for channel in (leaves, leaves_too):
            await asyncio.to_thread(async_to_sync(layer.group_discard), "a", channel)
        await real(pipe)
        raise redis.ConnectionError("the reply is lost")

    redis_client.flushall()
    monkeypatch.setattr(repairs, "execute", leave_meanwhile)
    await until(lambda: set(members_of(redis_client, "a")) == {stays})
    await keeper_of(layer).look()
    assert set(members_of(redis_client, "a")) == {stays}


async def test_whoever_joins_again_while_a_doubt_is_settled_stays_a_member(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_layer(redis_server)
    channel = await consume(layer, "a")
    await layer.group_discard("a", channel)
    keeper_of(layer).repairs.doubt(("a", channel))
    real = repairs.execute

    async def join_meanwhile(pipe: Any) -> None:
        monkeypatch.setattr(repairs, "execute", real)
        await asyncio.to_thread(async_to_sync(layer.group_add), "a", channel)
        await real(pipe)

    monkeypatch.setattr(repairs, "execute", join_meanwhile)
    await keeper_of(layer).look()
    assert set(members_of(redis_client, "a")) == {channel}


@pytest.mark.parametrize("joins", [True, False], ids=["joins", "leaves"])
async def test_whoever_joins_or_leaves_during_a_repair_has_the_last_word_when_that_returns(
    joins: bool,
    redis_server: EmbeddedRedis,
    redis_client: Any,
    make_layer: MakeLayer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = make_layer(redis_server)
    channel = await consume(layer, "a")
    if joins:
        await layer.group_discard("a", channel)
        keeper_of(layer).repairs.doubt(("a", channel))
    else:
        redis_client.flushall()
    real = repairs.execute
    deciding: list[asyncio.Task[None]] = []
    undone: list[bool] = []

    async def decide_meanwhile(pipe: Any) -> None:
        monkeypatch.setattr(repairs, "execute", real)
        decide = layer.group_add if joins else layer.group_discard
        deciding.append(asyncio.create_task(decide("a", channel)))
        done, _ = await asyncio.wait(deciding, timeout=0.2)
        await real(pipe)
        undone.append(bool(done) and (channel in members_of(redis_client, "a")) is not joins)

    monkeypatch.setattr(repairs, "execute", decide_meanwhile)
    await keeper_of(layer).look()
    await deciding[0]
    assert undone == [False]
    assert (channel in members_of(redis_client, "a")) is joins


async def test_a_channel_that_left_while_redis_was_away_is_taken_out_when_it_is_back(
    start_redis: StartRedis, make_layer: MakeLayer
) -> None:
    server = start_redis()
    layer = make_layer(server)
    stays, leaves = await consume(layer, "a"), await consume(layer, "a")
    with redis.Redis.from_url(server.url) as client:
        client.save()
        server.kill()
        with pytest.raises(redis.ConnectionError):
            await layer.group_discard("a", leaves)
        server.start()
        await until(lambda: set(members_of(client, "a")) == {stays})


async def test_a_join_whose_answer_was_lost_leaves_no_member_that_nobody_knows_of(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_layer(redis_server)
    channel = await consume(layer, "a")
    real = layer._run

    async def lose_the_answer(*args: Any, **options: Any) -> Any:
        await real(*args, **options)
        raise redis.ConnectionError("the reply is lost")

    monkeypatch.setattr(layer, "_run", lose_the_answer)
    with pytest.raises(redis.ConnectionError):
        await layer.group_add("b", channel)
    assert channel in members_of(redis_client, "b")
    await keeper_of(layer).look()
    assert members_of(redis_client, "b") == {}
    assert set(members_of(redis_client, "a")) == {channel}


async def test_a_join_that_is_cancelled_takes_nothing_from_another_that_returned(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer
) -> None:
    layer = make_layer(redis_server)
    channel = await consume(layer)
    first, second = (asyncio.create_task(layer.group_add("a", channel)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert first.cancelled()
    await keeper_of(layer).look()
    assert set(members_of(redis_client, "a")) == {channel}


async def test_what_comes_into_doubt_while_doubts_are_settled_is_settled_too(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_layer(redis_server, lease_seconds=60)
    channel = await consume(layer, "a")
    await layer.group_discard("a", channel)
    keeper_of(layer).repairs.doubt(("a", channel))
    real = repairs.execute

    async def be_left_in_it(pipe: Any) -> None:
        monkeypatch.setattr(repairs, "execute", real)
        await real(pipe)
        # Its leave was not answered, and not done.
        redis_client.zadd("asgi:group:a", {channel: time.time()})
        keeper_of(layer).repairs.doubt(("a", channel))

    monkeypatch.setattr(repairs, "execute", be_left_in_it)
    await keeper_of(layer).look()
    await keeper_of(layer).look()
    assert members_of(redis_client, "a") == {}


async def test_a_group_that_is_no_group_keeps_no_other_from_being_put_back(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer
) -> None:
    layer = make_layer(redis_server)
    channel = await consume(layer, "a", "odd")
    redis_client.flushall()
    redis_client.set("asgi:group:odd", "text")
    await until(lambda: set(members_of(redis_client, "a")) == {channel})


async def test_a_lease_of_another_type_is_complained_of_once_and_harms_nothing(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    layer = make_layer(redis_server, lease_seconds=0.1)
    channel = await consume(layer, "a")
    redis_client.delete(ASGI.lease(layer.client_prefix))
    redis_client.set(ASGI.lease(layer.client_prefix), "text")
    await until(lambda: "cannot be kept" in caplog.text)
    for _ in range(3):
        await keeper_of(layer).look()
    assert caplog.text.count("cannot be kept") == 1
    redis_client.delete(ASGI.lease(layer.client_prefix))
    await until(lambda: bool(redis_client.exists(ASGI.lease(layer.client_prefix))))
    assert set(members_of(redis_client, "a")) == {channel}


async def test_many_memberships_are_put_back_in_few_round_trips(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_layer(redis_server, lease_seconds=30)
    channel = await consume(layer)
    for number in range(2000):
        await layer.group_add(f"g{number}", channel)
    round_trips, real = [], repairs.execute

    async def count(pipe: Any) -> None:
        round_trips.append(len(pipe))
        await real(pipe)

    monkeypatch.setattr(repairs, "execute", count)
    redis_client.flushall()
    await keeper_of(layer).look()
    assert sum(round_trips) >= 2000
    assert len(round_trips) <= 25
    assert len(redis_client.keys("asgi:group:*")) == 2000


# Verifying


async def test_members_of_a_group_that_was_evicted_or_deleted_come_back_with_the_next_renewal(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    layer = make_layer(redis_server, lease_seconds=0.3)
    channels = {await consume(layer, "a", "b") for _ in range(3)}
    await until(lambda: settled(layer))
    redis_client.delete("asgi:group:a")
    await until(lambda: set(members_of(redis_client, "a")) == channels)
    await until(lambda: "evicted or deleted; 3 were put back" in caplog.text)  # It is said when Redis has answered.
    assert keeper_of(layer).leases_lost == 0
    first = min(channels)
    assert redis_client.lrange(layer.index_key(first), 0, -1).count(index_entry("a", first)) == 1


def settled(layer: RedisChannelLayer) -> bool:
    """Whether all memberships are old enough to be verified."""
    joined = layer.memberships.joined_before(time.time() - keeper_module.SETTLED_SECONDS)
    return len(joined) == len(layer.memberships)


async def test_all_memberships_are_verified_in_turn(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "VERIFIED_EACH_TIME", 10)
    monkeypatch.setattr(keeper_module, "VERIFIED_AT_ONCE", 4)
    layer = make_layer(redis_server, lease_seconds=3600)
    channel = await consume(layer)
    groups = [f"g{number}" for number in range(35)]
    for group in groups:
        await layer.group_add(group, channel)
    await until(lambda: settled(layer))
    redis_client.delete(*(f"asgi:group:{group}" for group in groups))
    left = []
    for _ in range(4):
        await keeper_of(layer).look()
        left.append(35 - len(redis_client.keys("asgi:group:*")))
    assert left == [25, 15, 5, 0]


async def test_members_come_back_to_a_group_that_others_have_joined_since_it_was_deleted(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer
) -> None:
    layer, other = make_layer(redis_server, lease_seconds=3600), make_layer(redis_server)
    channel = await consume(layer, "a")
    await until(lambda: settled(layer))
    redis_client.delete("asgi:group:a")
    newcomer = await other.new_channel()
    await other.group_add("a", newcomer)
    await keeper_of(layer).look()
    assert set(members_of(redis_client, "a")) == {channel, newcomer}


@pytest.mark.parametrize("backend", [RedisChannelLayer, core.RedisChannelLayer], ids=["drop-in", "stock"])
async def test_whom_another_process_took_out_is_not_put_back(
    backend: Any, redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer
) -> None:
    layer, other = make_layer(redis_server, lease_seconds=3600), backend(hosts=[redis_server.url])
    oldest, goes = await consume(layer, "a"), await consume(layer, "a")
    await until(lambda: settled(layer))
    await other.group_discard("a", goes)
    for _ in range(2):
        await keeper_of(layer).look()
        assert set(members_of(redis_client, "a")) == {oldest}
    await other.close_pools()


async def test_whom_another_process_with_this_layer_took_out_stays_out_though_nobody_else_is_left(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer
) -> None:
    layer, other = make_layer(redis_server, lease_seconds=3600), make_layer(redis_server)
    channel = await consume(layer, "a")
    await until(lambda: settled(layer))
    await other.group_discard("a", channel)
    await keeper_of(layer).look()
    assert (members_of(redis_client, "a"), len(layer.memberships)) == ({}, 0)
    assert redis_client.lrange(layer.index_key(channel), 0, -1) == []
    assert not redis_client.exists(layer.taken_out_key(channel))
    # And all is lost: it is not put back with what is.
    redis_client.delete(ASGI.lease(layer.client_prefix))
    await keeper_of(layer).look()
    assert members_of(redis_client, "a") == {}


async def test_who_was_put_in_again_after_another_process_had_taken_it_out_is_still_known(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer
) -> None:
    layer, other = make_layer(redis_server, lease_seconds=3600), make_layer(redis_server)
    channel = await consume(layer, "a")
    await other.group_discard("a", channel)
    await other.group_add("a", channel)
    await keeper_of(layer).look()
    assert layer.memberships.is_member("a", channel)
    assert set(members_of(redis_client, "a")) == {channel}


async def test_a_join_that_is_under_way_at_the_renewal_is_not_forgotten_for_what_was_before(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, other = make_layer(redis_server, lease_seconds=3600), make_layer(redis_server)
    channel = await consume(layer, "a")
    await other.group_discard("a", channel)
    go_on, real = asyncio.Event(), layer._run

    async def late(*args: Any, **options: Any) -> Any:
        await go_on.wait()
        return await real(*args, **options)

    monkeypatch.setattr(layer, "_run", late)
    joining = asyncio.create_task(layer.group_add("a", channel))
    await asyncio.sleep(0)
    await keeper_of(layer).look()
    go_on.set()
    await joining
    await keeper_of(layer).look()
    assert layer.memberships.is_member("a", channel)
    assert set(members_of(redis_client, "a")) == {channel}
    assert not redis_client.exists(layer.taken_out_key(channel))


async def test_a_join_that_a_failover_lost_without_cutting_connections_is_repaired(
    start_redis: StartRedis, make_layer: MakeLayer
) -> None:
    """The same run of the same server goes on with the data of another: only its replication history tells."""
    server, other = await asyncio.to_thread(start_redis), await asyncio.to_thread(start_redis)
    layer = make_layer(server, lease_seconds=3600)
    # Nobody receives: a server that becomes a replica wakes whoever waits, and that is an outage.
    oldest, channel = await layer.new_channel(), await layer.new_channel()
    with redis.Redis.from_url(server.url) as client, redis.Redis.from_url(other.url) as spare:
        await layer.group_add("a", oldest)
        await keeper_of(layer).look()
        spare.replicaof("127.0.0.1", server.port)
        await until(lambda: spare.info("replication")["master_link_status"] == "up" and members_of(spare, "a"))
        spare.replicaof("NO", "ONE")
        await layer.group_add("a", channel)
        assert set(members_of(client, "a")) == {oldest, channel}
        run = client.info("server")["run_id"]
        client.replicaof("127.0.0.1", other.port)
        await until(lambda: client.info("replication")["master_link_status"] == "up")
        await until(lambda: set(members_of(client, "a")) == {oldest})
        client.replicaof("NO", "ONE")
        await until(lambda: settled(layer))
        await keeper_of(layer).look()
        assert set(members_of(client, "a")) == {oldest, channel}
        assert client.info("server")["run_id"] == run


# Refreshing


async def test_members_are_refreshed_before_a_group_send_would_drop_them(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer
) -> None:
    layer = make_layer(redis_server, group_expiry=2, lease_seconds=30)
    channel = await consume(layer, "a")
    first = members_of(redis_client, "a")[channel]
    await until(lambda: members_of(redis_client, "a").get(channel, 0) > first)
    await until(lambda: keeper_of(layer).members_refreshed >= 1)
    assert keeper_of(layer).members_put_back == 0


async def test_whom_another_process_took_out_is_neither_refreshed_nor_put_back_with_the_first_lease(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer
) -> None:
    layer, other = make_layer(redis_server, group_expiry=8, lease_seconds=30), make_layer(redis_server)
    stays, goes = await layer.new_channel(), await layer.new_channel()
    for channel in (stays, goes):
        await layer.group_add("a", channel)
    await other.group_discard("a", goes)
    first = members_of(redis_client, "a")[stays]
    receiving = asyncio.create_task(layer.receive(stays))
    await has_a_lease(layer)
    assert set(members_of(redis_client, "a")) == {stays}
    await until(lambda: members_of(redis_client, "a")[stays] > first)
    assert set(members_of(redis_client, "a")) == {stays}
    receiving.cancel()


async def test_a_refresh_that_comes_too_late_puts_back_who_was_dropped_for_age(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer
) -> None:
    layer = make_layer(redis_server, group_expiry=2, lease_seconds=30)
    channel = await consume(layer, "a")
    redis_client.delete("asgi:group:a")
    layer.memberships.joined("a", channel, time.time() - 3)
    await keeper_of(layer).look()
    assert set(members_of(redis_client, "a")) == {channel}


# Discarding


async def test_what_a_dead_consumer_left_is_discarded_at_once_with_its_messages(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    layer = make_layer(redis_server, lease_seconds=3600)
    alive = await consume(layer, "a")
    dead = await consumer_that_dies(layer, "a", "b")
    # Not with a renewal: none is due before the test has long ended.
    await until(lambda: (set(members_of(redis_client, "a")), members_of(redis_client, "b")) == ({alive}, {}))
    assert "taken out of 2 groups" in caplog.text
    await layer.send(dead, {"type": "too.late"})
    await layer.send(alive, {"type": "x"})
    await until(lambda: redis_client.zcard(f"asgi{layer.non_local_name(alive)}") == 0)
    assert dead not in layer.receive_buffer
    assert layer.memberships.channels == 1


async def test_whoever_joins_for_a_consumer_that_has_ended_is_no_member(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer
) -> None:
    """Its handler goes on in a thread, say."""
    layer = make_layer(redis_server, lease_seconds=3600)
    dead = await consumer_that_dies(layer, "a")
    await asyncio.to_thread(async_to_sync(layer.group_add), "b", dead)
    await until(lambda: not redis_client.keys("asgi:group:*"))
    assert (len(layer.memberships), keeper_of(layer).repairs.joining) == (0, {})


async def test_a_join_that_is_under_way_when_its_consumer_ends_is_undone(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_layer(redis_server, lease_seconds=3600)
    ended, real = asyncio.Event(), layer._run
    joining: list[asyncio.Task[None]] = []

    async def after_the_end(index: int, script: str, keys: Any, args: Any, **options: Any) -> Any:
        if script == "join_group" and keys[0] == b"asgi:group:late":
            await ended.wait()
        return await real(index, script, keys, args, **options)

    monkeypatch.setattr(layer, "_run", after_the_end)
    dead = await consumer_that_dies(
        layer, "a", then=lambda name: joining.append(asyncio.create_task(layer.group_add("late", name)))
    )
    await until(lambda: layer.memberships.has_ended(dead) and not members_of(redis_client, "a"))
    ended.set()
    await joining[0]
    await until(lambda: not redis_client.keys("asgi:group:*") and not keeper_of(layer).repairs.unsettled)


class HandsItsChannelOver(AsyncConsumer):
    """It ends at once, and a task of the application goes on with its channel."""

    handed_over: ClassVar[list[str]] = []
    received: ClassVar[list[dict[str, Any]]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        layer = get_channel_layer()
        channel = await layer.new_channel()
        await layer.group_add("jobs", channel)
        CONSUMING.append(asyncio.create_task(self.work(layer, channel)))
        self.handed_over.append(channel)

    async def work(self, layer: Any, channel: str) -> None:
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                self.received.append(await asyncio.wait_for(layer.receive(channel), 0.05))
            await asyncio.sleep(0.05)


class ReceivesBesideTheLoop(HandsItsChannelOver):
    """Channels' own dispatch loop has received on that channel too."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await AsyncConsumer.__call__(self, scope, receive, send)

    async def websocket_connect(self, _message: Any) -> None:
        await self.channel_layer.group_add("jobs", self.channel_name)
        CONSUMING.append(asyncio.create_task(self.work(self.channel_layer, self.channel_name)))
        await asyncio.sleep(0.1)
        self.handed_over.append(self.channel_name)
        raise StopConsumer


@pytest.mark.parametrize("consumer", [HandsItsChannelOver, ReceivesBesideTheLoop])
async def test_a_channel_that_a_consumer_hands_to_a_task_loses_nothing_when_the_consumer_ends(
    consumer: type[HandsItsChannelOver], redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer
) -> None:
    layer = make_layer(redis_server)
    consumer.handed_over.clear()
    consumer.received.clear()
    messages: asyncio.Queue[Any] = asyncio.Queue()
    messages.put_nowait({"type": "websocket.connect"})
    with default_layer(layer):
        await asyncio.create_task(consumer()({"type": "websocket"}, messages.get, None))
    for number in range(5):
        await layer.group_send("jobs", {"type": "job", "number": number})
        await asyncio.sleep(0.1)
    await keeper_of(layer).look()
    await until(lambda: [message["number"] for message in consumer.received] == list(range(5)))
    assert set(members_of(redis_client, "jobs")) == set(consumer.handed_over)


async def test_no_channel_is_discarded_that_is_merely_not_being_received_on(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer
) -> None:
    layer = make_layer(redis_server, lease_seconds=30)
    await consume(layer)
    pause, go_on = asyncio.Event(), asyncio.Event()
    receiving: list[asyncio.Task[None]] = []

    async def receive_with_time_outs(channel: str) -> None:
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(layer.receive(channel), 0.05)
            pause.set()
            await go_on.wait()

    async def make_and_receive_once() -> str:
        channel = await layer.new_channel()
        await layer.group_add("a", channel)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(layer.receive(channel), 0.05)
        return channel

    async def make_and_have_another_receive() -> str:
        channel = await layer.new_channel()
        await layer.group_add("a", channel)
        receiving.append(asyncio.create_task(receive_with_time_outs(channel)))
        await pause.wait()
        return channel

    in_tasks_that_are_done = [
        await asyncio.create_task(make_and_receive_once()),
        await asyncio.create_task(make_and_have_another_receive()),
        await asyncio.wait_for(layer.new_channel(), 30),
    ]
    await layer.group_add("a", in_tasks_that_are_done[2])
    for _ in range(3):
        await keeper_of(layer).look()
    assert set(members_of(redis_client, "a")) == set(in_tasks_that_are_done)


@pytest.mark.parametrize("how", ["leaves", "ends"])
async def test_at_exit_goes_also_who_was_being_taken_out_when_the_loop_stopped_in_the_middle(
    how: str, redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_layer(redis_server, lease_seconds=3600)
    stopped, real = asyncio.Event(), repairs.execute

    async def never(*_arguments: Any, **_options: Any) -> None:
        stopped.set()
        await asyncio.Event().wait()

    if how == "leaves":
        channel = await consume(layer, "a")
        monkeypatch.setattr(layer, "_run", never)
        leaving = asyncio.create_task(layer.group_discard("a", channel))
    else:
        monkeypatch.setattr(repairs, "execute", never)
        await consumer_that_dies(layer, "a")
    await stopped.wait()
    assert (len(redis_client.keys("asgi:group:*")), len(layer.memberships)) == (1, 0)
    monkeypatch.setattr(repairs, "execute", real)
    assert keeper_of(layer).holds_something
    await keeper_of(layer).leave()
    assert redis_client.keys("asgi:group:*") == redis_client.keys("asgi:ops:*") == []
    if how == "leaves":
        leaving.cancel()


# Memory


async def test_channels_that_come_and_go_leave_nothing_in_memory(
    redis_server: EmbeddedRedis, make_layer: MakeLayer
) -> None:
    layer = make_layer(redis_server, lease_seconds=30)
    for number in range(200):
        channel = await layer.new_channel(f"prefix{number % 20}")
        await layer.group_add("a", channel)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(layer.receive(channel), 0.001)
        await layer.group_discard("a", channel)
    kept = [layer._pops, layer.receive_buffer, layer.receive_clean_locks.locks, keeper_of(layer).repairs.in_doubt]
    await until(lambda: not any(kept))
    assert (layer.memberships.channels, len(layer.memberships)) == (0, 0)
    assert len(layer._receivers) <= 20


async def test_nothing_goes_on_in_a_layer_whose_pools_were_closed(
    redis_server: EmbeddedRedis, redis_client: Any
) -> None:
    layer = RedisChannelLayer(hosts=[{"address": redis_server.url, "client_name": "closed"}], lease_seconds=0.2)
    channel = await layer.new_channel()
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(layer.receive(channel), 0.1)
    await layer.close_pools()
    await asyncio.sleep(0.3)
    assert "closed" not in {found["name"] for found in redis_client.client_list()}
    assert redis_client.keys("asgi:ops:*") == []
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("ops.layers")] == []
    # And it can be used on, as the stock layer can.
    await layer.send(channel, {"type": "x"})
    assert await asyncio.wait_for(layer.receive(channel), 30) == {"type": "x"}
    await layer.close_pools()


# Outages


@pytest.mark.parametrize(
    "words",
    [
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
        "You can't write against a read only replica.",
        "ERR Error running script (call to f_1): @user_script:9: -READONLY You can't write here.",
        "command not allowed when used memory > 'maxmemory'.",
        "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
        "NOREPLICAS Not enough good replicas to write.",
        "BUSY Redis is busy running a script.",
    ],
)
def test_a_refusal_that_passes_is_waited_for(words: str) -> None:
    assert will_pass(redis.ResponseError(words))


@pytest.mark.parametrize(
    "words",
    [
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "this user has no permissions to run the 'bzpopmin' command",
        "ERR no such key asgi:group:ROOM BUSYGROUP",
    ],
)
def test_a_refusal_that_lasts_is_raised(words: str) -> None:
    assert not will_pass(redis.ResponseError(words))


async def test_receivers_wait_while_their_server_is_a_replica(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    layer = make_layer(redis_server)
    channel = await layer.new_channel()
    receiving = asyncio.create_task(layer.receive(channel))
    await until(lambda: any(found["cmd"] == "bzpopmin" for found in redis_client.client_list()))
    try:
        redis_client.replicaof("127.0.0.1", 1)
        await until(lambda: "is away" in caplog.text)
        await asyncio.sleep(1)
        assert "UNBLOCKED" in caplog.text
        assert caplog.text.count("is away") == 1, "it answers a PING all the time"
    finally:
        redis_client.replicaof("NO", "ONE")
    await layer.send(channel, {"type": "x"})
    assert await asyncio.wait_for(receiving, 30) == {"type": "x"}
    assert caplog.text.count("is back") == 1


async def test_a_new_master_is_found_behind_the_address_of_the_one_before(
    start_redis: StartRedis, make_layer: MakeLayer
) -> None:
    """As with a managed Redis, whose old primary goes on as a replica and closes no connection."""
    old, new = await asyncio.to_thread(start_redis), await asyncio.to_thread(start_redis)
    with redis.Redis.from_url(old.url) as to_old, redis.Redis.from_url(new.url) as to_new:
        async with Proxy(old.port) as proxy:
            layer = make_layer(proxy)
            channel = await layer.new_channel()
            receiving = asyncio.create_task(layer.receive(channel))
            before = [f"before.{number}" for number in range(5)]
            await asyncio.gather(*(layer.group_add(group, channel) for group in before))
            await has_a_lease(layer)
            proxy.target_port = new.port
            to_old.replicaof("127.0.0.1", new.port)

            after = [f"after.{number}" for number in range(5)]
            await asyncio.gather(*(layer.group_add(group, channel) for group in after))
            await until(lambda: all(set(members_of(to_new, group)) == {channel} for group in before + after))
            await layer.group_send("before.0", {"type": "x"})
            assert await asyncio.wait_for(receiving, 30) == {"type": "x"}


@pytest.mark.parametrize("socket_timeout", [0.5, 1, 3])
async def test_a_short_socket_timeout_of_the_users_own_is_no_outage(
    socket_timeout: float, redis_server: EmbeddedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    layer = RedisChannelLayer(hosts=[{"address": redis_server.url, "socket_timeout": socket_timeout}])
    channel = await layer.new_channel()
    receiving = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(socket_timeout * 1.2)
    await layer.send(channel, {"type": "x"})
    assert await asyncio.wait_for(receiving, 30) == {"type": "x"}
    assert caplog.messages == []
    await layer.close_pools()


async def test_a_connection_that_is_dead_without_a_word_is_noticed_though_the_stock_layers_time_out_was_kept(
    redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.application.layer.channel_layer.SOCKET_TIMEOUT_MARGIN_SECONDS", 0.5)
    layer = RedisChannelLayer(hosts=[{"address": redis_server.url, "socket_timeout": None}])
    layer.brpop_timeout = 0.5
    await layer.send("someone", {"type": "x"})
    redis_server.pause()
    try:
        with pytest.raises(RedisTimeoutError):
            await asyncio.wait_for(layer.send("someone", {"type": "x"}), 10)
    finally:
        redis_server.resume()
    await layer.close_pools()


async def test_no_message_is_delivered_twice_when_its_answer_was_lost(
    redis_server: EmbeddedRedis, redis_client: Any, make_layer: MakeLayer
) -> None:
    """All connections are cut again and again while messages are sent and received."""
    layer, sender = make_layer(redis_server, capacity=5000), make_layer(redis_server, capacity=5000)
    channel = await layer.new_channel()
    received: list[int] = []

    async def receive_all() -> None:
        while True:
            received.append((await layer.receive(channel))["number"])

    receiving = asyncio.create_task(receive_all())
    refused = set()
    for number in range(1000):
        if number % 20 == 0:
            redis_client.client_kill_filter(_type="normal", skipme=True)
        try:
            await sender.send(channel, {"number": number})
        except redis.ConnectionError:
            refused.add(number)
    # What Redis had handed to a connection that was cut at that moment is lost, as with the stock layer.
    await until(lambda: len(received) >= 1000 - len(refused) - 50)
    with contextlib.suppress(AssertionError):
        await until(lambda: len(received) >= 1000 - len(refused), 1)
    receiving.cancel()
    assert len(received) == len(set(received))


# Leases


@pytest.fixture
def settings_with_the_layer(redis_server: EmbeddedRedis, settings: LazySettings) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, backend=DROP_IN_LAYER)


DAMAGES: dict[str, dict[str, str]] = {
    "nothing in it": {"ended": "1"},
    "no time": {"renewed_at": "soon", "lease_seconds": "30"},
    "not a number": {"renewed_at": "nan", "lease_seconds": "30"},
    "beyond all numbers": {"renewed_at": "9" * 400, "lease_seconds": "30"},
    "a negative lease": {"renewed_at": "1", "lease_seconds": "-1"},
    "bytes": {"renewed_at": "1\x00", "lease_seconds": "30"},
}


@pytest.mark.usefixtures("settings_with_the_layer")
@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_lease_that_cannot_be_read_counts_as_none(damage: str, redis_client: Any) -> None:
    redis_client.hset(ASGI.lease("a" * 32), mapping=DAMAGES[damage])
    redis_client.set(ASGI.lease("b" * 32), "text")
    good = {"renewed_at": "1.5", "lease_seconds": "30", "host": b"\xff\x1b[31m", "pid": "7", "index_parts": "many"}
    redis_client.hset(ASGI.lease("c" * 32), mapping=good)
    async with open_layer("default") as opened:
        leases = await read_leases(opened.home, opened.keyspace, [letter * 32 for letter in "abcd"])
    assert list(leases) == ["c" * 32]
    read = leases["c" * 32]
    assert (read.renewed_at, read.lease_seconds, read.ended, read.index_parts) == (1.5, 30.0, False, 0)


@pytest.mark.usefixtures("settings_with_the_layer")
async def test_a_lease_says_who_holds_it(redis_server: EmbeddedRedis, make_layer: MakeLayer) -> None:
    layer = make_layer(redis_server)
    await consume(layer, "a")
    async with open_layer("default") as opened:
        [lease] = (await read_leases(opened.home, opened.keyspace, [layer.client_prefix])).values()
        now = await opened.home.now()
    assert (lease.pid, lease.lease_seconds, lease.ended) == (str(os.getpid()), 1.0, False)
    assert "channels-redis" in lease.version
    assert 0 <= now - lease.renewed_at < 2


@pytest.mark.parametrize("lease_seconds", [0, -1])
def test_a_lease_takes_some_time(lease_seconds: float) -> None:
    with pytest.raises(ValueError, match="lease_seconds must be above 0"):
        RedisChannelLayer(lease_seconds=lease_seconds)


async def test_a_user_who_may_not_ask_which_server_it_is_has_a_lease_all_the_same(
    start_redis: StartRedis, make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_redis()
    with redis.Redis.from_url(server.url) as client:
        client.execute_command("ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-info")
    layer = RedisChannelLayer(hosts=[server.url.replace("redis://", "redis://app:secret@")], lease_seconds=1.0)
    await consume(layer, "a")
    await keeper_of(layer).look()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    await layer.flush()


# Children


def test_a_forked_child_is_a_process_of_its_own(redis_server: EmbeddedRedis, redis_client: Any) -> None:
    source = f"""if True:
        import asyncio, os, sys
        from ops.layers import RedisChannelLayer
        layer = RedisChannelLayer(hosts=["{redis_server.url}"])
        parent = layer.client_prefix
        async def work(name):
            channel = await layer.new_channel()
            waiting = asyncio.ensure_future(layer.receive(channel))
            await layer.group_add(name, channel)
            await asyncio.sleep(0.2)
            await layer.send(channel, {{"type": name}})
            assert await waiting == {{"type": name}}
        pid = os.fork()
        assert (layer.client_prefix == parent) is (pid != 0)
        asyncio.run(work("parent" if pid else "child"))
        if pid:
            assert os.waitpid(pid, 0)[1] == 0
            asyncio.run(layer.group_send("parent", {{"type": "x"}}))
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", source],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert redis_client.keys("asgi:*") == []
