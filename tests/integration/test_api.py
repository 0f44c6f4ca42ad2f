"""`ops.api`: what each function returns on a real Redis, from sync and from async code, and how it fails."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
from datetime import datetime, timezone
from typing import Any

import pytest
import redis
from asgiref.sync import sync_to_async
from django.conf import LazySettings

from ops import api
from ops.arguments import KINDS
from ops.exceptions import (
    AnotherRunHoldsTheLock,
    InvalidArguments,
    LayerError,
    NoDisconnectLog,
    OpsError,
    RunNotFound,
    ShardError,
)
from ops.model.disconnects.record import Disconnect, to_json
from project.embedded_redis import EmbeddedRedis
from tests.conftest import NOBODY_LISTENS
from tests.layer_builders import (
    ASGI,
    PROBE_TIMEOUT_SECONDS,
    AppProcess,
    StartProcess,
    add_members,
    dump,
    layer_of,
    suspect_everybody,
)

TWINS = sorted(name for name in api.__all__ if inspect.isfunction(getattr(api, name)) and hasattr(api, f"a{name}"))
LOOK: dict[str, Any] = {"probe": True, "probe_timeout_seconds": PROBE_TIMEOUT_SECONDS}


@pytest.fixture
async def two_processes(redis_client: redis.Redis, start_process: StartProcess) -> tuple[AppProcess, AppProcess]:
    """A live process with two members in `lobby`, and a dead one with three there and in `room`."""
    live = await start_process("lobby", count=2, live=True)
    dead = await start_process("lobby", "room", count=3)
    await suspect_everybody()
    return live, dead


def test_each_function_has_its_twin() -> None:
    expected = "cleanup count diagnose emit groups heartbeat history inspect members reap report undo"
    assert expected.split() == TWINS
    for name in TWINS:
        twin = getattr(api, f"a{name}")
        assert inspect.iscoroutinefunction(twin)
        assert inspect.signature(getattr(api, name)) == inspect.signature(twin)
        assert inspect.signature(twin).parameters["layer"].default == "default"


def test_each_public_name_is_there() -> None:
    assert all(getattr(api, name) is not None for name in api.__all__)
    assert dataclasses.is_dataclass(api.Inspection)
    with pytest.raises(AttributeError, match=r"'ops\.api' has no attribute 'nothing'"):
        getattr(api, "noth" + "ing")


async def test_groups_and_members_are_counted_and_listed(two_processes: tuple[AppProcess, AppProcess]) -> None:
    live, dead = two_processes
    assert await api.acount("lobby") == 5
    assert await api.acount("nowhere") == 0
    assert [(group.group, group.counts.members) for group in await api.agroups()] == [("lobby", 5), ("room", 3)]
    assert [group.group for group in await api.agroups("ro*")] == ["room"]
    found = await api.amembers("lobby", probe=True)
    assert {member.process for member in found if member.state == "live"} == {live.name}
    assert {member.process for member in found if member.state == "orphan"} == {dead.name}
    assert await api.amembers("nowhere") == ()


async def test_without_a_probe_nothing_is_written_and_nothing_is_claimed(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    dead = await start_process("lobby", count=3)
    before = dump(redis_client)
    found = await api.ainspect(members=True)
    assert [member.state for group in found.groups for member in group.channels] == ["unknown"] * 3
    assert {member.process for member in await api.amembers("lobby", state="unknown")} == {dead.name}
    assert await api.amembers("lobby", state="live") == ()
    assert dump(redis_client) == before


async def test_a_run_removes_and_an_undo_puts_back(two_processes: tuple[AppProcess, AppProcess]) -> None:
    _, dead = two_processes
    done = await api.areap(probe_timeout_seconds=PROBE_TIMEOUT_SECONDS)
    assert (done.removed, done.stopped, done.complete) == (6, None, True)
    assert {process.process for process in done.processes if process.removed} == {dead.name}
    assert await api.acount("lobby") == 2
    assert done.run_id is not None
    assert [run.run_id for run in await api.ahistory()] == [done.run_id]
    undone = await api.aundo(done.run_id)
    assert (undone.restored, undone.already_present) == (6, 0)
    assert await api.acount("lobby") == 5


async def test_groups_come_one_at_a_time_with_the_sum_at_the_end(
    two_processes: tuple[AppProcess, AppProcess],
) -> None:
    async with api.stream_groups(members=True, **LOOK) as stream:
        names = sorted([group.group async for group in stream.groups()])
        assert names == ["lobby", "room"]
        found = stream.inspection
    assert (found.total_groups, found.totals.members, found.totals.live, found.totals.orphan) == (2, 8, 2, 6)
    assert found.groups == ()


async def test_a_heartbeat_and_a_diagnosis_and_a_report(
    two_processes: tuple[AppProcess, AppProcess], redis_client: redis.Redis
) -> None:
    live, dead = two_processes
    heard = await api.aheartbeat(["lobby"], depth="process", timeout_seconds=PROBE_TIMEOUT_SECONDS)
    assert (heard.totals.members, heard.totals.answered, heard.totals.silent) == (5, 2, 3)
    assert {found.process: found.counts.silent for found in heard.processes} == {live.name: 0, dead.name: 3}
    found = await api.adiagnose(only=["ops.W403"])
    assert [finding.id for finding in found.findings] == ["ops.W403"]
    with pytest.raises(NoDisconnectLog):
        await api.areport()
    redis_client.xadd(ASGI.disconnects, {"d": to_json(Disconnect(1.0))})
    assert (await api.areport()).records == 1


async def test_what_is_returned_cannot_be_changed(
    two_processes: tuple[AppProcess, AppProcess], redis_client: redis.Redis
) -> None:
    redis_client.xadd(ASGI.disconnects, {"d": to_json(Disconnect(1.0))})
    found = await api.ainspect(members=True)
    reports: list[Any] = [found, found.totals, found.groups[0], found.groups[0].channels[0], found.processes[0]]
    reports += [await api.areap(dry_run=True), await api.aheartbeat(depth="process"), await api.adiagnose()]
    reports += [await api.areport()]
    for report in reports:
        field = dataclasses.fields(report)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(report, field, None)


# From sync code


async def test_sync_code_calls_it_in_threads_and_gets_the_same(redis_server: EmbeddedRedis) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        add_members(client, "lobby", ["general"])
    assert await asyncio.to_thread(api.count, "lobby") == 1
    assert await sync_to_async(api.count)("lobby") == 1
    assert [group.group for group in await asyncio.to_thread(api.groups)] == ["lobby"]


def test_sync_code_without_any_loop_calls_it(redis_server: EmbeddedRedis) -> None:
    assert api.count("lobby") == 0
    assert api.inspect().complete


async def test_a_sync_function_where_a_loop_runs_says_what_to_do(redis_server: EmbeddedRedis) -> None:
    with pytest.raises(
        OpsError, match=r"^count\(\) cannot be called where an event loop runs; await acount\(\) instead$"
    ):
        api.count("lobby")


# How it fails


@pytest.mark.parametrize(
    "call",
    [
        lambda: api.acount("lobby", layer="nowhere"),
        lambda: api.ainspect(layer="nowhere"),
        lambda: api.areap(layer="nowhere"),
        lambda: api.adiagnose(layer="nowhere"),
        lambda: api.areport(layer="nowhere"),
    ],
)
async def test_a_layer_that_is_not_configured_is_named(call: Any, redis_server: EmbeddedRedis) -> None:
    with pytest.raises(LayerError, match="there is no channel layer 'nowhere'"):
        await call()


async def test_a_shard_that_does_not_answer_is_said_and_never_passed_over(
    redis_server: EmbeddedRedis, settings: LazySettings
) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, NOBODY_LISTENS)
    found = await api.ainspect()
    assert not found.complete
    assert [shard.answered for shard in found.shards] == [True, False]
    for call in (api.agroups, functools.partial(api.amembers, "lobby")):
        with pytest.raises(ShardError, match="shard 1"):
            await call()
    done = await api.areap()
    assert (done.complete, done.removed) == (False, 0)


NOW = datetime.now(timezone.utc)
REFUSED: list[tuple[Any, str]] = [
    (lambda: api.acount(3), "group must be a text, not 3"),
    (lambda: api.agroups(3), "match must be a text, or None, not 3"),
    (lambda: api.amembers("lobby", state="alive"), "state must be one of live, suspect, orphan, unknown, or None"),
    (lambda: api.ainspect("lobby"), "groups must be a list of texts, not 'lobby'"),
    (lambda: api.ainspect(["lobby"], match="*"), "give group names or a glob to match, not both"),
    (lambda: api.ainspect(states="live"), "states must be a list of names out of live"),
    (lambda: api.areap(max_share=2), "max_share must be a share from 0 to 1, or None, not 2"),
    (lambda: api.areap(max_share="x"), "max_share must be a share from 0 to 1, or None, not 'x'"),
    (lambda: api.areap(confirm_after_seconds=0), "confirm_after_seconds must be a number of seconds above 0"),
    (lambda: api.areap(probe_timeout_seconds=float("nan")), "probe_timeout_seconds must be a number of seconds"),
    (lambda: api.areap(dry_run="no"), "dry_run must be True or False, not 'no'"),
    (lambda: api.aundo(None), "run_id must be a text, not None"),
    (lambda: api.aheartbeat(["lobby"], depth="soul"), "depth must be one of process, channel, client, not 'soul'"),
    (lambda: api.aheartbeat(rate=0), "rate must be a whole number from 1 to"),
    (lambda: api.adiagnose(only=["nope"]), "'nope' is no id of a finding; manage.py channels_doctor --list"),
    (lambda: api.areport(since="2h"), "since must be a time in unix seconds, as time.time()"),
    (lambda: api.areport(until=NOW), "until must be a time in unix seconds, as time.time()"),
    (lambda: api.acleanup(since=2, until=1), "since is later than until"),
    (lambda: api.aemit("x", speed=0), "speed must be a number above 0 and up to 1000000, or None, not 0"),
    (lambda: api.acount("lobby", layer=None), "layer must be a text, not None"),
]


@pytest.mark.parametrize(("call", "said"), REFUSED, ids=[said for _, said in REFUSED])
async def test_arguments_that_cannot_be_used_are_refused_with_the_reason(
    call: Any, said: str, redis_client: redis.Redis
) -> None:
    before = dump(redis_client)
    with pytest.raises(InvalidArguments) as refused:
        await call()
    assert str(refused.value).startswith(said)
    assert dump(redis_client) == before


async def test_streams_refuse_them_when_they_are_called(redis_server: EmbeddedRedis) -> None:
    with pytest.raises(InvalidArguments, match="groups must be"):
        api.stream_groups("lobby")
    with pytest.raises(InvalidArguments, match="timeout_seconds must be"):
        api.heartbeat_rounds(timeout_seconds=-1)


def test_each_argument_of_each_function_is_looked_at() -> None:
    functions = [
        getattr(api, name) for name in api.__all__ if inspect.isfunction(getattr(api, name)) and name != "no_progress"
    ]
    arguments = {name for function in functions for name in inspect.signature(function).parameters}
    assert arguments - KINDS.keys() == {"progress"}


async def test_settings_that_cannot_be_used_are_refused_before_anything_is_done(
    redis_server: EmbeddedRedis, settings: LazySettings
) -> None:
    settings.CHANNELS_OPS = {"CONFIRM_AFTER_SECONDS": "600"}
    with pytest.raises(LayerError, match=r"CONFIRM_AFTER_SECONDS .*\(ops\.E101\)"):
        await api.areap()
    assert "ops.E101" in [finding.id for finding in (await api.adiagnose(only=["ops.E101"])).findings]


async def test_errors_have_their_own_kinds(redis_client: redis.Redis) -> None:
    with pytest.raises(RunNotFound):
        await api.aundo("20260101T000000Z-abcdef")
    redis_client.set("asgi:ops:lock", "another run", ex=60)
    with pytest.raises(AnotherRunHoldsTheLock):
        await api.areap()


async def test_a_publish_subscribe_layer_is_counted_and_has_nothing_to_reap(
    redis_server: EmbeddedRedis, settings: LazySettings
) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, backend="channels_redis.pubsub.RedisPubSubChannelLayer")
    process = AppProcess()
    await process.join("lobby")
    assert await api.acount("lobby") == 1
    assert [(group.group, group.counts.live) for group in await api.agroups()] == [("lobby", 1)]
    done = await api.areap()
    assert (done.run_id, done.removed) == (None, 0)
    assert done.not_applicable == "publish/subscribe memberships end with their connection: there is nothing to reap"
    await process.die()
