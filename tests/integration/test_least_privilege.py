"""The Redis users of deploy/redis/: they may do what the commands need and nothing else; what they lack is named."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgpack
import pytest
import pytest_asyncio
import redis
from django.conf import LazySettings

from ops.model.disconnects.record import Disconnect, iso_time, to_json
from ops.model.doctor.diagnosis import IDS
from ops.model.keys import index_entry
from ops.operations.doctor import collect
from project.embedded_redis import EmbeddedRedis, redis_server_version
from tests.conftest import REPOSITORY, CommandResult, StartRedis
from tests.in_process_commands import run_beside
from tests.layer_builders import (
    ASGI,
    BUSY,
    AppProcess,
    add_members,
    channels_of,
    dump,
    layer_of,
    members_of,
    new_process_name,
)
from tests.layer_builders import suspect_everybody as remember_silence

PASSWORD = "hunter2-is-secret"
DROP_IN = "ops.layers.RedisChannelLayer"
PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"
RUN_OF_BEFORE, INTERRUPTED_RUN = "20260102T030405Z-abcdef", "20260102T030505Z-abcdef"
QUICK = ("--probe-timeout", "0.15")  # for the many runs of a test
CERTAIN = ("--probe-timeout", "1")


def users_in(conf: str) -> dict[str, str]:
    """User -> rules, as the file has them."""
    text = (REPOSITORY / "deploy" / "redis" / conf).read_text()
    return dict(re.findall(r"^user (\S+) off (.*)$", text, re.MULTILINE))


def conf_for(binary: str | None) -> str:
    return "users-6.2.conf" if redis_server_version(binary or "").startswith("6") else "users-7.conf"


@dataclass
class Guarded:
    """A Redis with the users, and a layer in it with a live process and a dead one that left all there is to leave."""

    server: EmbeddedRedis
    users: dict[str, str]
    admin: redis.Redis
    settings: LazySettings
    live: AppProcess
    dead: str = ""

    def become(self, user: str, rules: str | None = None) -> None:
        """Commands are this user from now on, with its rules in the file, or with those."""
        words = re.findall(r"\([^)]*\)|\S+", self.users[user] if rules is None else rules)
        self.admin.execute_command("ACL SETUSER", user, "reset", "on", f">{PASSWORD}", *words)
        url = f"redis://{user}:{PASSWORD}@127.0.0.1:{self.server.port}"
        self.settings.CHANNEL_LAYERS = {
            **layer_of({"address": url, "socket_timeout": None, "socket_keepalive": False}),
            "pubsub": layer_of(url, backend=PUBSUB)["default"],
            "app": layer_of(self.server.url, backend=DROP_IN)["default"],
        }

    async def leave_a_dead_process(self) -> None:
        """With members, a lease that lapsed, an index, messages in the inbox and in flight; silent for long enough.

        Beside it what runs leave: the receipts of one that is in the disconnect log, and of one that was interrupted.
        """
        admin, self.dead = self.admin, new_process_name()
        channels = channels_of(self.dead, 3)
        admin.delete(ASGI.group("room"), ASGI.lock, *admin.scan_iter("asgispecific.*"))
        await self.live.layer.group_add("room", self.live.channel)
        add_members(admin, "room", channels)
        lease = {"renewed_at": "1000.0", "lease_seconds": "1", "index_parts": "1", "heartbeats": "1"}
        admin.hset(ASGI.lease(self.dead), mapping=lease)
        admin.rpush(ASGI.index(self.dead, 0), *(index_entry("room", channel) for channel in channels))
        message = self.live.layer.serialize({"type": "a.message"})
        admin.zadd(ASGI.inbox(f"specific.{self.dead}!"), {message: 1.0})
        admin.zadd(ASGI.inflight(f"specific.{self.dead}!"), {message: time.time()})  # an undo puts it back
        admin.delete(ASGI.disconnects, ASGI.cleaned)
        end = Disconnect(time.time() + 60, "client_left", "websocket", "middleware", channel=channels[0])
        admin.xadd(ASGI.disconnects, {"d": to_json(end)})
        self.leave_receipts(RUN_OF_BEFORE, channels[1:])
        reaped = {"run_id": RUN_OF_BEFORE, "at": iso_time(time.time()), "removed": {self.dead: 2}}
        admin.xadd(ASGI.disconnects, {"reaped": json.dumps(reaped)})
        self.leave_receipts(INTERRUPTED_RUN, channels[:1])
        admin.delete(ASGI.runs)
        admin.zadd(ASGI.runs, {INTERRUPTED_RUN: 1000.0})
        admin.hset(ASGI.run(INTERRUPTED_RUN), mapping={"started_at": "1000.0", "expires_at": repr(time.time() + 3600)})
        await remember_silence("app")
        admin.script_flush()

    def leave_receipts(self, run_id: str, channels: list[str]) -> None:
        receipt = [[ASGI.group("room"), channels]], [1.0] * len(channels)
        self.admin.delete(ASGI.journal(run_id))
        self.admin.rpush(ASGI.journal(run_id), msgpack.packb(receipt))


class Receiving(AppProcess):
    """A live process with the drop-in layer, whose channel heartbeats can reach."""

    channel = ""


@pytest_asyncio.fixture
async def guarded(
    redis_binary: str | None, start_redis: StartRedis, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Guarded]:
    monkeypatch.setattr(collect, "PROBE_TIMEOUT_SECONDS", 0.3 * BUSY)
    users = users_in(conf_for(redis_binary))
    server = start_redis(binary=redis_binary, **{f"user {name}": f"off {rules}" for name, rules in users.items()})
    settings.CHANNEL_LAYERS = {"app": layer_of(server.url, backend=DROP_IN, lease_seconds=1)["default"]}
    live = Receiving("app")
    [live.channel] = await live.join("room")
    await live.live(live.channel)
    with redis.Redis.from_url(server.url) as admin, admin.pubsub() as subscription:
        subscription.subscribe("asgi__group__room")
        guarded = Guarded(server, users, admin, settings, live)
        await guarded.leave_a_dead_process()
        yield guarded
    await live.die()


# What the doctor examines with rights that neither user has: CONFIG GET tells passwords, SLOWLOG GET what others wrote.
NOT_EXAMINED = {"ops.W307": "config|get", "ops.W310": "slowlog|get"}
NOT_EXAMINED_IN_PUBSUB = {**NOT_EXAMINED, "ops.E308": "config|get"}
EXAMINED = ",".join(name for name in IDS if name not in NOT_EXAMINED_IN_PUBSUB)
READING = (
    ("channels_groups", "--no-probe", "--members", "room"),
    ("channels_groups", "--no-probe", "--summary"),
    ("reap_stale", "--history"),
    ("replay_disconnects",),
)
LOOKING = (
    ("channels_groups", *QUICK),
    ("channels_groups", "--no-probe", "--members", "room"),
    ("channels_groups", "--summary", *QUICK),
    ("send_heartbeat", "room", "--timeout", "0.3"),
    ("send_heartbeat", "room", "--depth", "process", "--timeout", "0.3"),
    ("reap_stale", "--history"),
    ("replay_disconnects",),
    ("send_heartbeat", "--all", "--layer", "pubsub", "--depth", "process", "--timeout", "0.3"),
    ("channels_groups", "--layer", "pubsub"),
    ("channels_doctor", "--layer", "pubsub", "--only", EXAMINED),
    ("channels_doctor", "--only", EXAMINED),
)
WRITING = (
    ("replay_disconnects", "--cleanup"),
    ("replay_disconnects", "--cleanup", "--resume"),
    ("replay_disconnects", "--emit", "room", "--force"),
    ("replay_disconnects", "--emit", "room", "--force", "--layer", "pubsub"),
)


async def reap_quickly() -> CommandResult:
    """A run that went to its end, or was refused something: one that does not trust such quick probes is repeated."""
    for _ in range(5):
        result = await run_beside("reap_stale", *QUICK)
        if not result.err.startswith("safety stop: control: "):
            break
    return result


async def each_run(*, reaping: bool) -> AsyncIterator[CommandResult]:
    """The commands that a user is for."""
    if reaping:
        yield await reap_quickly()
        runs = json.loads((await run_beside("reap_stale", "--history", "--layer", "app", "--format", "json")).out)
        for run in runs["runs"][:1]:
            yield await run_beside("reap_stale", "--undo", run["run_id"])
        for argv in WRITING:
            yield await run_beside(*argv)
    for argv in LOOKING:
        yield await run_beside(*argv)


def refusals(admin: redis.Redis) -> list[str]:
    """What was refused, but for what the doctor does without and the name that redis-py gives each connection."""
    done_without = ("config", "slowlog", "client|set") + ("client",) * (int(admin.info()["redis_version"][0]) < 7)
    entries = [entry for entry in admin.acl_log() if not entry["object"].startswith(done_without)]
    return [f"{entry['reason']} {entry['object']} {entry['context']}" for entry in entries]


async def test_the_inspector_sees_and_probes_and_can_change_nothing(guarded: Guarded) -> None:
    guarded.become("channels-inspector")
    before = members_of(guarded.admin, "room")
    results = [result async for result in each_run(reaping=False)]

    assert [result.returncode for result in results] == [0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 3]
    assert [result.err for result in results] == [""] * len(LOOKING)
    assert refusals(guarded.admin) == []
    assert members_of(guarded.admin, "room") == before
    # Redis 6.2 has one list of commands for all keys of a user: what sends to the doctor's group can send to any.
    may_send = conf_for(guarded.server.binary) == "users-6.2.conf"
    for argv in (("reap_stale", *QUICK), *(argv for argv in WRITING if not (may_send and "--emit" in argv))):
        refused = await run_beside(*argv)
        assert (refused.returncode, members_of(guarded.admin, "room")) == (1, before), argv
        assert "add to its ACL: " in refused.err, argv


async def test_the_reader_sees_and_writes_nothing_at_all(guarded: Guarded) -> None:
    if "channels-reader" not in guarded.users:
        pytest.skip("where Redis can tell keys apart the inspector does")
    guarded.become("channels-reader")
    before = dump(guarded.admin, without=[b"asgi:ops:lease"])
    for argv in READING:
        result = await run_beside(*argv)
        assert (result.returncode, result.err) == (0, ""), argv
    assert refusals(guarded.admin) == []
    assert dump(guarded.admin, without=[b"asgi:ops:lease"]) == before


async def test_what_runs_removed_is_told_from_their_receipts(guarded: Guarded) -> None:
    for user in guarded.users:
        guarded.become(user)
        report = json.loads((await run_beside("replay_disconnects", "--format", "json")).out)
        assert (report["complete"], report["records"]) == (True, 3), user
        history = json.loads((await run_beside("reap_stale", "--history", "--format", "json")).out)
        [run] = history["runs"]
        assert (run["run_id"], run["state"], run["removed"]) == (INTERRUPTED_RUN, "interrupted", 1), user


async def test_the_reaper_removes_and_restores(guarded: Guarded) -> None:
    guarded.become("channels-reaper")
    before = members_of(guarded.admin, "room")
    reaped = await run_beside("reap_stale", *CERTAIN, "--format", "json")

    assert (reaped.returncode, reaped.err, json.loads(reaped.out)["removed"]) == (0, "", 3)
    assert set(members_of(guarded.admin, "room")) == {guarded.live.channel}
    undone = await run_beside("reap_stale", "--undo", json.loads(reaped.out)["run_id"])
    assert (undone.returncode, undone.err) == (0, "")
    assert set(members_of(guarded.admin, "room")) == set(before)
    async for result in each_run(reaping=True):
        assert (result.returncode in (0, 3), result.err) == (True, "")
    assert refusals(guarded.admin) == []


@pytest.mark.parametrize("user", ["channels-inspector", "channels-reaper"])
@pytest.mark.parametrize("layer", ["default", "pubsub"])
async def test_the_doctor_names_the_checks_that_it_had_to_skip_and_the_rule_for_each(
    guarded: Guarded, user: str, layer: str
) -> None:
    guarded.become(user)
    argv = ("channels_doctor", "--layer", layer, "--format", "json")
    examined = json.loads((await run_beside(*argv)).out)
    skipped = {one["id"]: one["why"].rpartition("add to its ACL: +")[2] for one in examined["skipped"]}
    assert skipped == (NOT_EXAMINED_IN_PUBSUB if layer == "pubsub" else NOT_EXAMINED)
    guarded.become(user, guarded.users[user].replace("+latency|latest ", ""))
    examined = json.loads((await run_beside(*argv)).out)
    [why] = [one["why"] for one in examined["skipped"] if one["id"] == "ops.W310"]
    assert re.findall(r"its ACL: \+([\w|]+)", why) == ["slowlog|get", "latency|latest"]
    # With those rules, and nothing else, all is examined.
    guarded.admin.acl_log_reset()
    guarded.become(user, " ".join((guarded.users[user], "+config|get", "+slowlog|get")))
    examined = json.loads((await run_beside(*argv)).out)
    assert examined["skipped"] == []
    assert refusals(guarded.admin) == []


async def test_what_lies_beyond_the_prefix_is_named_by_its_own_rule(guarded: Guarded) -> None:
    guarded.become("channels-inspector")
    guarded.admin.zadd("chat:group:room", {channels_of(guarded.dead, 1)[0]: 1.0})
    examined = await run_beside("channels_doctor", "--only", "ops.W408", "--format", "json")
    [skipped] = json.loads(examined.out)["skipped"]
    assert skipped["why"].endswith("add to its ACL: %R~*:group:* (Redis 6.2: ~*:group:*)")
    guarded.become("channels-reaper")
    argv = ("replay_disconnects", "--emit", "work", "--force")
    told = await run_beside(*argv)
    assert (told.returncode, told.err.count("\n")) == (1, 1)
    assert told.err.endswith("add to its ACL: ~asgiwork\n")
    guarded.become("channels-reaper", f"{guarded.users['channels-reaper']} ~asgiwork")
    assert (await run_beside(*argv)).returncode == 0


KEYS_OF_OTHERS = ("other", "asgi:group", "asgichat", "asgi", "another:ops:lock")


async def test_neither_may_touch_what_is_not_the_layers(guarded: Guarded) -> None:
    for key in KEYS_OF_OTHERS:
        guarded.admin.zadd(key, {"a": 1})
    for user in guarded.users:
        guarded.become(user)
        with redis.Redis.from_url(f"redis://{user}:{PASSWORD}@127.0.0.1:{guarded.server.port}") as client:
            for key in KEYS_OF_OTHERS:
                for command in (("ZRANGE", key, 0, -1), ("ZREM", key, "a"), ("DEL", key), ("ZADD", key, 1, "b")):
                    with pytest.raises(redis.exceptions.NoPermissionError):
                        client.execute_command(*command)
            for words in (
                "FLUSHALL",
                "FLUSHDB",
                "KEYS *",
                "CONFIG GET *",
                "ACL LIST",
                "CLIENT KILL TYPE normal",
                "MONITOR",
                "SAVE",
            ):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.execute_command(*words.split())


async def test_where_redis_can_tell_them_apart_the_inspector_cannot_write_into_groups(guarded: Guarded) -> None:
    if conf_for(guarded.server.binary) != "users-7.conf":
        pytest.skip("Redis 6.2 has one list of commands for all keys of a user")
    guarded.become("channels-inspector")
    url = f"redis://channels-inspector:{PASSWORD}@127.0.0.1:{guarded.server.port}"
    with redis.Redis.from_url(url) as client:
        for words in ("ZREM asgi:group:room a", "ZADD asgi:group:room 1 a", "DEL asgi:ops:runs", "DEL asgi:ops:lock"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*words.split())
        with pytest.raises(redis.exceptions.ResponseError, match=r"permission|can't"):
            client.eval("return redis.call('ZREM', KEYS[1], 'a')", 1, "asgi:group:room")


@pytest.mark.parametrize("user", ["channels-inspector", "channels-reaper"])
async def test_each_rule_is_needed_and_its_lack_is_said_by_name_in_one_line(guarded: Guarded, user: str) -> None:
    rules = guarded.users[user]
    not_needed, badly_said = [], {}
    # channels_redis runs ZPOPMIN in a task whose failure only asyncio learns of. Of LATENCY the doctor speaks together
    # with SLOWLOG, which nobody has. LREM is for the doctor on the drop-in layer.
    rules_that_are_not_missed = {"latency|latest", "lrem"}
    for command in dict.fromkeys(re.findall(r"\+(\S+?)(?=[ )]|$)", rules)):
        guarded.become(user, re.sub(rf"\+{re.escape(command)}(?=[ )]|$)", "", rules))
        await guarded.leave_a_dead_process()
        async for result in each_run(reaping=user == "channels-reaper"):
            said = " ".join((result.out + result.err).split())
            assert PASSWORD not in said
            if "ACL" in said:
                # The inspector does without INFO, and the reaper without the disconnect log; they say so in a note. The
                # doctor does without whatever else it may not, and says so among the checks that it skipped.
                told = command in ("info", "xadd") or "Skipped ops." in result.out or "ops.E300" in result.out
                in_one_line = told or (result.returncode, result.err.count("\n")) == (1, 1)
                named = re.search(rf"add to (its|the user's) ACL: [^:]*\+{re.escape(command)}(?![\w|])", said)
                if not named or not in_one_line:
                    badly_said[command] = result
                break
        else:
            not_needed.append(command)
    assert (set(not_needed), badly_said) == (rules_that_are_not_missed, {})


async def test_what_was_removed_is_said_though_a_rule_was_missing_afterwards(guarded: Guarded) -> None:
    for command in ("rename", "unlink"):
        guarded.become("channels-reaper", guarded.users["channels-reaper"].replace(f"+{command} ", ""))
        await guarded.leave_a_dead_process()
        result = await run_beside("reap_stale", *CERTAIN, "--format", "json")
        report = json.loads(result.out)
        assert (result.returncode, report["complete"]) == (1, False)
        assert report["removed"] == 4 - len(members_of(guarded.admin, "room")) == (3 if command == "rename" else 0)
        assert result.err.startswith("nothing was removed: ") == (command == "unlink")


async def test_keys_that_are_missing_are_said_in_one_line(guarded: Guarded) -> None:
    for rules in (
        "~asgi:ops:* ~asgi*!* +@all",
        "~asgi:group:* ~asgi*!* +@all",
        "~asgi:group:* ~asgi:ops:* +@all",
        "~other* +@all",
    ):
        guarded.become("channels-reaper", rules)
        await guarded.leave_a_dead_process()
        result = await reap_quickly()
        assert (result.returncode, result.err.count("\n")) == (1, 1), (rules, result)
        assert "add to its ACL: ~asgi*" in result.err, (rules, result)


def test_the_users_are_off_until_somebody_gives_them_a_password() -> None:
    for conf in Path(REPOSITORY / "deploy" / "redis").iterdir():
        users = re.findall(r"^user .*$", conf.read_text(), re.MULTILINE)
        assert users
        for line in users:
            assert " off " in line
            assert not re.search(r" (on|nopass|allkeys|allcommands|~\*|&\*|\+@)", line), line
