"""One connection of a shard's pool, spoken to without a client library's work per command.

A scan of a large keyspace asks for hundreds of thousands of replies. redis-py spends more time on each of them than
Redis does, so the census and the purge write many commands at once and parse the replies with hiredis' own reader.
The connection itself is redis-py's: address, TLS, password, database and Sentinel are what the project configured.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, ResponseError

from ops import compat
from ops.store.connection.waiting import within

READ_SIZE = 1 << 20
UNSENT_BYTES = 1 << 16
_INCOMPLETE = object()
_PUSH = compat.push_type()


def pack(*words: bytes) -> bytes:
    """One command as Redis reads it."""
    of_any_length: Any = words  # hiredis' types say that it takes one word
    packed: bytes = hiredis.pack_command(of_any_length)
    return packed


class Wire:
    """Sends packed commands and reads replies in order. An error reply is returned as an exception, not raised."""

    def __init__(self, connection: Any, timeout_seconds: float) -> None:
        self._streams = compat.streams_of(connection)
        self._timeout_seconds = timeout_seconds
        self._parser = hiredis.Reader(notEnoughData=_INCOMPLETE, replyError=hiredis.ReplyError)

    @property
    def local_address(self) -> str:
        """Our end of the connection as Redis would write it, ``127.0.0.1:40000``; empty for a unix socket."""
        name = self._streams[1].get_extra_info("sockname")
        if not isinstance(name, tuple):
            return ""
        host = str(name[0]).removeprefix("::ffff:")
        return f"[{host}]:{name[1]}" if ":" in host else f"{host}:{name[1]}"

    async def send(self, packed: bytes) -> None:
        writer = self._streams[1]
        writer.write(packed)
        if writer.transport.get_write_buffer_size() > UNSENT_BYTES:
            await within(self._timeout_seconds, writer.drain())

    async def replies(self, count: int) -> list[Any]:
        """The next ``count`` replies. Raises TimeoutError or redis' ConnectionError."""
        found: list[Any] = []
        next_reply = self._parser.gets
        while len(found) < count:
            reply = next_reply()
            if reply is _INCOMPLETE:
                await self._feed()
            elif not isinstance(reply, _PUSH):
                found.append(reply)
        return found

    async def _feed(self) -> None:
        data = await within(self._timeout_seconds, self._streams[0].read(READ_SIZE))
        if not data:
            raise RedisConnectionError("Connection closed by server.")
        self._parser.feed(data)


@asynccontextmanager
async def open_wire(pool: Any, timeout_seconds: float) -> AsyncIterator[Wire]:
    """Borrow a connection of ``pool``. After a failure it is closed, so that no late reply reaches another user."""
    connection = await within(timeout_seconds, compat.take_connection(pool))
    try:
        yield Wire(connection, timeout_seconds)
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    finally:
        await pool.release(connection)


def checked(reply: Any) -> Any:
    """``reply``, raised as redis-py would raise it if it is an error."""
    if isinstance(reply, hiredis.ReplyError):
        said = str(reply)
        raise NoPermissionError(said) if said.startswith("NOPERM") else ResponseError(said)
    return reply


def with_scores(reply: Sequence[Any]) -> tuple[list[bytes], list[float]]:
    """A reply to ``ZRANGE … WITHSCORES`` as members and scores: flat with text scores in RESP2, pairs in RESP3."""
    if reply and isinstance(reply[0], list):
        return [pair[0] for pair in reply], [float(pair[1]) for pair in reply]
    return list(reply[0::2]), [float(score) for score in reply[1::2]]


def newest_score(reply: Sequence[Any]) -> float:
    """The last score of such a reply, which is not empty."""
    last = reply[-1]
    return float(last[1] if isinstance(last, list) else last)
