"""The demo application, made difficult.

`/block` holds the process up, a stubborn room hears of no end, and `/ws/other/` has channels with a prefix of its own.
"""

import asyncio
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from channels.layers import get_channel_layer

from project.asgi import logged_application as demo


def block_until_let_go(fifo: Path) -> None:
    """Hold the event loop up, which is what this is for (see `tests.acceptance.held_up`)."""
    fifo.read_bytes()


async def application(scope: Any, receive: Any, send: Any) -> None:
    async def receive_no_end() -> Any:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            await asyncio.Event().wait()
        return message

    if scope["path"] == "/block":
        # What must not be done in a coroutine, and is: nothing else in this process goes on meanwhile.
        block_until_let_go(Path(parse_qs(scope["query_string"].decode())["holding"][0]))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"done"})
    elif scope["path"] == "/ws/room/stubborn/":
        await demo(scope, receive_no_end, send)
    elif scope["path"] == "/ws/other/":
        await other(receive, send)
    else:
        await demo(scope, receive, send)


async def other(receive: Any, send: Any) -> None:
    layer: Any = get_channel_layer()
    channel = await layer.new_channel("other")
    await receive()
    await send({"type": "websocket.accept"})
    message = {"type": "welcome", "channel": channel, "pid": os.getpid()}
    while True:
        await send({"type": "websocket.send", "text": json.dumps(message)})
        message = await layer.receive(channel)
