"""A send to a client that has left is not an error for the consumer, which goes on to its ``websocket.disconnect``.

A client has left once the server's own ``send`` has raised an OSError, as ASGI asks servers to, or once its
``websocket.disconnect`` has come. Some servers raise other errors, also after the application's own close. These are
swallowed only if the application has not closed the websocket. No conclusion is drawn from the text of an error.
"""

import asyncio
import contextlib
import sys
import time
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from channels.exceptions import StopConsumer

from ops import compat
from ops.application.observation import Application, websocket_of

SWALLOW_SECONDS = 5.0
"""For how long sends are swallowed. Later ones raise, or a handler that sends in a loop would never end."""
TOLD_WITHIN_SECONDS = 1.0
"""How long the server has to tell the end of a client after its ``send`` has raised."""
PAUSE_SHARE = 0.01
"""How long a swallowed send takes, of the time since the first."""
READ_AHEAD_SECONDS = 1.0
"""After how long without a read one event is read ahead: some servers silently drop what they are sent."""
HEARD_WITHIN_SECONDS = 0.05
NO_CLOSE_FRAME = 1006

Message = MutableMapping[str, Any]


class ClientLeft(OSError):
    """The client has left, and the server raises nothing that says so."""


def guarded(
    application: Application, *, swallows: bool = True, clock: Callable[[], float] = time.monotonic
) -> Application:
    """``application``, whose websockets may send to clients that have left, and can be closed from outside.

    Without ``swallows``, their sends raise as the server's do. ``clock``: seconds.
    """

    async def guard_websocket(scope: Mapping[str, Any], receive: Any, send: Any) -> Any:
        websocket = websocket_of(scope)
        if websocket is None or not websocket.takes("guard"):
            return await application(scope, receive, send)
        guard = Guard(receive, send, clock)
        websocket.close = guard.close
        try:
            return await application(scope, guard.receive, guard.send if swallows else guard.send_as_the_server)
        except Exception as error:
            if error is not guard.raised:
                raise
            # The consumer died of it, in a handler.
            if websocket.consumer is not None and not _was_disconnecting(error):
                await _disconnect(websocket.consumer, guard.left or _ended_without_close_frame())
            if not isinstance(error, ClientLeft):
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
        "_interrupted",
        "_made_up",
        "_read_at",
        "_reader",
        "_receive",
        "_send",
        "_swallowed_at",
        "left",
        "raised",
    )

    def __init__(self, receive: Any, send: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._receive = receive
        self._send = send
        self._clock = clock
        self._read_at = clock()
        self._reader: asyncio.Task[Any] | None = None  # that waits in receive()
        self._interrupted: asyncio.Task[Any] | None = None
        self._ahead: asyncio.Task[Any] | None = None
        self._swallowed_at: float | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._closed = False  # by the application
        self._closed_from_outside: Mapping[str, Any] | None = None
        # What stands for the server's own websocket.disconnect: before it was passed on, and after.
        self._made_up: str | None = None
        self.left: Mapping[str, Any] | None = None
        self.raised: Exception | None = None

    # Sending

    async def send(self, message: Message) -> None:
        """As the server's, but for the first 5 s after the client has left it raises no OSError."""
        if self.left is not None:
            await self._swallow(None)
            return
        if self._reader is None and self._ahead is None and self._clock() - self._read_at >= READ_AHEAD_SECONDS:
            # A handler that sends in a loop. While it does, nothing would hear that the client has left.
            self._read_ahead()
        try:
            await self._send(message)
            self._closed = self._closed or message["type"] == "websocket.close"
        except Exception as error:
            if not await self._means_that_the_client_left(error):
                raise
            await self._swallow(error)

    async def _means_that_the_client_left(self, error: Exception) -> bool:
        if isinstance(error, OSError):
            return True
        if self._closed or not isinstance(error, RuntimeError):
            return False
        if self._closed_from_outside is not None:
            return True
        # uvicorn raises RuntimeErrors after its own close, and has sent the websocket.disconnect before.
        await asyncio.wait({self._reader or self._ahead or self._read_ahead()}, timeout=HEARD_WITHIN_SECONDS)
        return self.left is not None or compat.is_disconnected_in_daphne(error)

    def _read_ahead(self) -> "asyncio.Task[Any]":
        self._ahead = asyncio.get_running_loop().create_task(self._take())
        compat.destroy_silently(self._ahead)
        return self._ahead

    async def _swallow(self, error: Exception | None) -> None:
        now = self._clock()
        if self._swallowed_at is None:
            self._swallowed_at = now
            self._set_alarm()
        elif now - self._swallowed_at >= SWALLOW_SECONDS:
            self.raised = error or ClientLeft("the client has left")
            raise self.raised
        # A handler that sends in a loop is not to keep the event loop, or a processor, to itself.
        await asyncio.sleep((now - self._swallowed_at) * PAUSE_SHARE)

    async def send_as_the_server(self, message: Message) -> None:
        """Only notes who closed the websocket."""
        await self._send(message)
        self._closed = self._closed or message["type"] == "websocket.close"

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
        if self._made_up == "to be told":
            self._made_up = "told"
            return self.left
        self._reader = reader = asyncio.current_task()
        try:
            ahead, self._ahead = self._ahead, None
            event = await (ahead or self._take())
            if self._made_up is not None and event["type"] == "websocket.disconnect":
                # It has come after all. Nobody is told twice.
                event = await self._receive()
            return event
        except asyncio.CancelledError:
            if reader is not self._interrupted or _is_cancelled_otherwise(reader):
                raise
            self._made_up = "told"
            return self.left
        finally:
            self._reader, self._read_at = None, self._clock()

    async def _take(self) -> Any:
        event = await self._receive()
        if event["type"] == "websocket.disconnect":
            self.left = self.left or event
            self._stop_alarm()
        return event

    def _make_up_the_end(self) -> None:
        """The server has had its time."""
        if self.left is None:
            self.left = self._closed_from_outside or _ended_without_close_frame()
            self._made_up = "to be told"
            if self._reader is not None:
                self._interrupted = self._reader
                self._reader.cancel()

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
        if self._ahead is not None:
            self._ahead.cancel()


def _ended_without_close_frame() -> Message:
    return {"type": "websocket.disconnect", "code": NO_CLOSE_FRAME}


def _was_disconnecting(error: BaseException) -> bool:
    """Whether ``error`` comes from where a consumer of Channels runs its ``disconnect()``."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code.co_name == "websocket_disconnect" for frame, _ in frames)


async def _disconnect(consumer: Any, event: Mapping[str, Any]) -> None:
    """Have ``consumer``, which runs no more, run its ``disconnect()``."""
    with contextlib.suppress(StopConsumer):
        await consumer.dispatch(dict(event))


def _is_cancelled_otherwise(task: "asyncio.Task[Any] | None") -> bool:
    """Whether anything but the guard has cancelled the task, too. Python 3.10 cannot tell."""
    if task is None or sys.version_info < (3, 11):
        return False
    return task.uncancel() > 0
