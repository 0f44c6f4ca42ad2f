"""Writing the disconnect log from inside an application: never in its way.

Records wait in a bounded queue for a task that sends them in batches and ends when there is nothing left to send. While
Redis is away they wait; what the queue cannot hold is dropped, and the next record that is written says how many. Where
Redis took a batch and its answer was lost, that batch is sent again: a record may be there twice, none is lost so.
"""

import asyncio
import contextlib
import logging
import weakref
from collections import deque
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from channels_redis.utils import create_pool
from redis import asyncio as aioredis

from ops import compat
from ops.application.background import start_task
from ops.model.disconnects.record import Disconnect
from ops.model.keys import Keyspace
from ops.model.text import without_secrets
from ops.store.connection.waiting import within
from ops.store.disconnects.log import append_records

logger = logging.getLogger("ops.middleware")

QUEUE_LENGTH = 10_000
# As JSON, a batch of this size takes the event loop a millisecond or two.
BATCH = 100
GATHER_SECONDS = 0.2
SEND_SECONDS = 5.0
IDLE_SECONDS = 5.0
LONGEST_WAIT_SECONDS = 5.0
END_SECONDS = 2.0


class Recorder:
    """The queue of one layer's stream, and whoever empties it."""

    def __init__(self, layer: Any, length: int) -> None:
        """``length``: about how many entries the stream keeps."""
        self._layer = layer
        self._length = length
        self._queue: deque[Disconnect] = deque()
        self._task: asyncio.Task[None] | None = None
        self._wake: asyncio.Event | None = None
        self._sending = False
        self._away = False
        self._waiting: deque[Future[None]] = deque()
        self.dropped = 0
        self._dropped_unsaid = 0
        _recorders.add(self)

    @property
    def holds_something(self) -> bool:
        """Whether anything waits to be written."""
        return bool(self._queue)

    def put(self, record: Disconnect) -> None:
        """Take a record to be written soon, by a task of the loop that runs; where none does, at exit."""
        if len(self._queue) >= QUEUE_LENGTH:
            self.dropped += 1
            self._dropped_unsaid += 1
        else:
            self._queue.append(record)
        with contextlib.suppress(RuntimeError):
            self._keep_running(asyncio.get_running_loop())

    def _keep_running(self, loop: asyncio.AbstractEventLoop) -> None:
        task = self._task
        if task is None or task.done() or task.get_loop() is not loop:
            self._wake = asyncio.Event()
            self._task = start_task(self._work(self._wake), "disconnect log")
        elif self._wake is not None:
            self._wake.set()

    async def written(self, timeout_seconds: float) -> None:
        """Wait until all is written, Redis is known to be away, or time is up. For whoever is about to end."""
        with contextlib.suppress(asyncio.TimeoutError):
            await within(timeout_seconds, self._until_empty())

    async def _until_empty(self) -> None:
        while self._is_to_be_written:
            # Who waits may be in another loop than the task that writes (Daphne's, or async_to_sync's), and an
            # asyncio.Event wakes those of its own loop only.
            attempted: Future[None] = Future()
            self._waiting.append(attempted)
            if self._is_to_be_written:  # still, now that the task will tell
                await asyncio.wrap_future(attempted)

    @property
    def _is_to_be_written(self) -> bool:
        return bool(self._queue or self._sending) and not self._away

    def _tell_who_waits(self) -> None:
        while self._waiting:
            attempted = self._waiting.popleft()
            if attempted.set_running_or_notify_cancel():  # unless its time was up
                attempted.set_result(None)

    async def _work(self, wake: asyncio.Event) -> None:
        client = redis_of(self._layer)
        wait = GATHER_SECONDS
        try:
            while self._task is asyncio.current_task():
                await asyncio.sleep(wait)
                wake.clear()
                wait = GATHER_SECONDS if await self._send_all(client) else min(wait * 2, LONGEST_WAIT_SECONDS)
                self._tell_who_waits()
                if not self._queue:
                    try:
                        await within(IDLE_SECONDS, wake.wait())
                    except asyncio.TimeoutError:
                        return
        except asyncio.CancelledError:
            # The loop ends, and in the same moment consumers that are cancelled with it.
            with contextlib.suppress(Exception):
                await asyncio.sleep(GATHER_SECONDS)
                await within(END_SECONDS, self._send_all(client))
            self._say_lost()
            raise
        finally:
            self._tell_who_waits()
            with contextlib.suppress(Exception):
                await client.aclose(close_connection_pool=True)

    async def _send_all(self, client: Any) -> bool:
        """Send what waits; whether Redis took it. What it refuses is kept: a full one has room again some day."""
        key = Keyspace(str(self._layer.prefix)).disconnects
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            dropped, self._sending = self._dropped_unsaid, True
            batch[0] = replace(batch[0], dropped_before=dropped)
            try:
                await within(SEND_SECONDS, append_records(client, key, batch, self._length))
            except BaseException as error:
                batch[0] = replace(batch[0], dropped_before=0)
                self._queue.extendleft(reversed(batch))
                if not isinstance(error, Exception):
                    raise
                self._say_away(error)
                return False
            finally:
                self._sending = False
            self._dropped_unsaid -= dropped
        self._say_back()
        return True

    def _say_away(self, error: Exception) -> None:
        if not self._away:
            self._away = True
            logger.warning(
                "the disconnect log cannot be written; up to %d records wait (%s: %s)",
                QUEUE_LENGTH,
                type(error).__name__,
                without_secrets(str(error))[:200],
            )

    def _say_back(self) -> None:
        if self._away:
            self._away = False
            logger.warning("the disconnect log is written again; %d records were dropped so far", self.dropped)

    def _say_lost(self) -> None:
        if self._queue:
            logger.warning("%d records of the disconnect log could not be written in time", len(self._queue))

    async def write_the_rest(self) -> None:
        """Write what waits. For the end of the process, whose loops have ended."""
        client = redis_of(self._layer)
        try:
            await self._send_all(client)
        finally:
            self._say_lost()
            await client.aclose(close_connection_pool=True)

    def begin_in_child(self) -> None:
        """This process was forked: what waits is its parent's."""
        self._queue.clear()
        self._task, self._wake, self._sending = None, None, False
        self._waiting.clear()


def has_stream(layer: Any) -> bool:
    """Whether ``layer`` has a Redis to keep a log in."""
    return isinstance(layer, (RedisChannelLayer, RedisPubSubChannelLayer))


def redis_of(layer: Any) -> Any:
    """A client of the first shard, with connections of its own."""
    if isinstance(layer, RedisPubSubChannelLayer):
        pool = create_pool(compat.pubsub_hosts(layer)[0])
    else:
        pool = layer.create_pool(0)
    return aioredis.Redis(connection_pool=pool)


_recorders: "weakref.WeakSet[Recorder]" = weakref.WeakSet()


def begin_in_child() -> None:
    """Call in a child of a fork."""
    for recorder in list(_recorders):
        recorder.begin_in_child()


def write_the_rest() -> Coroutine[Any, Any, None] | None:
    """What is to be done at exit, where no loop runs any more: to write what waits, if anything does."""
    recorders = [recorder for recorder in _recorders if recorder.holds_something]
    return _write_all(recorders) if recorders else None


async def _write_all(recorders: list[Recorder]) -> None:
    await asyncio.gather(*(recorder.write_the_rest() for recorder in recorders), return_exceptions=True)
