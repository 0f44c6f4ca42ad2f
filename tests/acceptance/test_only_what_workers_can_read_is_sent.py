"""No command sends a worker what it may not be able to read: a consumer dies of such a message."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from django.conf import LazySettings

from project.embedded_redis import EmbeddedRedis
from project.sockets import FleetSocket, SocketFleet
from project.workers import Worker
from tests.acceptance.memberships import channels, in_redis, let_confirm_time_pass, of_sockets, process_of
from tests.acceptance.reach import assert_all_hear, open_layer_on
from tests.acceptance.two_layers import BACKENDS
from tests.conftest import StartRedis, StartWorker
from tests.in_process_commands import run_beside
from tests.layer_builders import layer_of
from tests.waiting import until

OLD, NEW, BOTH = ["old"], ["new"], ["new", "old"]
MERCILESS = ("--confirm-after", "0.001", "--probe-timeout", "2")
LOOKS = {
    "channels_groups": ("--members",),
    "channels_doctor": (),
    "send_heartbeat --all --depth process": ("--timeout", "2"),
    "reap_stale --dry-run": MERCILESS,
    "reap_stale": MERCILESS,
}
SOCKETS_EACH = 3

RunLook = Callable[..., Coroutine[Any, Any, tuple[int, dict[str, Any]]]]


def keys(*names: str) -> dict[str, str]:
    """The environment of a worker whose layer has these encryption keys."""
    return {"CHANNEL_LAYER_OPTIONS": json.dumps({"symmetric_encryption_keys": names})}


@pytest.fixture
def run_look(redis_server: EmbeddedRedis, settings: LazySettings) -> RunLook:
    """`await run_look(look, *encryption_keys)`: the exit code and the document of one of LOOKS."""

    async def run(look: str, *encryption_keys: str) -> tuple[int, dict[str, Any]]:
        settings.CHANNEL_LAYERS = layer_of(redis_server.url, symmetric_encryption_keys=list(encryption_keys))
        done = await run_beside(*look.split(), "--format", "json", *LOOKS[look])
        assert "Traceback" not in done.err, done
        return done.returncode, json.loads(done.out)

    return run


async def serve(start_worker: StartWorker, sockets: SocketFleet, *encryption_keys: str) -> list[FleetSocket]:
    """Sockets of one worker of each server."""
    workers = [start_worker(kind, wait=False, **keys(*encryption_keys)) for kind in ("uvicorn", "daphne")]
    for worker in workers:
        worker.wait_ready()
    return await sockets.open_many([(worker, "lobby") for worker in workers for _ in range(SOCKETS_EACH)])


def why_not_probed(look: str, document: dict[str, Any]) -> set[str]:
    """What the document says of processes that were not probed."""
    if look == "channels_doctor":
        return {one["why"] for one in document["skipped"] if one["id"] in ("ops.E402", "ops.W403")}
    if look.startswith("send_heartbeat"):
        return {process["skipped_why"] for process in document["processes"]}
    return {words for process in document["processes"] for words in process["evidence"]}


# Several keys


async def test_no_socket_is_closed_while_the_commands_have_a_key_that_the_workers_lack(
    start_worker: StartWorker, sockets: SocketFleet, redis_server: EmbeddedRedis, run_look: RunLook
) -> None:
    opened = await serve(start_worker, sockets, *OLD)
    for look in LOOKS:
        code, document = await run_look(look, *BOTH)

        await assert_all_hear(sockets, opened, redis_server, symmetric_encryption_keys=OLD)
        assert "several encryption keys" in " ".join(why_not_probed(look, document))
        assert (look, code) == (look, 3 if look.startswith(("reap_stale", "send_heartbeat")) else 0)
        if look.startswith("reap_stale"):
            assert document["stopped"].startswith("keys: 2 processes with 6 members were not probed")
            assert [process["state"] for process in document["processes"]] == ["unknown", "unknown"]
            assert document["removed"] == 0
        if look == "channels_groups":
            assert document["totals"]["unknown"] == len(opened)
        if look.startswith("send_heartbeat"):
            assert (document["totals"]["sent"], document["totals"]["skipped"]) == (0, len(opened))


async def test_with_one_key_the_members_of_a_dead_worker_go_and_no_socket_is_closed(
    start_worker: StartWorker, sockets: SocketFleet, redis_server: EmbeddedRedis, redis_client: Any, run_look: RunLook
) -> None:
    opened = await serve(start_worker, sockets, *OLD)
    dead = start_worker("uvicorn", **keys(*OLD))
    await sockets.open(dead, "lobby", SOCKETS_EACH)
    dead.kill()

    for _ in range(2):  # where messages are encrypted there are no markers, so that one silence more is asked for
        await run_look("reap_stale", *OLD)
        let_confirm_time_pass(redis_client, 0.001)
    code, document = await run_look("reap_stale", *OLD)

    assert (code, document["stopped"], document["removed"]) == (0, None, SOCKETS_EACH)
    assert channels(in_redis(redis_client)) == of_sockets(opened)
    await assert_all_hear(sockets, opened, redis_server, symmetric_encryption_keys=OLD)


# Messages that the commands cannot read


async def leave_unread(
    worker: Worker, sockets: SocketFleet, server: EmbeddedRedis, redis_client: Any, **config: Any
) -> FleetSocket:
    """Kill `worker`; what others send to its socket then stays in its inbox."""
    [socket] = await sockets.open(worker, "backroom")
    worker.kill()
    async with open_layer_on([server], "asgi", **config) as layer:
        await layer.group_send("room.backroom", {"type": "room.message", "text": "unread"})
    await until(lambda: redis_client.zcard(f"asgispecific.{process_of(socket)}!") == 1)
    return socket


async def test_no_socket_is_closed_while_messages_of_workers_with_another_key_are_waiting(
    start_worker: StartWorker,
    sockets: SocketFleet,
    redis_server: EmbeddedRedis,
    redis_client: Any,
    run_look: RunLook,
) -> None:
    opened = await serve(start_worker, sockets, *OLD)
    dead = start_worker("uvicorn", **keys(*OLD))
    unread = await leave_unread(dead, sockets, redis_server, redis_client, symmetric_encryption_keys=OLD)
    for look in LOOKS:
        code, document = await run_look(look, *NEW)

        await assert_all_hear(sockets, opened, redis_server, symmetric_encryption_keys=OLD)
        assert process_of(unread) in json.dumps(document), look
        assert "cannot" in " ".join(why_not_probed(look, document)), look
        if look.startswith("reap_stale"):
            assert code == 3
            assert document["stopped"].startswith("unreadable: a message in the inbox of process " + process_of(unread))
            assert "another serializer or encryption key" in document["stopped"]
            assert document["removed"] == 0
        if look == "channels_groups":
            assert document["totals"]["unknown"] == len(opened) + 1
        if look == "channels_doctor":
            assert "ops.E406" in [finding["id"] for finding in document["findings"]]
        if look.startswith("send_heartbeat"):
            assert (document["totals"]["sent"], document["totals"]["skipped"]) == (0, len(opened) + 1)


async def test_a_dead_worker_whose_messages_can_be_read_loses_its_members(
    start_worker: StartWorker, sockets: SocketFleet, redis_server: EmbeddedRedis, redis_client: Any, run_look: RunLook
) -> None:
    opened = await serve(start_worker, sockets, *OLD)
    dead = start_worker("uvicorn", **keys(*OLD))
    await leave_unread(dead, sockets, redis_server, redis_client, symmetric_encryption_keys=OLD)

    for _ in range(2):
        await run_look("reap_stale", *OLD)
        let_confirm_time_pass(redis_client, 0.001)
    code, document = await run_look("reap_stale", *OLD)

    assert (code, document["stopped"], document["removed"]) == (0, None, 1)
    assert channels(in_redis(redis_client)) == of_sockets(opened)
    await assert_all_hear(sockets, opened, redis_server, symmetric_encryption_keys=OLD)


# Another list of hosts


async def test_a_run_stops_while_workers_join_groups_on_other_shards_than_its_own(
    start_redis: StartRedis, start_worker: StartWorker, sockets: SocketFleet, settings: LazySettings
) -> None:
    """With the hosts in another order, each group lies on the shard where the run would not look for it."""
    servers = [start_redis(), start_redis()]
    theirs, ours = ([server.url for server in order] for order in (servers[::-1], servers))
    living, dead = (start_worker("uvicorn", redis=servers[0], wait=False, REDIS_URL=" ".join(theirs)) for _ in range(2))
    opened = await sockets.open_many([(living.wait_ready(), "lobby"), (living, "support")])
    await sockets.open_many([(dead.wait_ready(), "lobby"), (dead, "support")])
    dead.kill()

    settings.CHANNEL_LAYERS = layer_of(*ours)
    for _ in range(2):
        done = await run_beside("reap_stale", "--format", "json", *MERCILESS)
        document = json.loads(done.out)
        assert (done.returncode, document["removed"]) == (3, 0), done
        assert document["stopped"].startswith("hosts: ")
        for server in servers:
            assert server.url.removesuffix("/0") in document["stopped"]
    await assert_all_hear(sockets, opened, *servers[::-1])

    # The workers' own list: the dead one's members go.
    settings.CHANNEL_LAYERS = layer_of(*theirs)
    done = await run_beside("reap_stale", "--wait", "--format", "json", *MERCILESS)
    document = json.loads(done.out)
    assert (document["stopped"], document["removed"]) == (None, 2), done
    await assert_all_hear(sockets, opened, *servers[::-1])


# Processes that tell what they read


@pytest.mark.parametrize("layer", BACKENDS)
@pytest.mark.parametrize("commands_keys", [NEW, BOTH], ids=["another-key", "rotation"])
async def test_no_socket_is_closed_of_workers_that_tell_that_they_lack_the_key(
    layer: str,
    commands_keys: list[str],
    start_worker: StartWorker,
    sockets: SocketFleet,
    redis_server: EmbeddedRedis,
    redis_client: Any,
    run_look: RunLook,
) -> None:
    """No message shows it: only their leases do."""
    own = {**keys(*OLD), "CHANNEL_BACKEND": BACKENDS[layer]}
    worker = start_worker("uvicorn", asgi="project.asgi:application", **own)
    opened = await sockets.open(worker, "lobby", SOCKETS_EACH)
    await until(lambda: len(redis_client.keys("asgi:ops:lease:*")) == 1)

    for look in LOOKS:
        code, document = await run_look(look, *commands_keys)
        if look.startswith(("channels_groups", "reap_stale")):
            assert [process["state"] for process in document["processes"]] == ["live"]
            assert code == 0
        if look.startswith("send_heartbeat"):
            assert "lacks the encryption key" in " ".join(why_not_probed(look, document))
        if look == "channels_doctor":
            [found] = [finding for finding in document["findings"] if finding["id"] == "ops.E406"]
            assert f"pid {opened[0].pid}" in found["evidence"][0]
    await assert_all_hear(sockets, opened, redis_server, symmetric_encryption_keys=OLD)


@pytest.mark.parametrize("layer", BACKENDS)
async def test_workers_that_tell_that_they_have_the_key_are_probed_during_a_rotation(
    layer: str,
    start_worker: StartWorker,
    sockets: SocketFleet,
    redis_server: EmbeddedRedis,
    redis_client: Any,
    run_look: RunLook,
) -> None:
    own = {**keys("old", "new"), "CHANNEL_BACKEND": BACKENDS[layer]}
    worker = start_worker("uvicorn", asgi="project.asgi:application", **own)
    opened = await sockets.open(worker, "lobby", SOCKETS_EACH)
    await until(lambda: len(redis_client.keys("asgi:ops:lease:*")) == 1)
    _, document = await run_look("send_heartbeat --all --depth process", *BOTH)
    assert document["totals"]["answered"] == SOCKETS_EACH
    await assert_all_hear(sockets, opened, redis_server, symmetric_encryption_keys=OLD)
