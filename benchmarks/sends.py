"""What OpsMiddleware adds to each message that an application sends: ``python -m benchmarks.sends`` prints JSON.

The server's ``send`` does nothing, so nothing else is measured. Microseconds of CPU, the least of several rounds.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import django

django.setup()

from ops.middleware import OpsMiddleware

SENDS = 20_000
ROUNDS = 10


async def measure(scope: Any, receive: Any, send: Any) -> None:
    """An application that sends, and notes the least time of a round in ``scope["found"]``."""
    message = {"type": "websocket.send", "text": "hello"}
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(SENDS):
            await send(message)
        scope["found"].append((time.process_time() - started) / SENDS * 1e6)


async def measured(application: Any) -> float:
    async def send(message: Any) -> None:
        pass

    found: list[float] = []
    scope = {"type": "websocket", "path": "/", "query_string": b"", "headers": [], "found": found}
    await application(scope, asyncio.Event().wait, send)
    return min(found)


async def main() -> None:
    plain = await measured(measure)
    print(json.dumps({"plain": plain, "full": await measured(OpsMiddleware(measure))}))


if __name__ == "__main__":
    asyncio.run(main())
