"""Markers in the in-flight keys of silent processes: they tell who was alive in between, whatever the moment."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import redis

from ops.model.runs import ReapReport
from ops.operations.reaping import reap as reap_module
from ops.store.connection.shards import open_layer
from ops.store.liveness.markers import MARKERS, count_markers, expire_markers, place_markers
from ops.store.removal import journal
from tests.layer_builders import (
    ASGI,
    AppProcess,
    StartProcess,
    let_time_pass,
    members_of,
    run_reap,
    suspect_everybody,
    suspected,
)

CONFIRM_AFTER_SECONDS = 60.0


def taken_and_not_yet_acknowledged(client: redis.Redis, process: AppProcess) -> None:
    """Act as a process of the stock layer that waits for messages.

    All messages in flight go to its inbox; then one is taken, and is in flight again until it is acknowledged.
    """
    found = client.zrange(process.inflight_key, 0, -1)
    assert client.zrem(process.inflight_key, *found) == MARKERS
    client.zadd(process.inflight_key, {found[0]: math.inf})


def all_taken(client: redis.Redis, process: AppProcess) -> None:
    client.delete(process.inflight_key)


@pytest.fixture
async def stalling(redis_client: redis.Redis, start_process: StartProcess) -> AppProcess:
    """It was silent at a look a confirm time ago."""
    process = await start_process("room", count=3)
    await run_reap()
    let_time_pass(redis_client, CONFIRM_AFTER_SECONDS + 1)
    assert redis_client.zcount(process.inflight_key, "+inf", "+inf") == MARKERS
    return process


async def test_a_process_that_has_just_taken_a_marker_was_alive(
    redis_client: redis.Redis, stalling: AppProcess
) -> None:
    taken_and_not_yet_acknowledged(redis_client, stalling)
    report = await run_reap()
    assert [(one.process, one.state) for one in report.processes] == [(stalling.name, "suspect")]
    assert (report.removed, len(members_of(redis_client, "room"))) == (0, 3)


@pytest.mark.parametrize("take", [taken_and_not_yet_acknowledged, all_taken])
async def test_a_sign_of_life_between_counting_and_leaving_markers_is_seen(
    redis_client: redis.Redis,
    stalling: AppProcess,
    take: Callable[[redis.Redis, AppProcess], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = reap_module.place_markers

    async def place_after(*args: Any) -> Any:
        take(redis_client, stalling)
        return await real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(reap_module, "place_markers", place_after)
        report = await run_reap()
    assert report.removed == 0
    assert any("is gone since it was judged" in note for note in report.notes)
    # Its silence begins again there, and the confirm time with it.
    assert suspected(redis_client) == {stalling.name}
    let_time_pass(redis_client, CONFIRM_AFTER_SECONDS - 5)
    assert (await run_reap()).removed == 0
    let_time_pass(redis_client, 6)
    assert (await run_reap()).removed == 3


async def test_markers_of_an_inbox_that_nobody_reads_do_not_stand_for_those_that_were_taken(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    """Another prefix comes, goes and comes again, and each process may read an inbox of that, too."""
    other = await start_process()
    stalling = await start_process("room", count=3)
    foreign = await other.join("lobby", prefix="foo")
    await run_reap()
    redis_client.zrem("asgi:group:lobby", *foreign)
    let_time_pass(redis_client, CONFIRM_AFTER_SECONDS + 1)
    before = redis_client.hgetall(ASGI.suspects)[stalling.name.encode()]
    all_taken(redis_client, stalling)
    report = await run_reap()
    assert (report.removed, about(report, stalling)) == (0, "suspect")
    assert redis_client.hgetall(ASGI.suspects)[stalling.name.encode()] != before
    await other.join("lobby", prefix="foo")
    all_taken(redis_client, stalling)
    let_time_pass(redis_client, CONFIRM_AFTER_SECONDS + 1)
    report = await run_reap()
    assert (report.removed, about(report, stalling)) == (0, "suspect")


def about(report: ReapReport, process: AppProcess) -> str:
    [state] = [one.state for one in report.processes if one.process == process.name]
    return state


async def test_markers_are_filled_up_and_counted_key_by_key(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    """Those that an earlier version left, one a key, stay and count."""
    fresh, marked, full = [await start_process("room") for _ in range(3)]
    redis_client.zadd(marked.inflight_key, {b"one": math.inf, b"a message": 1.0})
    other = "specific.another!"
    redis_client.set(ASGI.inflight(other), "no in-flight key")
    inboxes = {one.name: [one.inbox] for one in (fresh, marked, full)} | {"another": [other]}
    async with open_layer("default") as opened:
        await place_markers(opened, {full.name: [full.inbox]}, 60)
        placed = await place_markers(opened, inboxes, 60)
        assert placed.before == {fresh.inbox: 0, marked.inbox: 1, full.inbox: MARKERS}
        assert placed.now == dict.fromkeys((fresh.name, marked.name, full.name), MARKERS)
        assert +await count_markers(opened, inboxes) == placed.now
    assert redis_client.ttl(fresh.inflight_key) == 60
    assert redis_client.ttl(marked.inflight_key) == -1, "it holds a message"
    assert redis_client.get(ASGI.inflight(other)) == b"no in-flight key"


async def test_runs_that_removed_nothing_do_not_push_others_out_of_the_history(
    redis_client: redis.Redis, start_process: StartProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "RUNS_KEPT", 2)
    await start_process("room")
    await suspect_everybody()
    removing = await run_reap()
    await start_process("lobby")
    await suspect_everybody()
    for _ in range(3):
        assert (await run_reap(glob="nothing*")).removed == 0
    assert redis_client.zrange(ASGI.runs, 0, -1) == [removing.run_id.encode()]
    assert [ASGI.run(removing.run_id)] == redis_client.keys(ASGI.run("*"))


async def test_markers_of_a_run_that_ended_before_it_remembered_do_not_stand_for_older_ones(
    redis_client: redis.Redis, stalling: AppProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process took its markers, and is silent again since; the run that saw that left new ones, and ended."""
    real = reap_module.place_markers

    async def end_after_placing(*args: Any) -> Any:
        await real(*args)
        raise KeyboardInterrupt

    all_taken(redis_client, stalling)
    with monkeypatch.context() as patched:
        patched.setattr(reap_module, "place_markers", end_after_placing)
        with pytest.raises(KeyboardInterrupt):
            await run_reap()
    assert redis_client.zcount(stalling.inflight_key, "+inf", "+inf") == MARKERS
    assert (await run_reap()).removed == 0
    let_time_pass(redis_client, CONFIRM_AFTER_SECONDS + 1)
    assert (await run_reap()).removed == 3


async def test_markers_that_a_process_took_to_its_inbox_and_left_there_expire(
    redis_client: redis.Redis, stalling: AppProcess
) -> None:
    """It ended before it dropped them; the stock layer gives that key no expiry."""
    redis_client.zrem("asgi:group:room", *members_of(redis_client, "room"))
    markers = redis_client.zrange(stalling.inflight_key, 0, -1)
    redis_client.delete(stalling.inflight_key)
    redis_client.zadd(stalling.inbox_key, dict.fromkeys(markers, math.inf))
    redis_client.zadd(stalling.inflight_key, {markers[0]: math.inf})
    await run_reap(dry_run=True)
    assert redis_client.pttl(stalling.inbox_key) == -1
    await run_reap()
    assert redis_client.pttl(stalling.inbox_key) > 0
    assert redis_client.pttl(stalling.inflight_key) > 0


async def test_what_holds_a_message_does_not_expire_for_its_markers(
    redis_client: redis.Redis, stalling: AppProcess
) -> None:
    redis_client.zadd(stalling.inflight_key, {b"a message": 1000.0})
    redis_client.persist(stalling.inflight_key)
    await run_reap(dry_run=True)
    async with open_layer("default") as opened:
        await expire_markers(opened, [stalling.inbox], 60)
    assert redis_client.pttl(stalling.inflight_key) == -1
