"""`channels_doctor` as a command: what it prints, how it exits, what it may not do, what it does without a right."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from channels_redis.core import RedisChannelLayer
from django.conf import LazySettings

from ops.layer_settings import layer_settings
from ops.model.doctor.diagnosis import CHECKS
from ops.model.doctor.facts import Facts, Missing
from ops.model.doctor.findings.operations import check_operations
from ops.operations.doctor import collect
from ops.store.connection.shards import open_layer
from ops.store.doctor import readers, round_trip, survey
from ops.store.doctor.inspection import fact
from ops.testing import override_redis_config
from project.embedded_redis import EmbeddedRedis, find_redis_server, redis_server_version
from project.owned_process import free_port
from tests.conftest import CommandResult, RunCommand, StartRedis
from tests.in_process_commands import run_beside, run_here
from tests.layer_builders import BUSY, StartProcess, add_members, channels_of, dump, layer_of
from tests.waiting import until

STOCK = "channels_redis.core.RedisChannelLayer"
DROP_IN = "ops.layers.RedisChannelLayer"
PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"


@pytest.fixture(autouse=True)
def a_fresh_start(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "PROBE_TIMEOUT_SECONDS", 0.5 * BUSY)
    if "redis_server" in request.fixturenames:
        with redis.Redis.from_url(request.getfixturevalue("redis_server").url) as client:
            client.config_resetstat()
            client.slowlog_reset()


def document(done: CommandResult) -> dict[str, Any]:
    return json.loads(done.out)


def ids(done: CommandResult) -> list[str]:
    return [finding["id"] for finding in document(done)["findings"]]


def reasons(done: CommandResult) -> dict[str, str]:
    return {one["id"]: one["why"] for one in document(done)["skipped"]}


def test_it_names_the_finding_with_evidence_and_fix(redis_client: redis.Redis, run_command: RunCommand) -> None:
    well = run_command("channels_doctor")
    assert (well.out, well.err, well.returncode) == ("Layer 'default': nothing found.\n", "", 0)
    with override_redis_config(redis_client, timeout=300):
        ill = run_command("channels_doctor")
        assert ill.returncode == 3
        assert ill.err == ""
        assert ill.out.startswith("warning  Redis closes idle connections  ops.W307\n  - shard 0 (redis://127.0.0.1:")
        assert "Fix: CONFIG SET timeout 0" in ill.out
        assert ill.out.endswith("Layer 'default': 1 finding, the likely cause first.\n")
        # Not a terminal: a line each, without a fold and without spaces behind it.
        assert [line for line in ill.out.splitlines() if line != line.rstrip()] == []
        assert "it closes each connection that was idle for 300 s, those in pools too\n" in ill.out
        found = document(run_command("channels_doctor", "--format", "json"))
    assert found["schema_version"] == 1
    assert (found["layer"], found["complete"], found["healthy"], found["skipped"]) == ("default", True, False, [])
    [finding] = found["findings"]
    assert (finding["id"], finding["level"]) == ("ops.W307", "warning")
    assert finding.keys() == {"id", "level", "title", "evidence", "fix"}


@pytest.mark.parametrize(("level", "code"), [("info", 3), ("warning", 3), ("error", 0)])
def test_the_fail_level_decides_on_the_exit_code(redis_client: redis.Redis, level: str, code: int) -> None:
    with override_redis_config(redis_client, timeout=300):
        done = run_here("channels_doctor", "--fail-level", level, "--format", "json")
    assert (ids(done), done.returncode) == (["ops.W307"], code)


def test_only_the_findings_that_are_asked_for(redis_client: redis.Redis) -> None:
    with override_redis_config(redis_client, timeout=300):
        assert ids(run_here("channels_doctor", "--only", "ops.W304,ops.W306", "--format", "json")) == []
        assert ids(run_here("channels_doctor", "--only", "ops.W306,ops.W307", "--format", "json")) == ["ops.W307"]


@pytest.mark.parametrize("chosen", ["ops.X1", "", "ops.W307,", "ops.w307"])
def test_an_id_that_is_none_is_bad_usage(chosen: str) -> None:
    done = run_here("channels_doctor", "--only", chosen)
    assert done.returncode == 2
    assert "--list shows them" in done.err


def test_the_list_has_every_finding_and_needs_no_redis() -> None:
    listed = json.loads(run_here("channels_doctor", "--list", "--format", "json").out)
    assert [one["id"] for one in listed["checks"]] == [check.id for check in CHECKS]
    table = run_here("channels_doctor", "--list")
    assert table.returncode == 0
    assert all(check.id in table.out and check.title in table.out for check in CHECKS)
    listed = json.loads(run_here("channels_doctor", "--list", "--only", "ops.W403,ops.E101", "--format", "json").out)
    assert [one["id"] for one in listed["checks"]] == ["ops.E101", "ops.W403"]


def test_overrides_come_to_an_end_whatever_happens(redis_client: redis.Redis) -> None:
    with pytest.raises(redis.ResponseError), override_redis_config(redis_client, timeout=5, maxmemory_policy="none"):
        raise AssertionError("not reached")
    with override_redis_config(redis_client, timeout=7, maxclients=99):
        assert redis_client.config_get("timeout") == {"timeout": "7"}
    assert redis_client.config_get("timeout") == {"timeout": "0"}
    assert redis_client.config_get("maxclients") == {"maxclients": "10000"}


# What it may not do


@contextmanager
def commands_of(server: EmbeddedRedis) -> Iterator[list[str]]:
    """Every command that the server runs meanwhile, those of scripts too."""
    seen: list[str] = []
    with redis.Redis.from_url(server.url) as client, client.monitor() as monitor:

        def listen() -> None:
            for command in monitor.listen():
                seen.append(command["command"])
                if command["command"] == "ECHO over":
                    return

        listener = threading.Thread(target=listen)
        listener.start()
        yield seen
        with redis.Redis.from_url(server.url) as other:
            other.echo("over")
        listener.join(timeout=10)


READS = {
    "PING", "INFO", "TIME", "CONFIG", "CLIENT", "SLOWLOG", "LATENCY", "SCAN", "ZRANGE", "ZCARD", "ZSCORE", "HMGET",
    "HGETALL", "EXISTS", "XREVRANGE", "HELLO", "SELECT", "AUTH", "TYPE", "PTTL", "ECHO", "PUBSUB", "ZCOUNT",
}  # fmt: skip


@pytest.mark.parametrize("backend", [STOCK, DROP_IN, PUBSUB])
async def test_what_it_writes_are_messages_to_itself_and_probes(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    settings: LazySettings,
    start_process: StartProcess,
    backend: str,
) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url)
    members = [await start_process("lobby", "room", live=False), await start_process("lobby")]
    await members[0].layer.send(f"{members[0].inbox}x", {"type": "x"})
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, backend=backend)
    before = dump(redis_client)
    with commands_of(redis_server) as seen:
        done = await run_beside("channels_doctor", "--format", "json")
    assert done.err == ""
    assert dump(redis_client) == before
    writes = [command for command in seen if command.split(" ")[0].upper() not in READS]
    assert not [command for command in writes if ":group:" in command and ":group:ops.doctor." not in command]
    theirs = [one for one in writes if any(process.name in one for process in members)]
    probes = [one for one in theirs if "ops.probe" in one or one.startswith(("ZREM", "PEXPIRE", "EVALSHA", "EVAL"))]
    assert theirs == probes
    assert not {"KEYS", "MONITOR", "FLUSHDB", "FLUSHALL"} & {one.split(" ")[0].upper() for one in seen}


def test_no_secret_is_shown(start_redis: StartRedis, settings: LazySettings) -> None:
    server = start_redis(requirepass="hunter2")
    settings.CHANNEL_LAYERS = layer_of(server.url)
    for format_ in ("json", "table"):
        done = run_here("channels_doctor", "--format", format_)
        assert done.returncode == 0, done
        assert "hunter2" not in done.out + done.err
    settings.CHANNEL_LAYERS = layer_of(server.url.replace("hunter2", "wrong-one"))
    done = run_here("channels_doctor", "--format", "json")
    assert (ids(done)[0], done.returncode) == ("ops.E300", 3)
    assert "wrong-one" not in done.out + done.err


@pytest.mark.parametrize("backend", [STOCK, DROP_IN])
async def test_a_round_trip_that_is_cut_off_half_way_leaves_nothing(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    settings: LazySettings,
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
) -> None:
    async def send_and_never_receive(layer: Any, channel: str) -> float:
        await layer.send(channel, {"type": "x"})
        sent.set()
        return await asyncio.Future()

    sent = asyncio.Event()
    monkeypatch.setattr(round_trip, "_once", send_and_never_receive)
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, backend=backend)
    async with open_layer("default") as opened:
        measured = await fact(round_trip.measure_round_trip(opened, opened.home), 0.5)
    assert sent.is_set()
    assert measured == Missing("it took longer than 0.5 s")
    assert redis_client.keys("*") == []


async def test_nobody_is_probed_where_messages_cannot_be_read_since_that_would_end_consumers(
    redis_server: EmbeddedRedis, settings: LazySettings, start_process: StartProcess
) -> None:
    dead = await start_process("room")
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, symmetric_encryption_keys=["theirs"])
    live = await start_process("room", live=True)
    await live.layer.send(f"{dead.inbox}x", {"type": "x"})
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, symmetric_encryption_keys=["ours"])
    done = await run_beside("channels_doctor", "--format", "json")
    assert ids(done) == ["ops.E406"]
    assert "a probe could end a consumer" in reasons(done)["ops.W403"]
    assert not live.tasks[0].done()


@pytest.mark.parametrize("backend", [STOCK, DROP_IN])
async def test_a_message_that_can_only_be_packed_is_not_taken_for_another_key(
    redis_server: EmbeddedRedis, settings: LazySettings, start_process: StartProcess, backend: str
) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, backend=backend)
    process = await start_process("room")
    await process.layer.group_send("room", {"type": "x", "text": {1: "a"}})
    done = await run_beside("channels_doctor", "--format", "json")
    assert ids(done) == ["ops.E415"]
    assert document(done)["findings"][0]["evidence"] == [
        f"a message in the inbox of process {process.name} can be packed and not unpacked: it has a key that is no "
        f"text, such as a number"
    ]


async def test_a_survey_whose_time_is_over_says_so_and_leaves_no_connection_with_unread_replies(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3000):
        add_members(redis_client, f"room.{number}", channels_of("a" * 32, 1))
    monkeypatch.setattr(survey, "SURVEY_SECONDS", 0.0)
    async with open_layer("default") as opened:
        partly = await survey.survey_members(opened, 0.0, 0.0, ())
        assert not partly.whole
        assert 0 < partly.processes["a" * 32].members < 3000
        assert await opened.home.execute("GET", "nothing") is None
    document_of_it = document(await run_beside("channels_doctor", "--format", "json"))
    assert [finding["id"] for finding in document_of_it["findings"]] == ["ops.W403"]
    assert "has 3,000 members" in document_of_it["findings"][0]["evidence"][0]


@pytest.mark.parametrize(("configured", "expected"), [(2, []), (1, ["ops.W413"])])
async def test_workers_with_a_host_that_is_not_configured_are_told_of(
    configured: int,
    expected: list[str],
    redis_server: EmbeddedRedis,
    settings: LazySettings,
    start_process: StartProcess,
) -> None:
    hosts = [redis_server.url, f"{redis_server.url}/1"]
    settings.CHANNEL_LAYERS = layer_of(*hosts)
    worker = await start_process(*[f"room-{uuid.uuid4()}" for _ in range(80)], live=True)
    settings.CHANNEL_LAYERS = layer_of(*hosts[:configured])
    done = await run_beside("channels_doctor", "--format", "json", "--only", "ops.W413")
    assert worker.received == []
    assert ids(done) == expected


@pytest.mark.parametrize(("readers_of_one_inbox", "expected"), [(1, []), (2, ["ops.E414"])])
async def test_two_processes_with_one_name_are_told_of(
    readers_of_one_inbox: int,
    expected: list[str],
    start_process: StartProcess,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readers, "GIVEN_UP_SECONDS", 0.1)
    processes = [await start_process("room")]
    for _ in range(readers_of_one_inbox - 1):
        processes.append(await start_process())
        processes[-1].layer.client_prefix = processes[0].name
    for process in processes:
        await process.live()
    await until(lambda: redis_client.info("clients")["blocked_clients"] == readers_of_one_inbox)
    done = await run_beside("channels_doctor", "--format", "json")
    assert ids(done) == expected
    await until(lambda: not redis_client.exists(processes[0].inbox_key))
    assert [process.received for process in processes] == [[]] * readers_of_one_inbox


# Without a right


@contextmanager
def user_with(client: redis.Redis, *rules: str) -> Iterator[str]:
    client.execute_command("ACL", "SETUSER", "doctor", "on", ">secret", "~*", "&*", *rules)
    try:
        yield "doctor:secret"
    finally:
        client.acl_deluser("doctor")


def as_user(server: EmbeddedRedis, user: str) -> str:
    return server.url.replace("redis://", f"redis://{user}@")


@pytest.mark.parametrize("backend", [STOCK, DROP_IN, PUBSUB])
async def test_commands_that_are_refused_cost_only_the_checks_that_need_them(
    each_redis_server: EmbeddedRedis, settings: LazySettings, start_process: StartProcess, backend: str
) -> None:
    settings.CHANNEL_LAYERS = layer_of(each_redis_server.url)
    await start_process("room", live=True)
    hidden = ("-config", "-client", "-slowlog", "-latency")
    with (
        redis.Redis.from_url(each_redis_server.url) as client,
        user_with(client, "+@all", *hidden) as user,
        override_redis_config(client, timeout=300, maxmemory="500mb", maxmemory_policy="allkeys-lru"),
    ):
        settings.CHANNEL_LAYERS = layer_of(
            {"address": as_user(each_redis_server, user), "socket_timeout": None, "socket_keepalive": True},
            backend=backend,
        )
        done = await run_beside("channels_doctor", "--format", "json")
    # What INFO tells is found; that idle connections are closed and commands slow cannot be known.
    assert ids(done) == ["ops.W304"]
    assert done.returncode == 3
    of_backend = {STOCK: set(), DROP_IN: set(), PUBSUB: {"ops.E308"}}
    assert reasons(done).keys() == {"ops.W307", "ops.W310"} | of_backend[backend]
    assert "add to its ACL: +config" in reasons(done)["ops.W307"]


async def test_a_user_who_may_not_write_probes_nobody(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, settings: LazySettings, start_process: StartProcess
) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url)
    dead = await start_process("room")
    with user_with(
        redis_client, "+@read", "+ping", "+info", "+time", "+client", "+config", "+slowlog", "+latency"
    ) as user:
        settings.CHANNEL_LAYERS = layer_of(as_user(redis_server, user))
        done = await run_beside("channels_doctor", "--format", "json")
    assert (ids(done), done.returncode) == (["ops.E300"], 3)
    [*_, rules] = document(done)["findings"][0]["evidence"]
    assert rules.partition("; add to its ACL: ")[2].split() == (
        ["+zadd", "+zrem", "+expire", "+zremrangebyscore", "+bzpopmin", "+zpopmin", "+del", "+eval", "+multi", "+exec"]
    )
    assert reasons(done).keys() >= {"ops.W403", "ops.E402", "ops.W410"}
    assert "add to its ACL: " in reasons(done)["ops.W403"]
    assert not redis_client.exists(dead.inbox_key)


async def test_without_info_nothing_is_guessed(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, settings: LazySettings, start_process: StartProcess
) -> None:
    await start_process("room", live=True)
    with user_with(redis_client, "+@all", "-info") as user:
        settings.CHANNEL_LAYERS = layer_of(as_user(redis_server, user))
        done = await run_beside("channels_doctor", "--format", "json")
    assert (ids(done), done.returncode) == ([], 0)
    assert {"ops.E301", "ops.E302", "ops.E303", "ops.E305", "ops.W309"} <= reasons(done).keys()


# Operations of the layer that are refused


class Refusing:
    """A server that answers everything with one error, as one in protected mode does."""

    def __init__(self, reply: bytes) -> None:
        self._reply = reply
        self.url = ""

    async def __aenter__(self) -> Refusing:
        self._server = await asyncio.start_server(self._refuse, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while await reader.read(65536):
                writer.write(self._reply)
        writer.close()


def the_refusal(done: CommandResult) -> dict[str, Any]:
    first: dict[str, Any] = document(done)["findings"][0]
    assert (first["id"], first["level"], document(done)["healthy"], done.returncode) == ("ops.E300", "error", False, 3)
    return first


@pytest.mark.parametrize(
    ("reply", "said", "fix"),
    [
        (b"-DENIED Redis is running in protected mode\r\n", "DENIED Redis is running in protected", "requirepass"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "LOADING: ", "loading_eta_seconds"),
        (b"-CLUSTERDOWN The cluster is down\r\n", "CLUSTERDOWN: ", "Redis Cluster"),
        (b"-SOMETHING new\r\n", "SOMETHING new", "See its log"),
    ],
)
async def test_a_server_that_refuses_everything_is_the_finding(
    settings: LazySettings, reply: bytes, said: str, fix: str
) -> None:
    async with Refusing(reply) as server:
        settings.CHANNEL_LAYERS = layer_of({"address": server.url})
        done = await run_beside("channels_doctor", "--format", "json")
    finding = the_refusal(done)
    assert said in finding["evidence"][0]
    assert fix in finding["fix"]


class RaisingLayer(RedisChannelLayer):
    def serialize(self, message: Any) -> bytes:
        raise RuntimeError("password=hunter2 is not what was asked for")


async def test_whatever_the_layer_raises_is_the_finding(redis_server: EmbeddedRedis, settings: LazySettings) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, backend=f"{__name__}.RaisingLayer")
    finding = the_refusal(await run_beside("channels_doctor", "--format", "json"))
    assert finding["evidence"][0].endswith("RuntimeError: password=*** is not what was asked for")
    assert [words.partition(" failed")[0] for words in finding["evidence"]] == ["send and receive", "group_send"]


@pytest.mark.parametrize("backend", [STOCK, DROP_IN])
async def test_writes_that_wait_for_replicas_are_the_finding(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, settings: LazySettings, backend: str
) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, backend=backend)
    with override_redis_config(redis_client, min_replicas_to_write=1):
        done = await run_beside("channels_doctor", "--format", "json")
    finding = the_refusal(done)
    assert "NOREPLICAS" in finding["evidence"][0]
    assert "CONFIG SET min-replicas-to-write 0" in finding["fix"]
    assert redis_client.keys("*") == []


async def test_a_server_that_cannot_save_is_the_finding(start_redis: StartRedis, settings: LazySettings) -> None:
    server = start_redis(save="3600 1000000", dbfilename="taken")
    settings.CHANNEL_LAYERS = layer_of(server.url)
    with redis.Redis.from_url(server.url) as client:
        (Path(client.config_get("dir")["dir"]) / "taken").mkdir()
        client.bgsave()
        await until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
        finding = the_refusal(await run_beside("channels_doctor", "--format", "json"))
        (Path(client.config_get("dir")["dir"]) / "taken").rmdir()
    assert "MISCONF" in finding["evidence"][0]
    assert "stop-writes-on-bgsave-error no" in finding["fix"]


# What the layers run, but for what only a process that lives for long needs.
COMMANDS_OF_THE_LAYERS = {
    STOCK: "zadd zrem expire zrange zcount zremrangebyscore bzpopmin eval del multi exec zpopmin",
    DROP_IN: "zadd zrem expire zrange zcard zremrangebyscore bzpopmin evalsha lrem rpush",
}


@pytest.mark.parametrize("backend", [STOCK, DROP_IN])
async def test_no_command_of_the_layer_can_be_refused_without_a_finding(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, settings: LazySettings, backend: str
) -> None:
    unnoticed = []
    for command in COMMANDS_OF_THE_LAYERS[backend].split():
        with user_with(redis_client, "+@all", f"-{command}") as user:
            settings.CHANNEL_LAYERS = layer_of(as_user(redis_server, user), backend=backend)
            of_layer = layer_settings("default")
            assert of_layer is not None
            async with open_layer("default") as opened:
                server = await collect._read_server(opened, opened.home, of_layer.kind)
            found = check_operations(Facts(of_layer, (server,)))
            said = "" if found is None else " ".join(found.evidence)
            if f"+{command}" not in said:
                unnoticed.append((command, said))
    assert unnoticed == []


@pytest.mark.parametrize("backend", [STOCK, DROP_IN])
async def test_a_node_of_a_cluster_is_the_finding_and_moved_is_named(
    start_redis: StartRedis, settings: LazySettings, backend: str
) -> None:
    # Without a port of its own, the bus of a cluster is at the port + 10000, which may be none.
    bus = {} if redis_server_version(find_redis_server()).startswith("6") else {"cluster_port": str(free_port())}
    server = start_redis(cluster_enabled="yes", **bus)
    settings.CHANNEL_LAYERS = layer_of(server.url, backend=backend)
    with redis.Redis.from_url(server.url) as client:
        client.execute_command("CLUSTER ADDSLOTS", *range(16384))
        await until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        finding = the_refusal(await run_beside("channels_doctor", "--format", "json"))
        assert any("hash to the same slot" in words or "non local key" in words for words in finding["evidence"])
        assert finding["evidence"][-1].endswith("INFO says cluster_enabled:1")
        assert '"prefix": "{asgi}"' in finding["fix"]
        settings.CHANNEL_LAYERS = layer_of(server.url, backend=backend, prefix="{asgi}")
        assert ids(await run_beside("channels_doctor", "--format", "json")) == []


# Without a server


async def test_a_shard_that_does_not_answer_does_not_hide_what_the_other_says(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, settings: LazySettings
) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, "redis://127.0.0.1:1", backend=DROP_IN)
    with override_redis_config(redis_client, timeout=300):
        done = await run_beside("channels_doctor", "--format", "json")
    assert ids(done) == ["ops.E300", "ops.W307"]
    assert (document(done)["complete"], done.returncode) == (False, 1)
    assert "Error 111 connecting to 127.0.0.1:1" in done.err
    assert "127.0.0.1:1" in reasons(done)["ops.W403"]


def test_a_server_without_a_connection_left_is_named(redis_server: EmbeddedRedis, redis_client: redis.Redis) -> None:
    redis_client.ping()
    with override_redis_config(redis_client, maxclients=1):
        done = run_here("channels_doctor", "--format", "json")
    assert (ids(done), done.returncode) == (["ops.E305"], 3)


@pytest.mark.parametrize(
    ("entry", "expected", "said"),
    [
        ({"BACKEND": "channels.layers.InMemoryChannelLayer"}, ["ops.W205"], "its groups live inside each process"),
        ({"BACKEND": STOCK, "CONFIG": {"group_expire": 5}}, ["ops.E201"], "cannot be made from its CONFIG"),
    ],
)
def test_a_layer_that_cannot_be_opened_is_judged_by_its_settings(
    settings: LazySettings, entry: dict[str, Any], expected: list[str], said: str
) -> None:
    settings.CHANNEL_LAYERS = {"default": entry}
    done = run_here("channels_doctor", "--format", "json")
    assert ids(done)[:1] == expected
    assert document(done)["complete"] is False
    assert said in done.err
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"capacity": "500", "expiry": "30"}, "ops.E210"),
        ({"hosts": [None]}, "ops.E209"),
        ({"hosts": "redis://h"}, "ops.E209"),
        ({"hosts": ["h:6379"]}, "ops.E209"),
        ({"hosts": [{"address": "redis://h", "ssl": True}]}, "ops.E209"),
    ],
    ids=str,
)
@pytest.mark.parametrize("backend", [STOCK, DROP_IN])
def test_settings_that_cannot_work_are_the_finding_and_nothing_is_tried(
    redis_server: EmbeddedRedis, settings: LazySettings, backend: str, config: dict[str, Any], expected: str
) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, backend=backend)
    settings.CHANNEL_LAYERS["default"]["CONFIG"].update(config)
    done = run_here("channels_doctor", "--format", "json")
    assert ids(done)[0] == expected
    assert (document(done)["healthy"], document(done)["complete"], done.returncode) == (False, False, 1)
    for command in ("channels_groups", "reap_stale"):
        refused = run_here(command)
        assert (refused.returncode, expected in refused.err, refused.err.count("\n")) == (1, True, 1)


def test_beside_a_layer_in_memory_the_one_on_redis_is_named(
    redis_server: EmbeddedRedis, settings: LazySettings
) -> None:
    in_memory = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    settings.CHANNEL_LAYERS = {"default": in_memory, "chat": layer_of(redis_server.url)["default"]}
    for command in ("channels_doctor", "channels_groups"):
        done = run_here(command)
        assert done.returncode == 1
        assert done.err.endswith("; on Redis there is --layer chat\n")


def test_a_layer_that_does_not_exist_is_said_in_one_line(settings: LazySettings) -> None:
    for layers in ({}, {"default": {"BACKEND": "no.such.Layer"}}, {"default": {}}):
        settings.CHANNEL_LAYERS = layers
        done = run_here("channels_doctor")
        assert done.returncode == 1
        assert len(done.err.strip().splitlines()) == 1
        assert "channel layer 'default'" in done.err


def test_settings_of_the_toolkit_that_cannot_be_used_are_a_finding(
    redis_server: EmbeddedRedis, settings: LazySettings
) -> None:
    settings.CHANNELS_OPS = {"CONFIRM_AFTER": 5}
    done = run_here("channels_doctor", "--format", "json")
    assert ids(done) == ["ops.E101"]
    assert done.returncode == 3


async def test_runs_at_once_do_not_disturb_each_other(
    redis_server: EmbeddedRedis, start_process: StartProcess, run_command: RunCommand
) -> None:
    await start_process("room", live=True)
    command = ("channels_doctor", "--format", "json")
    runs = await asyncio.gather(*(asyncio.to_thread(run_command, *command) for _ in range(3)))
    assert [document(done)["findings"] for done in runs] == [[]] * 3
