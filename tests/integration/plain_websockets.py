"""Websockets as a server hands them to an application, without a server."""

from __future__ import annotations

import asyncio
from typing import Any


class Client:
    """One websocket of `application`, which runs in a task of its own."""

    def __init__(self, application: Any, *, path: str = "/ws/") -> None:
        self._application = application
        self._scope = {"type": "websocket", "path": path, "query_string": b"", "headers": [], "client": ("::1", 5)}
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.accepted = asyncio.Event()
        self.task: asyncio.Task[Any] | None = None

    async def connect(self) -> None:
        self._events.put_nowait({"type": "websocket.connect"})
        self.task = asyncio.ensure_future(self._application(self._scope, self._events.get, self._take))
        await asyncio.wait_for(self.accepted.wait(), 30)

    async def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "websocket.accept":
            self.accepted.set()

    def say(self, text: str) -> None:
        self._events.put_nowait({"type": "websocket.receive", "text": text})

    def hang_up(self, code: int) -> None:
        self._events.put_nowait({"type": "websocket.disconnect", "code": code})

    async def leave(self, code: int = 1000) -> None:
        """Close, and wait until the application has ended."""
        assert self.task is not None
        self.hang_up(code)
        await asyncio.wait_for(asyncio.shield(self.task), 30)


async def wait_for_close(scope: Any, receive: Any, send: Any) -> None:
    """An application that accepts, and ends when its client does."""
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass
