"""A judgement ages: between its batches a run asks whether it may still go on, and stops on every shard if not."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from django.conf import LazySettings

from ops.exceptions import ShardError
from ops.model.disconnects.record import Disconnect
from ops.model.liveness import judgement as rule
from ops.model.runs import ReapReport
from ops.operations.reaping import reap as reap_module
from ops.operations.reaping.undo import read_history, undo
from ops.store.connection.shards import open_layer
from ops.store.removal import journal
from ops.store.removal.judgement import Judgement
from tests.conftest import StartRedis
from tests.in_process_commands import run_beside
from tests.layer_builders import (
    ASGI,
    add_members,
    channels_of,
    layer_of,
    members_of,
    new_process_name,
    record_ends,
    run_reap,
    suspect_everybody,
)

MEMBERS = 2000  # of one group: twenty calls of the script
Clients = tuple[redis.Redis, redis.Redis]


@pytest.fixture
def shards(start_redis: StartRedis, settings: LazySettings, monkeypatch: pytest.MonkeyPatch) -> Clients:
    """Two, with members of one dead process on each; the judgement is renewed before each batch."""
    servers = [start_redis(), start_redis()]
    settings.CHANNEL_LAYERS = layer_of(*(server.url for server in servers))
    monkeypatch.setattr(rule, "RENEW_AFTER_SECONDS", 0.0)
    clients = redis.Redis.from_url(servers[0].url), redis.Redis.from_url(servers[1].url)
    process = new_process_name()
    for client in clients:
        add_members(client, "room", channels_of(process, MEMBERS), joined_at=1000)
    return clients


def present(shards: Clients) -> list[int]:
    return [len(members_of(client, "room")) for client in shards]


def after_some_batches(monkeypatch: pytest.MonkeyPatch, do: Callable[[], None], batches: int = 6) -> None:
    """Have something happen in the middle of the removal."""
    call, calls = journal.Remover._call, iter(range(10**9))

    async def call_after(purge: journal.Remover, *args: object) -> None:
        if next(calls) == batches:
            do()
        await call(purge, *args)

    monkeypatch.setattr(journal.Remover, "_call", call_after)


def assert_stopped_halfway(report: ReapReport, shards: Clients, reason: str) -> None:
    """What was under way went, with receipts; nothing that came later did, on neither shard."""
    assert report.stopped
    assert report.stopped.startswith(reason)
    assert 0 < report.removed < MEMBERS
    assert sum(present(shards)) == 2 * MEMBERS - report.removed


async def test_a_run_whose_judgement_is_renewed_removes_every_dead_member(shards: Clients) -> None:
    await suspect_everybody()
    report = await run_reap()
    assert (report.stopped, report.removed, present(shards)) == (None, 2 * MEMBERS, [0, 0])


@pytest.mark.parametrize("taken", [False, True], ids=["the lock has lapsed", "another run has it"])
async def test_a_run_that_lost_its_lock_stops_removing_and_what_went_can_be_undone(
    shards: Clients, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    await suspect_everybody()
    home = shards[0]

    def lose_the_lock() -> None:
        home.delete(ASGI.lock)
        if taken:
            home.set(ASGI.lock, "another run's")

    with monkeypatch.context() as patched:
        after_some_batches(patched, lose_the_lock)
        report = await run_reap()

    assert_stopped_halfway(report, shards, "lock: ")
    home.delete(ASGI.lock)
    async with open_layer("default") as opened:
        [run] = await read_history(opened)
        assert (run.run_id, run.removed) == (report.run_id, report.removed)
        assert (await undo(opened, report.run_id)).restored == report.removed
    assert present(shards) == [MEMBERS, MEMBERS]


async def test_a_run_that_is_undone_meanwhile_stops_removing(shards: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an operator whose lock was elsewhere: their hosts are in another order."""
    await suspect_everybody()

    def undo_it() -> None:
        [run] = shards[0].zrange(ASGI.runs, 0, -1)
        shards[0].hset(ASGI.run(run.decode()), "undone_at", repr(time.time()))

    after_some_batches(monkeypatch, undo_it)
    report = await run_reap()

    assert_stopped_halfway(report, shards, "undone: ")


async def test_a_run_whose_evidence_changed_meanwhile_stops_removing(
    shards: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    await suspect_everybody()
    reasons: list[str | None] = [None]

    async def still_judged() -> str | None:
        await asyncio.sleep(0)
        return reasons[-1]

    class WithEvidence(Judgement):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args[:3], still_judged)

    monkeypatch.setattr(reap_module, "Judgement", WithEvidence)
    with monkeypatch.context() as patched:
        after_some_batches(patched, lambda: reasons.append("alive: it took a probe"))
        report = await run_reap()
    assert_stopped_halfway(report, shards, "alive: it took a probe")
    reasons.append(None)
    assert (await run_reap()).removed == 2 * MEMBERS - report.removed


async def test_what_was_under_way_when_another_shard_failed_is_counted(
    shards: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judgement cannot be renewed any more; the answers to what was sent before are on their way."""
    await suspect_everybody()
    real, failing = Judgement.holds, [False]

    async def holds(judgement: Judgement) -> bool:
        if failing[0]:
            raise ShardError("shard 1 does not answer")
        return await real(judgement)

    monkeypatch.setattr(Judgement, "holds", holds)
    after_some_batches(monkeypatch, lambda: failing.insert(0, True))
    report = await run_reap()
    assert not report.complete
    assert 0 < report.removed < 2 * MEMBERS
    assert sum(present(shards)) == 2 * MEMBERS - report.removed


async def test_a_clean_up_that_lost_its_lock_stops_and_the_next_one_completes(
    shards: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels = [channel for client in shards for channel in members_of(client, "room")]
    async with open_layer("default") as opened:
        await record_ends(
            opened, (Disconnect(time.time(), "client_left", channel=one, consumer="chat.Consumer") for one in channels)
        )
    clean = ("replay_disconnects", "--cleanup", "--resume", "--format", "json")
    with monkeypatch.context() as patched:
        after_some_batches(patched, lambda: shards[0].delete(ASGI.lock))
        result = await run_beside(*clean)

    document = json.loads(result.out)
    assert (result.returncode, document["complete"]) == (3, True)
    assert document["stopped"].startswith("lock: ")
    assert 0 < document["removed"] < MEMBERS
    assert f"{document['removed']:,} members had been removed by then (run {document['run_id']})" in result.err
    assert sum(present(shards)) == 2 * MEMBERS - document["removed"]
    rest = await run_beside(*clean)
    assert (rest.returncode, json.loads(rest.out)["removed"]) == (0, sum((2 * MEMBERS, -document["removed"])))
    assert present(shards) == [0, 0]
