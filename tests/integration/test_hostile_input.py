"""Whatever somebody has put into Redis, or types: no traceback, nothing removed, nothing that a terminal would obey."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections.abc import Callable

import pytest
import redis
from django.conf import LazySettings
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from ops.model import keys as keys_module
from ops.model.disconnects.record import Disconnect, to_json
from ops.operations.doctor import collect
from ops.store.removal.journal import parse_receipt
from project.embedded_redis import EmbeddedRedis
from tests.conftest import CommandResult
from tests.in_process_commands import run_beside, run_here
from tests.layer_builders import (
    ASGI,
    StartProcess,
    add_members,
    channels_of,
    layer_of,
    members_of,
    new_process_name,
    suspect_everybody,
)

QUICK = ("--probe-timeout", "0.1")  # where it does not matter whether the run trusts its probes
CERTAIN = ("--probe-timeout", "1")
EVERY_COMMAND = [
    ("channels_groups", *QUICK),
    ("channels_groups", "--members", "--no-probe"),
    ("channels_groups", "--format", "json", "--members", "--no-probe"),
    ("channels_groups", "--format", "ndjson", "--members", "--no-probe"),
    ("channels_groups", "--format", "csv", "--members", "--no-probe"),
    ("channels_groups", "--format", "prometheus", "--no-probe"),
    ("channels_groups", "--check", "--no-probe"),
    ("send_heartbeat", "--all", "--timeout", "0.05"),
    ("send_heartbeat", "--all", "--depth", "process", "--timeout", "0.05", "--format", "json"),
    ("reap_stale", "--dry-run", *QUICK),
    ("reap_stale", *QUICK),
    ("reap_stale", "--history"),
    ("reap_stale", "--history", "--format", "json"),
    ("reap_stale", "--undo", "run"),
    ("replay_disconnects",),
    ("replay_disconnects", "--format", "json"),
    ("replay_disconnects", "--cleanup"),
    ("replay_disconnects", "--cleanup", "--resume"),
    ("replay_disconnects", "--emit", "room", "--force", "--speed", "max"),
    ("replay_disconnects", "--emit", "work"),
    ("channels_doctor",),
    ("channels_doctor", "--format", "json"),
]


@pytest.fixture(autouse=True)
def a_doctor_in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "PROBE_TIMEOUT_SECONDS", 0.05)


def assert_harmless(argv: tuple[str, ...], result: CommandResult) -> None:
    assert result.returncode in (0, 1, 2, 3, 75), (argv, result)
    assert "Traceback" not in result.err, (argv, result.err)
    assert result.err.count("\n") <= 1, (argv, result.err)
    drawn = re.findall(r"[^\n\x20-\x7e\u00a1-\uffff]", result.out + result.err)
    assert not drawn, (argv, drawn)


# Names

HOSTILE = [
    b"\xff\xfe\x80 no utf-8",
    b"\x1b[2J\x1b]0;title\x07 escapes",
    b"two\nlines\r\nor three",
    b"=cmd|'/c calc'!A1",
    b"+1", b"-1", b"@SUM(A1)", b"\t=1",
    "\u202egnp.exe \u2066 \u200b".encode(),
    b"a*b?c[d]\\e",
    b"!!!a!b!",
    b"", b" ", b"%s {0} {x} [bold]no[/bold]",
    b"<script>alert(1)</script>",
    b'"quoted", and; more',
    b"x" * 100_000,
    b"\x00",
]  # fmt: skip
csv.field_size_limit(10**7)
FORMULA = re.compile(r"[=+\-@\t\r]")


async def test_names_of_any_bytes_are_shown_and_never_obeyed(redis_client: redis.Redis) -> None:
    orphan = new_process_name()
    for name in HOSTILE:
        key = ASGI.group_prefix + name
        redis_client.zadd(key, {name: 1.0, b"specific." + name + b"!" + name: 2.0})
        redis_client.zadd(key, {f"specific.{orphan}!".encode() + name: 3.0})
        redis_client.zadd(ASGI.group("room"), dict.fromkeys([name, b"specific." + name + b"!" + name], time.time()))
    redis_client.xadd(ASGI.disconnects, {"d": to_json(Disconnect(1.0))})
    before = {key: redis_client.dump(key) for key in redis_client.keys(ASGI.group_prefix + b"*")}
    for argv in EVERY_COMMAND:
        result = await run_beside(*argv)
        assert_harmless(argv, result)
        if "json" in argv and result.returncode in (0, 3):
            json.loads(result.out)
        if "csv" in argv:
            cells = [cell for row in csv.reader(io.StringIO(result.out)) for cell in row]
            assert [cell[:20] for cell in cells if FORMULA.match(cell) and not _is_number(cell)] == []
    assert {key: redis_client.dump(key) for key in before} == before


async def test_the_doctor_shows_names_of_other_prefixes_and_shards_and_obeys_none(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, settings: LazySettings
) -> None:
    settings.CHANNEL_LAYERS = layer_of(f"{redis_server.url}/0", f"{redis_server.url}/1")
    found = set()
    with redis.Redis.from_url(f"{redis_server.url}/1") as other:
        for name in HOSTILE:
            redis_client.flushall()
            for client in (redis_client, other):  # of each group one of them is on the wrong shard
                client.zadd(ASGI.group_prefix + name, {b"specific." + b"a" * 32 + b"!" + name: 1.0})
                client.zadd(name + b":group:" + name, {b"specific." + b"b" * 32 + b"!" + name: 1.0})
            for argv in EVERY_COMMAND[-2:]:
                result = await run_beside(*argv)
                assert_harmless(argv, result)
            found |= {one["id"] for one in json.loads(result.out)["findings"]}
    assert found >= {"ops.E407", "ops.W408"}


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?", text) is not None


async def test_only_what_names_a_dead_process_goes_however_it_is_called(redis_client: redis.Redis) -> None:
    dead = new_process_name()
    going = {f"specific.{dead}!".encode() + name for name in HOSTILE}
    staying = {b"specific." + name + b"!" + name for name in HOSTILE} | {*HOSTILE, f"specific.{dead}".encode()}
    for member in going | staying:
        redis_client.zadd(ASGI.group("room"), {member: 1.0})
    await suspect_everybody()
    result = await run_beside("reap_stale", *CERTAIN, "--format", "json")
    assert_harmless((), result)
    assert json.loads(result.out)["removed"] == len(going)
    assert set(redis_client.zrange(ASGI.group("room"), 0, -1)) == staying


# Wrong types

Write = Callable[[redis.Redis, bytes], object]
TYPES: dict[str, Write] = {
    "string": lambda client, key: client.set(key, b"\xff\x00 nonsense"),
    "list": lambda client, key: client.rpush(key, b"\xff", b"nonsense"),
    "hash": lambda client, key: client.hset(key, b"\xff", b"nonsense"),
    "zset": lambda client, key: client.zadd(key, {b"\xff": 1.0, b"nonsense": float("inf")}),
    "set": lambda client, key: client.sadd(key, b"\xff", b"nonsense"),
    "stream": lambda client, key: client.xadd(key, {b"\xff": b"nonsense"}),
}


def keys_that_are_read(dead: str, live: str) -> list[bytes]:
    inbox = f"specific.{dead}!"
    return [
        ASGI.suspects, ASGI.looks, ASGI.seen, ASGI.runs, ASGI.run("run"), ASGI.journal("run"), ASGI.lock,
        ASGI.disconnects, ASGI.cleaned, ASGI.lease(dead), ASGI.lease(live), ASGI.index(dead, 0), ASGI.inbox(inbox),
        ASGI.inflight(inbox), ASGI.group("odd"), ASGI.inbox("work"), ASGI.aside("run", ASGI.inbox(inbox)),
        ASGI.acknowledgements("run"), ASGI.kept, ASGI.leases, ASGI.tracking, ASGI.connections(dead),
        ASGI.control(dead), ASGI.taken_out(dead),
    ]  # fmt: skip


def test_no_key_of_the_table_in_model_keys_is_left_out() -> None:
    rows = re.findall(r"^``\{prefix\}(.*?)``", keys_module.__doc__ or "", re.MULTILINE)
    holes = {"{group}": "odd", "{inbox}": f"specific.{'a' * 32}!", "{channel}": "work", "{glob}": "r*", "{run}": "run",
             "{id}": "run", "{process}": "a" * 32, "{p}": "a" * 32, "{n}": "0",
             "{key}": f"asgispecific.{'a' * 32}!"}  # fmt: skip
    table = {"asgi" + re.sub(r"\{\w+\}", lambda hole: holes[hole[0]], row) for row in rows}
    assert len(table) > 10
    assert table <= {key.decode() for key in keys_that_are_read("a" * 32, "b" * 32)}


@pytest.mark.parametrize("kind", TYPES)
async def test_any_type_under_any_key_that_is_read(
    redis_client: redis.Redis, start_process: StartProcess, kind: str
) -> None:
    live = await start_process("room", count=2, live=True)
    dead = new_process_name()
    keys = keys_that_are_read(dead, live.name)
    for key in keys:
        redis_client.delete(*keys)
        add_members(redis_client, "room", channels_of(dead, 1))
        TYPES[kind](redis_client, key)
        for argv in EVERY_COMMAND:
            if "--format" in argv:  # They differ in what they write, not in what they read.
                continue
            assert_harmless((key.decode(), *argv), await run_beside(*argv))
        assert {name for name in members_of(redis_client, "room") if live.name in name} != set(), key


# Damaged entries

ANYTHING = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [b"", b"null", b"[]", b"{}", b"NaN", b"1e999", b"-1", b"1" * 400, b'{"since": NaN}', b"[" * 100_000]
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
)
SUSPICIONS = st.fixed_dictionaries(
    {
        name: st.one_of(st.floats(), st.integers(), st.just(10**400), st.text(max_size=5))
        for name in ("since", "renewed_at")
    }
    | {"newest_joined_at": st.floats(), "epoch": st.one_of(st.text(max_size=5), st.none())}
).map(lambda value: json.dumps(value).encode())


def run_all_quietly(*commands: tuple[str, ...]) -> None:
    for argv in commands:
        assert_harmless(argv, run_here(*argv))


@examples(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(entry=ANYTHING | SUSPICIONS, seen=ANYTHING, lease=st.lists(ANYTHING, min_size=9, max_size=9), part=ANYTHING)
def test_damaged_memory_leases_and_indexes_kill_nobody(
    redis_client: redis.Redis, entry: bytes, seen: bytes, lease: list[bytes], part: bytes
) -> None:
    redis_client.flushdb()
    name = "a" * 32
    add_members(redis_client, "room", channels_of(name, 2))
    before = members_of(redis_client, "room")
    redis_client.hset(ASGI.suspects, mapping={name: entry, entry: seen})
    redis_client.hset(ASGI.seen, mapping={name: seen, seen: entry})
    fields = (
        "renewed_at",
        "lease_seconds",
        "host",
        "pid",
        "started_at",
        "version",
        "index_parts",
        "heartbeats",
        "members",
    )
    redis_client.hset(ASGI.lease(name), mapping=dict(zip(fields, lease, strict=True)))
    redis_client.rpush(ASGI.index(name, 0), part)
    run_all_quietly(("channels_groups", "--no-probe"), ("reap_stale", "--dry-run", "--match", "nothing", *QUICK))
    run_all_quietly(("reap_stale", "--probe-timeout", "0.02"))
    assert members_of(redis_client, "room") == before


@examples(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    receipt=ANYTHING,
    fields=st.dictionaries(st.sampled_from(["started_at", "ended", "undone_at", "expires_at"]), ANYTHING),
)
def test_damaged_journals_put_nothing_back_that_was_not_there(
    redis_client: redis.Redis, receipt: bytes, fields: dict[str, bytes]
) -> None:
    redis_client.flushdb()
    redis_client.zadd(ASGI.runs, {"run": 1.0, receipt: 2.0})
    redis_client.hset(ASGI.run("run"), mapping={"match": receipt, **fields})
    redis_client.rpush(ASGI.journal("run"), receipt)
    run_all_quietly(("reap_stale", "--history"), ("reap_stale", "--history", "--format", "json"))
    run_all_quietly(("reap_stale", "--undo", "run"))
    assert redis_client.keys(ASGI.group_prefix + b"*") == []


@given(raw=st.binary(max_size=200))
def test_a_receipt_of_any_bytes_is_read_or_passed_over(raw: bytes) -> None:
    for key, members, scores in parse_receipt(raw):
        assert isinstance(key, bytes)
        assert len(members) == len(scores)


# Arguments; more of them in test_hostile_arguments.py


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (("channels_groups", "--format", "xml"), "--format"),
        (("channels_groups", "--sort", "size"), "--sort"),
        (("channels_groups", "--state", "ill"), "--state"),
        (("channels_groups", "--no-such"), "--no-such"),
        (("reap_stale", "stray"), "stray"),
        (("reap_stale", "--undo"), "--undo"),
        (("send_heartbeat", "--depth", "sea"), "--depth"),
        (("send_heartbeat",), "--all"),
        (("channels_groups", "--state", "\x1b[31mred"), "--state"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error_that_names_it(argv: tuple[str, ...], named: str) -> None:
    result = run_here(*argv)
    assert (result.returncode, result.out) == (2, "")
    assert named in result.err
    assert "\x1b" not in result.err


async def test_groups_that_are_not_there_are_named_and_nothing_else_happens(redis_client: redis.Redis) -> None:
    for name in ("nobody", "no\x1b[2Jbody", "x" * 10_000, "*", "\udcff"):
        for argv in (("channels_groups", "--no-probe", name), ("send_heartbeat", name, "--timeout", "0.05")):
            result = await run_beside(*argv)
            assert_harmless(argv, result)
            assert result.returncode in (0, 3)
    assert redis_client.keys("*") == []
