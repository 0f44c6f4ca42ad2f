"""The disconnect log is never in the application's way, and sees each layer that it has as it is."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from typing import Any

import pytest
import redis
from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer
from channels.layers import channel_layers
from channels_redis.core import RedisChannelLayer
from django.conf import LazySettings

from ops.application.disconnects import connection
from ops.application.disconnects import recorder as disconnect_recorder
from ops.application.observation import open_websockets
from ops.middleware import DisconnectLogMiddleware
from ops.model.disconnects.record import Disconnect, parse_json
from project.embedded_redis import EmbeddedRedis
from project.settings import channel_layer
from tests.conftest import REPOSITORY, STOCK_LAYER, StartRedis, point_settings_to
from tests.integration.plain_websockets import Client, wait_for_close
from tests.waiting import COMES_ABOUT_WITHIN_SECONDS, until


def records_in(client: redis.Redis, prefix: str = "asgi") -> list[Disconnect]:
    found = [parse_json(fields[b"d"]) for _, fields in client.xrange(f"{prefix}:ops:disconnects")]
    return [one for one in found if one is not None]


async def come_and_go(application: Any, count: int) -> None:
    for number in range(count):
        client = Client(application, path=f"/{number}/")
        await client.connect()
        await client.leave()


async def test_while_redis_is_away_records_wait_and_what_is_dropped_is_counted(
    start_redis: StartRedis, settings: LazySettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(disconnect_recorder, "QUEUE_LENGTH", 5)
    server = point_settings_to(start_redis(), settings)
    application = DisconnectLogMiddleware(wait_for_close)
    server.kill()
    await come_and_go(application, 4)
    await until(lambda: "cannot be written" in caplog.text)
    await come_and_go(application, 4)
    server.start()
    with redis.Redis.from_url(server.url) as client:
        await until(lambda: len(records_in(client)) == 5)
        assert [one.dropped_before for one in records_in(client)] == [3, 0, 0, 0, 0]
        await come_and_go(application, 1)
        await until(lambda: len(records_in(client)) == 6)
        assert records_in(client)[-1].dropped_before == 0
    told = [record.getMessage() for record in caplog.records if record.name == "ops.middleware"]
    assert len(told) == 3
    assert "those that come now are dropped" in told[1]
    assert told[0].startswith("the disconnect log cannot be written; up to 5 records wait (ConnectionError: ")
    assert told[2] == "the disconnect log is written again; 3 records were dropped so far"


async def test_who_waits_is_told_in_whatever_loop(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, channel_layer: RedisChannelLayer
) -> None:
    """The task that writes is in one loop; so may be a consumer that ends, or it is in one of its own."""
    recorder = disconnect_recorder.Recorder(channel_layer, 100)
    recorder.put(Disconnect(1.0, "client_left", "websocket", "middleware"))
    too_long = 2 * COMES_ABOUT_WITHIN_SECONDS
    elsewhere = asyncio.to_thread(asyncio.run, recorder.written(too_long))
    await asyncio.wait_for(asyncio.gather(elsewhere, recorder.written(too_long)), COMES_ABOUT_WITHIN_SECONDS)
    assert len(records_in(redis_client)) == 1
    await asyncio.wait_for(recorder.written(too_long), COMES_ABOUT_WITHIN_SECONDS)  # There is nothing left.


async def test_what_redis_refuses_is_said_and_does_no_harm(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    redis_client.set("asgi:ops:disconnects", "not a stream")
    await come_and_go(DisconnectLogMiddleware(wait_for_close), 3)
    await until(lambda: "WRONGTYPE" in caplog.text)
    redis_client.delete("asgi:ops:disconnects")
    await until(lambda: len(records_in(redis_client)) == 3)


async def test_the_stream_is_capped(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, settings: LazySettings
) -> None:
    settings.CHANNELS_OPS = {"DISCONNECT_LOG_LENGTH": 100}
    await come_and_go(DisconnectLogMiddleware(wait_for_close), 500)
    await until(lambda: "/499/" in {one.path for one in records_in(redis_client)})
    # Whole nodes of 100 entries are cut.
    assert 100 <= redis_client.xlen("asgi:ops:disconnects") <= 200


@pytest.mark.parametrize("backend", [STOCK_LAYER, "channels.layers.InMemoryChannelLayer", None])
async def test_without_a_stream_nothing_is_written(
    backend: str | None, redis_server: EmbeddedRedis, redis_client: redis.Redis, settings: LazySettings
) -> None:
    if backend is None:
        settings.CHANNEL_LAYERS = {}
    elif backend == STOCK_LAYER:
        settings.CHANNELS_OPS = {"DISCONNECT_LOG_STREAM": False}
    else:
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend}}
    await come_and_go(DisconnectLogMiddleware(wait_for_close), 3)
    assert not [task for task in asyncio.all_tasks() if "disconnect log" in task.get_name()]
    assert redis_client.keys() == []


@pytest.mark.parametrize("value", [5, ["DISCONNECT_LOG_STREAM"], "DISCONNECT_LOG_STREAM"])
async def test_settings_that_are_no_dict_keep_nobody_from_connecting(
    value: Any, redis_server: EmbeddedRedis, redis_client: redis.Redis, settings: LazySettings
) -> None:
    settings.CHANNELS_OPS = value
    await come_and_go(DisconnectLogMiddleware(wait_for_close), 1)
    await until(lambda: len(records_in(redis_client)) == 1)


async def test_consumers_that_do_not_end_are_recorded_all_the_same_and_once(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.05)
    end = asyncio.Event()

    async def hang(scope: Any, receive: Any, send: Any) -> None:
        await wait_for_close(scope, receive, send)
        await end.wait()

    clients = [Client(DisconnectLogMiddleware(hang)) for _ in range(2)]
    for client in clients:
        await client.connect()
    for client in clients:  # One after the other: the second is still to be waited for when it is time for the first.
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.leave(1001), 0.01)
    await until(lambda: len(records_in(redis_client)) == 2)
    end.set()
    for client in clients:
        assert client.task is not None
        await client.task
    await come_and_go(DisconnectLogMiddleware(wait_for_close), 1)
    await until(lambda: len(records_in(redis_client)) == 3)
    assert [one.cause for one in records_in(redis_client)] == ["going_away", "going_away", "normal"]


class SecondLayer(RedisChannelLayer):
    """As an application may have: with group names of its own."""

    async def group_add(self, group: str, channel: str, *, loudly: bool = False) -> str:
        await super().group_add(group.upper() if loudly else group, channel)
        return "added"


class SecondConsumer(AsyncConsumer):
    channel_layer_alias = "second"

    async def websocket_connect(self, message: Any) -> None:
        first = channel_layers["default"]
        assert await self.channel_layer.group_add(group="a", channel=self.channel_name, loudly=True) == "added"
        assert await self.channel_layer.group_add("b", self.channel_name) == "added"
        await self.channel_layer.group_discard("a", self.channel_name)
        other = await first.new_channel()
        await first.group_add("not-its-own", other)
        await self.send({"type": "websocket.accept"})

    async def websocket_disconnect(self, message: Any) -> None:
        raise StopConsumer


class JoiningConsumer(AsyncConsumer):
    async def websocket_connect(self, message: Any) -> None:
        await self.channel_layer.group_add("room", self.channel_name)
        await self.send({"type": "websocket.accept"})

    async def websocket_disconnect(self, message: Any) -> None:
        raise StopConsumer


async def test_each_layer_is_observed_once_and_does_what_it_did(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, settings: LazySettings
) -> None:
    first = channel_layer(STOCK_LAYER, [redis_server.url], None)
    second = channel_layer(f"{__name__}.SecondLayer", [redis_server.url], "second")
    settings.CHANNEL_LAYERS = {"default": first, "second": second, "broken": {"BACKEND": "no.such.Layer"}}
    untouched = SecondLayer(**second["CONFIG"])
    consumer = SecondConsumer.as_asgi()
    for _ in range(3):
        await come_and_go(DisconnectLogMiddleware(DisconnectLogMiddleware(consumer)), 1)
    await until(lambda: len(records_in(redis_client, "second")) == 3)
    for one in records_in(redis_client, "second"):
        assert (one.layer, one.groups, one.consumer) == ("second", ("b",), f"{__name__}.SecondConsumer")
        assert redis_client.zscore("second:group:b", str(one.channel)) is not None
    assert records_in(redis_client) == []
    assert "group_add" not in vars(untouched)
    assert channel_layers["second"].group_add.__closure__ is not None
    assert open_websockets() == []


async def test_a_channel_that_was_made_on_the_way_to_the_consumer_is_not_kept(
    redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    consumer, made = JoiningConsumer.as_asgi(), []

    async def with_a_channel_of_its_own(scope: Any, receive: Any, send: Any) -> None:
        layer = channel_layers["default"]
        made.append(await layer.new_channel())
        await layer.group_add("of-the-way", made[-1])
        await consumer(scope, receive, send)

    await come_and_go(DisconnectLogMiddleware(with_a_channel_of_its_own), 3)
    await until(lambda: len(records_in(redis_client)) == 3)
    for one in records_in(redis_client):
        assert one.consumer == f"{__name__}.JoiningConsumer"
        assert one.channel not in made
        assert redis_client.zscore("asgi:group:room", str(one.channel)) is not None
        assert "room" in one.groups
    assert open_websockets() == []


async def accept_and_hang(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await asyncio.sleep(60)


async def test_a_consumer_that_is_cancelled_after_its_client_left_is_not_the_end_of_a_server(
    redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    """Daphne cancels a consumer that takes too long after the websocket has ended, and goes on."""
    application = DisconnectLogMiddleware(accept_and_hang)
    for number, codes in enumerate([[1001], [1001, 1006], []]):
        client = Client(application, path=f"/{number}/")
        await client.connect()
        client.say("unread")
        for code in codes:
            client.hang_up(code)
        assert client.task is not None
        client.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await client.task
    await until(lambda: len(records_in(redis_client)) == 3)
    found = {one.path: (one.cause, one.closed_by, one.code) for one in records_in(redis_client)}
    left = ("going_away", "client", 1001)
    assert found == {"/0/": left, "/1/": left, "/2/": ("shutdown_cancelled", "shutdown", None)}


def run_ending_process(how: str, server: EmbeddedRedis) -> None:
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "project.settings", "REDIS_URL": server.url}
    argv = [sys.executable, "-m", "tests.integration.ending_process", how]
    done = subprocess.run(argv, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, ""), done
    # That its coroutine was pending is asyncio's word, and this process's own fault.
    assert "could not be recorded" not in done.stderr
    assert "ends.py" not in done.stderr


def test_what_a_process_takes_with_it_is_written_at_its_exit_and_not_at_its_childs(
    redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    run_ending_process("exit", redis_server)
    [one] = records_in(redis_client)
    assert (one.path, one.cause, one.closed_by) == ("/ws/open/", "process_exit", "shutdown")


def test_what_a_loop_cancels_at_its_end_is_written_without_the_help_of_the_process(
    redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    run_ending_process("loop", redis_server)
    found = {one.path: one.cause for one in records_in(redis_client)}
    assert found == {"/ws/other/": "normal", "/ws/open/": "shutdown_cancelled"}


def test_the_lines_are_json_and_others_stay_as_they_are() -> None:
    from ops.output.disconnect_lines import JsonFormatter

    one = Disconnect(at=1e9, cause="normal")
    said = logging.LogRecord("ops.disconnects", logging.INFO, "", 1, "ended: %s", ("normal",), None)
    formatter = JsonFormatter("%(message)s")
    assert formatter.format(said) == "ended: normal"
    said.disconnect = one
    assert parse_json(formatter.format(said)) == one
