"""OpsMiddleware: sends to clients that have left, leaving groups, and whose consumer a consumer is."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import redis
from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer
from channels.layers import channel_layers
from django.conf import LazySettings

from ops.application import observation
from ops.application.connections import guard
from ops.application.connections.guard import guarded
from ops.application.observation import Websocket, channel_named, observed, open_websockets
from ops.middleware import DisconnectLogMiddleware, OpsMiddleware
from ops.store.connection.shards import open_layer
from ops.store.liveness.leases import read_leases, reading_of
from project.embedded_redis import EmbeddedRedis
from tests.conftest import REPOSITORY
from tests.integration.plain_websockets import Client
from tests.integration.test_disconnect_recorder import records_in
from tests.layer_builders import layer_of
from tests.waiting import until

SCOPE = {"type": "websocket", "path": "/ws/", "query_string": b"", "headers": []}


class Gone(OSError):
    pass


class Server:
    """Raises on each send, as uvicorn does, or drops it, as others do; tells of the disconnect only if asked to."""

    def __init__(self, *events: dict[str, Any], raises: bool = True) -> None:
        self.events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for event in events:
            self.events.put_nowait(event)
        self.raises = raises
        self.sent = 0

    async def send(self, message: Any) -> None:
        self.sent += 1
        if self.raises:
            raise Gone


def connected() -> dict[str, Any]:
    return {"type": "websocket.connect"}


async def run(application: Any, server: Server, clock: Callable[[], float]) -> None:
    await asyncio.wait_for(observed(guarded(application, clock=clock))(SCOPE, server.events.get, server.send), 30)


async def test_a_send_is_swallowed_for_5_s_and_raised_afterwards(redis_server: EmbeddedRedis) -> None:
    now, raised_at = [100.0], []

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for _ in range(100):
            try:
                await send({"type": "websocket.send", "text": ""})
            except Gone:
                raised_at.append(now[0])
                return
            now[0] += 1.0

    await run(stream, Server(connected()), lambda: now[0])
    assert raised_at == [105.0]


async def test_a_handler_that_sends_in_a_loop_leaves_the_event_loop_to_others(redis_server: EmbeddedRedis) -> None:
    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        while True:
            await send({"type": "websocket.send", "text": ""})

    server, ticks = Server(connected()), 0
    streaming = asyncio.ensure_future(run(stream, server, lambda: 10 * time.monotonic()))
    while not streaming.done():
        await asyncio.sleep(0.005)
        ticks += 1
    with pytest.raises(Gone):
        await streaming
    assert ticks > 20
    assert server.sent < 1000


def said(text: str = "") -> dict[str, Any]:
    return {"type": "websocket.receive", "text": text}


def left() -> dict[str, Any]:
    return {"type": "websocket.disconnect", "code": 1001}


class Speaking(AsyncConsumer):
    """Sends once for each of `pauses`, which pass on the clock `now`, and notes what it has done in `did`."""

    def __init__(self, now: list[float], did: list[str], pauses: list[float], farewells: int = 1) -> None:
        self.now, self.did, self.pauses, self.farewells = now, did, pauses, farewells

    async def websocket_connect(self, message: Any) -> None:
        pass

    async def speak(self, pauses: list[float]) -> None:
        for pause in pauses:
            self.now[0] += pause
            await self.send({"type": "websocket.send", "text": ""})

    async def websocket_receive(self, message: Any) -> None:
        await self.speak([2.0])
        await until(lambda: not open_websockets() or open_websockets()[0].left is not None)
        await self.speak(self.pauses)
        self.did.append("handled")

    async def websocket_disconnect(self, message: Any) -> None:
        self.did.append("disconnect")
        await self.speak([6.0] + [0.1] * self.farewells)
        self.did.append("cleaned up")
        raise StopConsumer


async def done_by_a_consumer(pauses: list[float], *, raises: bool = False, farewells: int = 1) -> list[str]:
    """What a consumer did whose client left while it handled its message."""
    now, did = [100.0], list[str]()
    server = Server(connected(), said(), left(), raises=raises)
    await run(Speaking(now, did, pauses, farewells), server, lambda: now[0])
    return did


DISCONNECTED = ["disconnect", "cleaned up"]


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Swallowed sends take no time, whatever the tests' clock says."""
    monkeypatch.setattr(guard, "PAUSE_SHARE", 0.0)


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.usefixtures("short_pauses")
async def test_a_disconnect_that_sends_is_never_cut_off(raises: bool, redis_server: EmbeddedRedis) -> None:
    assert await done_by_a_consumer([0.1], raises=raises, farewells=70) == ["handled", *DISCONNECTED]


@pytest.mark.usefixtures("short_pauses")
async def test_a_handler_that_works_or_sends_now_and_then_is_not_cut_off_if_the_server_raises_nothing(
    redis_server: EmbeddedRedis,
) -> None:
    for pauses in ([0.1, 5.5, 0.1], [1.0] * 60):
        assert await done_by_a_consumer(pauses) == ["handled", *DISCONNECTED]


@pytest.mark.usefixtures("short_pauses")
async def test_a_handler_that_streams_is_ended_also_if_the_server_raises_nothing(
    redis_server: EmbeddedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "ops.middleware"):
        assert await done_by_a_consumer([0.05] * 200) == DISCONNECTED
    assert [one.getMessage() for one in caplog.records] == [
        "a handler that goes on sending to a client that has left is ended"
    ]


async def test_the_end_is_heard_behind_messages_that_are_not_read_yet_and_nothing_is_lost(
    redis_server: EmbeddedRedis,
) -> None:
    texts = [str(number) for number in range(50)]
    now, read = [100.0], list[Any]()

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        now[0] += 2.0
        while open_websockets()[0].left is None:
            await send({"type": "websocket.send", "text": ""})
            await asyncio.sleep(0)
        while not read or read[-1]["type"] != "websocket.disconnect":
            read.append(await receive())

    server = Server(connected(), *map(said, texts), left(), raises=False)
    await run(stream, server, lambda: now[0])
    assert read == [*map(said, texts), left()]


async def test_messages_that_are_not_read_are_left_with_the_server_when_there_are_many(
    redis_server: EmbeddedRedis,
) -> None:
    now, waiting = [100.0], list[int]()
    server = Server(connected(), *(said(str(number)) for number in range(150)), raises=False)

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        now[0] += 2.0
        for _ in range(300):
            await send({"type": "websocket.send", "text": ""})
            await asyncio.sleep(0)
        waiting.append(server.events.qsize())
        assert [(await receive())["text"] for _ in range(150)] == [str(number) for number in range(150)]

    await run(stream, server, lambda: now[0])
    assert waiting == [50]


class Wrapping(Speaking):
    async def websocket_receive(self, message: Any) -> None:
        try:
            await self.speak([0.1] * 1_000_000)  # No send raises while another consumer runs its disconnect().
        except OSError as error:
            raise RuntimeError("own") from error

    async def websocket_disconnect(self, message: Any) -> None:
        self.did.append("disconnect")
        raise StopConsumer


@pytest.mark.usefixtures("short_pauses")
async def test_a_consumer_that_dies_of_an_error_of_its_own_from_a_send_is_disconnected(
    redis_server: EmbeddedRedis,
) -> None:
    now, did = [100.0], list[str]()
    with pytest.raises(RuntimeError, match="own"):
        await run(Wrapping(now, did, []), Server(connected(), said()), lambda: now[0])
    assert did == ["disconnect"]


@pytest.mark.usefixtures("short_pauses")
async def test_each_consumer_of_a_websocket_that_dies_of_a_send_is_disconnected(redis_server: EmbeddedRedis) -> None:
    now, did = [100.0], list[str]()

    async def divide(scope: Any, receive: Any, send: Any) -> None:
        """Passes what comes on to two consumers."""
        inboxes: list[asyncio.Queue[Any]] = [asyncio.Queue(), asyncio.Queue()]
        consumers = [asyncio.ensure_future(Wrapping(now, did, [])(scope, one.get, send)) for one in inboxes]
        for event in (await receive(), await receive()):
            for inbox in inboxes:
                inbox.put_nowait(event)
        # Not for their end: the stock layer sometimes misses that its receive() was cancelled.
        await until(lambda: len(did) == len(consumers))
        for one in consumers:
            one.cancel()
        await asyncio.wait(consumers, timeout=1)

    await run(divide, Server(connected(), said()), lambda: now[0])
    assert did == ["disconnect", "disconnect"]


@pytest.mark.parametrize("closed_from_outside", [True, False])
@pytest.mark.parametrize("swallows", [True, False])
async def test_a_send_that_waits_for_a_client_to_read_ends_when_the_websocket_does(
    swallows: bool, closed_from_outside: bool, redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "TOLD_WITHIN_SECONDS", 0.05)
    did: list[Any] = []
    waits = asyncio.Event()
    server = Server(connected())

    async def send(message: Any) -> None:
        waits.set()
        await asyncio.Event().wait()

    class Waiting(AsyncConsumer):
        async def websocket_connect(self, message: Any) -> None:
            await self.channel_layer.send(self.channel_name, {"type": "speak"})

        async def speak(self, message: Any) -> None:
            await self.send({"type": "websocket.send", "text": ""})

        async def websocket_disconnect(self, message: Any) -> None:
            did.append(message["code"])
            raise StopConsumer

    application = observed(guarded(Waiting(), swallows=swallows))
    running = asyncio.ensure_future(application(SCOPE, server.events.get, send))
    await asyncio.wait_for(waits.wait(), 30)
    if closed_from_outside:
        close = open_websockets()[-1].close
        assert close is not None
        closing = asyncio.ensure_future(close(1001, ""))
    else:
        server.events.put_nowait(left())
    await asyncio.wait_for(running, 30)
    assert did == [1001]
    if closed_from_outside:
        closing.cancel()


async def test_an_application_that_asks_on_after_a_made_up_end_can_be_cancelled(redis_server: EmbeddedRedis) -> None:
    asks_again, told_twice = asyncio.Event(), list[Any]()

    async def ask_on(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.send", "text": ""})
        assert (await receive())["code"] == 1006
        asks_again.set()
        told_twice.append(await receive())

    running = asyncio.ensure_future(run(ask_on, Server(connected()), lambda: 0.0))
    await asyncio.wait_for(asks_again.wait(), 30)
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert told_twice == []


async def test_the_code_that_the_server_tells_is_passed_on_and_1006_if_it_tells_none(
    redis_server: EmbeddedRedis,
) -> None:
    told: list[int] = []

    async def say_and_wait(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.send", "text": ""})
        told.append((await receive())["code"])

    await run(say_and_wait, Server(connected(), {"type": "websocket.disconnect", "code": 1001}), lambda: 0.0)
    await run(say_and_wait, Server(connected()), lambda: 0.0)
    assert told == [1001, 1006]


async def after_the_close(*, by_the_application: bool) -> list[str]:
    """What an application saw whose server raises a RuntimeError for each send after a close."""
    saw: list[str] = []
    server = Server(connected())

    async def send(message: Any) -> None:
        server.events.put_nowait({"type": "websocket.disconnect", "code": 1012})
        if message["type"] != "websocket.close":
            raise RuntimeError

    async def say(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if by_the_application:
            await send({"type": "websocket.close"})
        try:
            await send({"type": "websocket.send", "text": ""})
        except RuntimeError:
            saw.append("error")
        saw.append(str((await receive())["code"]))

    await observed(guarded(say))(SCOPE, server.events.get, send)
    return saw


async def test_an_error_of_a_closed_websocket_is_swallowed_unless_the_application_closed_it(
    redis_server: EmbeddedRedis,
) -> None:
    assert await after_the_close(by_the_application=False) == ["1012"]
    assert await after_the_close(by_the_application=True) == ["error", "1012"]


@pytest.mark.usefixtures("short_pauses")
async def test_any_error_of_a_send_is_swallowed_once_the_websocket_was_closed_from_outside(
    redis_server: EmbeddedRedis,
) -> None:
    """Hypercorn raises one of its own, which is no RuntimeError."""
    server, saw = Server(connected()), list[Any]()

    async def send(message: Any) -> None:
        if message["type"] != "websocket.close":
            raise KeyError("closed")
        server.events.put_nowait({"type": "websocket.disconnect", "code": message["code"]})

    async def say(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        close = open_websockets()[-1].close
        assert close is not None
        await close(4403, "")
        await send({"type": "websocket.send", "text": ""})
        saw.append((await receive())["code"])

    await observed(guarded(say))(SCOPE, server.events.get, send)
    assert saw == [4403]


@pytest.mark.parametrize("error", [RuntimeError("Unexpected ASGI message"), ValueError("own"), OSError("own")])
async def test_errors_that_are_not_of_the_servers_send_are_raised(
    error: Exception, redis_server: EmbeddedRedis
) -> None:
    async def fail(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise error

    with pytest.raises(type(error)) as raised:
        await run(fail, Server(connected()), lambda: 0.0)
    assert raised.value is error


class Room(AsyncConsumer):
    async def websocket_connect(self, message: Any) -> None:
        await self.channel_layer.group_add("room", self.channel_name)
        await self.send({"type": "websocket.accept"})

    async def websocket_disconnect(self, message: Any) -> None:
        raise StopConsumer


class Dying(Room):
    async def websocket_disconnect(self, message: Any) -> None:
        raise KeyError("disconnect")


async def test_a_consumer_that_dies_leaves_its_groups(redis_server: EmbeddedRedis, redis_client: redis.Redis) -> None:
    for _ in range(3):
        client = Client(OpsMiddleware(Dying.as_asgi()))
        await client.connect()
        with pytest.raises(KeyError):
            await client.leave()
    await until(lambda: redis_client.zcard("asgi:group:room") == 0)


def test_a_child_that_an_application_forks_leaves_the_members_of_its_parent_alone(
    redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "project.settings", "REDIS_URL": redis_server.url}
    argv = [sys.executable, "-m", "tests.integration.forking_process"]
    done = subprocess.run(argv, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done
    assert "the child's own" in done.stderr
    assert redis_client.zcard("asgi:group:room") == 1


@pytest.mark.parametrize(
    ("event", "server", "restarts"),
    [
        ({"code": 1012}, "uvicorn", True),
        ({"code": 1012}, "gunicorn", True),
        ({"code": 1012, "reason": ""}, "uvicorn", False),
        ({"code": 1012}, "hypercorn", False),
        ({"code": 1001}, "uvicorn", False),
    ],
)
async def test_only_a_server_that_restarts_is_waited_for_and_no_client_that_says_so(
    event: dict[str, Any], server: str, restarts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observation, "_server", [server])
    websocket = Websocket(1, SCOPE, asyncio.get_running_loop(), left={"type": "websocket.disconnect", **event})
    assert websocket.is_told_of_restart is restarts


async def test_a_server_says_which_settings_it_cannot_use(
    redis_server: EmbeddedRedis, settings: LazySettings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.CHANNELS_OPS = {"LEAVE_GROUP": False}
    client = Client(OpsMiddleware(Room.as_asgi()))
    await client.connect()
    await client.leave()
    [said] = [record.getMessage() for record in caplog.records if record.name == "ops.middleware"]
    assert said == "CHANNELS_OPS: unknown key 'LEAVE_GROUP'; the nearest known one is 'LEAVE_GROUPS'; the default holds"


async def test_a_join_after_the_end_is_undone(redis_server: EmbeddedRedis, redis_client: redis.Redis) -> None:
    client = Client(OpsMiddleware(Room.as_asgi()))
    await client.connect()
    [name] = redis_client.zrange("asgi:group:room", 0, -1)
    await client.leave()
    await until(lambda: redis_client.zcard("asgi:group:room") == 0)
    await channel_layers["default"].group_add("late", name.decode())
    await until(lambda: redis_client.zcard("asgi:group:late") == 0)


async def test_the_groups_of_a_websocket_that_has_ended_are_recorded_and_not_kept(
    redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    client = Client(OpsMiddleware(Room.as_asgi()))
    await client.connect()
    [name] = redis_client.zrange("asgi:group:room", 0, -1)
    channel = channel_named(name.decode())
    assert channel is not None
    assert list(channel.groups) == ["room"]
    await client.leave()
    assert channel_named(name.decode()) is channel  # in case that it joins again
    assert channel.groups == {}
    await until(lambda: len(records_in(redis_client)) == 1)
    assert records_in(redis_client)[0].groups == ("room",)
    await until(lambda: redis_client.zcard("asgi:group:room") == 0)


@pytest.mark.parametrize("middleware", [DisconnectLogMiddleware, OpsMiddleware])
async def test_what_a_websocket_held_is_freed_without_the_garbage_collector(
    middleware: Any, redis_server: EmbeddedRedis, settings: LazySettings
) -> None:
    settings.CHANNELS_OPS = {"TRACK_CONNECTIONS": True}
    consumers: list[weakref.ref[Room]] = []

    class Remembered(Room):
        def __init__(self) -> None:
            consumers.append(weakref.ref(self))

    client = Client(middleware(Remembered.as_asgi()))
    gc.disable()
    try:
        await client.connect()
        assert consumers[0]() is not None
        await client.leave()
        await asyncio.sleep(0)  # for what the event loop still holds
        assert consumers[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("middleware", [DisconnectLogMiddleware, OpsMiddleware])
async def test_a_consumer_that_a_websocket_starts_with_another_scope_is_not_the_websockets(
    middleware: type[DisconnectLogMiddleware], redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    """It was recorded as the end of the websocket, and a clean-up removed a live member."""
    tasks: list[asyncio.Task[Any]] = []
    joined = asyncio.Event()

    class Listener(AsyncConsumer):
        async def start(self, message: Any) -> None:
            await self.channel_layer.group_add("listeners", self.channel_name)
            joined.set()

    room = Room.as_asgi()

    async def lazily(scope: Any, receive: Any, send: Any) -> None:
        events: asyncio.Queue[Any] = asyncio.Queue()
        events.put_nowait({"type": "start"})
        tasks.append(asyncio.ensure_future(Listener()({"type": "channel"}, events.get, send)))
        await joined.wait()
        await room(scope, receive, send)

    client = Client(middleware(lazily))
    await client.connect()
    [listener] = redis_client.zrange("asgi:group:listeners", 0, -1)
    await client.leave()
    await until(lambda: len(records_in(redis_client)) == 1)
    [one] = records_in(redis_client)
    assert one.consumer == f"{__name__}.Room"
    assert one.channel != listener.decode()
    assert redis_client.zrange("asgi:group:listeners", 0, -1) == [listener]
    tasks[0].cancel()
    await asyncio.wait(tasks)


async def test_a_process_holds_its_lease_whatever_lies_in_the_list_of_leases(
    redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    redis_client.set("asgi:ops:leases", "nonsense")
    client = Client(OpsMiddleware(Room.as_asgi()))
    await client.connect()
    await until(lambda: len(redis_client.keys("asgi:ops:lease:*")) == 1)
    [key] = redis_client.keys("asgi:ops:lease:*")
    assert redis_client.hget(key, "layer") == b"stock"
    await client.leave()


KEYS = ["old and secret", "new and secret"]


async def test_a_lease_has_a_hash_of_each_key_and_no_key(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, settings: LazySettings
) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, symmetric_encryption_keys=KEYS)
    client = Client(OpsMiddleware(Room.as_asgi()))
    await client.connect()
    await until(lambda: len(redis_client.keys("asgi:ops:lease:*")) == 1)
    [key] = redis_client.keys("asgi:ops:lease:*")
    stored = b" ".join(part for pair in redis_client.hgetall(key).items() for part in pair)
    assert b"secret" not in stored
    process = key.decode().rpartition(":")[2]
    async with open_layer("default") as opened:
        lease = (await read_leases(opened.home, opened.keyspace, [process]))[process]
        assert lease.reads == tuple(reading_of(opened.layer, process))
        assert set(lease.reads[1:]).isdisjoint(reading_of(opened.layer, "another"))
    assert (len(lease.reads), lease.shard, lease.restores) == (3, "1/1", False)
    await client.leave()


async def test_with_the_publish_subscribe_layer_a_consumer_that_dies_leaves_its_groups_and_is_registered(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, settings: LazySettings
) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, backend="channels_redis.pubsub.RedisPubSubChannelLayer")
    settings.CHANNELS_OPS = {"TRACK_CONNECTIONS": True}
    client = Client(OpsMiddleware(Dying.as_asgi()))
    await client.connect()
    [group] = redis_client.pubsub_channels("asgi__group__*")
    await until(lambda: [len(redis_client.hgetall(key)) for key in redis_client.keys("asgi:ops:connections:*")] == [2])
    with pytest.raises(KeyError):
        await client.leave()
    await until(lambda: redis_client.pubsub_numsub(group) == [(group, 0)])
    await until(lambda: [len(redis_client.hgetall(key)) for key in redis_client.keys("asgi:ops:connections:*")] == [1])


def test_a_process_with_the_publish_subscribe_layer_ends_without_a_complaint(redis_server: EmbeddedRedis) -> None:
    source = """if True:
        import asyncio, contextlib, django
        django.setup()
        from channels.consumer import AsyncConsumer
        from ops.middleware import OpsMiddleware
        from tests.integration.plain_websockets import Client
        class Dying(AsyncConsumer):
            async def websocket_connect(self, message):
                await self.channel_layer.group_add("room", self.channel_name)
                await self.send({"type": "websocket.accept"})
            async def websocket_disconnect(self, message):
                raise KeyError
        async def come_and_go():
            client = Client(OpsMiddleware(Dying.as_asgi()))
            await client.connect()
            with contextlib.suppress(KeyError):
                await client.leave()
        asyncio.run(come_and_go())
    """
    env = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "REDIS_URL": redis_server.url,
        "CHANNEL_BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
    }
    argv = [sys.executable, "-W", "ignore", "-c", source]
    done = subprocess.run(argv, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
