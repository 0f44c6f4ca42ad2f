"""Private and undocumented names of other libraries.

Each use has a function here, which names the library and its versions. ``tests/unit/test_compat.py`` checks every name
on the installed versions and says what depends on it. Overrides stay in their subclasses:

================  ====================================================  ==================================  =========
library           name                                                  used for                            versions
================  ====================================================  ==================================  =========
channels_redis    ``core.RedisChannelLayer._brpop_with_clean``          ops.layers: pops that outlive       4.2, 4.3
                                                                        outages and cancelled consumers
channels_redis    ``core.RedisChannelLayer._clean_receive_backup``      ops.layers: no backup of an inbox   4.2, 4.3
channels_redis    ``core.RedisChannelLayer``: ``create_pool``,          ops.layers: the drop-in layer       4.2, 4.3
                  ``close_pools``, ``flush`` and the methods of the
                  channel layer specification
redis             ``asyncio.connection.AbstractConnection``:            application.layer.connections:      5 to 8
                  ``pack_command``, ``send_packed_command``,            one alarm for all time limits
                  ``read_response``
channels          ``consumer.AsyncConsumer``: ``__call__``,             ops.consumers: the heartbeat        4.2, 4.3
                  ``dispatch``                                          mixin
================  ====================================================  ==================================  =========

Texts of exceptions and log lines that ``ops.model`` matches stay there, since the model imports nothing.

Third-party modules are imported inside functions: a command loads none that it does not use.
"""

import asyncio
import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    pass

# Tested versions


class VersionRange(NamedTuple):
    """Versions of a library that the tests run with, both bounds included: ``(8,)`` covers every 8.x.

    ``module``: the one with ``__version__``; empty for Python.
    """

    library: str
    module: str
    lowest: tuple[int, ...]
    highest: tuple[int, ...]

    @property
    def installed(self) -> str:
        if not self.module:
            return ".".join(map(str, sys.version_info[:3]))
        # importlib.metadata takes up to 10 ms for each library, and these modules are loaded already.
        return str(getattr(import_module(self.module), "__version__", ""))

    def covers(self, version: str) -> bool:
        """Return whether ``version`` is in the range; True for a version that has no number."""
        numbers = re.match(r"\d+(\.\d+)*", version)
        if numbers is None:
            return True
        parts = tuple(int(part) for part in numbers[0].split("."))
        return self.lowest <= parts and parts[: len(self.highest)] <= self.highest


TESTED_VERSIONS = (
    VersionRange("Python", "", (3, 10), (3, 13)),
    VersionRange("Django", "django", (5, 2), (6, 0)),
    VersionRange("channels", "channels", (4, 2), (4, 3)),
    VersionRange("channels_redis", "channels_redis", (4, 2), (4, 3)),
    VersionRange("redis", "redis", (5,), (8,)),
    VersionRange("hiredis", "hiredis", (3,), (3,)),
)


def untested_versions() -> Iterator[tuple[VersionRange, str]]:
    """The installed versions outside of their range, each with that range."""
    for tested in TESTED_VERSIONS:
        installed = tested.installed
        if not tested.covers(installed):
            yield tested, installed


# Python


def destroy_silently(task: "asyncio.Task[Any]") -> None:
    """Keep asyncio from logging that ``task`` was destroyed while pending.

    ``Task._log_destroy_pending``, Python 3.10 to 3.13: no public name exists, and ``asyncio.gather()`` sets it too. The
    alternative is an exception handler for everything that the loop reports.
    """
    private: Any = task
    private._log_destroy_pending = False


# Django


def stream_of(wrapper: Any) -> Any:
    """The stream inside a command's ``stdout`` or ``stderr``; None if the process was started without one.

    ``OutputWrapper._out``, Django 5.2 and 6.0.
    """
    return wrapper._out


# channels


def is_asked_by_consumer_start() -> bool:
    """Return whether the start of a consumer called the calling ``new_channel()``.

    Relies on ``AsyncConsumer.__call__`` calling ``new_channel()`` itself, channels 4.2 and 4.3. Nothing public
    distinguishes a consumer's own channel from one that a handler or a helper task asks for, and the consumer's task
    must own only the former. So the caller's frame is read, by public names.
    """
    frame = _frame_of_asker()
    return frame is not None and (frame.f_code is _consumer_start() or _consumer_of(frame) is not None)


def consumer_that_starts() -> object | None:
    """Return the consumer of the start that called the calling ``new_channel()``; None for any other caller.

    Prefer ``is_asked_by_consumer_start``, which costs less memory: see ``_consumer_of``.
    """
    frame = _frame_of_asker()
    return None if frame is None else _consumer_of(frame)


def is_called_by_dispatch_loop() -> bool:
    """Return whether a consumer's dispatch loop called the calling ``receive()``.

    ``channels.utils.await_many_dispatch`` calls ``channel_receive`` itself, in the consumer's task, channels 4.2 and
    4.3. Before Python 3.12 its first calls come from a list comprehension, which has a frame of its own.
    """
    frame = inspect.currentframe()
    while frame is not None and (frame.f_globals is globals() or frame.f_code.co_name in ("receive", "<listcomp>")):
        frame = frame.f_back
    return frame is not None and frame.f_code is _dispatch_loop()


@functools.cache
def _dispatch_loop() -> CodeType | None:
    from channels.utils import await_many_dispatch

    return getattr(await_many_dispatch, "__code__", None)


def _frame_of_asker() -> FrameType | None:
    """The first frame outside of this module and of functions called ``new_channel``, which wrap one another."""
    frame = inspect.currentframe()
    while frame is not None and (frame.f_globals is globals() or frame.f_code.co_name == "new_channel"):
        frame = frame.f_back
    return frame


def _consumer_of(frame: FrameType) -> object | None:
    """The consumer that starts in ``frame``, a call of its ``__call__``; None for any other frame.

    Before Python 3.13, reading ``f_locals`` makes a dict that lives as long as the frame, here as long as the
    connection. So it is read only in functions of that name.
    """
    if frame.f_code.co_name != "__call__":
        return None
    from channels.consumer import AsyncConsumer

    consumer = frame.f_locals.get("self")
    return consumer if isinstance(consumer, AsyncConsumer) else None


@functools.cache
def _consumer_start() -> CodeType | None:
    from channels.consumer import AsyncConsumer

    return getattr(AsyncConsumer.__call__, "__code__", None)


def mute(consumer: Any) -> None:
    """Have ``consumer`` send nothing to its client from now on.

    ``AsyncConsumer.base_send``, channels 4.2 and 4.3. Only for sync consumers, which call it without ``await``.
    """
    consumer.base_send = lambda message: None


def require_channel_name(layer: Any, name: str) -> bool:
    """Return True for a valid channel name; raise TypeError for any other.

    ``BaseChannelLayer.require_valid_channel_name`` since channels 4.2.1; before, ``valid_channel_name``.
    """
    check: Callable[[str], bool] = getattr(layer, "require_valid_channel_name", None) or layer.valid_channel_name
    return check(name)


def require_group_name(layer: Any, name: str) -> bool:
    """Return True for a valid group name; raise TypeError for any other.

    ``BaseChannelLayer.require_valid_group_name`` since channels 4.2.1; before, ``valid_group_name``.
    """
    check: Callable[[str], bool] = getattr(layer, "require_valid_group_name", None) or layer.valid_group_name
    return check(name)


def channel_consumers(application: Any) -> dict[str, type | None]:
    """The consumer classes of a project's general channels, by channel name; None for other applications.

    ``ProtocolTypeRouter.application_mapping``, ``ChannelNameRouter.application_mapping`` and the ``consumer_class`` of
    ``as_asgi()``, channels 4.2 and 4.3. Raises AttributeError, KeyError or TypeError if ``application`` is built in
    another way.
    """
    router = application.application_mapping["channel"]
    return {name: getattr(app, "consumer_class", None) for name, app in dict(router.application_mapping).items()}


# channels_redis: RedisChannelLayer


def group_key(layer: Any, group: str) -> Any:
    """The Redis key of a group: ``RedisChannelLayer._group_key``, channels_redis 4.2 and 4.3."""
    return layer._group_key(group)


def next_send_index(layer: Any) -> int:
    """The shard for the next message to a general channel.

    ``RedisChannelLayer._send_index_generator``, channels_redis 4.2 and 4.3.
    """
    index: int = next(layer._send_index_generator)
    return index


def messages_by_shard(
    layer: Any, channels: Sequence[str], message: Mapping[str, Any]
) -> tuple[Mapping[int, Sequence[str]], Mapping[str, bytes], Mapping[str, int]]:
    """A message to many channels: shard to inbox keys, inbox key to serialized message, inbox key to capacity.

    ``RedisChannelLayer._map_channel_keys_to_connection``, channels_redis 4.2 and 4.3.
    """
    keys, messages, capacities = layer._map_channel_keys_to_connection(channels, message)
    return keys, messages, capacities


def reset_receiving(layer: Any, buffers: dict[str, Any]) -> None:
    """Give ``layer`` the state of a layer on which nothing receives; ``buffers`` makes a channel's queue when asked.

    ``RedisChannelLayer.receive_count``, ``receive_lock``, ``receive_event_loop`` and ``receive_buffer``, in which
    ``receive()`` keeps its waiting coroutines and unread messages, channels_redis 4.2 and 4.3.
    """
    layer.receive_count = 0
    layer.receive_lock = None
    layer.receive_event_loop = None
    layer.receive_buffer = buffers


def forget_receivers(layer: Any) -> None:
    """Give a stock layer new buffers of its own kind. Names as in ``reset_receiving``."""
    before = layer.receive_buffer
    reset_receiving(layer, type(before)(before.default_factory))


def is_receiving(layer: Any) -> bool:
    """Return whether a coroutine waits on ``layer`` or a message is unread. Names as in ``reset_receiving``."""
    return bool(layer.receive_count or layer.receive_buffer)


def receiving_loop(layer: Any) -> asyncio.AbstractEventLoop | None:
    """The event loop in which coroutines wait on ``layer``. Names as in ``reset_receiving``."""
    loop: asyncio.AbstractEventLoop | None = layer.receive_event_loop
    return loop


def drop_buffer(layer: Any, channel: str, *, only_if_empty: bool = False) -> None:
    """Forget the unread messages of ``channel``. Names as in ``reset_receiving``."""
    buffers = layer.receive_buffer
    if channel in buffers and (not only_if_empty or buffers[channel].empty()):
        del buffers[channel]


def encrypts(layer: Any) -> bool:
    """Return whether the messages of ``layer`` are encrypted.

    ``crypter`` of ``_serializer`` since channels_redis 4.2.1; before, of ``RedisChannelLayer`` itself.
    """
    return _crypter_of(layer) is not None


def has_several_keys(layer: Any) -> bool:
    """Return whether ``layer`` decrypts with more than one key, of which the first encrypts.

    ``MultiFernet._fernets``, ``Fernet._signing_key`` and ``Fernet._encryption_key``, cryptography 3 to 50. True if a
    MultiFernet does not have them.
    """
    crypter = _crypter_of(layer)
    fernets = getattr(crypter, "_fernets", None)
    if fernets is None:
        return type(crypter).__name__ == "MultiFernet"
    return len({(getattr(one, "_signing_key", one), getattr(one, "_encryption_key", one)) for one in fernets}) > 1


def encryption_keys(layer: Any) -> list[bytes] | None:
    """The keys that ``layer`` decrypts with; the first encrypts. None if it encrypts and its keys are not known.

    Names as in ``has_several_keys``.
    """
    crypter = _crypter_of(layer)
    if crypter is None:
        return []
    fernets = getattr(crypter, "_fernets", ())
    keys = [one._signing_key + one._encryption_key for one in fernets if hasattr(one, "_signing_key")]
    return keys if keys and len(keys) == len(fernets) else None


def serializer_name(layer: Any) -> str:
    """The name of the serializer of ``layer`` with the length of its random prefix, such as ``MsgPackSerializer/12``.

    ``RedisChannelLayer._serializer`` since channels_redis 4.2.1; ``RedisChannelLayer`` itself serializes before.
    """
    serializer = getattr(layer, "_serializer", None)
    if serializer is None:
        return "MsgPackSerializer/12"
    kind = type(serializer)
    module = "" if kind.__module__ == "channels_redis.serializers" else f"{kind.__module__}."
    return f"{module}{kind.__qualname__}/{getattr(serializer, 'random_prefix_length', 0)}"


def _crypter_of(layer: Any) -> Any:
    return getattr(getattr(layer, "_serializer", layer), "crypter", None)


def clients_of(layer: Any) -> list[Any]:
    """The Redis clients that ``layer`` has made so far, in all event loops.

    ``RedisChannelLayer._layers`` and ``RedisLoopLayer._connections``, channels_redis 4.2 and 4.3. ``close_pools()``
    closes them and not what redis-py keeps beside them.
    """
    return [client for loop_layer in layer._layers.values() for client in loop_layer._connections.values()]


# channels_redis: RedisPubSubChannelLayer. Its __getattr__ passes names on to the RedisPubSubLoopLayer of this loop.


def pubsub_hosts(layer: Any) -> list[Any]:
    """The hosts of a publish/subscribe layer, as ``channels_redis.utils.create_pool`` takes them. In an event loop.

    ``RedisPubSubLoopLayer._shards`` and ``RedisSingleShardConnection.host``, channels_redis 4.2 and 4.3.
    """
    return [shard.host for shard in layer._shards]


def pubsub_shard_of_group(layer: Any, group: str) -> int:
    """The index of the shard on which a group of a publish/subscribe layer is published. In an event loop.

    ``RedisPubSubLoopLayer._shards``, ``_get_shard`` and ``_get_group_channel_name``, channels_redis 4.2 and 4.3.
    """
    index: int = layer._shards.index(layer._get_shard(layer._get_group_channel_name(group)))
    return index


# redis-py


def pool_options(pool: Any) -> dict[str, Any]:
    """The options of the connections that ``pool`` makes; changes apply to new connections.

    ``ConnectionPool.connection_kwargs``, redis-py 5 to 8.
    """
    options: dict[str, Any] = pool.connection_kwargs
    return options


async def take_connection(pool: Any) -> Any:
    """Borrow a connected connection of ``pool``.

    ``ConnectionPool.get_connection()``, which takes a command name before redis-py 5.3.
    """
    try:
        return await pool.get_connection()
    except TypeError:
        return await pool.get_connection("SCAN")


def streams_of(connection: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The streams of a connected ``redis.asyncio`` connection: ``_reader`` and ``_writer``, redis-py 5 to 8."""
    return connection._reader, connection._writer


def abort(connection: Any) -> None:
    """Cut a ``redis.asyncio`` connection, if it is connected: ``_writer``, redis-py 5 to 8."""
    if connection._writer is not None:
        connection._writer.transport.abort()


def address_in_errors(connection: Any) -> str:
    """The server's address as in redis-py's own messages: ``AbstractConnection._host_error()``, redis-py 5 to 8."""
    return str(connection._host_error())


def sentinel_service(pool: Any) -> str | None:
    """The name of the service that ``pool`` asks Sentinels for; None for an ordinary pool.

    ``SentinelConnectionPool.service_name``, redis-py 5 to 8.
    """
    service: str | None = getattr(pool, "service_name", None)
    return service


def sentinels_of(pool: Any) -> Sequence[Any]:
    """The clients of the Sentinels that ``pool`` asks, which closing the pool leaves open; none for an ordinary pool.

    ``SentinelConnectionPool.sentinel_manager`` and ``Sentinel.sentinels``, redis-py 5 to 8.
    """
    manager = getattr(pool, "sentinel_manager", None)
    return manager.sentinels if manager else ()


def set_lock_token(lock: Any, token: bytes) -> None:
    """Have ``lock`` release a lock that was acquired with ``token`` while the answer was lost.

    ``redis.asyncio.lock.Lock.local.token``, redis-py 5 to 8.
    """
    lock.local.token = token


# hiredis


def push_type() -> Any:
    """The type of RESP3 push messages in a reader's replies, for ``isinstance``.

    ``hiredis.PushNotification``, since hiredis 3.1; before, redis-py asked for no push messages: an empty tuple.
    """
    import hiredis

    return getattr(hiredis, "PushNotification", ())


# Servers


def close_code(event: Mapping[str, Any], asgi: Mapping[str, Any]) -> int | None:
    """The close code in a ``websocket.disconnect``: 1005 for a close frame without one, 1006 for no close frame.

    None if the server does not know the code. ``asgi``: that of the scope. Its version of the specification tells the
    servers apart, even if a middleware wraps their callables:

    - None: Daphne 4 has the code None for a close frame without one.
    - 2.4: uvicorn, up to 0.54, has the reason of each close frame, and 1005 without a reason for no close frame.
    - 2.3: Hypercorn 0.18 has 1006 for each end by a client, and Granian 2 has 1005 for each end without a code.
    """
    code, version = event.get("code"), asgi.get("spec_version")
    if version is None:
        code = 1005 if code is None and "code" in event else code
    elif "reason" not in event and code in (1005, 1006):
        code = 1006 if _version(version) >= (2, 4) else None
    return code if isinstance(code, int) else None


def _version(text: object) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", str(text))))


def says_that_socket_is_closed(error: Exception) -> bool:
    """Return whether ``error``, raised by a server's ``send()``, means that the websocket has been closed.

    ASGI 2.4 has servers raise an OSError. Daphne passes on ``autobahn.exception.Disconnected`` while a socket is
    closing. uvicorn, up to 0.54, raises a RuntimeError which says that ``websocket.close`` has been sent, even if only
    uvicorn itself has sent it.
    """
    return (
        isinstance(error, OSError)
        or is_disconnected_in_daphne(error)
        or (isinstance(error, RuntimeError) and "after sending 'websocket.close'" in str(error))
    )


def is_disconnected_in_daphne(error: Exception) -> bool:
    """Return whether ``error`` is raised by Daphne's ``send()`` because the websocket is closing, or closed."""
    return f"{type(error).__module__}.{type(error).__name__}" == "autobahn.exception.Disconnected"


SERVERS = ("daphne", "uvicorn", "hypercorn", "granian")


def server_of(send: Any) -> str:
    """The name of the ASGI server whose ``send`` this is: ``gunicorn`` if it runs uvicorn; empty if it is not known.

    A bound method of uvicorn or Hypercorn, a ``functools.partial`` of one of Daphne, an object of Granian's.
    """
    method = getattr(send, "func", send)
    owner = getattr(method, "__self__", method)
    name = (getattr(type(owner), "__module__", "") or "").lstrip("_").partition(".")[0]
    if name == "uvicorn" and "gunicorn.arbiter" in sys.modules:
        return "gunicorn"
    return name if name in SERVERS else ""
