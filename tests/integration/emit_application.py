"""What `runworker` would serve: one consumer that handles recorded ends, and one that does not."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from channels.consumer import AsyncConsumer
from channels.routing import ChannelNameRouter, ProtocolTypeRouter


class Audit(AsyncConsumer):
    async def ops_disconnect(self, message: dict[str, Any]) -> None:
        """A line for each: when it came, by the clock that all processes of a machine share, and what came."""
        sys.stdout.write(f"{json.dumps([time.monotonic(), message])}\n")
        sys.stdout.flush()


class Thumbnails(AsyncConsumer):
    pass


application = ProtocolTypeRouter(
    {"channel": ChannelNameRouter({"audit": Audit.as_asgi(), "thumbnails": Thumbnails.as_asgi()})}
)
