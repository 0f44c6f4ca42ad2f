"""The contract with other libraries: every private or undocumented name that ops relies on, on the installed versions.

A row that fails names the library, its installed version, the name, and the part of ops that breaks.
"""

from __future__ import annotations

import ast
import asyncio
import collections
import contextlib
import functools
import gc
import importlib.metadata
import importlib.util
import inspect
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timezone
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import hiredis
import pytest
import redis
from channels import layers as channels_layers
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.exceptions import StopConsumer
from channels.layers import InMemoryChannelLayer, channel_layers
from channels.routing import ChannelNameRouter, ProtocolTypeRouter
from channels_redis import core, pubsub
from channels_redis.utils import create_pool, decode_hosts
from django.core.management.base import OutputWrapper
from redis import asyncio as aioredis
from redis.asyncio import connection as redis_connection
from redis.asyncio import sentinel as redis_sentinel
from redis.asyncio.lock import Lock

from ops import compat
from ops.application.layer.connections import watched
from ops.layers import RedisChannelLayer
from ops.model.disconnects import conclusions
from ops.model.disconnects.cause import POP_SECONDS
from ops.model.disconnects.logs import daphne, uvicorn
from ops.model.disconnects.logs.tracebacks import _UVICORN_WEBSOCKET as UVICORN_WEBSOCKET
from ops.model.doctor.findings.agreement import _TWO_LOOPS as TWO_LOOPS
from ops.model.keys import Keyspace
from tests.waiting import until

OPS = Path(__file__).resolve().parent.parent.parent / "ops"
HOST = "redis://127.0.0.1:1"  # Nothing listens there; no row connects.


@dataclass(frozen=True)
class Row:
    """``breaks``: the part of ops that relies on ``name``. ``holds`` raises anything if ``name`` is not as expected."""

    library: str
    name: str
    breaks: str
    holds: Callable[[], Any]


ROWS: list[Row] = []


def row(library: str, name: str, breaks: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def add(holds: Callable[[], Any]) -> Callable[[], Any]:
        ROWS.append(Row(library, name, breaks, holds))
        return holds

    return add


def version_of(library: str) -> str:
    if library == "python":
        return compat.TESTED_VERSIONS[0].installed
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def broken(one: Row) -> str | None:
    """The failure message of a row; None if it holds."""
    try:
        found = one.holds()
        if inspect.iscoroutine(found):
            asyncio.run(found)
    except Exception as error:
        return (
            f"{one.library} {version_of(one.library)} has changed {one.name}: {type(error).__name__}: {error}\n"
            f"What breaks: {one.breaks}"
        )
    return None


def takes(function: Callable[..., Any], *names: str) -> None:
    """Expect parameters that begin with ``names``, in this order."""
    found = list(inspect.signature(function).parameters)
    assert tuple(found[: len(names)]) == names, f"it takes ({', '.join(found)}), not ({', '.join(names)}, …)"


def says(source: object, *texts: str) -> None:
    """Expect each of ``texts`` in the source of a module, class or function."""
    code = inspect.getsource(source)
    assert not [text for text in texts if text not in code], f"it no longer says {texts}"


def stock(**options: Any) -> Any:
    return core.RedisChannelLayer(hosts=[HOST, HOST], **options)


def installed(module: str) -> ModuleType:
    """A module of a server, which a project need not have."""
    return pytest.importorskip(module)


# Python


@row("python", "inspect.currentframe", "the drop-in layer and the disconnect log know no consumer of a channel")
def _() -> None:
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_code.co_name == "_"
    assert frame.f_locals["frame"] is frame


@row("python", "asyncio.Task._log_destroy_pending", "asyncio logs 'Task was destroyed' when a process exits")
def _() -> None:
    def complaints(*, silently: bool) -> list[str]:
        said: list[str] = []
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda loop, context: said.append(context["message"]))
        task = loop.create_task(asyncio.Event().wait())
        loop.run_until_complete(asyncio.sleep(0))
        if silently:
            compat.destroy_silently(task)
        del task
        gc.collect()
        loop.close()
        return said

    assert complaints(silently=False) == ["Task was destroyed but it is pending!"]
    assert complaints(silently=True) == []


# Django


@row("django", "OutputWrapper._out", "commands write no output")
def _() -> None:
    stream = io.StringIO()
    assert compat.stream_of(OutputWrapper(stream)) is stream


# channels


@row("channels", "AsyncConsumer.__call__ calls new_channel()", "members of consumers that are gone are not discarded")
async def _() -> None:
    seen: dict[str, Any] = {}

    class Layer(InMemoryChannelLayer):
        async def new_channel(self, prefix: str = "specific") -> str:
            seen["start"], seen["consumer"] = compat.is_asked_by_consumer_start(), compat.consumer_that_starts()
            name: str = await super().new_channel(prefix)
            return name

    class Consumer(AsyncConsumer):
        channel_layer_alias = "contract"

        async def ask(self, message: dict[str, Any]) -> None:
            await self.channel_layer.new_channel()
            seen["handler"] = (seen["start"], seen["consumer"])
            raise StopConsumer

    alias_before = channel_layers.set("contract", layer := Layer())
    try:
        await layer.new_channel()
        assert (seen["start"], seen["consumer"]) == (False, None)
        consumer, at_start = Consumer(), {}

        async def receive() -> dict[str, Any]:
            at_start.update(seen)
            return {"type": "ask"}

        await consumer({"type": "websocket"}, receive, None)
    finally:
        channel_layers.backends.pop("contract")
        if alias_before is not None:
            channel_layers.set("contract", alias_before)
    assert at_start == {"start": True, "consumer": consumer}
    assert seen["handler"] == (False, None)
    assert consumer.channel_name
    assert consumer.channel_layer is layer


@row("channels", "utils.await_many_dispatch()", "members of consumers that are gone are not discarded")
async def _() -> None:
    class Layer(InMemoryChannelLayer):
        def receive(self, channel: str) -> Any:
            seen.append(compat.is_called_by_dispatch_loop())
            return super().receive(channel)

    class Consumer(AsyncConsumer):
        channel_layer_alias = "contract"

        async def said(self, message: dict[str, Any]) -> None:
            await self.receive()

        async def receive(self) -> None:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.channel_layer.receive("other"), 0.01)

        async def stop(self, message: dict[str, Any]) -> None:
            raise StopConsumer

    seen: list[bool] = []
    alias_before = channel_layers.set("contract", layer := Layer())
    try:
        consumer = Consumer()
        running = asyncio.create_task(consumer({}, asyncio.Event().wait, None))
        await until(lambda: hasattr(consumer, "channel_receive"))
        for message in ("said", "stop"):
            await layer.send(consumer.channel_name, {"type": message})
        await asyncio.wait_for(running, 30)
    finally:
        channel_layers.set("contract", alias_before)
        if alias_before is None:
            del channel_layers.backends["contract"]
    # At its start, in a handler, and after that.
    assert seen == [True, False, True]


@row("channels", "AsyncConsumer.__call__, dispatch", "HeartbeatMixin in ops.consumers")
def _() -> None:
    takes(AsyncConsumer.__call__, "self", "scope", "receive", "send")
    takes(AsyncConsumer.dispatch, "self", "message")
    takes(SyncConsumer.dispatch, "self", "message")


@row("channels", "AsyncConsumer.base_send", "disconnect() of sync consumers waits for a loop that has ended")
def _() -> None:
    consumer = SyncConsumer()
    compat.mute(consumer)
    assert consumer.send({"type": "websocket.close"}) is None


@row("channels", "BaseChannelLayer.require_valid_…_name", "the drop-in layer sends nothing; replay_disconnects --emit")
def _() -> None:
    for layer in (stock(), InMemoryChannelLayer()):
        assert compat.require_channel_name(layer, "specific.x!y") is True
        assert compat.require_group_name(layer, "room") is True
        for check in (compat.require_channel_name, compat.require_group_name):
            with pytest.raises(TypeError):
                check(layer, "not a name!")


@row("channels", "…Router.application_mapping, consumer_class", "replay_disconnects --emit sends to no worker")
def _() -> None:
    consumer = type("Consumer", (SyncConsumer,), {})
    router = ProtocolTypeRouter({"channel": ChannelNameRouter({"work": consumer.as_asgi(), "other": print})})
    assert compat.channel_consumers(router) == {"work": consumer, "other": None}


@row("channels", "layers.channel_layers.configs, make_backend", "every command and system check")
def _() -> None:
    assert isinstance(channel_layers, channels_layers.ChannelLayerManager)
    assert isinstance(channel_layers.configs, dict)
    takes(channel_layers.make_backend, "name")


@row("channels", "'No handler for message type'", "the cause no_handler of the disconnect log")
async def _() -> None:
    with pytest.raises(ValueError, match="No handler") as raised:
        await AsyncConsumer().dispatch({"type": "no.such"})
    assert conclusions.cause_of_exception(conclusions.describe_exception(raised.value)) == "no_handler"


# channels_redis: RedisChannelLayer


@row("channels_redis", "RedisChannelLayer._brpop_with_clean", "the drop-in layer receives nothing")
def _() -> None:
    takes(core.RedisChannelLayer._brpop_with_clean, "self", "index", "channel", "timeout")
    takes(RedisChannelLayer._brpop_with_clean, "self", "index", "channel", "timeout")
    says(core.RedisChannelLayer.receive_single, "self._brpop_with_clean(", "timeout=self.brpop_timeout")


@row("channels_redis", "RedisChannelLayer._clean_receive_backup", "an outage ends consumers of the drop-in layer")
def _() -> None:
    takes(core.RedisChannelLayer._clean_receive_backup, "self", "index", "channel")
    takes(RedisChannelLayer._clean_receive_backup, "self", "index", "channel")
    says(core.RedisChannelLayer.receive_single, "self._clean_receive_backup(index, channel_key)")


@row("channels_redis", "RedisChannelLayer: overridden methods", "the drop-in layer is no drop-in")
def _() -> None:
    for name in ("create_pool", "send", "group_send", "group_add", "group_discard", "flush", "close_pools", "receive"):
        takes(getattr(RedisChannelLayer, name), *inspect.signature(getattr(core.RedisChannelLayer, name)).parameters)
    takes(core.RedisChannelLayer.new_channel, "self", "prefix")
    says(core.RedisLoopLayer, ".create_pool(")


@row("channels_redis", "RedisChannelLayer: attributes", "the drop-in layer and every command")
def _() -> None:
    layer = stock()
    assert (layer.prefix, layer.expiry, layer.group_expiry, layer.ring_size) == ("asgi", 60, 86400, 2)
    assert re.fullmatch("[0-9a-f]{32}", layer.client_prefix)
    assert layer.brpop_timeout == POP_SECONDS
    assert layer.non_local_name("specific.x!y") == "specific.x!"
    assert layer.get_capacity("specific.x!y") == layer.capacity == 100
    assert {layer.consistent_hash(f"room-{number}") for number in range(50)} == {0, 1}
    assert layer.consistent_hash("room") == layer.consistent_hash(b"room")
    assert layer.deserialize(layer.serialize({"type": "a"})) == {"type": "a"}
    assert core.logger.name == core.__name__


@row("channels_redis", "RedisChannelLayer._group_key", "groups cannot be joined, repaired or read")
def _() -> None:
    assert compat.group_key(stock(), "room") == Keyspace("asgi").group("room")


@row("channels_redis", "RedisChannelLayer._send_index_generator", "send() to general channels")
def _() -> None:
    layer = stock()
    assert [compat.next_send_index(layer) for _ in range(3)] == [0, 1, 0]


@row("channels_redis", "RedisChannelLayer._map_channel_keys_to_connection", "group_send() of the drop-in layer")
def _() -> None:
    layer = stock(capacity=7)
    channels = ["specific.x!a", "specific.x!b"]
    keys, messages, capacities = compat.messages_by_shard(layer, channels, {"type": "a"})
    [inbox] = [key for of_shard in keys.values() for key in of_shard]
    assert inbox == "asgispecific.x!"
    assert layer.deserialize(messages[inbox]) == {"type": "a", "__asgi_channel__": channels}
    assert capacities[inbox] == 7


@row("channels_redis", "RedisChannelLayer.receive_count, …_lock, …_event_loop, …_buffer", "receivers mix up messages")
def _() -> None:
    layer = stock()
    assert (layer.receive_count, layer.receive_lock, layer.receive_event_loop) == (0, None, None)
    assert isinstance(layer.receive_buffer, collections.defaultdict)
    assert isinstance(layer.receive_buffer["specific.x!y"], asyncio.Queue)
    assert compat.is_receiving(layer)
    compat.drop_buffer(layer, "specific.x!y", only_if_empty=True)
    assert not compat.is_receiving(layer)
    before = set(vars(layer))
    compat.reset_receiving(layer, asyncio.Queue)
    assert set(vars(layer)) == before, "receive() has another attribute"
    assert compat.receiving_loop(layer) is None


@row("channels_redis", "RedisChannelLayer.receive() and its attributes", "receivers mix up messages")
async def _() -> None:
    layer: Any = stock()
    channel = await layer.new_channel()
    layer.receive_buffer[channel].put_nowait({"type": "waiting"})
    assert await layer.receive(channel) == {"type": "waiting"}
    assert not compat.is_receiving(layer)
    layer.receive_count, layer.receive_event_loop = 1, object()
    with pytest.raises(RuntimeError) as raised:
        await layer.receive(channel)
    assert TWO_LOOPS[0] in str(raised.value)


@row("channels_redis", "receive() drops a message for no channel", "probes reach consumers, or prove no process live")
async def _() -> None:
    class Layer(core.RedisChannelLayer):
        async def _brpop_with_clean(self, index: int, channel: str, timeout: float) -> Any:
            return self.serialize(messages.popleft())

        async def _clean_receive_backup(self, index: int, channel: str) -> None:
            pass

    layer: Any = Layer(hosts=[HOST])
    channel = await layer.new_channel()
    probe, real = {"type": "probe", "__asgi_channel__": []}, {"type": "real", "__asgi_channel__": [channel]}
    messages = collections.deque([probe, real])
    assert (await layer.receive(channel))["type"] == "real"
    assert not compat.is_receiving(layer)


@row("channels_redis", "RedisChannelLayer._backup_channel_name", "in-flight messages of dead processes are not found")
def _() -> None:
    backup = stock()._backup_channel_name("asgispecific.x!")
    assert backup.encode() == Keyspace("asgi").inflight("specific.x!")


@row("channels_redis", "_serializer.crypter", "probes of a host with a wrong clock end consumers")
def _() -> None:
    assert compat.encrypts(stock(symmetric_encryption_keys=["secret"]))
    assert not compat.encrypts(stock())


@row(
    "cryptography",
    "MultiFernet._fernets, Fernet._signing_key, Fernet._encryption_key",
    "probes during a rotation of keys end consumers",
)
def _() -> None:
    assert compat.has_several_keys(stock(symmetric_encryption_keys=["new", "old"]))
    assert not compat.has_several_keys(stock(symmetric_encryption_keys=["secret"]))
    assert not compat.has_several_keys(stock(symmetric_encryption_keys=["secret", "secret"]))
    assert not compat.has_several_keys(stock())


@row("channels_redis", "RedisChannelLayer._layers, RedisLoopLayer._connections", "commands leave connections open")
async def _() -> None:
    layer = stock()
    assert compat.clients_of(layer) == []
    client = layer.connection(1)
    assert compat.clients_of(layer) == [client]
    assert isinstance(client, aioredis.Redis)
    takes(core.RedisChannelLayer.connection, "self", "index")


@row("channels_redis", "utils.create_pool, decode_hosts", "system checks; commands on publish/subscribe layers")
def _() -> None:
    [decoded] = decode_hosts([HOST])
    assert decoded == {"address": HOST}
    pool = create_pool(decoded)
    assert compat.pool_options(pool)["port"] == 1


# channels_redis: RedisPubSubChannelLayer


@row("channels_redis", "RedisPubSubLoopLayer.prefix, _shards, host", "commands on publish/subscribe layers")
async def _() -> None:
    layer = pubsub.RedisPubSubChannelLayer(hosts=[HOST, HOST], prefix="chat")
    assert layer.prefix == "chat"
    assert compat.pubsub_hosts(layer) == [{"address": HOST}, {"address": HOST}]


@row(
    "channels_redis", "RedisPubSubLoopLayer._get_shard, _get_group_channel_name", "--emit and census of pub/sub groups"
)
async def _() -> None:
    layer: Any = pubsub.RedisPubSubChannelLayer(hosts=[HOST, HOST])
    assert {compat.pubsub_shard_of_group(layer, f"room-{number}") for number in range(50)} == {0, 1}
    assert layer._get_group_channel_name("room") == "asgi__group__room"


# redis-py


@row("redis", "AbstractConnection.pack_command, send_packed_command, read_response", "watched connections")
def _() -> None:
    base = redis_connection.AbstractConnection
    takes(base.pack_command, "self", "args")
    takes(base.send_packed_command, "self", "command", "check_health")
    takes(base.read_response, "self", "disable_decoding", "timeout")
    takes(base.disconnect, "self", "nowait")
    for kind in (
        redis_connection.Connection,
        redis_connection.SSLConnection,
        redis_connection.UnixDomainSocketConnection,
    ):
        assert issubclass(kind, base)
    connection = watched(redis_connection.Connection)(socket_timeout=3)
    assert connection.socket_timeout == 3
    assert b"".join(connection.pack_command("EVALSHA", "sha", 0)) == b"*3\r\n$7\r\nEVALSHA\r\n$3\r\nsha\r\n$1\r\n0\r\n"


@row("redis", "AbstractConnection._reader, _writer", "the census cannot read; connections outlive their time limit")
def _() -> None:
    connection = redis_connection.Connection()
    assert compat.streams_of(connection) == (None, None)
    compat.abort(connection)
    says(redis_connection.AbstractConnection, "self._reader", "self._writer")
    says(
        redis_connection.Connection._connect,
        "asyncio.open_connection(",
        "self._reader = reader",
        "self._writer = writer",
    )


@row("redis", "AbstractConnection._host_error", "a time-out is not reported as redis-py reports it")
def _() -> None:
    assert compat.address_in_errors(redis_connection.Connection(host="redis.internal", port=7)) == "redis.internal:7"


@row("redis", "ConnectionPool.get_connection", "the census cannot connect")
def _() -> None:
    for kind in (redis_connection.ConnectionPool, redis_connection.BlockingConnectionPool):
        bound = inspect.signature(kind.get_connection)
        with_name = [name for name in list(bound.parameters)[1:2] if name != "command_name"]
        assert with_name == [], f"get_connection() takes {with_name}"
        takes(kind.release, "self", "connection")


@row(
    "redis", "ConnectionPool.connection_kwargs, connection_class", "no time limit and no keepalive in the drop-in layer"
)
def _() -> None:
    pool = aioredis.ConnectionPool.from_url("redis://h:7/2")
    compat.pool_options(pool)["socket_timeout"] = 4
    pool.connection_class = watched(pool.connection_class)
    connection = pool.make_connection()
    assert type(connection) is pool.connection_class
    assert connection.socket_timeout == 4
    assert (connection.host, connection.port, connection.db) == ("h", 7, 2)
    assert aioredis.Redis(connection_pool=pool).connection_pool is pool


@row("redis", "SentinelConnectionPool.service_name, sentinel_manager", "connections to Sentinels stay open")
def _() -> None:
    sentinel = redis_sentinel.Sentinel([("h", 1)])
    pool = redis_sentinel.SentinelConnectionPool("primary", sentinel)
    assert compat.sentinel_service(pool) == "primary"
    assert compat.sentinels_of(pool) == sentinel.sentinels
    assert all(hasattr(client, "aclose") for client in sentinel.sentinels)
    ordinary = aioredis.ConnectionPool()
    assert compat.sentinel_service(ordinary) is None
    assert compat.sentinels_of(ordinary) == ()


@row("redis", "lock.Lock.local.token", "a cancelled run leaves the lock of the layer for half a minute")
async def _() -> None:
    class Recording(Lock):
        released: bytes | None = None

        async def do_release(self, expected_token: bytes) -> None:
            self.released = expected_token

    lock = Recording(aioredis.Redis(), "lock", timeout=1, blocking=False, thread_local=False)
    assert isinstance(lock.local, SimpleNamespace)
    compat.set_lock_token(lock, b"token")
    await lock.release()
    assert lock.released == b"token"


@row("redis", "texts of failures", "causes of the disconnect log")
def _() -> None:
    says(redis_connection, "Timeout reading from ", "Timeout connecting to server", "Timeout writing to socket")
    says(redis_connection, " while writing to socket. ", "Error while reading from ")
    said = import_module("redis._parsers.socket").SERVER_CLOSED_CONNECTION_ERROR
    for error, cause in (
        (redis.TimeoutError("Timeout reading from h:1"), "redis_timeout"),
        (redis.ConnectionError(said), "redis_connection_lost"),
        (redis.ConnectionError("Error UNKNOWN while writing to socket. Connection lost."), "redis_connection_lost"),
        (redis.ResponseError("OOM"), "redis_error"),
    ):
        assert conclusions.cause_in_redis(conclusions.describe_exception(error)) == cause


@row("redis", "text of MasterNotFoundError", "messages about Sentinels grow long")
def _() -> None:
    says(redis_sentinel, 'f"No master found for {service_name!r}{error_info}"', 'error_info = f" : {')


# hiredis


@row("hiredis", "Reader, pack_command, ReplyError, PushNotification", "the census and the scripts of the drop-in layer")
def _() -> None:
    missing = object()
    reader = hiredis.Reader(notEnoughData=missing, replyError=hiredis.ReplyError)
    assert reader.gets() is missing
    reader.feed(b"-ERR no\r\n$1\r\na\r\n")
    assert isinstance(reader.gets(), hiredis.ReplyError)
    assert reader.gets() == b"a"
    assert hiredis.pack_command((b"GET", "key", 1)) == b"*3\r\n$3\r\nGET\r\n$3\r\nkey\r\n$1\r\n1\r\n"
    reader.feed(b">1\r\n$1\r\na\r\n")
    pushed = reader.gets()
    assert compat.push_type() == () or isinstance(pushed, compat.push_type())
    assert not isinstance([b"a"], compat.push_type())


# Servers


def source_in_uvicorn(name: str) -> Path:
    """The file of one of uvicorn's websocket protocols, whether or not it can be imported."""
    installed("uvicorn")
    spec = importlib.util.find_spec(f"uvicorn.protocols.websockets.{name}")
    assert spec is not None
    return Path(str(spec.origin))


@row("uvicorn", "'after sending 'websocket.close''", "HeartbeatMixin raises after a websocket was closed")
def _() -> None:
    for name in ("websockets_impl", "websockets_sansio_impl", "wsproto_impl"):
        assert "after sending 'websocket.close'" in source_in_uvicorn(name).read_text("utf-8"), name
    said = "Unexpected ASGI message 'websocket.send', after sending 'websocket.close'."
    assert compat.says_that_socket_is_closed(RuntimeError(said))


@row("uvicorn", "protocols.utils.ClientDisconnected", "clients that left are recorded as failures of the application")
def _() -> None:
    error = installed("uvicorn.protocols.utils").ClientDisconnected()
    assert compat.says_that_socket_is_closed(error)


@row("uvicorn", "spec_version, reason of websocket.disconnect", "the disconnect log confuses closed and cut websockets")
def _() -> None:
    for name in ("websockets_impl", "websockets_sansio_impl", "wsproto_impl"):
        source = source_in_uvicorn(name).read_text("utf-8")
        assert '"spec_version": "2.4"' in source, name
        assert re.search(r'"websocket\.disconnect", "code": [^}]+, "reason": ', source.replace("\n", "")), name
    assert compat.close_code({"code": 1005}, {"spec_version": "2.4"}) == 1006
    assert compat.close_code({"code": 1005, "reason": ""}, {"spec_version": "2.4"}) == 1005


@row("hypercorn", "spec_version, code of websocket.disconnect", "the disconnect log confuses closed and cut websockets")
def _() -> None:
    stream = installed("hypercorn.protocol.ws_stream")
    says(stream, '"spec_version": "2.3"', "CloseReason.ABNORMAL_CLOSURE.value")
    assert compat.close_code({"code": 1006}, {"spec_version": "2.3"}) is None


@row("granian", "spec_version, code of websocket.disconnect", "the disconnect log confuses closed and cut websockets")
def _() -> None:
    # What its Rust part says of an end is in tests/acceptance/test_disconnect_log.py.
    installed("granian")
    assert compat.close_code({"code": 1005}, {"spec_version": "2.3"}) is None


@row("uvicorn", "log lines and file names", "replay_disconnects reads nothing from uvicorn's log")
def _() -> None:
    code = source_in_uvicorn("websockets_impl")
    assert UVICORN_WEBSOCKET.search(str(code))
    source = code.read_text("utf-8")
    assert all(text in source for text in ("'%s - \"WebSocket %s\" [accepted]'", "'%s - \"WebSocket %s\" %d'"))
    assert uvicorn.find('127.0.0.1:1 - "WebSocket /ws" [accepted]', timezone.utc) is not None


@row("autobahn", "exception.Disconnected", "sends raise under Daphne while a websocket is closing")
def _() -> None:
    error = installed("autobahn.exception").Disconnected("gone")
    assert compat.says_that_socket_is_closed(error)
    assert compat.is_disconnected_in_daphne(error)
    assert not compat.says_that_socket_is_closed(RuntimeError("anything else"))


@row("daphne", "no spec_version, code None of websocket.disconnect", "the disconnect log does not know ordinary ends")
def _() -> None:
    protocol = inspect.getsource(installed("daphne.ws_protocol"))
    assert '{"type": "websocket.disconnect", "code": code}' in protocol
    assert "spec_version" not in protocol + inspect.getsource(installed("daphne.server"))
    assert compat.close_code({"code": None}, {"version": "3.0"}) == 1005
    assert compat.close_code({"code": 1006}, {"version": "3.0"}) == 1006


@row("daphne", "the access log's lines", "replay_disconnects reads nothing from Daphne's log")
def _() -> None:
    log = io.StringIO()
    generator = installed("daphne.access").AccessLogGenerator(log)
    for action in ("connecting", "connected", "rejected", "disconnected"):
        generator("websocket", action, {"client": "127.0.0.1:1", "path": "/ws"})
    parsed = [daphne.find(line, timezone.utc) for line in log.getvalue().splitlines()]
    assert [line and line.verb for line in parsed] == ["connecting", "connected", "rejected", "ended"]


@pytest.mark.parametrize("one", ROWS, ids=lambda one: f"{one.library}: {one.name}")
def test_the_installed_version_is_as_ops_expects_it(one: Row) -> None:
    message = broken(one)
    assert message is None, message


def test_a_row_that_fails_says_which_version_broke_what() -> None:
    def wants_another_signature() -> None:
        takes(AsyncConsumer.__call__, "self", "other")

    message = broken(Row("channels", "no_such_name", "the drop-in layer", wants_another_signature)) or ""
    assert message.startswith(
        f"channels {version_of('channels')} has changed no_such_name: AssertionError: "
        f"it takes (self, scope, receive, send), not (self, other, …)"
    )
    assert message.endswith("What breaks: the drop-in layer")


# Versions


@pytest.mark.parametrize("tested", compat.TESTED_VERSIONS, ids=lambda tested: tested.library)
def test_a_version_is_read_without_its_metadata(tested: compat.VersionRange) -> None:
    assert tested.installed
    if tested.module:
        assert tested.installed == importlib.metadata.version(tested.library)


def test_the_versions_that_run_this_test_are_tested() -> None:
    assert list(compat.untested_versions()) == []


@pytest.mark.parametrize(
    ("version", "covered"),
    [
        ("4.1.9", False),
        ("4.2", True),
        ("4.2.0", True),
        ("4.3.99", True),
        ("4.4", False),
        ("4.4.0rc1", False),
        ("4", False),
        ("5.0", False),
        ("10.0", False),
        ("", True),
        ("unknown", True),
    ],
)
def test_a_range_covers_every_version_of_its_last_series(version: str, covered: bool) -> None:
    assert compat.VersionRange("x", "x", (4, 2), (4, 3)).covers(version) is covered


def test_a_range_of_majors_covers_each_of_their_versions() -> None:
    redis_py = compat.VersionRange("redis", "redis", (5,), (8,))
    assert [redis_py.covers(version) for version in ("4.6", "5.0.1", "8.1.0", "8.99", "9.0.0b1")] == [
        False, True, True, True, False,
    ]  # fmt: skip


# No private name elsewhere

# Overrides of private methods, which call the overridden one.
OVERRIDES = {"_brpop_with_clean", "_clean_receive_backup"}
ALLOWED = {
    ("model/disconnects/cause.py", "_value_"),  # documented: how a member of an enum gets its value
    ("application/layer/keeper.py", "_keeper"),  # of the drop-in layer, by its own task
    ("store/disconnects/log_files.py", "_Decompress"),  # in an annotation; zlib's type has no other name
}


# The documented methods of named tuples.
OF_NAMED_TUPLES = {"_replace", "_asdict", "_fields"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in OF_NAMED_TUPLES


def defined_names(tree: ast.AST) -> set[str]:
    """The private names that a module defines: functions, variables, class attributes, attributes of self."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own_object(node.value):
            found.add(node.attr)
    return {name for name in found if is_private(name)}


def is_own_object(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def named_attributes(tree: ast.AST) -> Iterator[tuple[ast.expr | None, str]]:
    """Each attribute that is read or set, also by ``getattr`` and its like, and each name that is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.value, node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("attr"):
            of, *words = node.args
            yield from ((of, word.value) for word in words[:1] if isinstance(word, ast.Constant))
        elif isinstance(node, ast.ImportFrom) and not str(node.module).startswith("ops"):
            yield from ((None, part) for alias in node.names for part in f"{node.module}.{alias.name}".split("."))


def foreign_private_names(path: str, source: str, of_ops: set[str]) -> set[str]:
    """Private names that ``source`` uses of other libraries. ``of_ops``: the private names of all modules of ops."""
    tree = ast.parse(source)
    here = defined_names(tree)
    wrong = set()
    for value, name in named_attributes(tree):
        if not is_private(name) or (path, name) in ALLOWED:
            continue
        of_super = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "super"
        known = OVERRIDES if of_super else of_ops if value is not None and is_own_object(value) else here
        if name not in known:
            wrong.add(name)
    return wrong


SOURCES = {path.relative_to(OPS).as_posix(): path.read_text("utf-8") for path in sorted(OPS.rglob("*.py"))}


@functools.cache
def private_names_of_ops() -> set[str]:
    """Read when it is first asked for: each process that hands tests out or runs them imports this module."""
    return set().union(*(defined_names(ast.parse(source)) for source in SOURCES.values()))


@pytest.mark.parametrize("path", [path for path in SOURCES if path != "compat.py"])
def test_no_module_but_compat_uses_private_names_of_others(path: str) -> None:
    assert foreign_private_names(path, SOURCES[path], private_names_of_ops()) == set()


def test_this_rule_finds_what_it_forbids() -> None:
    def found(source: str) -> set[str]:
        return foreign_private_names("x.py", source, {"_own"})

    assert found("layer._shards") == {"_shards"}
    assert found("self._own\nself._reader") == {"_reader"}
    assert found("getattr(layer, '_serializer', None)") == {"_serializer"}
    assert found("hasattr(layer, '_serializer')\nsetattr(task, '_log', 1)") == {"_serializer", "_log"}
    assert found("sys._getframe(1)\nself.connection._writer") == {"_getframe", "_writer"}
    assert found("from channels_redis.utils import _close_redis") == {"_close_redis"}
    assert found("from redis._parsers import x\nsuper()._pack(1)\nsuper()._brpop_with_clean()") == {"_parsers", "_pack"}
    assert found("class A:\n    def _reset(self): ...\nother._reset()\nother.__class__") == set()


def test_each_private_name_in_compat_has_a_row() -> None:
    """Every private attribute that compat touches is named by a row."""
    used = {name for _, name in named_attributes(ast.parse(SOURCES["compat.py"])) if is_private(name)}
    rows = " ".join(one.name for one in ROWS)
    assert {name for name in used if name not in rows} == set()
