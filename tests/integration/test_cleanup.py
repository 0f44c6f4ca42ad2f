"""The clean-up against a real Redis: exactly the recorded channels go, with receipts, once, and from every group."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import timezone
from pathlib import Path
from typing import Any

import pytest
import redis
from django.conf import LazySettings

from ops.model.disconnects.record import Disconnect, to_json
from ops.operations.disconnects import cleanup
from ops.store.connection.shards import open_layer
from ops.store.disconnects.log import append_reaped
from ops.store.removal.locks import run_lock
from project.embedded_redis import EmbeddedRedis
from tests.conftest import CommandResult, StartRedis
from tests.in_process_commands import run_beside
from tests.layer_builders import (
    ASGI,
    LOG_LENGTH,
    add_members,
    channels_of,
    layer_of,
    members_of,
    new_process_name,
    record_ends,
    run_reap,
    suspect_everybody,
)

NOW = time.time()


async def record(*ends: Disconnect) -> None:
    async with open_layer("default") as opened:
        await record_ends(opened, ends)


def end_of(channel: str, at: float = NOW, **more: Any) -> Disconnect:
    return Disconnect(at, "handler_exception", "application", channel=channel, consumer="chat.Consumer", **more)


async def clean(*argv: str) -> CommandResult:
    return await run_beside("replay_disconnects", "--cleanup", "--format", "json", *argv)


async def cleaned(*argv: str, code: int = 0) -> dict[str, Any]:
    result = await clean(*argv)
    assert (result.returncode, result.err) == (code, ""), result
    document: dict[str, Any] = json.loads(result.out)
    return document


@pytest.fixture
def channels() -> list[str]:
    return channels_of(new_process_name(), 6)


async def test_recorded_channels_go_from_every_group_and_nobody_else_does(
    redis_client: redis.Redis, channels: list[str]
) -> None:
    """Also from a group that the record does not name, since another process may have added the channel to it."""
    *gone, alive, stranger = channels
    for group in ("room", "unknown to the record"):
        add_members(redis_client, group, channels, joined_at=NOW - 50)
    add_members(redis_client, "others", [alive, "general"], joined_at=NOW - 50)
    await record(*(end_of(channel, groups=("room",)) for channel in gone), end_of("general"))

    document = await cleaned()

    assert set(members_of(redis_client, "room")) == {alive, stranger}
    assert set(members_of(redis_client, "unknown to the record")) == {alive, stranger}
    assert set(members_of(redis_client, "others")) == {alive, "general"}
    assert (document["removed"], document["kept"], document["channels"]) == (8, 0, 4)
    assert (document["groups_scanned"], document["members_scanned"]) == (3, 14)
    assert document["processes"] == [{"process": channels[0][9:41], "removed": 8}]


async def test_a_channel_that_joined_after_its_recorded_end_stays(
    redis_client: redis.Redis, channels: list[str]
) -> None:
    add_members(redis_client, "before", channels[:1], joined_at=NOW - 1)
    add_members(redis_client, "after", channels[:1], joined_at=NOW + 1)
    await record(end_of(channels[0]))
    dry = await cleaned("--dry-run", code=3)
    document = await cleaned()
    assert (dry["removed"], dry["kept"]) == (document["removed"], document["kept"]) == (1, 1)
    assert members_of(redis_client, "before") == {}
    assert members_of(redis_client, "after") == {channels[0]: NOW + 1}


async def test_a_dry_run_changes_nothing(redis_client: redis.Redis, channels: list[str]) -> None:
    add_members(redis_client, "room", channels, joined_at=NOW - 50)
    await record(*map(end_of, channels))
    before = {key: redis_client.dump(key) for key in redis_client.scan_iter()}
    document = await cleaned("--dry-run", code=3)
    assert (document["removed"], document["run_id"], document["dry_run"]) == (6, None, True)
    assert {key: redis_client.dump(key) for key in redis_client.scan_iter()} == before


async def test_the_document_says_all_of_it_and_the_exit_code_whether_it_was_done(
    redis_client: redis.Redis, channels: list[str], tmp_path: Path
) -> None:
    """0 done, 3 for a dry run that finds something, 1 where a source could not be read; 75 and 2 are in other tests."""
    add_members(redis_client, "room", channels[:3], joined_at=NOW - 50)
    add_members(redis_client, "room", channels[3:4], joined_at=NOW + 50)
    await record(*map(end_of, channels[:4]))
    dry = await cleaned("--dry-run", code=3)
    done = await cleaned("--resume")
    expected: dict[str, Any] = {
        "schema_version": 1,
        "layer": "default",
        "sources": ["the disconnect log in Redis"],
        "dry_run": False,
        "complete": True,
        "stopped": None,
        "records": 4,
        "channels": 4,
        "groups_scanned": 1,
        "members_scanned": 4,
        "removed": 3,
        "kept": 1,
        "processes": [{"process": channels[0][9:41], "removed": 3}],
        "resumed_from": "0-0",
        "entries": 4,
        "unreadable": 0,
        "unreadable_samples": [],
        "not_understood": None,
        "json_lines": 0,
        "json_not_understood": 0,
        "unproved": 0,
        "still_open": 0,
        "problems": [],
        "notes": [],
    }
    measured = {"run_id", "position", "duration_seconds"}
    assert {name: value for name, value in done.items() if name not in measured} == expected
    assert set(done) == set(dry) == {*expected, *measured}
    assert isinstance(done["run_id"], str)
    assert done["position"] == redis_client.get(ASGI.cleaned).decode()
    assert 0 < done["duration_seconds"] < 60
    assert {name for name in dry if dry[name] != done[name]} <= {*measured, "dry_run", "resumed_from"}
    assert (dry["dry_run"], dry["run_id"]) == (True, None)

    path, missing = tmp_path / "ends.jsonl", str(tmp_path / "missing.jsonl")
    path.write_text("rubbish\n")
    result = await clean(str(path), missing)
    partly = json.loads(result.out)
    assert (result.returncode, partly["complete"], set(partly)) == (1, False, set(done))
    assert partly["sources"] == [str(path), missing]
    assert (partly["unreadable"], partly["unreadable_samples"]) == (1, ["rubbish"])
    assert [missing in problem for problem in partly["problems"]] == [True]


async def test_what_was_removed_can_be_put_back(redis_client: redis.Redis, channels: list[str]) -> None:
    add_members(redis_client, "room", channels, joined_at=NOW - 50)
    before = members_of(redis_client, "room")
    await record(*map(end_of, channels))
    run_id = (await cleaned())["run_id"]
    assert members_of(redis_client, "room") == {}
    history = json.loads((await run_beside("reap_stale", "--history", "--format", "json")).out)
    assert [(run["run_id"], run["state"], run["removed"]) for run in history["runs"]] == [(run_id, "done", 6)]
    undone = await run_beside("reap_stale", "--undo", run_id)
    assert undone.returncode == 0, undone.err
    assert members_of(redis_client, "room") == before


async def test_members_that_an_undo_brought_back_are_not_removed_by_the_reapers_record(
    redis_client: redis.Redis, channels: list[str]
) -> None:
    """A frozen process is reaped, the removal undone, the process thaws: it is alive, whatever the log says."""
    add_members(redis_client, "room", channels, joined_at=NOW - 500)
    process = channels[0][9:41]
    async with open_layer("default") as opened:
        await append_reaped(opened, "some run", NOW, {process: len(channels)}, LOG_LENGTH)
    await record(*(Disconnect(NOW, "process_died", source="reaper", channel=channel) for channel in channels))
    document = await cleaned()
    assert (document["removed"], document["channels"]) == (0, 0)
    assert len(members_of(redis_client, "room")) == 6


async def test_who_ended_between_a_removal_and_its_undo_is_removed_by_the_next_that_resumes(
    redis_client: redis.Redis, channels: list[str]
) -> None:
    """When the end was read, the channel was in no group: a reap run had removed it."""
    ended, other = channels[0], channels_of(new_process_name(), 1)
    add_members(redis_client, "room", other, joined_at=NOW - 50)
    await record(end_of(*other))
    wrong = await cleaned("--resume")
    add_members(redis_client, "room", channels, joined_at=NOW - 50)
    await suspect_everybody()
    report = await run_reap()
    assert report.removed == 6
    await record(end_of(ended))
    assert (await cleaned("--resume"))["removed"] == 0
    for run_id in (wrong["run_id"], report.run_id):
        undone = await run_beside("reap_stale", "--undo", run_id)
        assert undone.returncode == 0, undone.err
    assert set(members_of(redis_client, "room")) == {*other, *channels}

    done = await cleaned("--resume")

    assert (done["removed"], done["resumed_from"]) == (1, wrong["position"])
    assert set(members_of(redis_client, "room")) == {*other, *channels[1:]}, "a clean-up that was undone stays undone"


async def test_resuming_reads_only_what_is_new_and_doing_it_again_changes_nothing(
    redis_client: redis.Redis, channels: list[str]
) -> None:
    add_members(redis_client, "room", channels, joined_at=NOW - 50)
    await record(*map(end_of, channels[:2]))
    first = await cleaned("--resume")
    assert (first["removed"], first["records"], first["resumed_from"]) == (2, 2, "0-0")
    again = await cleaned("--resume")
    assert (again["removed"], again["records"], again["resumed_from"]) == (0, 0, first["position"])
    await record(*map(end_of, channels[2:5]))
    third = await cleaned("--resume")
    assert (third["removed"], third["records"], third["resumed_from"]) == (3, 3, first["position"])
    whole = await cleaned()
    assert (whole["removed"], whole["records"]) == (0, 5)
    assert set(members_of(redis_client, "room")) == {channels[5]}


async def test_a_part_of_the_log_moves_no_position(redis_client: redis.Redis, channels: list[str]) -> None:
    await record(*map(end_of, channels))
    await cleaned("--since", "1h")
    assert redis_client.get(ASGI.cleaned) is None
    await cleaned("--dry-run")
    assert redis_client.get(ASGI.cleaned) is None


@pytest.mark.parametrize(
    "position",
    ["+", "99999999999999999999-0", "0-18446744073709551616", "-".join([str(2**64 - 1)] * 2), "\u0663-\u0661"],
)
async def test_a_position_that_is_no_entry_is_the_beginning(
    redis_client: redis.Redis, channels: list[str], position: str
) -> None:
    redis_client.set(ASGI.cleaned, position)
    await record(*map(end_of, channels))
    assert (await cleaned("--resume"))["records"] == 6


async def test_a_position_beyond_the_end_of_the_log_begins_again_and_a_note_says_so(
    redis_client: redis.Redis, channels: list[str]
) -> None:
    """The log was deleted, and the clock of Redis had been ahead before: what is written now has lower ids."""
    ahead = f"{int((NOW + 86400) * 1000)}-0"
    redis_client.xadd(ASGI.disconnects, {"d": to_json(end_of(channels[0]))}, id=ahead)
    assert (await cleaned("--resume"))["position"] == ahead
    redis_client.delete(ASGI.disconnects)
    missing = await clean("--resume")
    assert (missing.returncode, missing.out) == (1, ""), "where nothing is written nothing is known"
    assert redis_client.get(ASGI.cleaned).decode() == ahead
    add_members(redis_client, "room", channels, joined_at=NOW - 50)
    await record(end_of(channels[1]))

    result = await clean("--resume")

    document = json.loads(result.out)
    assert (result.returncode, document["removed"], document["records"], document["resumed_from"]) == (0, 1, 1, "0-0")
    [note] = document["notes"]
    assert note == (
        f"the disconnect log ends before {ahead}, up to which the last clean-up came: it was deleted, or replaced by "
        f"an older one, so this clean-up began at its beginning"
    )
    assert result.err == f"{note}\n"
    assert set(members_of(redis_client, "room")) == {channels[0], *channels[2:]}
    again = await cleaned("--resume")
    assert (again["records"], again["resumed_from"], again["notes"]) == (0, document["position"], [])


async def test_a_clean_up_that_is_killed_is_done_again_from_where_it_was_sure(
    redis_client: redis.Redis, channels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_members(redis_client, "room", channels, joined_at=NOW - 50)
    await record(*map(end_of, channels))

    async def cut_off(*_: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patched:
        patched.setattr(cleanup, "record_position", cut_off)
        async with open_layer("default") as opened:
            options = cleanup.CleanupOptions(zone=timezone.utc)
            with pytest.raises(asyncio.CancelledError):
                await cleanup.clean_up(opened, options)
    assert members_of(redis_client, "room") == {}
    again = await cleaned("--resume")
    assert (again["records"], again["removed"]) == (6, 0)
    history = json.loads((await run_beside("reap_stale", "--history", "--format", "json")).out)
    assert [(run["state"], run["removed"]) for run in history["runs"]] == [("interrupted", 6)]


async def test_many_channels_are_cleaned_up_in_batches(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleanup, "CHANNELS_AT_ONCE", 1000)
    channels = channels_of(new_process_name(), 5000)
    for group in range(3):
        add_members(redis_client, f"room {group}", channels[group::3], joined_at=NOW - 50)
    for start in range(0, 4500, 500):
        await record(*map(end_of, channels[start : start + 500]))
    document = await cleaned("--resume")
    assert (document["removed"], document["channels"]) == (4500, 4500)
    left = {channel for group in range(3) for channel in members_of(redis_client, f"room {group}")}
    assert left == set(channels[4500:])
    assert (await cleaned("--resume"))["records"] == 0


async def test_files_of_the_toolkits_lines_are_good_for_it_too(
    redis_client: redis.Redis, channels: list[str], tmp_path: Path
) -> None:
    add_members(redis_client, "room", channels, joined_at=NOW - 50)
    path = tmp_path / "disconnects.jsonl"
    path.write_text("".join(f"{to_json(end_of(channel))}\n" for channel in channels[:4]) + "rubbish\n")
    document = await cleaned(str(path))
    assert (document["removed"], document["position"], document["unreadable"]) == (4, None, 1)
    assert redis_client.get(ASGI.cleaned) is None


async def test_what_a_client_had_logged_is_no_proof(
    redis_client: redis.Redis, channels: list[str], tmp_path: Path
) -> None:
    """Its own channel's name, or that of somebody who told it, in a text that the application logs."""
    add_members(redis_client, "room", channels, joined_at=NOW - 50)
    path = tmp_path / "server.log"
    said = [f"message from bob: {to_json(end_of(channel))}" for channel in channels[:2]]
    stamp = "2026-11-25T12:00:01.250000000Z"
    lines = [said[0], f"{stamp} INFO:     {said[1]}", f"{stamp} {to_json(end_of(channels[2]))}"]
    path.write_text("\n".join(lines))
    document = await cleaned(str(path))
    assert (document["records"], document["removed"], document["unreadable"]) == (1, 1, 1)
    assert set(members_of(redis_client, "room")) == set(channels) - {channels[2]}


async def test_an_end_in_a_file_that_is_yet_to_come_is_no_proof(
    redis_client: redis.Redis, channels: list[str], tmp_path: Path
) -> None:
    """Nobody knows of one. In the log in Redis it is of a host whose clock is ahead, as those of its memberships."""
    add_members(redis_client, "room", channels, joined_at=NOW - 50)
    path = tmp_path / "disconnects.jsonl"
    ends = [end_of(channels[0], at=time.time() + 3600), end_of(channels[1], at=time.time() + 2)]
    path.write_text("".join(f"{to_json(end)}\n" for end in ends))
    for argv, code in ((["--dry-run"], 3), ([], 0)):
        document = await cleaned(str(path), *argv, code=code)
        assert (document["records"], document["channels"], document["removed"]) == (2, 1, 1)
    assert set(members_of(redis_client, "room")) == {channels[0], *channels[2:]}
    await record(ends[0])
    assert (await cleaned())["removed"] == 1


async def test_two_at_once_exclude_each_other(redis_client: redis.Redis, channels: list[str]) -> None:
    add_members(redis_client, "room", channels, joined_at=NOW - 50)
    await record(*map(end_of, channels))
    async with open_layer("default") as opened, run_lock(opened):
        result = await clean()
    assert result.returncode == 75
    assert len(members_of(redis_client, "room")) == 6


async def test_where_a_shard_does_not_answer_nothing_is_removed_anywhere(
    start_redis: StartRedis, settings: LazySettings, channels: list[str]
) -> None:
    servers = [start_redis(), start_redis()]
    settings.CHANNEL_LAYERS = layer_of(*(server.url for server in servers))
    clients = [redis.Redis.from_url(server.url) for server in servers]
    for client in clients:
        add_members(client, "room", channels, joined_at=NOW - 50)
    await record(*map(end_of, channels))
    servers[1].kill()
    result = await clean()
    assert (result.returncode, result.err.count("\n")) == (1, 1)
    assert len(members_of(clients[0], "room")) == 6
    servers[1].start()
    add_members(clients[1], "room", channels, joined_at=NOW - 50)
    assert (await cleaned())["removed"] == 12
    for client in clients:
        client.close()


async def test_publish_subscribe_has_nothing_to_clean_up(redis_server: EmbeddedRedis, settings: LazySettings) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, backend="channels_redis.pubsub.RedisPubSubChannelLayer")
    result = await run_beside("replay_disconnects", "--cleanup")
    assert (result.returncode, "nothing to clean up" in result.out) == (0, True)
    document = await cleaned("--dry-run")
    [reason] = document["notes"]
    assert "nothing to clean up" in reason
    assert (document["dry_run"], document["removed"], document["run_id"], document["complete"]) == (True, 0, None, True)
    settings.CHANNEL_LAYERS = layer_of(redis_server.url)
    await record(end_of(channels_of(new_process_name(), 1)[0]))
    assert document.keys() == (await cleaned("--dry-run")).keys()


@pytest.mark.parametrize(
    "argv",
    [
        ("--cleanup", "--report"),
        ("--cleanup", "--html", "x.html"),
        ("--resume",),
        ("--dry-run",),
        ("--cleanup", "--resume", "--since", "2h"),
        ("--cleanup", "--resume", "some.log"),
    ],
)
async def test_options_that_do_not_go_together_are_refused(argv: tuple[str, ...]) -> None:
    result = await run_beside("replay_disconnects", *argv)
    assert result.returncode == 2
    assert "Traceback" not in result.err
