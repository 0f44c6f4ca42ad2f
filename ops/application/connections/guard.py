"""A send to a client that has left is not an error for the consumer, which goes on to its ``websocket.disconnect``.

A client has left once the server's own ``send`` has raised an OSError, as ASGI asks servers to, or once its
``websocket.disconnect`` has come. Some servers raise other errors, also after the application's own close. These are
swallowed only if the application has not closed the websocket. No conclusion is drawn from the text of an error.

A handler that sends in a loop must end some day. So sends raise again after 5 s: any send if the server raises, and
only those of a stream if it raises nothing. A consumer that has been told of the end is never interrupted.
"""

import asyncio
import contextlib
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from channels.exceptions import StopConsumer

from ops import compat
from ops.application.observation import Application, websocket_of

logger = logging.getLogger("ops.middleware")

SWALLOW_SECONDS = 5.0
"""For how long sends are swallowed. Later ones raise, or a handler that sends in a loop would never end."""
STREAM_GAP_SECONDS = 0.5
"""Sends that follow each other more slowly are not a stream."""
TOLD_WITHIN_SECONDS = 1.0
"""The time that the server has to tell the end of a client after its ``send`` has raised."""
PAUSE_SHARE = 0.01
"""The pause in a swallowed send, as a share of the time since the first one; of 5 s at most."""
READ_AHEAD_SECONDS = 1.0
"""The time without a read after which events are read ahead: some servers drop sends silently."""
MOST_AHEAD = 100
MOST_CHARACTERS_AHEAD = 1_000_000
"""The limits of reading ahead: messages, and their characters or bytes."""
HEARD_WITHIN_SECONDS = 0.05
NO_CLOSE_FRAME = 1006

Message = MutableMapping[str, Any]


class ClientLeft(OSError):
    """The client has left, and the server raises nothing that says so."""


def guarded(
    application: Application, *, swallows: bool = True, clock: Callable[[], float] = time.monotonic
) -> Application:
    """``application``, with websockets that may send to clients that have left, and that can be closed from outside.

    Without ``swallows``, their sends raise as the server's do. ``clock``: seconds.
    """

    async def guard_websocket(scope: Mapping[str, Any], receive: Any, send: Any) -> Any:
        websocket = websocket_of(scope)
        if websocket is None or not websocket.takes("guard"):
            return await application(scope, receive, send)
        guard = Guard(receive, send, clock)
        websocket.close = guard.close
        websocket.hear_of_consumer = guard.watch
        try:
            return await application(scope, guard.receive, guard.send if swallows else guard.send_as_the_server)
        except ClientLeft as error:
            if error is not guard.raised:
                raise
        finally:
            guard.stop()

    return guard_websocket


class Guard:
    """Stands between the server and one application.

    ``left``: the ``websocket.disconnect``, once it is known. ``raised``: what a send raised last after 5 s.
    """

    __slots__ = (
        "_ahead",
        "_alarm",
        "_clock",
        "_closed",
        "_closed_from_outside",
        "_consumers",
        "_disconnecting",
        "_handlers",
        "_interrupted",
        "_made_up",
        "_read_at",
        "_reader",
        "_reading_ahead",
        "_receive",
        "_send",
        "_server_raises",
        "_streams_since",
        "_swallowed_at",
        "_swallowed_last",
        "_told",
        "left",
        "raised",
    )

    def __init__(self, receive: Any, send: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._receive = receive
        self._send = send
        self._clock = clock
        self._read_at = clock()
        self._reader: asyncio.Task[Any] | None = None  # that waits in receive()
        self._interrupted: set[asyncio.Task[Any]] = set()
        self._ahead: deque[Any] = deque()
        self._reading_ahead: asyncio.Task[None] | None = None
        # When sends were swallowed: first, last, and since when without a gap.
        self._swallowed_at: float | None = None
        self._swallowed_last = self._streams_since = 0.0
        self._server_raises = False
        self._alarm: asyncio.TimerHandle | None = None
        self._closed = False  # by the application
        self._closed_from_outside: Mapping[str, Any] | None = None
        # What stands for the server's own websocket.disconnect: before it was passed on, and after.
        self._made_up: str | None = None
        self._told = False
        self._consumers: list[Any] = []
        self._handlers: list[asyncio.Task[Any]] = []  # in which consumers handle what has come
        self._disconnecting = 0  # consumers that run their disconnect()
        self.left: Mapping[str, Any] | None = None
        self.raised: Exception | None = None

    # Consumers

    def watch(self, consumer: Any) -> None:
        """Note when ``consumer``, which starts, runs its ``disconnect()``, and have it run if a send ends a handler."""
        dispatch = consumer.dispatch

        async def dispatch_and_see(message: Any) -> None:
            if message.get("type") == "websocket.disconnect":
                await self._disconnect(dispatch, message)
                return
            handler = asyncio.current_task()
            assert handler is not None
            self._handlers.append(handler)
            try:
                await dispatch(message)
            except Exception as error:
                if self.raised is not None and _comes_from(error, self.raised):
                    with contextlib.suppress(StopConsumer):
                        await self._disconnect(dispatch, dict(self.left or _ended_without_close_frame()))
                raise
            finally:
                self._handlers.remove(handler)

        consumer.dispatch = dispatch_and_see
        self._consumers.append(consumer)

    async def _disconnect(self, dispatch: Any, event: Any) -> None:
        self._disconnecting += 1
        try:
            await dispatch(event)
        finally:
            self._disconnecting -= 1

    @property
    def _is_ending(self) -> bool:
        """Whether the application acts on the end of the client. What it cleans up is not to be cut off."""
        return self._disconnecting > 0 if self._consumers else self._told

    # Sending

    async def send(self, message: Message) -> None:
        """As the server's, but after the client has left it raises no OSError for a while."""
        if self.left is not None:
            await self._swallow(None)
            return
        if self._reader is None and self._reading_ahead is None and self._clock() - self._read_at >= READ_AHEAD_SECONDS:
            # A handler that sends in a loop. While it does, nothing would hear that the client has left.
            self._read_ahead()
        try:
            await self._send(message)
            self._closed = self._closed or message["type"] == "websocket.close"
        except asyncio.CancelledError:
            if not self._has_interrupted(asyncio.current_task()):
                raise
            await self._swallow(None)
        except Exception as error:
            if not await self._means_that_the_client_left(error):
                raise
            await self._swallow(error)

    async def _means_that_the_client_left(self, error: Exception) -> bool:
        if isinstance(error, OSError):
            return True
        if self._closed:
            return False
        if self._closed_from_outside is not None:  # It is closed for sure, whatever the server calls it.
            return True
        if not isinstance(error, RuntimeError):
            return False
        # uvicorn raises RuntimeErrors after its own close, and has sent the websocket.disconnect before.
        reading = self._reader or self._reading_ahead or self._read_ahead()
        if reading is not None:
            await asyncio.wait({reading}, timeout=HEARD_WITHIN_SECONDS)
        return self.left is not None or compat.is_disconnected_in_daphne(error)

    async def _swallow(self, error: Exception | None) -> None:
        now = self._clock()
        if self._swallowed_at is None:
            self._swallowed_at = now
            self._set_alarm()
        if now - self._swallowed_last >= STREAM_GAP_SECONDS:
            self._streams_since = now
        self._swallowed_last = now
        self._server_raises = self._server_raises or error is not None
        since = self._swallowed_at if self._server_raises else self._streams_since
        if now - since >= SWALLOW_SECONDS and not self._is_ending:
            self._raise(error)
        # A handler that sends in a loop is not to keep the event loop, or a processor, to itself.
        await asyncio.sleep(min(now - self._swallowed_at, SWALLOW_SECONDS) * PAUSE_SHARE)

    def _raise(self, error: Exception | None) -> None:
        if self.raised is None:
            logger.info("a handler that goes on sending to a client that has left is ended")
        self.raised = error or ClientLeft("the client has left")
        raise self.raised

    async def send_as_the_server(self, message: Message) -> None:
        """As the server's, but raises ClientLeft if that waits for a client that has left."""
        try:
            await self._send(message)
            self._closed = self._closed or message["type"] == "websocket.close"
        except asyncio.CancelledError:
            if not self._has_interrupted(asyncio.current_task()):
                raise
            self._raise(None)

    # Interrupting what waits

    def _interrupt(self, waiting: "asyncio.Task[Any] | None") -> None:
        if waiting is not None and not waiting.done():
            self._interrupted.add(waiting)
            waiting.cancel()

    def _interrupt_senders(self) -> None:
        """Have the handlers go on that wait until a client that has left reads what they send."""
        for handler in self._handlers:
            if _waits_for_the_server(handler):
                self._interrupt(handler)

    def _has_interrupted(self, task: "asyncio.Task[Any] | None") -> bool:
        """Return whether the CancelledError that ``task`` has caught comes from the guard alone."""
        if task is None or task not in self._interrupted:
            return False
        self._interrupted.discard(task)
        # Python 3.10 cannot tell whether anything else has cancelled it, too.
        return sys.version_info < (3, 11) or task.uncancel() == 0

    async def close(self, code: int, reason: str) -> None:
        """Close the websocket. The application is told so as if its client had."""
        if self.left is not None or self._closed or self._closed_from_outside is not None:
            return
        self._closed_from_outside = {"type": "websocket.disconnect", "code": code, "reason": reason}
        self._set_alarm()
        with contextlib.suppress(Exception):  # The client may have left meanwhile, which the server tells then.
            await self._send({"type": "websocket.close", "code": code, "reason": reason})

    # Receiving

    async def receive(self) -> Any:
        """As the server's. If that does not tell the end of a client to which it cannot send, this does."""
        self._reader = reader = asyncio.current_task()
        try:
            event = await self._next()
        except asyncio.CancelledError:
            if not self._has_interrupted(reader):
                raise
            self._made_up, event = "told", self.left
        finally:
            self._reader, self._read_at = None, self._clock()
        self._told = self._told or event["type"] == "websocket.disconnect"
        return event

    async def _next(self) -> Any:
        while True:
            if self._ahead:
                event = self._ahead.popleft()
            elif self._made_up == "to be told":
                self._made_up = "told"
                return self.left
            elif self._reading_ahead is not None:
                await asyncio.wait({self._reading_ahead})
                continue
            else:
                event = await self._take()
            # The end that was made up may come after all. Nobody is told twice.
            if self._made_up != "told" or event["type"] != "websocket.disconnect":
                return event

    async def _take(self) -> Any:
        event = await self._receive()
        if event["type"] == "websocket.disconnect":
            self.left = self.left or event
            self._stop_alarm()
            if self._handlers:
                asyncio.get_running_loop().call_later(TOLD_WITHIN_SECONDS, self._interrupt_senders)
        return event

    def _read_ahead(self) -> "asyncio.Task[None] | None":
        if self._has_room_ahead:
            self._reading_ahead = asyncio.get_running_loop().create_task(self._take_ahead())
            compat.destroy_silently(self._reading_ahead)
        return self._reading_ahead

    async def _take_ahead(self) -> None:
        """Take events until the client has left, while nothing waits for them."""
        try:
            # An error of the server's is raised again for whoever asks next.
            with contextlib.suppress(Exception):
                while self._has_room_ahead:
                    event = await self._take()
                    self._ahead.append(event)
                    if self._reader is not None or event["type"] == "websocket.disconnect":
                        break
        finally:
            self._reading_ahead = None

    @property
    def _has_room_ahead(self) -> bool:
        characters = sum(len(event.get("text") or event.get("bytes") or "") for event in self._ahead)
        return len(self._ahead) < MOST_AHEAD and characters < MOST_CHARACTERS_AHEAD

    def _make_up_the_end(self) -> None:
        """The server has had its time."""
        if self.left is None:
            self.left = self._closed_from_outside or _ended_without_close_frame()
            self._made_up = "to be told"
            self._interrupt(self._reader)
            self._interrupt_senders()

    def _set_alarm(self) -> None:
        if self.left is None and self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_later(TOLD_WITHIN_SECONDS, self._make_up_the_end)

    def _stop_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def stop(self) -> None:
        """The application has ended."""
        self._stop_alarm()
        self._told = False  # What it has left running may be ended.
        for consumer in self._consumers:
            vars(consumer).pop("dispatch", None)
        self._consumers.clear()  # or the garbage collector has a circle to find
        if self._reading_ahead is not None:
            self._reading_ahead.cancel()


def _ended_without_close_frame() -> Message:
    return {"type": "websocket.disconnect", "code": NO_CLOSE_FRAME}


def _comes_from(error: BaseException, cause: BaseException) -> bool:
    """Whether ``error`` is ``cause``, was raised from it or while it was handled, or is a group with such an error."""
    seen: set[int] = set()
    open_ends: list[BaseException | None] = [error]
    while open_ends:
        one = open_ends.pop()
        if one is cause:
            return True
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            open_ends += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
    return False


_SENDS = {Guard.send.__code__, Guard.send_as_the_server.__code__}
_PAUSES = {Guard._swallow.__code__, Guard._means_that_the_client_left.__code__}


def _waits_for_the_server(task: "asyncio.Task[Any]") -> bool:
    """Whether ``task`` waits in the server's ``send``, which it awaits itself."""
    waiting: Any = task.get_coro()
    while waiting is not None:
        inner = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)
        if getattr(waiting, "cr_code", None) in _SENDS:
            return getattr(inner, "cr_code", None) not in _PAUSES
        waiting = inner
    return False
