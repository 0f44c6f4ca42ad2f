"""One run at a time on a layer, and none that keeps others out after its end."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest
import redis
from django.conf import LazySettings

from ops.exceptions import AnotherRunHoldsTheLock
from ops.store.connection.shards import open_layer
from ops.store.removal import locks
from ops.store.removal.locks import run_lock
from project.embedded_redis import EmbeddedRedis
from tests.layer_builders import ASGI, StartProcess, dump, layer_of, run_reap, suspect_everybody
from tests.waiting import until


async def test_a_second_run_is_turned_away_at_once_and_changes_nothing(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    await start_process("room")
    await suspect_everybody()
    async with open_layer("default") as opened, run_lock(opened):
        before = dump(redis_client)
        started = time.monotonic()
        with pytest.raises(AnotherRunHoldsTheLock):
            await run_reap()
        assert time.monotonic() - started < 10
        assert dump(redis_client) == before
        assert (await run_reap(dry_run=True)).orphans == 1, "a dry run needs no lock"
    assert (await run_reap()).removed == 1


async def test_the_lock_is_released_at_the_end_of_a_run(redis_client: redis.Redis) -> None:
    await run_reap()
    assert not redis_client.exists(ASGI.lock)


async def test_the_lock_is_released_when_a_run_fails(redis_client: redis.Redis) -> None:
    async with open_layer("default") as opened:
        with pytest.raises(ZeroDivisionError):
            async with run_lock(opened):
                raise ZeroDivisionError
    assert not redis_client.exists(ASGI.lock)


async def test_the_lock_is_released_when_a_run_is_cancelled(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    await start_process("room")
    task = asyncio.create_task(run_reap(probe_timeout_seconds=30))
    await until(lambda: bool(redis_client.exists(ASGI.lock)))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not redis_client.exists(ASGI.lock)


async def test_a_run_can_be_cancelled_at_any_of_its_steps(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    """Cancelled together with an answer of Redis, too: none of the two may get lost."""
    await start_process("room")
    for steps in range(0, 300, 3):
        task = asyncio.create_task(run_reap(probe_timeout_seconds=30))
        for _ in range(steps):
            await asyncio.sleep(0)
        redis_client.ping()  # so that an answer is there when the loop looks next
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(task), 30)
        assert not redis_client.exists(ASGI.lock)
        assert [key for key in redis_client.keys("*") if b"specific" in key] == [], steps


async def test_the_lock_of_a_holder_that_was_killed_expires(redis_client: redis.Redis) -> None:
    async with open_layer("default") as opened, run_lock(opened):
        assert 0 < redis_client.pttl(ASGI.lock) <= locks.LOCK_SECONDS * 1000 == 30_000


@pytest.mark.parametrize("left_seconds", [3600, None])
async def test_a_lock_that_would_outlive_its_holder_by_far_ends_in_time(
    redis_client: redis.Redis, left_seconds: int | None
) -> None:
    """As one of a run that was killed while the clock of Redis was an hour ahead."""
    redis_client.set(ASGI.lock, "of a run that was killed", ex=left_seconds)
    with pytest.raises(AnotherRunHoldsTheLock):
        await run_reap()
    assert 0 < redis_client.pttl(ASGI.lock) <= locks.LOCK_SECONDS * 1000


async def test_the_lock_is_renewed_while_it_is_held(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LOCK_SECONDS", 3.0)
    async with open_layer("default") as opened, run_lock(opened):
        token = redis_client.get(ASGI.lock)
        lifetimes = [redis_client.pttl(ASGI.lock)]

        def was_renewed_twice() -> bool:
            assert redis_client.get(ASGI.lock) == token
            lifetimes.append(redis_client.pttl(ASGI.lock))
            return sum(after > before for before, after in itertools.pairwise(lifetimes)) >= 2

        await until(was_renewed_twice)
    assert not redis_client.exists(ASGI.lock)


async def test_a_run_that_lost_the_lock_does_not_release_that_of_another(redis_client: redis.Redis) -> None:
    async with open_layer("default") as opened, run_lock(opened):
        redis_client.set(ASGI.lock, "of another run")
    assert redis_client.get(ASGI.lock) == b"of another run"


async def test_a_server_that_dies_under_the_lock_does_not_hide_what_went_wrong(
    redis_server: EmbeddedRedis,
) -> None:
    async def fail_as_the_server_dies() -> None:
        async with open_layer("default") as opened, run_lock(opened):
            redis_server.kill()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_as_the_server_dies()


async def test_layers_in_one_redis_have_locks_of_their_own(redis_server: EmbeddedRedis, settings: LazySettings) -> None:
    settings.CHANNEL_LAYERS = {
        name: layer_of(redis_server.url, prefix=name)["default"] for name in ("default", "other")
    }
    async with open_layer("default") as opened, run_lock(opened):
        assert (await run_reap("other")).complete
