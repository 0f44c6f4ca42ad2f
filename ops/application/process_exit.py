"""What is still to be told to Redis when this process ends, within one time limit.

The end has stages: uvicorn waits for its websockets' tasks, the event loop is closed, and the process exits. Each may
take what the ones before have left of the time.

``atexit`` does not run in the children that ``multiprocessing`` forks, as the workers of Granian are;
``multiprocessing.util.Finalize`` does, and has to be registered anew in each of them.
"""

import asyncio
import atexit
import contextlib
import functools
import logging
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from multiprocessing import util
from typing import Any

logger = logging.getLogger("ops")

EXIT_SECONDS = 5.0
LEAST_EXIT_SECONDS = 0.5
"""How long the exit itself may take, if nothing is left."""
OTHER_END_SECONDS = 10.0
"""What began to end that long ago was not this process."""

Work = Coroutine[Any, Any, None]
Farewell = Callable[[], Work | None]

_farewells: list[Farewell] = []
_ends_since: list[float] = []


def seconds_left() -> float:
    """What is left of the time that the end of this process may take. It begins with the first call.

    A loop that ends in another thread is not the server's.
    """
    now = time.monotonic()
    if threading.current_thread() is not threading.main_thread():
        return EXIT_SECONDS
    if not _ends_since or now - _ends_since[0] >= OTHER_END_SECONDS:
        _ends_since[:] = [now]
    return max(0.0, _ends_since[0] + EXIT_SECONDS - now)


def at_exit(farewell: Farewell) -> None:
    """Call ``farewell`` when the process ends, where no loop runs any more, and run what it returns, if anything."""
    _farewells.append(farewell)
    _watch_the_process()


@functools.cache
def _watch_the_process() -> None:
    atexit.register(_say_farewell)
    _finalize(None)
    util.register_after_fork(_say_farewell, _finalize)


def _finalize(_: object) -> None:
    util.Finalize(None, _say_farewell, exitpriority=0)


def _say_farewell() -> None:
    """Once: some processes end in both ways."""
    farewells = _farewells.copy()
    _farewells.clear()
    work = [begun for begun in map(_begun, farewells) if begun is not None]
    if work:
        with contextlib.suppress(Exception), contextlib.closing(ExitLoop()) as loop:
            loop.run_until_complete(asyncio.wait_for(_all_of(work), max(LEAST_EXIT_SECONDS, seconds_left())))


def _begun(farewell: Farewell) -> Work | None:
    try:
        return farewell()
    except Exception:
        logger.exception("something was left undone at exit")
        return None


async def _all_of(work: Sequence[Work]) -> None:
    await asyncio.gather(*work, return_exceptions=True)


class ExitLoop(asyncio.SelectorEventLoop):
    """Resolves names without a thread: at exit no thread can be started any more."""

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        return socket.getaddrinfo(host, port, **options)
