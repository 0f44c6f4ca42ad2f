"""When the reaper must not trust what it sees, it removes nothing and says why."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import redis
from channels.layers import channel_layers
from django.conf import LazySettings

from ops.exceptions import OpsError, ShardError
from ops.middleware import OpsMiddleware
from ops.model.liveness.stops import LastUse
from ops.model.runs import ReapReport
from ops.operations.reaping import reap as reap_module
from ops.operations.reaping.reap import ReapOptions, reap
from ops.operations.reaping.undo import read_history, undo
from ops.store.connection import shards
from ops.store.connection.shards import OpenLayer, open_layer
from ops.store.liveness import receivers, suspects
from ops.store.removal import journal
from ops.testing import override_redis_config
from project.embedded_redis import EmbeddedRedis
from tests.conftest import StartRedis
from tests.integration.plain_websockets import Client
from tests.integration.test_ops_middleware import Room
from tests.layer_builders import (
    ASGI,
    CONFIRM_AFTER_SECONDS,
    PROBE_TIMEOUT_SECONDS,
    SlowLayer,
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

BUILDERS = "tests.layer_builders"


# The reaper's own receiver


async def test_reap_stops_when_its_own_probe_is_not_taken(
    redis_client: redis.Redis, redis_server: EmbeddedRedis, settings: LazySettings, start_process: StartProcess
) -> None:
    await start_process("room", count=2)
    await suspect_everybody()
    before = dump(redis_client)
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, backend=f"{BUILDERS}.DeafLayer")

    report = await run_reap(control_may_fail=True)

    assert report.stopped
    assert report.stopped.startswith("control: the reaper's own probe on shard 0 was not taken")
    assert report.removed == 0
    assert dump(redis_client) == before, "what it saw is not worth remembering"


async def test_reap_stops_when_its_own_probe_is_taken_slowly(
    redis_client: redis.Redis,
    redis_server: EmbeddedRedis,
    settings: LazySettings,
    start_process: StartProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await start_process("room", count=2)
    await suspect_everybody()
    monkeypatch.setattr(SlowLayer, "pause_seconds", 1.5)
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, backend=f"{BUILDERS}.SlowLayer")

    report = await run_reap(control_may_fail=True, probe_timeout_seconds=1.8 * SlowLayer.pause_seconds)

    assert report.stopped
    assert "more than half of the probe timeout" in report.stopped
    assert report.removed == 0
    assert len(members_of(redis_client, "room")) == 2


async def test_a_failed_control_stops_nobody_where_all_processes_are_live(
    redis_server: EmbeddedRedis, settings: LazySettings, start_process: StartProcess
) -> None:
    live = await start_process("room", live=True)
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, backend=f"{BUILDERS}.DeafLayer")

    report = await run_reap()

    assert (report.stopped, report.suspects) == (None, 0)
    assert [(process.process, process.state) for process in report.processes] == [(live.name, "live")]


async def test_the_control_leaves_nothing_behind(redis_client: redis.Redis, start_process: StartProcess) -> None:
    await start_process("room", live=True)
    before = dump(redis_client)

    await run_reap()

    assert dump(redis_client, without=[b"asgi:ops:seen", b"asgi:ops:looks"]) == before


# A restart of Redis


async def test_reap_stops_when_redis_restarted_since_the_first_round(
    start_redis: StartRedis, settings: LazySettings, start_process: StartProcess
) -> None:
    server = start_redis()
    settings.CHANNEL_LAYERS = layer_of(server.url)
    dead = await start_process("room", count=2)
    await suspect_everybody()
    server.restart(keep_data=True)

    report = await run_reap()

    assert report.stopped
    assert report.stopped.startswith("restart: Redis restarted or failed over since 1 silent process was")
    assert report.removed == 0
    with redis.Redis.from_url(server.url) as client:
        assert len(members_of(client, "room")) == 2
        # The confirm time starts again, and then it goes on.
        assert suspected(client) == {dead.name}
        assert (await run_reap()).removed == 0
        let_time_pass(client, CONFIRM_AFTER_SECONDS + 1)
        assert (await run_reap()).removed == 2


@pytest.mark.parametrize("reconnects", [False, True])
async def test_reap_stops_when_redis_restarts_between_judgement_and_removal(
    start_redis: StartRedis,
    settings: LazySettings,
    start_process: StartProcess,
    monkeypatch: pytest.MonkeyPatch,
    reconnects: bool,
) -> None:
    """Also where the client library connects again without a word, as one with retries does."""
    server = start_redis()
    settings.CHANNEL_LAYERS = layer_of(server.url)
    await start_process("room", count=2)
    await suspect_everybody()
    record = suspects.record_seen_live

    async def record_then_restart(opened: OpenLayer, seen: Mapping[str, float]) -> None:
        await record(opened, seen)
        server.restart(keep_data=True)
        if reconnects:
            await opened.home.client.connection_pool.disconnect()

    monkeypatch.setattr(suspects, "record_seen_live", record_then_restart)
    report = await run_reap()

    assert report.removed == 0
    assert report.orphans == 2
    if reconnects:
        assert report.stopped == "restart: Redis restarted or failed over while the processes were judged"
    else:
        assert not report.complete
    with redis.Redis.from_url(server.url) as client:
        assert len(members_of(client, "room")) == 2
        assert client.keys("asgi:ops:journal:*") == []


async def test_reap_with_wait_notices_a_restart_while_it_waits(
    start_redis: StartRedis, settings: LazySettings, start_process: StartProcess
) -> None:
    server = start_redis()
    settings.CHANNEL_LAYERS = layer_of(server.url)
    await start_process("room", count=2)
    restarts: list[str] = []

    def progress(what: str, _groups: int, _members: int) -> None:
        if what.startswith("next look") and not restarts:
            restarts.append(what)
            server.restart(keep_data=True)

    async with open_layer("default") as opened:
        options = ReapOptions(wait=True, confirm_after_seconds=0.3, probe_timeout_seconds=PROBE_TIMEOUT_SECONDS)
        report = await reap(opened, options, progress)

    assert restarts
    assert report.removed == 0
    assert report.stopped or not report.complete
    with redis.Redis.from_url(server.url) as client:
        assert len(members_of(client, "room")) == 2


async def test_a_redis_user_who_may_not_see_restarts_may_not_reap(
    start_redis: StartRedis, settings: LazySettings, start_process: StartProcess
) -> None:
    server = start_redis(**{"user ops": "on >secret +@all -info ~* &*"})
    settings.CHANNEL_LAYERS = layer_of(server.url)
    await start_process("room")
    await suspect_everybody()
    settings.CHANNEL_LAYERS = layer_of(server.url.replace("redis://", "redis://ops:secret@"))

    with pytest.raises(ShardError, match=r"\+info"):
        await run_reap()


# Too many at once


@pytest.mark.parametrize(("dying", "living", "stops"), [(2, 1, True), (2, 2, False), (1, 0, False), (3, 2, True)])
async def test_reap_stops_when_more_of_the_fleet_went_silent_at_once_than_allowed(
    redis_client: redis.Redis, start_process: StartProcess, dying: int, living: int, stops: bool
) -> None:
    fleet = [await start_process("room", live=True) for _ in range(dying + living)]
    await run_reap()
    for process in fleet[:dying]:
        await process.die()
    await suspect_everybody(released=False)

    report = await run_reap()

    assert bool(report.stopped) is stops
    assert report.removed == (0 if stops else dying)
    assert len(members_of(redis_client, "room")) == living + (dying if stops else 0)
    if stops:
        assert report.stopped
        assert report.stopped.startswith(f"share: {dying} of {dying + living} processes")
        assert (await run_reap()).stopped, "it has not been so for long enough"
        assert (await run_reap(max_share=1.0)).removed == dying


@pytest.mark.parametrize("frozen", [False, True])
async def test_a_stop_ends_when_no_connection_of_a_receiver_has_been_idle_for_the_confirm_time(
    redis_client: redis.Redis, start_process: StartProcess, monkeypatch: pytest.MonkeyPatch, frozen: bool
) -> None:
    """As after a deploy with fewer workers; but a process that only stands still keeps its connection."""
    monkeypatch.setattr(receivers, "IDLE_SECONDS", -1.0)
    fleet = [await start_process("room", live=True) for _ in range(3)]
    await run_reap()
    for process in fleet[:2]:
        await process.die()
    if not frozen:
        await fleet[2].die()
    await suspect_everybody(released=False)
    redis_client.connection_pool.disconnect()  # Its connection would count.
    assert (await run_reap()).stopped
    let_time_pass(redis_client, CONFIRM_AFTER_SECONDS + 1)
    redis_client.connection_pool.disconnect()

    report = await run_reap()

    assert bool(report.stopped) is frozen
    assert report.removed == (0 if frozen else 3)


async def test_if_nobody_lives_and_nobody_was_ever_seen_live_it_stops_until_no_receiver_is_idle(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    await start_process("room", count=2)
    await suspect_everybody(released=False)

    report = await run_reap()

    assert report.stopped
    assert report.stopped.startswith("nobody live: 1 silent process, none of them ever seen live; it ends by itself")
    assert report.removed == 0
    let_time_pass(redis_client, CONFIRM_AFTER_SECONDS + 1)
    assert (await run_reap()).removed == 2


@pytest.mark.parametrize("database", [0, 1])
async def test_idle_connections_count_that_may_be_of_a_silent_process(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    settings: LazySettings,
    monkeypatch: pytest.MonkeyPatch,
    database: int,
) -> None:
    settings.CHANNEL_LAYERS = layer_of(f"{redis_server.url}/{database}")
    monkeypatch.setattr(receivers, "IDLE_SECONDS", -1.0)
    redis_client.connection_pool.disconnect()

    async def count(*, silent_ago: float = 0.0, connected_ago: float = 0.0) -> int | None:
        uses = [LastUse(math.inf, silent_ago, connected_ago)]
        async with open_layer("default") as opened:
            own = await receivers.read_own_connections(opened)
            return await receivers.count_idle_connections(opened, own, uses)

    assert await count() == 0, "our own"
    with (
        redis.Redis.from_url(redis_server.url, db=database) as any_program,
        redis.Redis.from_url(redis_server.url, db=5) as other,
    ):
        any_program.zcard("asgi:group:room")
        other.ping()
        assert await count() == 1, "whatever it sent last; not those of another database"
        assert await count(silent_ago=60) == 0, "it was used when the silent had long been silent"
        assert await count(connected_ago=60) == 0, "it was opened when the silent had their connections"


async def test_where_redis_closes_idle_connections_that_there_is_none_proves_nothing(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    """A frozen process has none either, then."""
    await start_process("room", count=2)
    with override_redis_config(redis_client, timeout="20"):
        await suspect_everybody(released=True)
        report = await run_reap()
        assert (bool(report.stopped), report.removed) == (True, 0)
        let_time_pass(redis_client, CONFIRM_AFTER_SECONDS + 1)
        assert (await run_reap()).removed == 0


async def test_the_dead_go_in_two_runs_if_nobody_lives(redis_client: redis.Redis, start_process: StartProcess) -> None:
    await start_process("room", count=2)
    assert (await run_reap()).suspects == 2
    let_time_pass(redis_client, CONFIRM_AFTER_SECONDS + 1)
    assert (await run_reap()).removed == 2


async def test_processes_that_said_that_they_left_are_not_silent(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, settings: LazySettings, start_process: StartProcess
) -> None:
    fleet = [await start_process("room", live=True) for _ in range(3)]
    await run_reap()
    for process in fleet:
        await process.die()
        redis_client.hset(
            ASGI.lease(process.name), mapping={"renewed_at": time.time(), "lease_seconds": 30, "ended": 1}
        )

    report = await run_reap()

    assert (report.stopped, report.removed) == (None, 3)


async def test_processes_that_no_run_ever_saw_live_say_nothing_about_the_fleet(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    """The first run after months finds many dead: they did not go silent now."""
    for _ in range(10):
        add_members(redis_client, "room", channels_of(new_process_name(), 3))
    await start_process("room", live=True)
    await suspect_everybody()

    report = await run_reap()

    assert (report.stopped, report.removed) == (None, 30)


# Shards that fail


@pytest.fixture
def two_shards(start_redis: StartRedis, settings: LazySettings) -> tuple[EmbeddedRedis, EmbeddedRedis]:
    servers = (start_redis(), start_redis())
    settings.CHANNEL_LAYERS = layer_of(*(server.url for server in servers))
    return servers


# Names whose hashes fall on both shards.
GROUPS = ["lobby", "news", "room.1", "room.2", "support", "team.a", "x", "y"]


def members_on(servers: tuple[EmbeddedRedis, ...]) -> list[int]:
    """Members of all groups, for each server that runs."""
    counts = []
    for server in servers:
        if server.running:
            with redis.Redis.from_url(server.url) as client:
                counts.append(sum(client.zcard(key) for key in client.keys("asgi:group:*")))
    return counts


async def test_wait_does_not_wait_while_a_shard_is_away(
    two_shards: tuple[EmbeddedRedis, EmbeddedRedis], start_process: StartProcess
) -> None:
    for _ in range(8):  # whose inboxes are on both
        await start_process(*GROUPS)
    two_shards[1].kill()
    told: list[str] = []
    async with open_layer("default") as opened:
        options = ReapOptions(wait=True, confirm_after_seconds=0.5, probe_timeout_seconds=PROBE_TIMEOUT_SECONDS)
        report = await reap(opened, options, lambda what, _groups, _members: told.append(what))
    assert not report.complete
    assert not [what for what in told if what.startswith("next look")]


async def test_reap_works_on_two_shards(
    two_shards: tuple[EmbeddedRedis, EmbeddedRedis], start_process: StartProcess
) -> None:
    live = [await start_process(*GROUPS, live=True) for _ in range(3)]
    for _ in range(3):
        await start_process(*GROUPS, count=2)
    before = members_on(two_shards)
    assert all(before)
    await suspect_everybody()

    report = await run_reap()

    assert (report.removed, report.groups_scanned, report.complete) == (48, 8, True)
    assert sum(members_on(two_shards)) == 24
    assert {p.process for p in report.processes if p.state == "live"} == {process.name for process in live}
    # The receipts lie where the members were.
    for server in two_shards:
        with redis.Redis.from_url(server.url) as client:
            found = receipts(client, report.run_id)
            assert found
            assert all(client.exists(key) for key in found)
    async with open_layer("default") as opened:
        assert (await undo(opened, report.run_id)).restored == 48
    assert members_on(two_shards) == before


# Other hosts


async def test_reap_stops_while_groups_are_joined_on_another_shard_than_its_hosts_say(
    two_shards: tuple[EmbeddedRedis, EmbeddedRedis], settings: LazySettings, start_process: StartProcess
) -> None:
    settings.CHANNEL_LAYERS = layer_of(*(server.url for server in two_shards[::-1]))
    await start_process(*GROUPS, count=200)  # more than one page
    settings.CHANNEL_LAYERS = layer_of(*(server.url for server in two_shards))
    await suspect_everybody()
    before = members_on(two_shards)

    report = await run_reap()

    assert (report.stopped or "").startswith("hosts: groups that were joined within the last hour lie on another shard")
    for index, server in enumerate(two_shards):
        assert f"shard {index} ({server.url}" in (report.stopped or "")
    assert "by the clocks of application hosts" in (report.stopped or "")
    assert report.removed == 0
    assert members_on(two_shards) == before


@pytest.mark.parametrize(("seconds_ago", "stops"), [(3500, True), (3700, False), (86000, False), (-7200, True)])
async def test_groups_that_lie_on_another_shard_since_a_reshard_stop_nobody(
    two_shards: tuple[EmbeddedRedis, EmbeddedRedis], seconds_ago: float, stops: bool
) -> None:
    """They stay for a day. A join time is by the clock of the host that added the member, which may be ahead."""
    dead = channels_of(new_process_name(), 150)
    async with open_layer("default") as opened:
        wrong = [1 - opened.shard_of_group(group).index for group in GROUPS]
        now = await opened.home.now()
    for group, shard in zip(GROUPS, wrong, strict=True):
        with redis.Redis.from_url(two_shards[shard].url) as client:
            add_members(client, group, dead[:149], joined_at=now - 86000)
            add_members(client, group, dead[149:], joined_at=now - seconds_ago)
    await suspect_everybody()

    report = await run_reap()

    assert bool(report.stopped) is stops
    assert report.removed == (0 if stops else len(GROUPS) * len(dead))


async def test_groups_where_the_hosts_have_them_stop_nobody_however_late_they_were_joined(
    two_shards: tuple[EmbeddedRedis, EmbeddedRedis], start_process: StartProcess
) -> None:
    await start_process(*GROUPS, count=2)
    await suspect_everybody()
    report = await run_reap()
    assert (report.stopped, report.removed) == (None, 2 * len(GROUPS))


@pytest.mark.parametrize("down", [0, 1])
async def test_nothing_is_removed_anywhere_while_a_shard_is_down(
    two_shards: tuple[EmbeddedRedis, EmbeddedRedis], start_process: StartProcess, down: int
) -> None:
    await start_process(*GROUPS, count=2)
    await suspect_everybody()
    two_shards[down].kill()
    up = two_shards[1 - down]
    with redis.Redis.from_url(up.url) as client:
        before = dump(client)

        report = await run_reap()

        assert (report.complete, report.removed) == (False, 0)
        assert report.groups_scanned > 0, "what the other shard said is shown"
        assert f"shard {down} (redis://127.0.0.1:" in report.notes[0]
        assert dump(client) == before


@pytest.mark.parametrize("down", [0, 1])
async def test_a_shard_that_fails_in_the_middle_of_the_scan_stops_the_run(
    two_shards: tuple[EmbeddedRedis, EmbeddedRedis], start_process: StartProcess, down: int
) -> None:
    await start_process(*GROUPS, count=2)
    with redis.Redis.from_url(two_shards[down].url) as client:
        for number in range(3000):
            client.zadd(ASGI.group(f"more.{number}"), {"general": 1})
    await suspect_everybody()
    before = members_on((two_shards[1 - down],))

    def progress(what: str, _groups: int, _members: int) -> None:
        if what == "counting":
            two_shards[down].kill()

    async with open_layer("default") as opened:
        report = await reap(opened, ReapOptions(probe_timeout_seconds=PROBE_TIMEOUT_SECONDS), progress)

    assert (report.complete, report.removed) == (False, 0)
    assert members_on((two_shards[1 - down],)) == before


@pytest.mark.parametrize("down", [0, 1])
async def test_a_shard_that_fails_before_the_removal_stops_the_run(
    two_shards: tuple[EmbeddedRedis, EmbeddedRedis],
    start_process: StartProcess,
    monkeypatch: pytest.MonkeyPatch,
    down: int,
) -> None:
    await start_process(*GROUPS, count=2)
    await suspect_everybody()
    before = members_on((two_shards[1 - down],))
    when_judged(monkeypatch, two_shards[down].kill)

    report = await report_or_error()

    assert members_on((two_shards[1 - down],)) == before
    if isinstance(report, ReapReport):
        assert (report.complete, report.removed) == (False, 0)


@pytest.mark.parametrize("down", [0, 1])
async def test_what_went_before_a_shard_failed_in_the_middle_of_the_removal_is_reported_and_can_be_undone(
    two_shards: tuple[EmbeddedRedis, EmbeddedRedis],
    start_process: StartProcess,
    monkeypatch: pytest.MonkeyPatch,
    down: int,
) -> None:
    await start_process(*GROUPS, count=2)
    await suspect_everybody()
    up = two_shards[1 - down]
    with redis.Redis.from_url(two_shards[down].url) as client:
        client.save()
    before = members_on(two_shards)
    load = journal.Remover.load

    async def kill_then_load(purge: journal.Remover) -> None:
        two_shards[down].kill()
        await load(purge)

    monkeypatch.setattr(journal.Remover, "load", kill_then_load)
    report = await run_reap()

    assert report.complete is False
    assert report.removed == before[1 - down]
    assert members_on((up,)) == [0]
    two_shards[down].start()
    async with open_layer("default") as opened:
        if down == 1:  # else the list of runs was lost with its server, which saves nothing to disk here
            (run,) = await read_history(opened)
            assert (run.run_id, run.state, run.removed) == (report.run_id, "interrupted", report.removed)
            assert (await undo(opened, report.run_id)).restored == report.removed
            assert members_on((up,)) == [before[0]]


async def test_a_shard_that_does_not_answer_in_time_counts_as_down(
    two_shards: tuple[EmbeddedRedis, EmbeddedRedis], start_process: StartProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "ANSWER_TIMEOUT_SECONDS", 0.3)
    await start_process(*GROUPS, count=2)
    await suspect_everybody()
    two_shards[1].pause()

    report = await run_reap()

    two_shards[1].resume()
    assert (report.complete, report.removed) == (False, 0)
    assert "did not answer within" in report.notes[0]
    assert sum(members_on(two_shards)) == 16


# A server that refuses to write


async def test_a_server_out_of_memory_loses_no_member(redis_client: redis.Redis, start_process: StartProcess) -> None:
    await start_process("room", count=2)
    await suspect_everybody()
    with out_of_memory(redis_client):
        report = await report_or_error()

    assert "used memory > 'maxmemory'" in said_by(report)
    assert len(members_of(redis_client, "room")) == 2


async def test_a_server_that_runs_out_of_memory_before_the_removal_loses_no_member(
    each_redis_server: EmbeddedRedis, start_process: StartProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receipt is written first: where it cannot be, the member stays."""
    await start_process("room", count=300)
    await suspect_everybody()
    load = journal.Remover.load

    with redis.Redis.from_url(each_redis_server.url) as client:

        async def load_then_fill_memory(purge: journal.Remover) -> None:
            await load(purge)
            client.config_set("maxmemory", "1")

        monkeypatch.setattr(journal.Remover, "load", load_then_fill_memory)
        report = await report_or_error()
        client.config_set("maxmemory", "0")

        assert "used memory > 'maxmemory'" in said_by(report)
        assert len(members_of(client, "room")) == 300
        assert client.keys("asgi:ops:journal:*") == []


async def test_a_redis_user_who_may_not_run_scripts_is_told_so(
    start_redis: StartRedis, settings: LazySettings, start_process: StartProcess
) -> None:
    server = start_redis(**{"user ops": "on >secret +@all -eval -evalsha -script ~* &*"})
    settings.CHANNEL_LAYERS = layer_of(server.url)
    await start_process("room")
    await suspect_everybody()
    settings.CHANNEL_LAYERS = layer_of(server.url.replace("redis://", "redis://ops:secret@"))

    report = await report_or_error()

    assert "refused what this Redis user has no permission for; add to its ACL: " in said_by(report)
    assert "secret" not in said_by(report)


def when_judged(monkeypatch: pytest.MonkeyPatch, do: Callable[[], None]) -> None:
    """Have something happen after the verdict and before the removal."""
    judged = reap_module.plan_reap

    def judge_then_do(*args: Any, **options: Any) -> Any:
        plan = judged(*args, **options)
        assert plan.dead
        do()
        return plan

    monkeypatch.setattr(reap_module, "plan_reap", judge_then_do)


async def report_or_error() -> ReapReport | OpsError:
    """Both are answers: a command makes one line of an error and exits with 1."""
    try:
        return await run_reap()
    except OpsError as error:
        return error


def said_by(report: ReapReport | OpsError) -> str:
    """What a run that could not do its work says about it."""
    if isinstance(report, OpsError):
        assert "\n" not in str(report)
        return str(report)
    assert (report.complete, report.removed) == (False, 0)
    return "; ".join(report.notes)


class out_of_memory:
    """A server whose maxmemory is reached, and which evicts nothing."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def __enter__(self) -> None:
        self.client.config_set("maxmemory", "1")

    def __exit__(self, *_: object) -> None:
        self.client.config_set("maxmemory", "0")


async def test_reap_stops_while_a_lease_tells_of_other_hosts(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, start_redis: StartRedis, settings: LazySettings
) -> None:
    """A shard was added for the workers, and not here: inboxes that lie on it look dead."""
    second = start_redis()
    settings.CHANNEL_LAYERS = both = layer_of(redis_server.url, second.url)
    client = Client(OpsMiddleware(Room.as_asgi()))
    await client.connect()
    with redis.Redis.from_url(second.url) as second_client:
        any_lease = ASGI.lease("*")
        await until(lambda: redis_client.keys(any_lease) and second_client.keys(any_lease))
        [lease] = second_client.keys(any_lease)
        process = lease.decode().rpartition(":")[2]
        add_members(redis_client, group_on(0), channels_of(process, 2), joined_at=1000)
        assert (await run_reap()).stopped is None
        assert second_client.hget(lease, "shard") == b"2/2"
        second_client.delete(lease)
        assert "is 2/2 here, and no shard for" in ((await run_reap()).stopped or "")

    settings.CHANNEL_LAYERS = layer_of(redis_server.url)
    report = await run_reap()
    assert (report.stopped or "").startswith("hosts: by their leases, processes use another list of hosts")
    assert "is 1/1 here, and 1/2 for" in (report.stopped or "")
    settings.CHANNEL_LAYERS = both
    await client.leave()


def group_on(shard: int) -> str:
    """A group that the hosts of the settings put there."""
    layer = channel_layers.make_backend("default")
    return next(name for name in map(str, range(100)) if layer.consistent_hash(name) == shard)
