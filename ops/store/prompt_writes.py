"""Connections that put no time limit on a write that cannot wait.

With a ``socket_timeout``, redis-py puts a limit on each write with ``asyncio.wait_for()``, which before Python 3.12 is
a task and two more rounds of the event loop: about a tenth of what a command takes. But asyncio takes a small write at
once: ``drain()`` waits only where more than the transport's high-water mark (64 KiB) is still unsent.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

SMALL_BYTES = 32 * 1024


@cache
def writing_promptly(connection_class: type[Any]) -> type[Any]:
    """``connection_class`` of redis-py's asyncio connections, with small writes made at once."""

    class PromptConnection(connection_class):  # type: ignore[misc]
        async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            # A connection that is made or checked first waits for answers, too.
            if not self.is_connected or self.health_check_interval or not _is_small(command) or _unsent(self._writer):
                await super().send_packed_command(command, check_health)
                return
            limit: float | None = self.socket_timeout
            self.socket_timeout: float | None = None
            try:
                await super().send_packed_command(command, check_health)
            finally:
                self.socket_timeout = limit

    return PromptConnection


def _is_small(command: bytes | str | Sequence[bytes]) -> bool:
    return isinstance(command, list) and len(command) == 1 and len(command[0]) <= SMALL_BYTES


def _unsent(writer: Any) -> int:
    size: int = writer.transport.get_write_buffer_size()
    return size
