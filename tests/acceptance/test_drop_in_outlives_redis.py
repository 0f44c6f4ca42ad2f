"""What Redis does to sockets: with the stock layer they die of it, with the drop-in layer they stay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from project.embedded_redis import EmbeddedRedis
from project.owned_process import OwnedProcess, free_port
from project.sockets import SocketFleet
from tests.acceptance.reach import assert_all_hear
from tests.acceptance.two_layers import (
    DROP_IN,
    STOCK,
    TwoLayers,
    all_are_members,
    members,
    seconds_until,
)
from tests.conftest import StartRedis, StartWorker
from tests.waiting import until

SOCKETS = 20
# Since this version an idle connection to Redis ends after 5 s, unless it is told otherwise.
REDIS_PY_WITH_A_SOCKET_TIMEOUT = 8
IDLE_SECONDS = 30.0
AWAY_SECONDS = 20.0
LONG_LEASE_SECONDS = 30.0
BACK_WITHIN_SECONDS = 30.0


@pytest.fixture
def two_layers(start_worker: StartWorker, sockets: SocketFleet) -> TwoLayers:
    return TwoLayers(start_worker, sockets)


async def test_an_idle_socket_stays_with_the_default_options(
    two_layers: TwoLayers, redis_server: EmbeddedRedis
) -> None:
    two_layers.start("uvicorn", "daphne", options={"hosts": [redis_server.url]})
    # One for each process: of several, the stock layer closes another one every 5 s.
    await two_layers.open(2)
    closed = await two_layers.fleet.await_closed(two_layers.fleet.sockets, IDLE_SECONDS)
    stock_dies = int(redis.__version__.split(".")[0]) >= REDIS_PY_WITH_A_SOCKET_TIMEOUT
    assert set(closed) == set(two_layers.sockets(STOCK) if stock_dies else [])
    assert two_layers.still_open(DROP_IN) == 2
    await assert_all_hear(two_layers.fleet, two_layers.sockets(DROP_IN), redis_server, prefix=DROP_IN)
    assert "is away" not in two_layers.log(DROP_IN)


async def test_all_sockets_stay_and_are_members_again_when_redis_comes_back_empty(
    two_layers: TwoLayers, start_redis: StartRedis
) -> None:
    server = start_redis()
    two_layers.start("uvicorn", "daphne", redis=server, lease_seconds=LONG_LEASE_SECONDS)
    await two_layers.open(SOCKETS)
    server.kill()
    assert len(await two_layers.fleet.await_closed(two_layers.sockets(STOCK))) == SOCKETS
    assert len(await two_layers.fleet.await_closed(two_layers.sockets(DROP_IN), AWAY_SECONDS)) == 0
    server.start()
    with redis.Redis.from_url(server.url) as client:
        sockets = two_layers.sockets(DROP_IN)
        took = await seconds_until(lambda: all_are_members(client, DROP_IN, sockets), BACK_WITHIN_SECONDS)
        assert took < LONG_LEASE_SECONDS / 3, "it waited until it was time to renew the lease"
        assert members(client, STOCK) == {}
    await assert_all_hear(two_layers.fleet, sockets, server, prefix=DROP_IN)
    for worker in two_layers.workers[DROP_IN]:
        [away] = [line for line in worker.output().splitlines() if "is away" in line]
        assert "ConnectionError" in away
        assert "Traceback" not in worker.output()


async def test_a_short_restart_takes_nobody_and_loses_no_membership(
    two_layers: TwoLayers, start_redis: StartRedis
) -> None:
    server = start_redis()
    two_layers.start("uvicorn", redis=server)
    with redis.Redis.from_url(server.url) as client:
        await two_layers.open(SOCKETS // 2, "older")
        client.save()
        # The snapshot has the lease, and not these.
        await two_layers.open(SOCKETS // 2, "newer")
        [drop_in] = two_layers.workers[DROP_IN]
        drop_in.freeze()  # It would put them back before anybody saw that they were gone.
        server.kill()
        server.start()
        assert b"dropin:group:room.newer" not in client.keys("*")
        assert client.keys("dropin:ops:lease:*")
        drop_in.thaw()
        sockets = two_layers.sockets(DROP_IN)
        await seconds_until(lambda: all_are_members(client, DROP_IN, sockets), BACK_WITHIN_SECONDS)
    # Redis was away for too short a time to take them all.
    await until(lambda: two_layers.still_open(STOCK) < SOCKETS)
    await assert_all_hear(two_layers.fleet, sockets, server, prefix=DROP_IN)


async def test_no_consumer_dies_when_every_connection_is_cut_twenty_times_in_a_row(
    two_layers: TwoLayers, redis_server: EmbeddedRedis, redis_client: Any
) -> None:
    hosts = [{"address": redis_server.url, "socket_timeout": None, "client_name": "LAYER"}]
    two_layers.start("uvicorn", "daphne", options={"hosts": hosts})
    await two_layers.open(SOCKETS)
    cuts = 0
    # A stock consumer that was waiting for Redis at none of them is still there.
    while cuts < 20 or len(await two_layers.fleet.await_closed(two_layers.sockets(STOCK))) < SOCKETS:
        assert cuts < 40
        await seconds_until(lambda: receivers(redis_client) == 2, BACK_WITHIN_SECONDS)
        redis_client.client_kill_filter(_type="normal")
        cuts += 1
    await seconds_until(lambda: receivers(redis_client) == 2, BACK_WITHIN_SECONDS)
    await assert_all_hear(two_layers.fleet, two_layers.sockets(DROP_IN), redis_server, prefix=DROP_IN)
    assert all_are_members(redis_client, DROP_IN, two_layers.sockets(DROP_IN))
    for worker in two_layers.workers[DROP_IN]:
        away = [line for line in worker.output().splitlines() if "is away" in line]
        assert len(away) == cuts, "one line for each outage, whatever the number of consumers"
        assert all("ConnectionError" in line for line in away)


def receivers(client: Any) -> int:
    """How many connections of processes with the drop-in layer wait for a message."""
    try:
        found = client.client_list()
    except redis.RedisError:
        return 0
    return sum(c["name"] == DROP_IN and c["cmd"] == "bzpopmin" and "b" in c["flags"] for c in found)


# Sentinel

MASTER = "mymaster"


@pytest.fixture
def sentinel(start_redis: StartRedis, tmp_path: Path) -> Iterator[tuple[int, EmbeddedRedis, EmbeddedRedis]]:
    """A Sentinel's port, its master and the master's replica."""
    master = start_redis()
    # Whoever writes to a replica makes it differ from its master, as a replica that is behind does.
    replica = start_redis(replicaof=f"127.0.0.1 {master.port}", replica_read_only="no", repl_diskless_sync_delay="0")
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\n"
        f"sentinel monitor {MASTER} 127.0.0.1 {master.port} 1\n"
        f"sentinel down-after-milliseconds {MASTER} 4000\n"
        f"sentinel failover-timeout {MASTER} 5000\n"
    )
    process = OwnedProcess([master.binary, str(config), "--sentinel"], log_path=tmp_path / "sentinel.log")
    yield port, master, replica
    process.kill()


def is_master(client: redis.Redis) -> bool:
    try:
        return bool(client.info("replication")["role"] == "master")
    except redis.RedisError:  # It closes all connections when it is promoted.
        return False


def knows_the_replica(port: int) -> bool:
    try:
        with redis.Redis(port=port) as sentinel:
            return bool(sentinel.sentinel_slaves(MASTER))
    except redis.RedisError:
        return False


async def test_all_sockets_stay_and_are_members_again_when_a_replica_takes_over(
    two_layers: TwoLayers, sentinel: tuple[int, EmbeddedRedis, EmbeddedRedis]
) -> None:
    port, master, replica = sentinel
    await seconds_until(lambda: knows_the_replica(port), 30)
    hosts = [{"sentinels": [["127.0.0.1", port]], "master_name": MASTER, "socket_timeout": None}]
    two_layers.start("uvicorn", "daphne", redis=master, options={"hosts": hosts})
    await two_layers.open(SOCKETS)
    with redis.Redis.from_url(replica.url) as client:
        await seconds_until(lambda: all_are_members(client, DROP_IN, two_layers.sockets(DROP_IN)), 30)
        behind = two_layers.sockets(DROP_IN)[0]
        client.zrem(f"{DROP_IN}:group:room.lobby", behind.channel)
        assert client.keys(f"{DROP_IN}:ops:lease:*")
        master.kill()
        assert len(await two_layers.fleet.await_closed(two_layers.sockets(STOCK))) == SOCKETS
        await seconds_until(lambda: is_master(client), 75)
        sockets = two_layers.sockets(DROP_IN)
        await seconds_until(lambda: all_are_members(client, DROP_IN, sockets), BACK_WITHIN_SECONDS)
    # One says it through Sentinel, and all hear it.
    text = uuid4().hex
    await sockets[0].send({"text": text})
    assert len(await two_layers.fleet.await_received(text, among=sockets)) == SOCKETS
    await assert_all_hear(two_layers.fleet, sockets, replica, prefix=DROP_IN)
    assert "Traceback" not in two_layers.log(DROP_IN)
