"""Hundreds of real websocket clients that note what happens to them."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin

from ops.model.heartbeats.client_pings import PING, PONG
from project.workers import Worker

OPEN_WITHIN_SECONDS = 30.0
CLOSE_WITHIN_SECONDS = 2.0


@dataclass(eq=False)
class FleetSocket:
    """One client: who serves it, what it got and, once closed, how that went. It answers pings unless told not to."""

    url: str
    connection: ClientConnection = field(repr=False)
    welcome: dict[str, Any]
    received: list[dict[str, Any]] = field(default_factory=list, repr=False)
    texts: set[str] = field(default_factory=set, repr=False)
    close_code: int | None = None
    close_reason: str = ""
    closed_at: float = math.inf  # unix seconds
    answers_pings: bool = True
    pings: int = 0

    @property
    def channel(self) -> str:
        return str(self.welcome["channel"])

    @property
    def pid(self) -> int:
        """Of the process that serves it."""
        return int(self.welcome["pid"])

    @property
    def room(self) -> str | None:
        return self.welcome.get("room")

    @property
    def is_open(self) -> bool:
        return self.close_code is None

    def note(self, message: dict[str, Any]) -> None:
        self.received.append(message)
        if "text" in message:
            self.texts.add(message["text"])

    async def send(self, content: dict[str, Any]) -> None:
        await self.connection.send(json.dumps(content))

    def abort(self) -> None:
        """Drop the connection without a closing handshake, as a phone that loses the network does."""
        self.connection.transport.abort()

    async def answer(self, ping: dict[str, Any]) -> None:
        """Do as the toolkit's JavaScript client does; a frozen page would not."""
        self.pings += 1
        if self.answers_pings:
            await self.send(_pong(ping))


class SocketFleet:
    """Opens sockets, a bounded number at a time, and reads them all until they close.

    The clients send no keepalive pings unless `ping_interval_seconds` is given, so that no close is their own doing.
    """

    def __init__(self, *, concurrency: int = 50, ping_interval_seconds: float | None = None) -> None:
        self.sockets: list[FleetSocket] = []
        self._ping_interval_seconds = ping_interval_seconds
        self._slots = asyncio.Semaphore(concurrency)
        self._readers: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()

    async def __aenter__(self) -> SocketFleet:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def open_sockets(self) -> list[FleetSocket]:
        return [socket for socket in self.sockets if socket.is_open]

    def of_worker(self, worker: Worker) -> list[FleetSocket]:
        """All sockets, open or not, that this process serves or served."""
        return [socket for socket in self.sockets if socket.pid == worker.pid]

    def in_room(self, room: str) -> list[FleetSocket]:
        """The open sockets in a room."""
        return [socket for socket in self.open_sockets if socket.room == room]

    async def open(self, worker: Worker, room: str, count: int = 1) -> list[FleetSocket]:
        return await self.open_many([(worker, room)] * count)

    async def open_many(self, places: Iterable[tuple[Worker, str]]) -> list[FleetSocket]:
        """One socket per (worker, room), in that order. Each has had its welcome when this returns."""
        return await self.open_urls([f"{worker.ws_url}/ws/room/{room}/" for worker, room in places])

    async def open_urls(self, urls: Sequence[str]) -> list[FleetSocket]:
        """One socket per URL, of any consumer that sends a welcome first."""
        tasks = [asyncio.ensure_future(self._open(url)) for url in urls]
        try:
            return await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _open(self, url: str) -> FleetSocket:
        async with self._slots:
            connection = await connect(
                url,
                # Browsers send it, and Channels refuses sockets of another origin.
                origin=Origin(f"http://{urlsplit(url).netloc}"),
                proxy=None,
                compression=None,
                ping_interval=self._ping_interval_seconds,
                open_timeout=OPEN_WITHIN_SECONDS,
                close_timeout=CLOSE_WITHIN_SECONDS,
            )
            try:
                welcome = await asyncio.wait_for(_welcome(connection), OPEN_WITHIN_SECONDS)
            except BaseException:
                connection.transport.abort()  # Nobody would know of it.
                raise
        socket = FleetSocket(url=url, connection=connection, welcome=welcome)
        self.sockets.append(socket)
        reader = asyncio.create_task(self._read(socket))
        self._readers.add(reader)
        reader.add_done_callback(self._readers.discard)
        return socket

    async def _read(self, socket: FleetSocket) -> None:
        try:
            while True:
                message = json.loads(await socket.connection.recv())
                if message.get("type") == PING:
                    await socket.answer(message)
                else:
                    socket.note(message)
                self._news.set()
        except ConnectionClosed:
            # 1006 stands for a connection that ended without a closing handshake.
            socket.closed_at = time.time()
            socket.close_code = int(socket.connection.close_code or 1006)
            socket.close_reason = socket.connection.close_reason or ""
            self._news.set()

    async def broadcast(self, room: str, text: str) -> FleetSocket:
        """Say something to everybody in a room, through one of its open sockets, which is returned."""
        speaker = self.in_room(room)[0]
        await speaker.send({"text": text})
        return speaker

    async def await_received(
        self, text: str, timeout_seconds: float = 10, *, among: Sequence[FleetSocket] | None = None
    ) -> list[FleetSocket]:
        """Wait until all of `among` (default: the open sockets) got the text, or time is up; return those that did."""
        expected = self.open_sockets if among is None else list(among)
        await self._until(lambda: all(text in socket.texts for socket in expected), timeout_seconds)
        return [socket for socket in expected if text in socket.texts]

    async def await_closed(self, sockets: Sequence[FleetSocket], timeout_seconds: float = 10) -> list[FleetSocket]:
        """Wait until all of them are closed, or time is up; return those that are."""
        await self._until(lambda: not any(socket.is_open for socket in sockets), timeout_seconds)
        return [socket for socket in sockets if not socket.is_open]

    async def _until(self, condition: Callable[[], bool], timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        while not condition():
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), deadline - time.monotonic())
            except asyncio.TimeoutError:  # the built-in one only since Python 3.11
                return condition()
        return True

    async def close(self) -> None:
        """Close what is open with an ordinary closing handshake, as far as the servers still take part."""
        await asyncio.gather(*(socket.connection.close() for socket in self.sockets))
        await asyncio.gather(*self._readers)


async def _welcome(connection: ClientConnection) -> dict[str, Any]:
    """The first that a consumer says. A ping may come before: the server need not wait for the consumer's thread."""
    while (message := json.loads(await connection.recv())).get("type") == PING:
        await connection.send(json.dumps(_pong(message)))
    return dict(message)


def _pong(ping: dict[str, Any]) -> dict[str, Any]:
    return {"type": PONG, "id": ping["id"]}
