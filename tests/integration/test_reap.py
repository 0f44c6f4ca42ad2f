"""Reaping on a real Redis: who goes, who stays, and that nothing is lost."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import redis
from django.conf import LazySettings

from ops.model.keys import Keyspace
from ops.model.runs import ReapedProcess, ReapReport
from ops.operations.reaping import reap as reap_module
from ops.operations.reaping.reap import ReapOptions, reap
from ops.operations.reaping.undo import undo
from ops.store.connection.shards import open_layer
from ops.store.liveness.leases import mark_lease_ended, renew_lease
from ops.store.removal import journal
from project.embedded_redis import EmbeddedRedis
from tests.layer_builders import (
    ASGI,
    CONFIRM_AFTER_SECONDS,
    PROBE_TIMEOUT_SECONDS,
    AppProcess,
    NoLock,
    StartProcess,
    add_members,
    channels_of,
    dump,
    layer_of,
    let_time_pass,
    members_of,
    new_process_name,
    receipts,
    run_reap,
    suspect_everybody,
    suspected,
)
from tests.waiting import until


def about(report: ReapReport, process: AppProcess | str) -> ReapedProcess:
    name = process if isinstance(process, str) else process.name
    return next(found for found in report.processes if found.process == name)


# Two rounds


async def test_reap_removes_the_members_of_a_dead_process_in_its_second_run_and_no_others(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    live = await start_process("room", "lobby", count=3, live=True)
    dead = await start_process("room", "lobby", count=4)

    first = await run_reap()
    assert (first.removed, first.suspects, first.stopped, first.complete) == (0, 8, None, True)
    assert len(members_of(redis_client, "room")) == 7
    let_time_pass(redis_client, CONFIRM_AFTER_SECONDS + 1)

    second = await run_reap()

    assert (second.removed, second.suspects, second.kept, second.stopped) == (8, 0, 0, None)
    assert (about(second, dead).state, about(second, dead).removed) == ("dead", 8)
    assert (about(second, live).state, about(second, live).removed) == ("live", 0)
    for group in ("room", "lobby"):
        assert {name.split("!")[0] for name in members_of(redis_client, group)} == {f"specific.{live.name}"}
    assert live.received == []


async def test_reap_does_not_confirm_before_the_confirm_time_is_over(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    dead = await start_process("room")
    await run_reap()
    let_time_pass(redis_client, CONFIRM_AFTER_SECONDS - 5)

    report = await run_reap()

    assert (report.removed, about(report, dead).state) == (0, "suspect")
    # The confirm time counts from the first of the silent runs.
    let_time_pass(redis_client, 6)
    assert (await run_reap()).removed == 1


async def test_reap_in_one_run_with_wait_looks_twice(redis_client: redis.Redis, start_process: StartProcess) -> None:
    live = await start_process("room", live=True)
    await start_process("room", count=2)

    report = await run_reap(wait=True, confirm_after_seconds=0.2)

    assert (report.removed, report.suspects, report.stopped) == (2, 0, None)
    assert report.duration_seconds >= 2 * PROBE_TIMEOUT_SECONDS
    assert about(report, live).state == "live"


async def test_reap_with_wait_spares_a_process_that_answers_in_the_second_round(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    """A blocked event loop looks dead for as long as it is blocked."""
    blocked = await start_process("room")
    resumed = asyncio.Event()

    def progress(what: str, _groups: int, _members: int) -> None:
        if what.startswith("next look"):
            resumed.set()

    async def resume() -> None:
        await resumed.wait()
        await blocked.live()

    task = asyncio.create_task(resume())
    async with open_layer("default") as opened:
        options = ReapOptions(wait=True, confirm_after_seconds=0.3, probe_timeout_seconds=PROBE_TIMEOUT_SECONDS)
        report = await reap(opened, options, progress)
    await task

    assert (report.removed, about(report, blocked).state) == (0, "live")
    assert suspected(redis_client) == set()


async def test_a_process_that_answers_after_it_was_suspected_is_cleared(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    process = await start_process("room")
    await run_reap()
    assert suspected(redis_client) == {process.name}
    let_time_pass(redis_client, CONFIRM_AFTER_SECONDS + 1)
    await process.live()

    report = await run_reap(probe_timeout_seconds=30)  # nobody waits for all of it

    assert (report.removed, about(report, process).state) == (0, "live")
    assert suspected(redis_client) == set()
    await process.die()
    assert (await run_reap()).removed == 0, "a new silence begins from nothing"


async def test_a_silent_process_that_joined_a_group_after_it_was_suspected_gets_a_new_confirm_time(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    """A process none of whose consumers is receiving takes no probe, but it joins groups."""
    process = await start_process("room")
    await suspect_everybody()
    await process.join("lobby")

    report = await run_reap()

    assert (report.removed, about(report, process).state) == (0, "suspect")
    assert any("joined a group" in words for words in about(report, process).evidence)
    let_time_pass(redis_client, CONFIRM_AFTER_SECONDS - 5)
    assert (await run_reap()).removed == 0
    let_time_pass(redis_client, 6)
    assert (await run_reap()).removed == 2


async def test_a_renewed_membership_counts_like_a_new_one(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    process = await start_process()
    (channel,) = await process.join("room")
    await suspect_everybody()
    await process.layer.group_add("room", channel)

    assert (await run_reap()).removed == 0
    assert list(members_of(redis_client, "room")) == [channel]


async def test_a_lease_that_lapsed_on_another_server_is_no_silence_yet(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    """A replica has taken over: whoever could not renew on the old server may be on the way to this one."""
    holder = await start_process("room")
    lease = {"renewed_at": "1000", "lease_seconds": "30"}
    states = []
    for run in ("f" * 40, redis_client.info("server")["run_id"]):
        redis_client.hset(ASGI.lease(holder.name), mapping={**lease, "server_run": run})
        report = await run_reap(max_share=1.0, confirm_after_seconds=0.01, dry_run=True)
        states.append(about(report, holder).state)
    assert states == ["suspect", "dead"]


async def test_a_lapsed_lease_with_the_stock_layer_is_no_silence_and_a_renewed_one_is_life(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    """That process could not put back what was removed by mistake."""
    holder = await start_process("room")
    key, stock = ASGI.lease(holder.name), {"lease_seconds": "30", "host": "web-1", "pid": "7", "layer": "stock"}
    redis_client.hset(key, mapping={**stock, "renewed_at": f"{time.time() - 1000:.3f}"})
    report = await run_reap(max_share=1.0)
    assert (report.removed, about(report, holder).state) == (0, "suspect")

    let_time_pass(redis_client, 61)
    redis_client.hset(key, "renewed_at", f"{time.time() - 31:.3f}")
    report = await run_reap(max_share=1.0)
    assert (report.removed, about(report, holder).state) == (0, "suspect")

    let_time_pass(redis_client, 61)
    redis_client.hset(key, "renewed_at", f"{time.time() - 93:.3f}")
    assert (await run_reap(max_share=1.0)).removed == 1


async def test_a_name_with_two_holders_is_never_taken_for_ended(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    """After a fork, one of the two says that it leaves; the other goes on."""
    holder = await start_process("room", live=True)
    async with open_layer("default") as opened:
        client, keyspace = opened.home.client, opened.keyspace
        for of in ("one", "other"):
            fields = {"lease_seconds": "30", "layer": "stock", "holder": of}
            await renew_lease(client, keyspace, holder.name, fields, 60)
        await mark_lease_ended(client, keyspace, holder.name, 60)
    assert about(await run_reap(), holder).state == "live"


async def test_a_lease_that_lapses_while_others_are_probed_is_no_silence(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    holder = await start_process("room", live=True)
    await start_process("room")
    now, micros = redis_client.time()
    lease = {"renewed_at": f"{now}.{micros:06}", "lease_seconds": f"{PROBE_TIMEOUT_SECONDS / 2:g}"}
    redis_client.hset(ASGI.lease(holder.name), mapping=lease)
    report = await run_reap()
    assert about(report, holder).state == "live"
    assert suspected(redis_client) == {one.process for one in report.processes} - {holder.name}


@pytest.mark.parametrize("confirm_after_seconds", [60.0, 600.0])
async def test_a_suspicion_that_no_run_renewed_for_long_counts_no_more(
    redis_client: redis.Redis, start_process: StartProcess, confirm_after_seconds: float
) -> None:
    """Two silences far apart are two coincidences."""
    process = await start_process("room")
    await run_reap(confirm_after_seconds=confirm_after_seconds)
    let_time_pass(redis_client, max(900.0, 3 * confirm_after_seconds) + 30)

    report = await run_reap(confirm_after_seconds=confirm_after_seconds)

    assert (report.removed, about(report, process).state) == (0, "suspect")
    let_time_pass(redis_client, confirm_after_seconds + 1)
    assert (await run_reap(confirm_after_seconds=confirm_after_seconds)).removed == 1


# What may go between the judgement and the removal


async def test_reap_keeps_a_member_that_rejoined_after_it_was_judged(
    redis_client: redis.Redis, start_process: StartProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await start_process()
    rejoining, leaving, staying = await process.join("room", count=3)
    await suspect_everybody()
    judged = reap_module.plan_reap

    def rejoin_when_judged(*args: Any, **options: Any) -> Any:
        plan = judged(*args, **options)
        assert plan.dead == {process.name}
        redis_client.zadd(ASGI.group("room"), {rejoining: time.time()})
        redis_client.zrem(ASGI.group("room"), leaving)
        return plan

    monkeypatch.setattr(reap_module, "plan_reap", rejoin_when_judged)
    report = await run_reap()

    assert list(members_of(redis_client, "room")) == [rejoining]
    assert report.removed == 1
    assert receipts(redis_client, report.run_id).keys() == {ASGI.group("room")}
    assert list(receipts(redis_client, report.run_id)[ASGI.group("room")]) == [staying.encode()]


async def test_reap_keeps_a_member_that_rejoined_after_it_was_read_for_removal(
    redis_client: redis.Redis, start_process: StartProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last moment: its removal is under way."""
    process = await start_process()
    rejoining, _ = await process.join("room", count=2)
    await suspect_everybody()
    send = journal.Remover._send

    async def rejoin_then_send(purge: journal.Remover) -> None:
        redis_client.zadd(ASGI.group("room"), {rejoining: time.time()})
        await send(purge)

    monkeypatch.setattr(journal.Remover, "_send", rejoin_then_send)
    report = await run_reap()

    assert list(members_of(redis_client, "room")) == [rejoining]
    assert (report.removed, report.kept) == (1, 1)


async def test_messages_of_a_process_that_rejoined_after_it_was_judged_are_not_set_aside(
    redis_client: redis.Redis, start_process: StartProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who joins is alive, and reads its inbox."""
    process = await start_process()
    (channel,) = await process.join("room")
    await process.layer.send(channel, {"type": "a.message"})
    await suspect_everybody()
    judged = reap_module.plan_reap

    def rejoin_when_judged(*args: Any, **options: Any) -> Any:
        redis_client.zadd(ASGI.group("room"), {channel: time.time()})
        return judged(*args, **options)

    monkeypatch.setattr(reap_module, "plan_reap", rejoin_when_judged)
    report = await run_reap()

    assert (report.removed, report.leftovers) == (0, ())
    assert redis_client.zcard(process.inbox_key) == 1


# Who is never removed


async def test_reap_never_removes_members_that_name_no_process(redis_client: redis.Redis) -> None:
    old = time.time() - 86000
    process = new_process_name()
    unknown: list[str | bytes] = [
        "thumbnails",
        "",
        "!",
        "specific.!abc",
        f"specific.{process[:-1]}!abc",
        f"specific.{process.upper()}!abc",
        f"specific.{process}",
        f"{process}!abc",
        b"\xff\xfe!\x80",
        b"specific.\xff!abc",
        "a b\nc\x1b[31m",
    ]
    add_members(redis_client, "room", unknown, joined_at=old)

    for _ in range(2):
        await suspect_everybody()
        report = await run_reap()
        assert (report.removed, report.suspects, report.processes) == (0, 0, ())
    assert redis_client.zcard(ASGI.group("room")) == len(unknown)


async def test_age_alone_removes_nobody(redis_client: redis.Redis, start_process: StartProcess) -> None:
    live = await start_process(live=True)
    add_members(redis_client, "room", channels_of(live.name, 5), joined_at=time.time() - 80_000)

    await suspect_everybody()
    assert (await run_reap()).removed == 0
    assert redis_client.zcard(ASGI.group("room")) == 5


async def test_reap_removes_dead_members_whatever_the_clock_of_their_host_said(redis_client: redis.Redis) -> None:
    process = new_process_name()
    for joined_at in (1.0, 0.0, time.time() + 86400, 1e15):
        add_members(redis_client, "room", channels_of(process, 2), joined_at=joined_at)

    await suspect_everybody()
    report = await run_reap()

    assert report.removed == 8
    assert not redis_client.exists(ASGI.group("room"))


@pytest.mark.parametrize("score", ["inf", "-inf"])
async def test_a_score_without_end_does_not_keep_its_process_from_being_reaped(
    redis_client: redis.Redis, score: str
) -> None:
    process = new_process_name()
    odd, ordinary = channels_of(process, 2)
    redis_client.zadd(ASGI.group("room"), {odd: score, ordinary: 1.0})

    await suspect_everybody()
    report = await run_reap()

    assert report.removed == 2
    async with open_layer("default") as opened:
        undone = await undo(opened, report.run_id)
    assert undone.restored == 2
    assert members_of(redis_client, "room") == {odd: float(score), ordinary: 1.0}


async def test_a_group_key_that_holds_something_else_is_left_alone_and_the_others_are_reaped(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    await start_process("room", "zoo", count=2)
    redis_client.set(ASGI.group("text"), "not a group")
    redis_client.rpush(ASGI.group("list"), "not a group")

    await suspect_everybody()
    report = await run_reap()

    assert report.removed == 4
    assert "2 group keys hold something else" in report.notes[0]
    assert redis_client.get(ASGI.group("text")) == b"not a group"
    assert redis_client.lrange(ASGI.group("list"), 0, -1) == [b"not a group"]


# Large groups


async def test_all_dead_members_of_a_large_group_go_while_the_live_ones_stay(
    each_redis_server: EmbeddedRedis, start_process: StartProcess
) -> None:
    with redis.Redis.from_url(each_redis_server.url) as client:
        live = await start_process(live=True)
        stay = channels_of(live.name, 500)
        gone = [channel for _ in range(10) for channel in channels_of(new_process_name(), 450)]
        now = time.time()
        mixed = [*stay, *gone]
        # Joined one after the other, in an order in which the live ones are spread over all pages.
        mixed.sort(key=lambda channel: channel[-8:])
        client.zadd(ASGI.group("large"), {channel: now - 10_000 + at for at, channel in enumerate(mixed)})

        await suspect_everybody()
        report = await run_reap()

        assert (report.removed, report.kept) == (4500, 0)
        assert set(members_of(client, "large")) == set(stay)
        assert set(receipts(client, report.run_id)[ASGI.group("large")]) == {name.encode() for name in gone}


async def test_a_large_group_of_dead_members_only_goes_entirely(redis_client: redis.Redis) -> None:
    add_members(redis_client, "large", channels_of(new_process_name(), 5000))
    add_members(redis_client, "small", channels_of(new_process_name(), 100))

    await suspect_everybody()
    report = await run_reap()

    assert report.removed == 5100
    assert redis_client.keys("asgi:group:*") == []


# Dry runs


async def test_a_dry_run_says_what_a_run_would_do_and_writes_nothing(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    await start_process("room", count=2, live=True)
    dead = await start_process("room", "lobby", count=3)
    (channel,) = await dead.join("room")
    await dead.layer.send(channel, {"type": "lost"})
    redis_client.zadd(dead.inflight_key, {b"popped": 1.0})
    await suspect_everybody()
    before = dump(redis_client)

    report = await run_reap(dry_run=True)

    assert dump(redis_client) == before
    assert (report.dry_run, report.removed, report.orphans, report.suspects) == (True, 7, 7, 0)
    assert {leftover.kind for leftover in report.leftovers} == {"inbox", "inflight"}
    real = await run_reap()
    assert (real.removed, len(real.leftovers)) == (report.removed, len(report.leftovers))


async def test_a_dry_run_on_a_fresh_layer_remembers_nothing(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    await start_process("room", count=2, live=True)
    await start_process("room", count=3)
    before = dump(redis_client)

    report = await run_reap(dry_run=True)

    assert report.suspects == 3
    assert dump(redis_client) == before
    assert not any(key.startswith(b"asgi:ops:") for key in before)


async def test_a_dry_run_with_wait_confirms_without_writing(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    await start_process("room", count=3)
    before = dump(redis_client)

    report = await run_reap(dry_run=True, wait=True, confirm_after_seconds=0.1, max_share=1.0)

    assert (report.orphans, report.removed) == (3, 3)
    assert dump(redis_client) == before


# Part of the groups


async def test_match_touches_only_matching_groups_and_judges_by_all(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    dead = await start_process("room.1", "room.2", "lobby", count=2)
    await dead.layer.send((await dead.join("lobby"))[0], {"type": "a.message"})
    await suspect_everybody()

    planned = await run_reap(glob="room.*", dry_run=True)
    assert (planned.removed, len(members_of(redis_client, "room.1"))) == (4, 2)
    report = await run_reap(glob="room.*")

    assert (report.removed, report.groups_scanned) == (4, 3)
    assert len(members_of(redis_client, "lobby")) == 3
    assert suspected(redis_client) == {dead.name}
    assert report.leftovers == ()
    assert redis_client.zcard(dead.inbox_key) == 1, "the process may have members elsewhere"
    assert (await run_reap()).removed == 3


async def test_runs_over_different_groups_know_what_the_others_saw(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    dead = await start_process("room")
    await dead.join("lobby")

    assert (await run_reap(glob="room")).suspects == 2
    let_time_pass(redis_client, CONFIRM_AFTER_SECONDS + 1)
    assert (await run_reap()).removed == 2


async def test_a_join_to_a_group_that_does_not_match_is_a_sign_of_life(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    process = await start_process("room")
    await start_process("lobby", live=True)
    await run_reap(glob="room")
    let_time_pass(redis_client, CONFIRM_AFTER_SECONDS + 1)
    await process.join("lobby")

    report = await run_reap(glob="room")

    assert (report.removed, about(report, process).state) == (0, "suspect")


# What dead processes leave beside members


async def test_the_inbox_and_inflight_messages_of_a_dead_process_are_set_aside_and_come_back_with_undo(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    dead, popped_at = await start_process(), time.time()
    (channel,) = await dead.join("room")
    popped = dead.layer.serialize({"type": "popped"})
    await dead.layer.send(channel, {"type": "one"})
    await dead.layer.send(channel, {"type": "two"})
    redis_client.zadd(dead.inflight_key, {popped: popped_at})
    messages = redis_client.zrange(dead.inbox_key, 0, -1, withscores=True)

    await suspect_everybody()
    report = await run_reap()

    assert {(leftover.kind, leftover.messages) for leftover in report.leftovers} == {("inbox", 2), ("inflight", 1)}
    assert redis_client.keys("asgispecific*") == []
    aside = ASGI.aside(report.run_id, dead.inbox_key)
    assert redis_client.zrange(aside, 0, -1, withscores=True) == messages
    assert 0 < redis_client.ttl(aside) <= 60

    async with open_layer("default") as opened:
        undone = await undo(opened, report.run_id)

    assert (undone.restored, undone.keys_restored) == (1, 2)
    assert redis_client.zrange(dead.inbox_key, 0, -1, withscores=True) == messages
    assert 0 < redis_client.ttl(dead.inbox_key) <= 60
    assert redis_client.zrange(dead.inflight_key, 0, -1, withscores=True) == [(popped, popped_at)]
    assert redis_client.ttl(dead.inflight_key) == -1, "as channels_redis leaves it"


async def test_what_is_set_aside_lives_only_as_long_as_its_messages_can_be_used(
    redis_client: redis.Redis, start_process: StartProcess, settings: LazySettings
) -> None:
    """The members may come back for a week. The messages may be megabytes, and worthless after the layer's expiry."""
    settings.CHANNEL_LAYERS["default"]["CONFIG"]["expiry"] = 2
    dead = await start_process("room")
    for key in (dead.inbox_key, dead.inflight_key):
        redis_client.zadd(key, {dead.layer.serialize({"text": "x" * 1_000_000}): time.time()})
    await suspect_everybody()
    report = await run_reap()
    assert len(report.leftovers) == 2

    asides = [ASGI.aside(report.run_id, key) for key in (dead.inbox_key, dead.inflight_key)]
    await until(lambda: redis_client.exists(*asides) == 0, within_seconds=10)

    assert redis_client.ttl(ASGI.journal(report.run_id)) > 6 * 86400
    async with open_layer("default") as opened:
        undone = await undo(opened, report.run_id)
    assert (undone.restored, undone.keys_restored) == (1, 0)


async def test_an_inflight_key_whose_process_has_no_members_left_is_set_aside(redis_client: redis.Redis) -> None:
    """It would stay for ever: nothing else ever removes it."""
    process = new_process_name()
    key = ASGI.inflight(f"specific.{process}!")
    redis_client.zadd(key, {b"popped": 12.0})

    await suspect_everybody()
    assert redis_client.exists(key)
    report = await run_reap()

    assert not redis_client.exists(key)
    assert [(leftover.kind, leftover.process) for leftover in report.leftovers] == [("inflight", process)]


async def test_what_a_live_process_has_in_flight_stays(redis_client: redis.Redis, start_process: StartProcess) -> None:
    live = await start_process("room", live=True)
    # Its receiver waits in BZPOPMIN and looks after this key only when it begins to wait again.
    inflight = live.inflight_key
    redis_client.zadd(inflight, {b"popped": 12.0})
    await suspect_everybody()

    report = await run_reap()

    assert report.leftovers == ()
    assert not any(b":aside:" in key for key in redis_client.keys("*"))


async def test_keys_that_are_no_inbox_are_never_set_aside(redis_client: redis.Redis) -> None:
    process = new_process_name()
    foreign = {
        "asgithumbnails": {b"job": 1.0},
        f"asgi2specific.{process}!$inflight": {b"another layer's": 1.0},
        f"specific.{process}!": {b"no layer's": 1.0},
        f"asgispecific.{process}!x": {b"odd": 1.0},
    }
    for key, messages in foreign.items():
        redis_client.zadd(key, messages)
    redis_client.set("asgi", "a value")
    before = dump(redis_client)

    await suspect_everybody()
    report = await run_reap()

    assert report.leftovers == ()
    assert dump(redis_client, without=[b"asgi:ops:"]) == before


# Twice, together, and on servers with other software


async def test_two_runs_at_once_remove_each_member_once(
    redis_client: redis.Redis, start_process: StartProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock only saves work: without it, the scripts still decide."""
    await start_process("room", count=300)
    await suspect_everybody()
    monkeypatch.setattr(reap_module, "run_lock", lambda opened: NoLock())

    reports = await asyncio.gather(run_reap(), run_reap())

    assert sum(report.removed for report in reports) == 300
    found = [receipts(redis_client, report.run_id).get(ASGI.group("room"), {}) for report in reports]
    assert sum(map(len, found)) == 300
    assert not found[0].keys() & found[1].keys()


async def test_reap_works_on_each_server_version(each_redis_server: EmbeddedRedis, start_process: StartProcess) -> None:
    live = await start_process("room", count=2, live=True)
    await start_process("room", count=2)
    await suspect_everybody()
    report = await run_reap()
    assert (report.removed, about(report, live).state) == (2, "live")
    async with open_layer("default") as opened:
        assert (await undo(opened, report.run_id)).restored == 2


@pytest.mark.parametrize("protocol", [2, 3])
async def test_reap_works_with_both_protocols(
    each_redis_server: EmbeddedRedis, settings: LazySettings, start_process: StartProcess, protocol: int
) -> None:
    settings.CHANNEL_LAYERS = layer_of({"address": each_redis_server.url, "socket_timeout": None, "protocol": protocol})
    with redis.Redis.from_url(each_redis_server.url) as client:
        live = await start_process("room", count=2, live=True)
        await start_process("room", count=120)
        await suspect_everybody()
        report = await run_reap()
        assert (report.removed, about(report, live).state) == (120, "live")
        assert client.zcard(ASGI.group("room")) == 2


@pytest.mark.parametrize(
    "prefixes",
    [
        ["asgi", "asgi2", "asgi:", "asgi:ops", "asgispecific.", ""],
        ["as*", "asgi", "as?i", "[a]sgi", "as\\gi"],
        ["asgi", "asgi:group", "asgi:group:room"],
    ],
    ids=["longer", "globs", "nested"],
)
async def test_layers_whose_prefixes_begin_alike_never_touch_each_other(
    redis_client: redis.Redis,
    redis_server: EmbeddedRedis,
    settings: LazySettings,
    start_process: StartProcess,
    prefixes: list[str],
) -> None:
    settings.CHANNEL_LAYERS = {f"layer {p}": layer_of(redis_server.url, prefix=p)["default"] for p in prefixes}
    live = {prefix: await start_process("room", count=2, live=True, alias=f"layer {prefix}") for prefix in prefixes}
    for prefix in prefixes:
        await start_process("room", count=3, alias=f"layer {prefix}")
    for prefix in prefixes:
        await suspect_everybody(f"layer {prefix}")
    for prefix in prefixes:
        others = {
            key: redis_client.dump(key)
            for key in redis_client.keys("*")
            if not key.startswith((Keyspace(prefix).group("room"), f"{prefix}:ops:".encode()))
        }
        report = await run_reap(f"layer {prefix}")
        assert (report.members_scanned, report.removed) == (5, 3), prefix
        assert about(report, live[prefix]).state == "live"
        assert {key: redis_client.dump(key) for key in others} == others
    for prefix in prefixes:
        assert len(members_of(redis_client, "room", Keyspace(prefix))) == 2
        assert live[prefix].received == []
