"""What stands between the server and a consumer with HeartbeatMixin: it asks the client whether it is still there."""

import asyncio
import contextlib
import logging
import secrets
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

from ops import compat
from ops.application.background import start_task
from ops.store.connection.waiting import spread, within

logger = logging.getLogger("ops.consumers")

T = TypeVar("T")
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

INTERVAL_JITTER = 0.2
REASON = "heartbeat timeout"


class Heart:
    """Stands between the server and one consumer. While nothing happens, all that it costs is a timer."""

    __slots__ = (
        "_answers",
        "_beat",
        "_consumer",
        "_gone",
        "_heard",
        "_inside",
        "_interrupted",
        "_reading",
        "_reads_again",
        "_receive",
        "_send",
        "_timer",
        "given_up",
        "must_disconnect",
    )

    def __init__(self, consumer: Any, receive: Receive, send: Send) -> None:
        self._consumer = consumer
        self._receive = receive
        self._send = send
        self.given_up = False
        # The consumer has been connected, and not been told that it is disconnected.
        self.must_disconnect = False
        # Whatever is written now has nowhere to go.
        self._gone = False
        self._timer: asyncio.TimerHandle | None = None
        self._beat: asyncio.Task[Any] | None = None
        # Resolved by the client's next frame, whatever it is.
        self._heard: asyncio.Future[None] | None = None
        # By token: who waits for exactly this answer.
        self._answers: dict[str, asyncio.Future[bool]] = {}
        self._reading = False
        self._reads_again: asyncio.Future[None] | None = None
        # The consumer's tasks that wait for the server, and those of them that were told not to wait any longer.
        self._inside: set[asyncio.Task[Any] | None] = set()
        self._interrupted: set[asyncio.Task[Any] | None] = set()

    # Between the server and the consumer

    async def receive(self) -> Message:
        """What the server has for the consumer. Answers to pings stay here."""
        while not self.given_up:
            message = await self._read()
            if message is None:
                break
            if message["type"] == "websocket.receive":
                _resolve(self._heard, None)
                if self._is_answer(message):
                    continue
            elif message["type"] == "websocket.disconnect":
                self._gone = True
                self.stop()
            return message
        return {"type": "websocket.disconnect", "code": self._consumer.heartbeat_close_code, "reason": REASON}

    async def _read(self) -> Message | None:
        self._reading = True
        _resolve(self._reads_again, None)
        try:
            return await self._until_given_up(self._receive())
        finally:
            self._reading = False

    async def send(self, message: Message) -> None:
        """Pass on what the consumer says, as long as there is somebody to hear it."""
        if self._gone:
            return
        if message["type"] == "websocket.close":
            self._gone = True
            self.stop()
        try:
            await self._until_given_up(self._send(message))
        except Exception as error:
            if not compat.says_that_socket_is_closed(error):
                raise
            # The server will say so in its own words, to receive().
            self._gone = True
        if message["type"] == "websocket.accept" and not self._gone:
            self._start()

    async def close_if_given_up(self) -> None:
        """The last that the client is told, if it hears it."""
        if self.given_up:
            code = self._consumer.heartbeat_close_code
            with contextlib.suppress(asyncio.TimeoutError):
                await within(
                    self._consumer.heartbeat_timeout,
                    self._write({"type": "websocket.close", "code": code, "reason": REASON}),
                )

    async def _write(self, message: Message) -> None:
        try:
            await self._send(message)
        except Exception as error:
            if not compat.says_that_socket_is_closed(error):
                raise

    def _is_answer(self, message: Message) -> bool:
        frame = message.get("text")
        if frame is None:
            frame = message.get("bytes")
        try:
            token = None if frame is None else self._consumer.decode_heartbeat(frame)
            if token is not None:
                # Late, repeated and made-up ones answer nothing.
                _resolve(self._answers.get(token), True)
        except Exception:
            logger.exception("%s.decode_heartbeat failed", type(self._consumer).__qualname__)
            return False
        return token is not None

    # Asking

    def _start(self) -> None:
        self._schedule(spread(0, self._consumer.heartbeat_interval))
        self._register(self.ping)

    def _schedule(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._begin)

    def _begin(self) -> None:
        self._beat = start_task(self._ask_regularly(), "client ping")

    async def _ask_regularly(self) -> None:
        """One ping and what comes of it: the next one is scheduled, or the client is given up."""
        self._heard = heard = asyncio.get_running_loop().create_future()
        writing = start_task(self._write_ping(secrets.token_hex(8)), "ping")
        try:
            while not (await asyncio.wait([heard], timeout=self._consumer.heartbeat_timeout))[0]:
                if self._reading:
                    self._give_up()
                    return
                # The consumer is busy with what the client said. The answer may lie behind that.
                self._reads_again = asyncio.get_running_loop().create_future()
                await self._reads_again
        finally:
            writing.cancel()
        interval = self._consumer.heartbeat_interval
        self._schedule(spread(interval * (1 - INTERVAL_JITTER), interval))

    async def _write_ping(self, token: str) -> None:
        try:
            frame = self._consumer.encode_heartbeat(token)
            await self._write({"type": "websocket.send", "text" if isinstance(frame, str) else "bytes": frame})
        except Exception:
            logger.exception("a ping of %s could not be sent", type(self._consumer).__qualname__)
            # Nobody was asked, so nobody can be found silent.
            _resolve(self._heard, None)

    async def ping(self) -> bool:
        """Whether the client answers a ping that is sent now, within the time-out. Nothing is closed if not."""
        if self._gone or self.given_up:
            return False
        token = secrets.token_hex(8)
        self._answers[token] = answer = asyncio.get_running_loop().create_future()
        writing = start_task(self._write_ping(token), "ping")
        try:
            await asyncio.wait([answer], timeout=self._consumer.heartbeat_timeout)
            return answer.done() and answer.result()
        finally:
            writing.cancel()
            del self._answers[token]

    def _register(self, ping: Callable[[], Awaitable[bool]] | None) -> None:
        """With the drop-in layer; the stock layer has no use for it."""
        set_client_ping = getattr(self._consumer.channel_layer, "set_client_ping", None)
        if set_client_ping is not None:
            set_client_ping(self._consumer.channel_name, ping)

    # Ending

    def _give_up(self) -> None:
        """Nothing comes from the client any more: let the consumer know, whatever it waits for."""
        logger.info(
            "nothing came from the client of %s (%s) within %g s after a ping: closing with %s",
            type(self._consumer).__qualname__,
            getattr(self._consumer, "channel_name", "no channel"),
            self._consumer.heartbeat_timeout,
            self._consumer.heartbeat_close_code,
        )
        self.given_up = self._gone = True
        self._beat = None  # which is running this
        self.stop()
        self._interrupted |= self._inside
        for task in self._inside:
            if task is not None:
                task.cancel()

    def stop(self) -> None:
        """Ask no more. Harmless when it is repeated."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._register(None)
        if self._beat is not None:
            self._beat.cancel()
            self._beat = None
        for answer in self._answers.values():
            _resolve(answer, False)

    async def _until_given_up(self, waiting: Awaitable[T]) -> T | None:
        """The result of ``waiting``, or None once the client was given up: such a write might never end.

        It is cancelled in the very task that waits, so that no connection needs a second task.
        """
        task = asyncio.current_task()
        self._inside.add(task)
        try:
            return await waiting
        except asyncio.CancelledError:
            if task not in self._interrupted or _is_cancelled_otherwise(task):
                raise
            return None
        finally:
            self._inside.discard(task)


def _resolve(future: "asyncio.Future[T] | None", result: T) -> None:
    if future is not None and not future.done():
        future.set_result(result)


def _is_cancelled_otherwise(task: "asyncio.Task[Any] | None") -> bool:
    """Whether somebody else than ``_give_up`` has cancelled the task, too. Python 3.10 cannot tell."""
    if task is None or sys.version_info < (3, 11):
        return False
    return task.uncancel() > 0
