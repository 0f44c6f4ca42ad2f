"""Recorded ends as messages: in order, with their fields, and to nobody who could die of them unless told so."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import redis
from channels_redis.utils import _consistent_hash
from django.conf import LazySettings

from ops.model.disconnects.emitting import disconnect_message, pause_seconds
from ops.model.disconnects.record import UNTIMED, Disconnect, to_document, to_json
from ops.store.connection.shards import open_layer
from tests.conftest import CommandResult, StartRedis
from tests.in_process_commands import run_beside
from tests.layer_builders import ASGI, StartProcess, add_members, layer_of, record_ends
from tests.waiting import until

BACKENDS = {
    "core": "channels_redis.core.RedisChannelLayer",
    "drop-in": "ops.layers.RedisChannelLayer",
    "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
}
NOON = 1_795_608_000.0
ENDS = [Disconnect(NOON + number, "normal", "client", code=1000, path=f"/ws/{number}/") for number in range(5)]


@pytest.fixture(autouse=True)
def routes(settings: LazySettings) -> None:
    settings.ASGI_APPLICATION = "tests.integration.emit_application.application"


async def emit(target: str, *argv: str) -> CommandResult:
    async with open_layer("default") as opened:
        await record_ends(opened, ENDS)
    return await run_beside("replay_disconnects", "--emit", target, "--speed", "max", "--format", "json", *argv)


def messages() -> list[dict[str, Any]]:
    return [disconnect_message(one) for one in ENDS]


async def test_a_group_of_websockets_is_refused_and_sent_nothing(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    process = await start_process("room")
    result = await emit("room")
    assert (result.returncode, result.err.count("\n")) == (1, 1)
    assert "nothing was sent to room" in result.err
    assert redis_client.zcard(process.inbox_key) == 0


async def test_with_force_each_member_gets_each_end_in_order(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    process = await start_process()
    [channel] = await process.join("room")
    await process.live(channel)
    result = await emit("room", "--force")
    document = json.loads(result.out)
    assert (result.returncode, document["sent"], document["kind"], document["members"]) == (0, 5, "group", 1), result
    await until(lambda: len(process.received) == 5)
    assert process.received == messages()
    assert process.received[0] == {"type": "ops.disconnect", "disconnect": to_document(ENDS[0])}


async def test_a_channel_whose_consumer_is_known_to_handle_it_needs_no_force(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    process = await start_process()
    await process.live("audit")
    result = await emit("audit")
    assert (result.returncode, json.loads(result.out)["sent"]) == (0, 5), result
    await until(lambda: len(process.received) == 5)
    assert process.received == messages()


@pytest.mark.parametrize("target", ["thumbnails", "nobody-knows", f"specific.{'a' * 32}!{'b' * 32}"])
async def test_any_other_channel_is_refused(redis_client: redis.Redis, target: str) -> None:
    result = await emit(target)
    assert result.returncode == 1
    assert [key for key in redis_client.scan_iter() if b":ops:" not in key] == []


async def test_a_group_of_known_channels_needs_no_force_and_one_stranger_spoils_it(redis_client: redis.Redis) -> None:
    add_members(redis_client, "auditors", ["audit"])
    assert (await emit("auditors", "--dry-run")).returncode == 0
    add_members(redis_client, "auditors", ["thumbnails"])
    assert (await emit("auditors", "--dry-run")).returncode == 1


async def test_the_document_says_all_of_it_and_the_exit_code_whether_it_was_done(
    redis_client: redis.Redis, tmp_path: Path
) -> None:
    expected: dict[str, Any] = {
        "schema_version": 1,
        "layer": "default",
        "target": "audit",
        "kind": "channel",
        "members": 0,
        "dry_run": False,
        "complete": True,
        "records": 5,
        "reaped_later": 0,
        "sent": 5,
        "undelivered": 0,
        "unreadable": 0,
        "problems": [],
    }
    done = await emit("audit")
    assert (done.returncode, done.err, json.loads(done.out)) == (0, "", expected)

    path = tmp_path / "ends.jsonl"
    path.write_text("rubbish\n" + "".join(f"{to_json(one)}\n" for one in ENDS))
    missing = str(tmp_path / "missing.jsonl")
    partly = await emit("audit", "--dry-run", str(path), missing)
    document = json.loads(partly.out)
    [problem] = document["problems"]
    assert missing in problem
    assert (partly.returncode, partly.err.count("\n")) == (1, 1)
    changed = {"dry_run": True, "complete": False, "sent": 0, "unreadable": 1, "problems": [problem]}
    assert document == {**expected, **changed}


async def test_an_end_of_a_log_without_times_says_none_and_every_text_arrives(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    process = await start_process()
    await process.live("audit")
    async with open_layer("default") as opened:
        await record_ends(opened, [Disconnect(UNTIMED), Disconnect(NOON, path="/\udcff/", groups=("\udcff",))])
    result = await emit("audit")
    assert (result.returncode, json.loads(result.out)["sent"]) == (0, 7), result
    await until(lambda: len(process.received) == 7)
    untimed, odd = (message["disconnect"] for message in process.received[:2])
    assert untimed == {"schema_version": 1, "cause": "unknown", "closed_by": "unknown", "source": "middleware"}
    assert (odd["path"], odd["groups"]) == ("/\\udcff/", ["\\udcff"])


async def test_a_dry_run_sends_nothing(redis_client: redis.Redis) -> None:
    result = await emit("audit", "--dry-run")
    assert (result.returncode, json.loads(result.out)["records"], json.loads(result.out)["sent"]) == (0, 5, 0)
    assert list(redis_client.scan_iter()) == [ASGI.disconnects]


async def test_what_the_reaper_recorded_of_an_end_that_is_on_record_is_not_sent_again(
    redis_client: redis.Redis, start_process: StartProcess, tmp_path: Path
) -> None:
    process = await start_process()
    await process.live("audit")
    channel = f"specific.{'a' * 32}!{'b' * 32}"
    own = Disconnect(NOON, "handler_exception", channel=channel, groups=("room", "hall"))
    reaped = [
        Disconnect(NOON + 90, "process_died", source="reaper", channel=name, groups=(group,))
        for name, group in ((channel, "room"), (channel, "hall"), (channel + "c", "room"), (channel + "c", "hall"))
    ]
    path = tmp_path / "ends.jsonl"
    path.write_text("".join(f"{to_json(one)}\n" for one in (own, *reaped)))
    argv = ("replay_disconnects", "--emit", "audit", "--speed", "max", "--format", "json", str(path))
    result = await run_beside(*argv)
    document = json.loads(result.out)
    assert (result.returncode, document["records"], document["sent"], document["reaped_later"]) == (0, 2, 2, 3), result
    await until(lambda: len(process.received) >= 2)
    assert process.received == [disconnect_message(own), disconnect_message(reaped[2])]
    rehearsed = json.loads((await run_beside(*argv, "--dry-run")).out)
    assert (rehearsed["records"], rehearsed["reaped_later"]) == (2, 3)
    assert json.loads((await run_beside("replay_disconnects", "--format", "json", str(path))).out)["records"] == 2


@pytest.mark.parametrize("target", ["two words", "x" * 100, "caf\u00e9"])
async def test_a_dry_run_refuses_a_name_as_the_run_does(redis_client: redis.Redis, target: str) -> None:
    results = [await emit(target, "--force", *argv) for argv in ((), ("--dry-run",))]
    assert [result.returncode for result in results] == [1, 1]
    assert results[0].err == results[1].err
    assert "the layer cannot send to " in results[0].err
    add_members(redis_client, target, ["audit"])
    assert (await emit(target, "--dry-run")).err == results[0].err.replace("Channel name", "Group name")


async def test_a_member_that_the_layer_cannot_decode_is_refused_in_a_dry_run_too(redis_client: redis.Redis) -> None:
    redis_client.zadd(ASGI.group("room"), {b"\xff!a": NOON})
    results = [await emit("room", "--force", *argv) for argv in ((), ("--dry-run",))]
    assert [result.returncode for result in results] == [1, 1]
    assert results[0].err == results[1].err
    assert "the layer cannot send to room" in results[0].err


async def test_a_failure_on_the_way_says_how_many_had_been_sent(redis_client: redis.Redis) -> None:
    running = asyncio.create_task(emit("audit", "--speed", "1"))
    await until(lambda: redis_client.exists(ASGI.inbox("audit")))
    redis_client.execute_command("ACL SETUSER", "default", "-zadd")
    try:
        result = await running
    finally:
        redis_client.execute_command("ACL SETUSER", "default", "+zadd")
    assert (result.returncode, result.err.count("\n")) == (1, 1)
    assert result.err.endswith("+zadd; ends sent before that: 1\n")


def first_on(shard: int, names: str) -> str:
    return next(name for name in map(names.format, range(50)) if _consistent_hash(name, 2) == shard)


@pytest.mark.parametrize("kind", ["core", "drop-in", "pubsub"])
async def test_a_failure_names_the_shard_that_it_was_on(
    start_redis: StartRedis, settings: LazySettings, kind: str
) -> None:
    """The second one refuses to be written to."""
    servers = [start_redis(), start_redis()]
    urls = [server.url for server in servers]
    with redis.Redis.from_url(urls[1]) as client:
        client.execute_command("ACL SETUSER", "default", "-publish", "-zadd", "-eval", "-evalsha")
    settings.CHANNEL_LAYERS = layer_of(*urls, backend=BACKENDS[kind])
    inbox = first_on(1, "specific.{:032x}!")
    group = first_on(1, "asgi__group__{}").removeprefix("asgi__group__") if kind == "pubsub" else first_on(0, "room-{}")
    with redis.Redis.from_url(urls[0]) as client:
        add_members(client, group, [inbox + "a" * 32])
    for target in [group] if kind == "pubsub" else [group, "audit"]:
        result = await emit(target, "--force")
        assert (result.returncode, result.err.count("\n")) == (1, 1), result
        assert f"shard 1 ({urls[1]}" in result.err, (target, result.err)


@pytest.mark.parametrize(
    "argv",
    [
        ("--emit", "a", "--cleanup"),
        ("--emit", "a", "--resume"),
        ("--emit", "a", "--html", "x"),
        ("--emit", "a", "--speed", "0"),
        ("--force",),
    ],
)
async def test_options_that_do_not_go_together_are_refused(argv: tuple[str, ...], tmp_path: Path) -> None:
    result = await run_beside("replay_disconnects", *argv)
    assert (result.returncode, "Traceback" in result.err) == (2, False)


def test_the_rhythm_is_that_of_the_log_and_never_faster_than_the_limit() -> None:
    first, second = Disconnect(NOON), Disconnect(NOON + 30)
    assert pause_seconds(first, second, 1.0) == 30
    assert pause_seconds(first, second, 10.0) == 3
    assert pause_seconds(first, second, 1e6) == pause_seconds(first, second, None) == 0.01
    assert pause_seconds(second, first, 1.0) == pause_seconds(None, first, 1.0) == 0.01
    assert pause_seconds(Disconnect(UNTIMED), first, 1.0) == 0.01
