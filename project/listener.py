"""A TCP server on a free port of 127.0.0.1, with a task for each connection. What it does there, subclasses say."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TypeVar

L = TypeVar("L", bound="Listener")


class Listener:
    """Listens while it is entered; when it is left, or closed, all its connections end."""

    def __init__(self) -> None:
        self.connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self: L) -> L:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self.connections:
            connection.cancel()
        await asyncio.gather(*self.connections, return_exceptions=True)

    @property
    def port(self) -> int:
        assert self._server is not None, "not started"
        return int(self._server.sockets[0].getsockname()[1])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its beginning to its end."""
        raise NotImplementedError

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.ensure_future(self.serve(reader, writer))
        self.connections.add(connection)
        connection.add_done_callback(self.connections.discard)
