"""What a server may say to who writes to a socket that it has closed by itself."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from typing import Any

import pytest
from channels.generic.websocket import AsyncWebsocketConsumer

from ops.application.connections.heart import Heart
from ops.consumers import HeartbeatMixin

UVICORN_SAYS = "Unexpected ASGI message 'websocket.send', after sending 'websocket.close'"


class Disconnected(RuntimeError):
    """As autobahn's."""

    __module__ = "autobahn.exception"


class Lonely(HeartbeatMixin, AsyncWebsocketConsumer):
    channel_layer_alias = "there is none"


async def nothing_comes() -> Any:
    await asyncio.Event().wait()


@pytest.mark.parametrize("error", [RuntimeError(UVICORN_SAYS + "."), OSError("gone"), Disconnected("closed")])
async def test_a_socket_that_the_server_has_closed_is_gone_and_not_an_error(error: Exception) -> None:
    written: list[Any] = []

    async def send(message: Any) -> None:
        written.append(message)
        raise error

    heart = Heart(Lonely(), nothing_comes, send)
    for _ in range(2):
        await heart.send({"type": "websocket.send", "text": "hello"})
    assert len(written) == 1, "it has said that it is gone"


@pytest.mark.parametrize("error", [RuntimeError("Expected 'websocket.accept'"), ValueError("no text")])
async def test_a_mistake_of_the_consumer_is_one(error: Exception) -> None:
    async def send(message: Any) -> None:
        raise error

    with pytest.raises(type(error), match=str(error)):
        await Heart(Lonely(), nothing_comes, send).send({"type": "websocket.send", "text": "hello"})


@pytest.mark.parametrize("module", ["websockets_sansio_impl", "websockets_impl", "wsproto_impl"])
def test_uvicorn_still_says_it_in_these_words(module: str) -> None:
    found = importlib.util.find_spec(f"uvicorn.protocols.websockets.{module}")
    assert found is not None
    assert "after sending 'websocket.close'" in Path(str(found.origin)).read_text("utf-8")
