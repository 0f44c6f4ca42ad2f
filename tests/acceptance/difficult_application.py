"""The demo application, made difficult: `/block` holds the process up, and a stubborn room hears of no end."""

import asyncio
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from project.asgi import application as demo


async def application(scope: Any, receive: Any, send: Any) -> None:
    async def receive_no_end() -> Any:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            await asyncio.Event().wait()
        return message

    if scope["path"] == "/block":
        # What must not be done in a coroutine, and is: nothing else in this process goes on meanwhile.
        holding = Path(parse_qs(scope["query_string"].decode())["holding"][0])
        while holding.exists():  # noqa: ASYNC240
            time.sleep(0.01)  # noqa: ASYNC251
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"done"})
    elif scope["path"] == "/ws/room/stubborn/":
        await demo(scope, receive_no_end, send)
    else:
        await demo(scope, receive, send)
