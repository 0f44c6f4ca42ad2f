"""Acknowledging heartbeats from inside a process with the drop-in layer.

Who asks keeps a list in Redis while it waits. Acknowledgements are pushed there only while it exists, so whatever comes
late leaves nothing behind. All that come up in one turn of the event loop go in one push. A failure here is nobody's
but the asker's, who will call these members silent.
"""

import asyncio
import logging
import weakref
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgpack

from ops.application.background import start_task
from ops.application.layer.protocol import DropInLayer
from ops.model.heartbeats.message import Heartbeat, parse_heartbeat
from ops.model.keys import Keyspace

logger = logging.getLogger("ops.layers")

Ping = Callable[[], Awaitable[bool]]

CHANNELS_IN_ONE = 500
WAITING_FOR_ONE_PING = 8
MOST_WAITING = 200_000

ANSWERED, NOT_CAPABLE = True, False


class Acknowledger:
    """Answers the heartbeats of one layer instance."""

    def __init__(self, layer: DropInLayer) -> None:
        self._layer = weakref.ref(layer)
        self._keyspace = Keyspace(layer.prefix)
        self._pings: dict[str, Ping] = {}
        self._pinging: dict[str, list[Heartbeat]] = {}
        # (run, number, what to say) -> channels
        self._waiting: dict[tuple[str, int, bool], list[str]] = defaultdict(list)
        self._waiting_count = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    def set_ping(self, channel: str, ping: Ping | None) -> None:
        if ping is None:
            self._pings.pop(channel, None)
        else:
            self._pings[channel] = ping

    def answer(self, channel: str, message: Mapping[str, Any]) -> None:
        """Answer a heartbeat that has reached ``channel``. Whatever the message is, this raises nothing."""
        heartbeat = parse_heartbeat(message)
        if heartbeat is None:
            return
        if heartbeat.depth == "channel":
            self._acknowledge(heartbeat, channel, ANSWERED)
        elif channel not in self._pings:
            self._acknowledge(heartbeat, channel, NOT_CAPABLE)
        elif channel not in self._pinging:
            self._pinging[channel] = [heartbeat]
            self._start(self._ping(channel, self._pings[channel]), "ping")
        elif len(self._pinging[channel]) < WAITING_FOR_ONE_PING:
            # The client is being asked already; what it answers goes for both.
            self._pinging[channel].append(heartbeat)

    async def _ping(self, channel: str, ping: Ping) -> None:
        answered = False
        try:
            answered = await ping()
        except Exception:
            logger.exception("the ping of the client behind %s failed", channel)
        finally:
            asked = self._pinging.pop(channel, [])
        if answered:
            for heartbeat in asked:
                self._acknowledge(heartbeat, channel, ANSWERED)

    def _acknowledge(self, heartbeat: Heartbeat, channel: str, answer: bool) -> None:
        if self._waiting_count >= MOST_WAITING:
            return
        if not self._waiting:
            self._start(self._push(), "acknowledgements")
        self._waiting[heartbeat.run, heartbeat.number, answer].append(channel)
        self._waiting_count += 1

    async def _push(self) -> None:
        """Push what has come up, until nothing has. It begins with the next turn of the loop."""
        layer = self._layer()
        while self._waiting and layer is not None:
            pipe = layer.connection(0).pipeline(transaction=False)
            for (run, number, answer), channels in self._waiting.items():
                for start in range(0, len(channels), CHANNELS_IN_ONE):
                    packed = msgpack.packb([number, answer, channels[start : start + CHANNELS_IN_ONE]])
                    pipe.rpushx(self._keyspace.acknowledgements(run), packed)
            # From here on others start a push of their own.
            self._waiting, self._waiting_count = defaultdict(list), 0
            try:
                await pipe.execute(raise_on_error=False)
            except Exception as error:
                logger.debug("heartbeats could not be acknowledged: %r", error)

    def _start(self, work: Any, name: str) -> None:
        task = start_task(work, name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
