"""Work for Redis from inside an application, done in batches in the background: the application never waits for it.

Items wait in a bounded queue for a task that sends them in batches and ends when nothing is left. While Redis is away
they wait; those that find the queue full are dropped, counted and reported. If Redis took a batch and the reply was
lost, the batch is sent again.

A process may have several event loops, each in a thread of its own: Daphne's, and those of ``async_to_sync``. One task
in one of them sends for all.
"""

import asyncio
import contextlib
import logging
import threading
import weakref
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, ClassVar, Generic, TypeVar

from ops.application.background import start_task
from ops.application.process_exit import seconds_left
from ops.model.text import without_secrets
from ops.store.connection.backends import backend_of
from ops.store.connection.waiting import within

logger = logging.getLogger("ops.middleware")

# As JSON, a batch of this size takes the event loop a millisecond or two.
BATCH = 100
GATHER_SECONDS = 0.2
SEND_SECONDS = 5.0
IDLE_SECONDS = 5.0
LONGEST_WAIT_SECONDS = 5.0
END_SECONDS = 2.0

T = TypeVar("T")


class Outbox(Generic[T]):
    """A queue for one server of one layer, and the task that empties it. Subclasses say how a batch is sent."""

    # Log lines: Redis is away (room in the queue, error); it is back (dropped items); the end came first (items left);
    # the queue is full (room in it).
    AWAY: ClassVar[str]
    BACK: ClassVar[str]
    LOST: ClassVar[str]
    FULL: ClassVar[str] = ""

    def __init__(self, layer: Any, shard: int, room: int | None = None) -> None:
        """``room``: how many items may wait; None for all."""
        self.layer = layer
        self.backend = backend_of(layer)
        self._shard = shard
        self._room = room
        self._queue: deque[T] = deque()
        self._task: asyncio.Task[None] | None = None
        self._wake: asyncio.Event | None = None
        self._lock = threading.RLock()  # put() may be called again in the same thread, by the garbage collector
        self._ending = False  # with its loop, which is the task's
        self._sending = 0  # batches
        self._away = self._full = False
        self._waiting: deque[Future[None]] = deque()
        self.dropped = 0
        _outboxes.add(self)

    async def _send(self, client: Any, batch: Sequence[T]) -> None:
        """Send ``batch`` over ``client``, a client of the shard; None for a layer without Redis."""
        raise NotImplementedError

    @property
    def holds_something(self) -> bool:
        """Whether anything waits to be sent."""
        return bool(self._queue)

    def put(self, item: T) -> None:
        """Take an item to be sent soon, by a task of the loop that runs; at exit if none does."""
        with self._lock:
            if self._room is None or len(self._queue) < self._room:
                self._queue.append(item)
            else:
                self._drop()
            with contextlib.suppress(RuntimeError):
                self._keep_running(asyncio.get_running_loop())

    def _drop(self) -> None:
        self.dropped += 1
        if not self._full:
            self._full = True
            logger.warning(self.FULL, self._room)

    def _keep_running(self, loop: asyncio.AbstractEventLoop) -> None:
        task = self._task
        if task is None or self._wake is None or not self._works(task, loop):
            self._wake, self._ending = asyncio.Event(), False
            self._task = start_task(self._work(self._wake), "outbox")
        elif task.get_loop() is loop:
            self._wake.set()
        else:
            task.get_loop().call_soon_threadsafe(self._wake.set)

    def _works(self, task: "asyncio.Task[None]", loop: asyncio.AbstractEventLoop) -> bool:
        """Whether ``task`` sends what is put in ``loop``, its own one or another."""
        if task.done() or not task.get_loop().is_running():
            return False
        return task.get_loop() is loop or not self._ending

    async def written(self, timeout_seconds: float) -> None:
        """Wait until all is sent, Redis is known to be away, or time is up. For the end of the process."""
        with contextlib.suppress(asyncio.TimeoutError):
            await within(min(timeout_seconds, seconds_left()), self._until_empty())

    async def _until_empty(self) -> None:
        while self._is_to_be_sent:
            # Who waits may be in another loop than the task that sends (Daphne's, or async_to_sync's), and an
            # asyncio.Event wakes those of its own loop only.
            attempted: Future[None] = Future()
            self._waiting.append(attempted)
            if self._is_to_be_sent:  # still, now that the task will tell
                await asyncio.wrap_future(attempted)

    @property
    def _is_to_be_sent(self) -> bool:
        return bool(self._queue or self._sending) and not self._away

    def _tell_who_waits(self) -> None:
        while self._waiting:
            attempted = self._waiting.popleft()
            if attempted.set_running_or_notify_cancel():  # unless its time was up
                attempted.set_result(None)

    async def _work(self, wake: asyncio.Event) -> None:
        client = self.backend.new_client(self._shard)
        wait = GATHER_SECONDS
        try:
            while self._task is asyncio.current_task():
                await asyncio.sleep(wait)
                wake.clear()
                wait = GATHER_SECONDS if await self._send_all(client) else min(wait * 2, LONGEST_WAIT_SECONDS)
                self._tell_who_waits()
                if not self._queue:
                    with contextlib.suppress(asyncio.TimeoutError):
                        await within(IDLE_SECONDS, wake.wait())
                        continue
                    if self._rests():
                        return
        except asyncio.CancelledError:
            self._ending = True
            # The loop ends, and in the same moment consumers that are cancelled with it.
            with contextlib.suppress(Exception):
                left = seconds_left()
                await asyncio.sleep(min(GATHER_SECONDS, left))
                await within(min(END_SECONDS, left), self._send_all(client))
            self._say_lost()
            raise
        finally:
            self._tell_who_waits()
            await close_client(client)

    def _rests(self) -> bool:
        """Whether the task has nothing to do, and may end: the next item starts another one."""
        with self._lock:
            if not self._queue:
                self._task = None
            return self._task is None

    def _take(self, most: int) -> list[T]:
        with self._lock:
            return [self._queue.popleft() for _ in range(min(most, len(self._queue)))]

    def _put_back(self, batch: Sequence[T]) -> None:
        with self._lock:
            self._queue.extendleft(reversed(batch))

    async def _send_all(self, client: Any) -> bool:
        """Send what waits; whether Redis took it. What it refuses is kept: a full one has room again some day.

        What comes meanwhile is gathered for the next time, or each reply would be followed by a batch of a few.
        """
        left = len(self._queue)
        while batch := self._take(min(BATCH, left)):
            left -= len(batch)
            self._sending += 1
            try:
                await within(SEND_SECONDS, self._send(client, batch))
            except BaseException as error:
                self._put_back(batch)
                if not isinstance(error, Exception):
                    raise
                self._say_away(error)
                return False
            finally:
                self._sending -= 1
        self._say_back()
        return True

    def _say_away(self, error: Exception) -> None:
        if not self._away:
            self._away = True
            said = f"{type(error).__name__}: {without_secrets(str(error))[:200]}"
            logger.warning(self.AWAY, {"room": self._room, "error": said})

    def _say_back(self) -> None:
        self._full = False
        if self._away:
            self._away = False
            logger.warning(self.BACK, self.dropped)

    def _say_lost(self) -> None:
        if self._queue:
            logger.warning(self.LOST, len(self._queue))

    async def send_the_rest(self) -> None:
        """Send what waits. For the end of the process, whose loops have ended."""
        client = self.backend.new_client(self._shard)
        try:
            await self._send_all(client)
        finally:
            self._say_lost()
            await close_client(client)

    def begin_in_child(self) -> None:
        """This process was forked: what waits is its parent's."""
        self._queue.clear()
        self._task, self._wake, self._sending, self._lock = None, None, 0, threading.RLock()
        self._waiting.clear()


async def close_client(client: Any) -> None:
    """Close a client of ``Backend.new_client``, whatever comes of it."""
    if client is not None:
        with contextlib.suppress(Exception):
            await client.aclose(close_connection_pool=True)


_outboxes: "weakref.WeakSet[Outbox[Any]]" = weakref.WeakSet()


def begin_in_child() -> None:
    """Call in a child of a fork."""
    for outbox in list(_outboxes):
        outbox.begin_in_child()


def send_the_rest(outboxes: Iterable[Outbox[Any]]) -> Coroutine[Any, Any, None] | None:
    """What is to be done at exit, where no loop runs any more: to send what waits, if anything does."""
    waiting = [outbox for outbox in outboxes if outbox.holds_something]
    return _send_all(waiting) if waiting else None


async def _send_all(outboxes: Iterable[Outbox[Any]]) -> None:
    await asyncio.gather(*(outbox.send_the_rest() for outbox in outboxes), return_exceptions=True)
