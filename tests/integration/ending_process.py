"""A process that ends with a websocket open: ``python -m tests.integration.ending_process exit|loop``.

``exit`` has a fork end first, and then leaves in the ordinary way. ``loop`` has asyncio cancel what runs, and runs no
exit handler.
"""

import asyncio
import os
import sys
from typing import Any

import django

django.setup()

from ops.middleware import DisconnectLogMiddleware
from tests.integration.plain_websockets import Client, wait_for_close


async def serve() -> Any:
    client = Client(DisconnectLogMiddleware(wait_for_close), path="/ws/open/")
    await client.connect()
    if sys.argv[1] == "loop":
        # Gives what follows something to be written after.
        other = Client(DisconnectLogMiddleware(wait_for_close), path="/ws/other/")
        await other.connect()
        await other.leave(1000)
    return client


if sys.argv[1] == "loop":
    asyncio.run(serve())
    os._exit(0)
loop = asyncio.new_event_loop()
kept = loop.run_until_complete(serve())
child = os.fork()
if not child:
    sys.exit(0)
os.waitpid(child, 0)
