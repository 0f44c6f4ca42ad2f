"""Connections on which one alarm stands for the time limits of all writes and reads.

With a ``socket_timeout``, redis-py's asyncio connections start a timer for each read and one more for each write, which
is a task before Python 3.12: a fifth of what a command takes. An alarm that is set again only when it rings costs next
to nothing, and notices a server that stands still just as soon.

A server that calls itself a replica is asked no more on the same connection. Its address may lead to the new master by
now, as that of a managed Redis does after a failover, while connections that were there still lead to the old one.

Overrides ``pack_command``, ``send_packed_command`` and ``read_response`` of ``redis.asyncio.Connection`` and relies on
its ``disconnect`` and ``socket_timeout`` (redis-py 5 to 8).
"""

import asyncio
from collections.abc import Awaitable
from functools import cache
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ops import compat
from ops.store.connection.failures import comes_from_a_replica

LATE_AGAIN_SECONDS = 1.0
HELD_UP_SECONDS = 1.0  # an alarm that rings so much too late: this process stood still, and the server need not have


@cache
def watched(connection_class: type[Any]) -> type[Any]:
    """``connection_class`` of redis-py's asyncio connections, with an alarm, and with scripts packed by hiredis."""
    return type("WatchedConnection", (_Watched, connection_class), {})


class _Watched(AbstractConnection):
    """What comes before redis-py's own class."""

    socket_timeout: Any
    _alarm: asyncio.TimerHandle | None = None
    _due: float | None = None
    _is_late = False
    _was_held_up = False
    _leads_to_a_replica = False

    def pack_command(self, *args: Any) -> Any:
        # Of other commands, redis-py splits the name, and refuses arguments that hiredis would take.
        return [hiredis.pack_command(args)] if args[0] == "EVALSHA" else super().pack_command(*args)

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if self._leads_to_a_replica:
            # Not while its answers are being read: of several commands, each has one.
            self._leads_to_a_replica = False
            await self.disconnect(nowait=True)
        work = super().send_packed_command(command, check_health)
        await (work if self.socket_timeout is None else self._in_time(work, "writing to socket"))

    async def read_response(self, disable_decoding: bool = False, timeout: float | None = None, **options: Any) -> Any:
        work = super().read_response(disable_decoding, timeout, **options)
        try:
            if self.socket_timeout is None or timeout is not None:
                return await work
            return await self._in_time(work, f"reading from {compat.address_in_errors(self)}")
        except ResponseError as error:
            if comes_from_a_replica(error):
                self._leads_to_a_replica = True
            raise

    async def _in_time(self, work: Awaitable[Any], what: str) -> Any:
        """Whatever this does first, as to connect or to ask whether the server is well, has no more time than it."""
        limit, self.socket_timeout = self.socket_timeout, None
        loop = asyncio.get_running_loop()
        self._due = loop.time() + limit
        if self._alarm is None:
            self._alarm = loop.call_at(self._due, self._ring, loop)
        try:
            result = await work
            if self._is_late:
                await self.disconnect(nowait=True)
                if result is None:  # of a write, which is not told of its connection's end
                    raise RedisTimeoutError(f"Timeout {what}")
            # An answer that was there before its process woke up may be a message, which nobody has any more but here.
            return result
        except RedisConnectionError:
            if self._is_late:
                raise RedisTimeoutError(f"Timeout {what}") from None
            raise
        finally:
            self.socket_timeout, self._due, self._is_late, self._was_held_up = limit, None, False, False

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._alarm = None
        if self._due is None:
            return
        if loop.time() < self._due:
            self._alarm = loop.call_at(self._due, self._ring, loop)
            return
        if not self._was_held_up and loop.time() - self._due >= HELD_UP_SECONDS:
            # The answer may have been there for long, and is read next. Once: a loop may always be that slow.
            self._was_held_up = True
            self._due = loop.time() + LATE_AGAIN_SECONDS
            self._alarm = loop.call_at(self._due, self._ring, loop)
            return
        self._is_late = True
        # To connect has a limit of its own; what comes after it, or after another try, has no time left.
        self._alarm = loop.call_later(LATE_AGAIN_SECONDS, self._ring, loop)
        compat.abort(self)
