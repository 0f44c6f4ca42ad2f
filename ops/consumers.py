"""A mixin for websocket consumers that notices clients which are gone without a word.

::

    class Chat(HeartbeatMixin, AsyncJsonWebsocketConsumer):
        heartbeat_interval = 25

Nothing else changes: pings and answers pass between the server and the consumer, which sees neither.
"""

import asyncio
import functools
import logging
import math
import weakref
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from django.core.exceptions import ImproperlyConfigured
from django.db import close_old_connections

from ops import compat
from ops.application.connections.heart import Heart, Message, Receive, Send
from ops.model.heartbeats.client_pings import HEARTBEAT_TIMEOUT, decode_pong, encode_ping
from ops.store.connection.waiting import within

logger = logging.getLogger("ops.consumers")


DISCONNECT_WITHIN_SECONDS = 5.0

NORMAL, INTERNAL_ERROR, SERVICE_RESTART = 1000, 1011, 1012


class HeartbeatMixin:
    """For the four websocket consumers of Channels, before them in the list of bases.

    - It pings the client every ``heartbeat_interval`` seconds. Where nothing comes from the client within
      ``heartbeat_timeout``, the consumer is told that it is disconnected, as if the client had gone: it leaves its
      groups, ``disconnect(4408)`` runs, and then the socket is closed with that code.
    - ``disconnect`` runs once, however the consumer ends: also where a handler raises (1011) or the server cancels the
      application (1012).
    - Writing to a socket that is already gone does nothing.
    - With ``ops.layers.RedisChannelLayer``, ``manage.py send_heartbeat --depth client`` reaches the client.

    A value that cannot be used raises ImproperlyConfigured when the class is defined.
    """

    heartbeat_interval: float = 25.0
    """Seconds between two pings, at most: each is up to a fifth earlier, and the first may come at any time in it."""

    heartbeat_timeout: float = 10.0
    """Seconds in which something must come from the client after a ping."""

    heartbeat_close_code: int = HEARTBEAT_TIMEOUT
    """With which the socket of a client that is gone is closed: 4000 to 4999."""

    _heart: Heart

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if problem := _problem_with(cls):
            raise ImproperlyConfigured(f"{cls.__module__}.{cls.__qualname__}: {problem}")

    def encode_heartbeat(self, token: str) -> str | bytes:
        """The frame that asks the client: text, or bytes for a binary one. The answer must bring ``token`` back.

        It is called in the event loop, in sync consumers too.
        """
        return encode_ping(token, self.heartbeat_interval + self.heartbeat_timeout)

    def decode_heartbeat(self, frame: str | bytes) -> str | None:
        """The token in an answer; None for any other frame, which then goes to the consumer.

        It is called in the event loop with every frame that comes, which may hold anything.
        """
        return decode_pong(frame)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        heart = self._heart = Heart(self, receive, send)
        consumer: Any = super()  # the class beside it, of which a mixin's own bases know nothing
        try:
            await consumer.__call__(scope, heart.receive, heart.send)
        except asyncio.CancelledError:
            await _all_together(self._end(SERVICE_RESTART))
            raise
        except Exception:
            await self._end(INTERNAL_ERROR)
            raise
        else:
            await self._end(NORMAL)
            await heart.close_if_given_up()
        finally:
            heart.stop()

    async def dispatch(self, message: Message) -> None:
        """As Channels, but no consumer is told twice that it is disconnected."""
        if message.get("type") == "websocket.connect":
            self._heart.must_disconnect = True
        elif message.get("type") == "websocket.disconnect":
            if not self._heart.must_disconnect:
                raise StopConsumer
            self._heart.must_disconnect = False
        consumer: Any = super()  # as above
        await consumer.dispatch(message)

    async def _end(self, code: int) -> None:
        """Tell the consumer that it is disconnected, if it has ended before the server could."""
        self._heart.stop()
        if not self._heart.must_disconnect:
            return
        message = {"type": "websocket.disconnect", "code": code}
        if code == SERVICE_RESTART and isinstance(self, WebsocketConsumer):
            self._heart.must_disconnect = False
            loop = asyncio.get_running_loop()
            telling: Awaitable[None] = loop.run_in_executor(_threads(), _disconnect_without_a_loop, self, message)
        else:
            telling = self.dispatch(message)
        try:
            await within(DISCONNECT_WITHIN_SECONDS, telling)
        except StopConsumer:
            pass
        except Exception:
            # What ended the consumer is what the server must hear of.
            logger.exception("disconnect of %s failed", type(self).__qualname__)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="channels-ops disconnect")


def _disconnect_without_a_loop(consumer: Any, message: Message) -> None:
    """In a thread that does not know the server's loop.

    That loop is about to end, and a thread that waits for what it does there would keep the process from ending.
    """
    compat.mute(consumer)
    close_old_connections()
    try:
        consumer.websocket_disconnect(message)
    except StopConsumer:
        pass
    finally:
        close_old_connections()


_ending: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, set[asyncio.Future[None]]]" = weakref.WeakKeyDictionary()


async def _all_together(ending: Awaitable[None]) -> None:
    """Return when this and whatever else was cancelled with it is done: Daphne waits for the first of them only."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    together = _ending.setdefault(loop, set())
    together.add(done)
    try:
        await ending
    finally:
        done.set_result(None)
        others = together.copy()
        together.discard(done)
    await asyncio.wait(others, timeout=DISCONNECT_WITHIN_SECONDS)


def _problem_with(cls: type[HeartbeatMixin]) -> str | None:
    for name in ("heartbeat_interval", "heartbeat_timeout"):
        value = getattr(cls, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            return f"{name} must be a number of seconds above 0, not {value!r}."
    code = cls.heartbeat_close_code
    if isinstance(code, bool) or not isinstance(code, int) or not 4000 <= code <= 4999:
        return f"heartbeat_close_code must be from 4000 to 4999, not {code!r}."
    if issubclass(cls, AsyncConsumer):
        if not issubclass(cls, (AsyncWebsocketConsumer, WebsocketConsumer)):
            return "HeartbeatMixin is for websocket consumers."
        if cls.__mro__.index(HeartbeatMixin) > cls.__mro__.index(AsyncConsumer):
            return "HeartbeatMixin must come before the consumer class in the list of bases."
    return None
