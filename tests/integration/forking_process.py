"""A process in which the application of a websocket forks, and its child raises.

``python -m tests.integration.forking_process``. It ends as if it was killed, so its own member stays.
"""

import asyncio
import os
import sys
from typing import Any

import django

django.setup()

from channels.consumer import AsyncConsumer

from ops.middleware import OpsMiddleware
from tests.integration.plain_websockets import Client

forked: asyncio.Queue[int] = asyncio.Queue()


class Member(AsyncConsumer):
    async def websocket_connect(self, message: Any) -> None:
        await self.channel_layer.group_add("room", self.channel_name)
        await self.send({"type": "websocket.accept"})


async def fork_when_told(scope: Any, receive: Any, send: Any) -> None:
    inbox: asyncio.Queue[Any] = asyncio.Queue()
    inbox.put_nowait(await receive())
    member = asyncio.ensure_future(Member()(scope, inbox.get, send))
    await receive()
    child = os.fork()
    if not child:
        sys.exit("the child's own")
    forked.put_nowait(child)
    await member


async def serve() -> int:
    client = Client(OpsMiddleware(fork_when_told))
    await client.connect()
    client.say("fork")
    return await forked.get()


os.waitpid(asyncio.new_event_loop().run_until_complete(serve()), 0)
os._exit(0)
