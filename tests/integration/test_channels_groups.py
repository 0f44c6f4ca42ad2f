"""`manage.py channels_groups`: what it prints, where, and how it ends."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from typing import Any

import pytest
import redis
from django.conf import LazySettings
from prometheus_client.parser import text_string_to_metric_families

from project.embedded_redis import EmbeddedRedis
from tests.conftest import NOBODY_LISTENS, STOCK_LAYER, CommandResult
from tests.in_process_commands import run_beside
from tests.layer_builders import (
    ASGI,
    PROBE,
    AppProcess,
    StartProcess,
    add_members,
    channels_of,
    dump,
    layer_of,
    new_process_name,
    suspect_everybody,
)

UTC_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
HOSTILE = [
    "red\x1b[31m",
    "two\nlines",
    "back\\slash",
    "bi\u202edi",
    "=1+1",
    "nul\x00",
    "caf\u00e9",
    "\u0085",
    "\x9b31m",
]


async def groups(*argv: str) -> CommandResult:
    return await run_beside("channels_groups", *PROBE, *argv)


async def document(*argv: str) -> dict[str, Any]:
    result = await groups("--format", "json", *argv)
    assert (result.err, result.returncode) == ("", 0)
    assert result.out.isascii()
    assert result.out.count("\n") == 1
    found: dict[str, Any] = json.loads(result.out)
    return found


@pytest.fixture
async def small_layer(redis_client: redis.Redis, start_process: StartProcess) -> dict[str, AppProcess]:
    """Two live members in `lobby`, three dead ones there and in `room`, a general channel in `lobby`."""
    live = await start_process("lobby", count=2, live=True)
    dead = await start_process("lobby", "room", count=3)
    add_members(redis_client, "lobby", ["thumbnails"])
    await suspect_everybody()
    return {"live": live, "dead": dead}


# Nothing there


async def test_an_empty_layer_is_said_to_be_empty(redis_server: EmbeddedRedis) -> None:
    result = await groups()
    assert "Layer 'default' has no groups: nobody is connected, or nobody has joined one." in result.out
    assert (result.err, result.returncode) == ("", 0)


async def test_an_empty_layer_is_a_whole_document(redis_server: EmbeddedRedis) -> None:
    found = await document()
    assert UTC_TIME.fullmatch(found.pop("taken_at"))
    (shard,) = found.pop("shards")
    assert shard == {"index": 0, "address": f"{redis_server.url}/0", "answered": True, "problem": None}
    assert found == {
        "schema_version": 1,
        "layer": "default",
        "backend": "channels_redis.core.RedisChannelLayer",
        "complete": True,
        "totals": {"groups": 0, "members": 0, "live": 0, "suspect": 0, "orphan": 0, "unknown": 0, "processes": 0},
        "processes": [],
        "groups": [],
        "notes": [],
    }


@pytest.mark.parametrize("form", ["ndjson", "csv", "prometheus"])
async def test_an_empty_layer_in_other_formats(redis_server: EmbeddedRedis, form: str) -> None:
    result = await groups("--format", form)
    assert (result.err, result.returncode) == ("", 0)
    expected = {"ndjson": 0, "csv": 1}
    if form in expected:
        assert len(result.out.splitlines()) == expected[form]
    else:
        assert "channels_ops_groups{" in result.out


# What is there


async def test_the_document_has_the_fields_of_the_contract(small_layer: dict[str, AppProcess]) -> None:
    live, dead = small_layer["live"].name, small_layer["dead"].name

    found = await document("--members")

    assert found["totals"] == {
        "groups": 2,
        "members": 9,
        "live": 2,
        "suspect": 0,
        "orphan": 6,
        "unknown": 1,
        "processes": 2,
    }
    by_process = {process["process"]: process for process in found["processes"]}
    assert (by_process[live]["state"], by_process[live]["members"]) == ("live", 2)
    assert (by_process[dead]["state"], by_process[dead]["members"]) == ("dead", 6)
    assert by_process[live]["evidence"][0].startswith("took two probes in a row")
    assert by_process[dead]["evidence"][0].startswith("took no probe within")
    assert by_process[dead]["evidence"][1].startswith("was already silent")
    lobby, room = found["groups"]
    assert UTC_TIME.fullmatch(lobby.pop("oldest_joined_at"))
    channels = lobby.pop("channels")
    assert lobby == {
        "group": "lobby",
        "shard": 0,
        "members": 6,
        "live": 2,
        "suspect": 0,
        "orphan": 3,
        "unknown": 1,
    }
    assert room["group"] == "room"
    assert [set(channel) for channel in channels] == [{"channel", "process", "state", "joined_at", "evidence"}] * 6
    assert {(channel["process"], channel["state"]) for channel in channels} == {
        (live, "live"),
        (dead, "orphan"),
        (None, "unknown"),
    }
    assert all(UTC_TIME.fullmatch(channel["joined_at"]) for channel in channels)
    assert "channels" not in (await document())["groups"][0]


async def test_who_is_silent_for_the_first_time_is_a_suspect(
    redis_client: redis.Redis, start_process: StartProcess
) -> None:
    await start_process("lobby", count=2)
    found = await document()
    assert (found["totals"]["suspect"], found["processes"][0]["state"]) == (2, "suspect")


async def test_ndjson_is_a_document_per_group(small_layer: dict[str, AppProcess]) -> None:
    for argv in ((), ("--members",), ("--sort", "name")):
        result = await groups("--format", "ndjson", *argv)
        records = [json.loads(line) for line in result.out.splitlines()]
        assert {record["group"]: record["members"] for record in records} == {"lobby": 6, "room": 3}
        assert all(("channels" in record) == (argv == ("--members",)) for record in records)


async def test_csv_has_a_row_for_each_group_or_member(small_layer: dict[str, AppProcess]) -> None:
    rows = list(csv.DictReader(io.StringIO((await groups("--format", "csv", "--sort", "name")).out)))
    assert [(row["group"], row["members"], row["orphan"]) for row in rows] == [("lobby", "6", "3"), ("room", "3", "3")]
    rows = list(csv.DictReader(io.StringIO((await groups("--format", "csv", "--members")).out)))
    assert len(rows) == 9
    assert {row["state"] for row in rows} == {"live", "orphan", "unknown"}
    assert all(row["evidence"] for row in rows)


async def test_prometheus_metrics_can_be_parsed(small_layer: dict[str, AppProcess]) -> None:
    result = await groups("--format", "prometheus")
    samples = {
        (sample.name, sample.labels.get("state")): sample.value
        for family in text_string_to_metric_families(result.out)
        for sample in family.samples
    }
    assert samples["channels_ops_groups", None] == 2
    assert samples["channels_ops_members", "orphan"] == 6
    assert samples["channels_ops_processes", "dead"] == 1
    assert samples["channels_ops_shards_answered", None] == 1


async def test_the_table_shows_groups_processes_and_totals(small_layer: dict[str, AppProcess]) -> None:
    result = await groups()
    assert re.search(r"^lobby\s+6\s+2\s+0\s+3\s+1\s+\d", result.out, re.MULTILINE)
    assert re.search(rf"^{small_layer['dead'].name}\s+dead\s+6", result.out, re.MULTILINE)
    assert "2 groups, 9 members of 2 processes: 2 live, 0 suspect, 6 orphan, 1 unknown" in result.out
    members = await groups("--members")
    for channel in ("thumbnails",):
        assert channel in members.out


# Options


async def test_state_shows_only_groups_and_members_in_these_states(small_layer: dict[str, AppProcess]) -> None:
    found = await document("--members", "--state", "live,unknown")
    assert [group["group"] for group in found["groups"]] == ["lobby"]
    assert {channel["state"] for channel in found["groups"][0]["channels"]} == {"live", "unknown"}
    assert found["groups"][0]["members"] == 6, "counts are of the whole group"
    assert found["totals"]["members"] == 9
    assert (await document("--state", "suspect"))["groups"] == []


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("members", ["many", "dead", "old"]),
        ("orphans", ["dead", "many", "old"]),
        ("name", ["dead", "many", "old"]),
        ("age", ["old", "dead", "many"]),
    ],
)
async def test_groups_can_be_sorted(
    redis_client: redis.Redis, start_process: StartProcess, order: str, expected: list[str]
) -> None:
    live = await start_process(live=True)
    now = time.time()
    add_members(redis_client, "many", channels_of(live.name, 5), joined_at=now)
    add_members(redis_client, "old", channels_of(live.name, 1), joined_at=now - 1000)
    add_members(redis_client, "dead", channels_of(new_process_name(), 3), joined_at=now - 10)
    await suspect_everybody()

    found = await document("--sort", order)
    assert [group["group"] for group in found["groups"]] == expected
    result = await groups("--format", "csv", "--sort", order)
    assert [line.split(",")[0] for line in result.out.splitlines()] == ["group", *expected]


async def test_a_limit_shows_the_first_groups_and_counts_all(redis_client: redis.Redis) -> None:
    for count in (1, 2, 3):
        add_members(redis_client, f"of {count}", channels_of(new_process_name(), count))

    found = await document("--no-probe", "--limit", "2")
    assert [group["group"] for group in found["groups"]] == ["of 3", "of 2"]
    assert (found["totals"]["groups"], found["totals"]["members"]) == (3, 6)
    assert "… and 2 more groups; --limit shows more." in (await groups("--no-probe", "--limit", "1")).out
    for argv in (("--format", "ndjson"), ("--format", "ndjson", "--sort", "name")):
        assert len((await groups("--no-probe", "--limit", "2", *argv)).out.splitlines()) == 2


async def test_summary_shows_totals_and_processes_only(small_layer: dict[str, AppProcess]) -> None:
    found = await document("--summary")
    assert found["groups"] == []
    assert (found["totals"]["groups"], found["totals"]["orphan"], len(found["processes"])) == (2, 6, 2)
    table = await groups("--summary")
    assert "lobby" not in table.out
    assert small_layer["live"].name in table.out


async def test_named_groups_and_globs(small_layer: dict[str, AppProcess]) -> None:
    assert [group["group"] for group in (await document("room"))["groups"]] == ["room"]
    assert [group["group"] for group in (await document("--match", "l*"))["groups"]] == ["lobby"]
    assert (await document("--match", "nothing*"))["groups"] == []


async def test_an_absent_group_is_shown_empty_with_a_warning(small_layer: dict[str, AppProcess]) -> None:
    result = await groups("room", "no\x1bsuch", "--format", "json")
    assert result.returncode == 0
    assert [(group["group"], group["members"]) for group in json.loads(result.out)["groups"]] == [
        ("room", 3),
        ("no\\x1bsuch", 0),
    ]
    assert result.err.splitlines() == ["no such group: 'no\\x1bsuch' (a group exists only while it has members)"]


def absent(*names: str) -> list[str]:
    return [f"no such group: '{name}' (a group exists only while it has members)" for name in names]


@pytest.mark.parametrize(
    "argv",
    [
        ("--limit", "1"),
        ("--limit", "1", "--format", "csv"),
        ("--limit", "1", "--format", "ndjson", "--sort", "name"),
        ("--limit", "1", "--format", "json"),
        ("--state", "live"),
        ("--summary",),
        ("--summary", "--format", "json"),
        ("--format", "prometheus"),
    ],
    ids=" ".join,
)
async def test_each_absent_group_is_named_whatever_is_shown(redis_client: redis.Redis, argv: tuple[str, ...]) -> None:
    add_members(redis_client, "lobby", ["general"])
    for number in range(150):  # of a table no more than 50 rows are shown; a page of a large group may be empty
        add_members(redis_client, "large", [f"general-{number}"])
    result = await groups("lobby", "nosuch", "large", "nosuch", "other", "--no-probe", *argv)
    assert (result.returncode, result.err.splitlines()) == (0, absent("nosuch", "other"))


async def test_absent_groups_beyond_the_rows_of_a_table_are_named(redis_client: redis.Redis) -> None:
    names = [f"room-{number:02}" for number in range(60)]
    for name in names[:55]:
        add_members(redis_client, name, ["general"])
    assert (await groups(*names, "--no-probe")).err.splitlines() == absent(*names[55:])


@pytest.mark.parametrize("argv", [(), ("--summary",), ("--format", "csv"), ("--format", "prometheus")], ids=" ".join)
async def test_a_group_that_nobody_is_subscribed_to_is_named(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, settings: LazySettings, argv: tuple[str, ...]
) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, backend="channels_redis.pubsub.RedisPubSubChannelLayer")
    with redis_client.pubsub() as subscription:
        subscription.subscribe("asgi__group__room")
        result = await groups("room", "nosuch", *argv)
    assert (result.returncode, result.err.splitlines()) == (0, absent("nosuch"))


async def test_no_probe_writes_nothing_and_concludes_nothing(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    settings: LazySettings,
    small_layer: dict[str, AppProcess],
) -> None:
    """A Redis user who may only read can run it."""
    redis_client.acl_setuser(
        "reader",
        enabled=True,
        passwords="+reading",
        keys="*",
        categories=["+@read"],
        commands=["+ping", "+info", "+time", "+client", "+hello"],
    )
    settings.CHANNEL_LAYERS = layer_of(redis_server.url.replace("redis://", "redis://reader:reading@"))
    before = dump(redis_client)

    found = await document("--no-probe", "--members")

    assert dump(redis_client) == before
    assert (found["totals"]["live"], found["totals"]["orphan"], found["totals"]["members"]) == (0, 0, 9)
    assert all("not probed" in process["evidence"][0] for process in found["processes"])
    probing = await groups()
    assert probing.returncode == 1, "only reading is not enough for it"
    assert "refused what this Redis user has no permission for; add to its ACL: " in probing.err
    redis_client.acl_deluser("reader")


async def test_looking_leaves_the_layer_as_it_was(
    redis_client: redis.Redis, small_layer: dict[str, AppProcess]
) -> None:
    before = dump(redis_client)
    await document()
    assert dump(redis_client) == before
    assert small_layer["live"].received == []


# Monitoring


@pytest.mark.parametrize(
    ("argv", "code", "status"),
    [
        ((), 1, "WARNING"),
        (("--warning", "6"), 0, "OK"),
        (("--warning", "5"), 1, "WARNING"),
        (("--critical", "5"), 2, "CRITICAL"),
        (("--critical", "6"), 1, "WARNING"),
        (("--warning", "6", "--critical", "6"), 0, "OK"),
    ],
)
async def test_check_ends_as_monitoring_plugins_do(
    small_layer: dict[str, AppProcess], argv: tuple[str, ...], code: int, status: str
) -> None:
    result = await groups("--check", *argv)
    assert (result.returncode, result.err) == (code, "")
    assert result.out.startswith(f"CHANNELS_GROUPS {status} - 6 orphans and 0 suspects among 9 members of 2 groups | ")
    assert result.out.count("\n") == 1
    assert "silent=6;" in result.out


async def test_check_of_a_healthy_layer_is_ok(redis_server: EmbeddedRedis, start_process: StartProcess) -> None:
    await start_process("lobby", live=True)
    result = await groups("--check")
    assert (result.returncode, result.out[:18]) == (0, "CHANNELS_GROUPS OK")


async def test_check_of_a_redis_that_is_down_is_unknown(redis_server: EmbeddedRedis) -> None:
    redis_server.kill()
    for alias in ("default", "absent"):
        result = await groups("--check", "--layer", alias)
        assert (result.returncode, result.err) == (3, "")
        assert result.out.startswith("CHANNELS_GROUPS UNKNOWN - ")
        assert result.out.count("\n") == 1


async def test_check_of_settings_that_cannot_work_is_unknown(settings: LazySettings) -> None:
    settings.CHANNELS_OPS = {"MAXSHARE": 1}
    result = await groups("--check")
    assert (result.returncode, result.err) == (3, "")
    assert result.out.startswith("CHANNELS_GROUPS UNKNOWN - ")
    assert "MAXSHARE" in result.out


@pytest.mark.parametrize("silenced", [[], ["ops.E201"]])
async def test_settings_of_another_layer_or_that_the_project_wants_so_stop_no_command(
    small_layer: dict[str, AppProcess], settings: LazySettings, silenced: list[str]
) -> None:
    broken = {"BACKEND": STOCK_LAYER, "CONFIG": {"hosts": [NOBODY_LISTENS], "group_expire": 5}}
    settings.CHANNEL_LAYERS = {**settings.CHANNEL_LAYERS, "other": broken}
    settings.SILENCED_SYSTEM_CHECKS = silenced
    assert (await groups("--no-probe")).returncode == 0
    result = await groups("--no-probe", "--layer", "other")
    assert result.returncode == 1
    assert ("(ops.E201)" in result.err) is not bool(silenced)


# Bad usage


@pytest.mark.parametrize(
    "argv",
    [
        ("room", "--match", "r*"),
        ("--summary", "--members"),
        ("--summary", "--format", "csv"),
        ("--summary", "--format", "ndjson"),
        ("--summary", "--state", "orphan"),
        ("--check", "--members"),
        ("--check", "--state", "orphan"),
        ("--check", "--sort", "name"),
        ("--check", "--limit", "1"),
        ("--check", "--format", "json"),
        ("--warning", "1"),
        ("--critical", "1"),
        ("--check", "--watch", "1"),
        ("--state", "alive"),
        ("--state", ""),
        ("--state", "live,"),
        ("--format", "yaml"),
        ("--sort", "size"),
        ("--limit", "0"),
        ("--limit", "-1"),
        ("--limit", "x"),
        ("--probe-timeout", "0"),
        ("--probe-timeout", "nan"),
        ("--watch", "inf"),
        ("--check", "--warning", "-1"),
        ("--no-such-option",),
        ("--format", "prometheus", "--members"),
        ("--format", "prometheus", "--state", "orphan"),
    ],
    ids=" ".join,
)
async def test_bad_usage_ends_with_2_and_says_why(redis_server: EmbeddedRedis, argv: tuple[str, ...]) -> None:
    result = await run_beside("channels_groups", *argv)
    assert (result.returncode, result.out) == (2, "")
    assert "Traceback" not in result.err
    assert result.err.strip()


# Names from clients


@pytest.mark.parametrize("form", ["table", "json", "ndjson", "csv", "prometheus"])
async def test_hostile_names_are_shown_escaped_in_every_format(
    redis_client: redis.Redis, settings: LazySettings, redis_server: EmbeddedRedis, form: str
) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url)
    for number, name in enumerate(HOSTILE):
        add_members(redis_client, name, [name, f"specific.{new_process_name()}!{name}"], joined_at=number)
    add_members(redis_client, "x", [b"\xff\x85", "\x85"])
    redis_client.set(ASGI.group("odd\x1b[31m\n"), "no group")
    members = () if form == "prometheus" else ("--members",)

    result = await groups("--format", form, *members, "--no-probe")

    assert result.returncode == 0
    assert not set(re.sub(r"[\n\r]", "", result.out)) & {chr(c) for c in [*range(32), *range(127, 160), 0x202E]}
    assert "\r" not in result.out
    if form != "prometheus":
        for shown in ("red\\x1b[31m", "two\\nlines", "back\\\\slash", "bi\\u202edi", "nul\\x00"):
            escaped = shown.replace("\\", "\\\\") if form in ("json", "ndjson") else shown
            assert escaped in result.out, shown
    if form == "csv":
        rows = list(csv.reader(io.StringIO(result.out)))
        assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row)
        assert {len(row) for row in rows} == {7}


async def test_no_line_is_folded_that_does_not_go_to_a_terminal(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "".join(f"{number:02d}-" for number in range(33)) + "x"
    assert len(name) == 100
    channel = f"specific.{new_process_name()}!{'y' * 57}"
    add_members(redis_client, name, [channel])
    monkeypatch.setenv("COLUMNS", "80")
    for argv in ((), ("--members",)):
        result = await groups("--no-probe", *argv)
        assert name in result.out
        assert (channel in result.out) == bool(argv)
        for_a_terminal = await groups("--no-probe", "--force-color", *argv)
        text = re.sub(r"\x1b\[[\d;]*m", "", for_a_terminal.out)
        assert max(map(len, text.splitlines())) <= 80
        assert name in joined_first_column(text) or name in text.replace("\n", "")
        assert (channel in re.sub(r"\s", "", text)) == bool(argv)


def joined_first_column(table: str) -> str:
    return "".join(line.split()[0] for line in table.splitlines() if line.split())
