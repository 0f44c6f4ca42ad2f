"""What is still to be told to Redis when this process ends: all of it at once, within one time limit.

``atexit`` does not run in the children that ``multiprocessing`` forks, as the workers of Granian are;
``multiprocessing.util.Finalize`` does, and has to be registered anew in each of them.
"""

import asyncio
import atexit
import contextlib
import functools
import logging
import socket
from collections.abc import Callable, Coroutine, Sequence
from multiprocessing import util
from typing import Any

logger = logging.getLogger("ops")

EXIT_SECONDS = 5.0

Work = Coroutine[Any, Any, None]
Farewell = Callable[[], Work | None]

_farewells: list[Farewell] = []


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
            loop.run_until_complete(asyncio.wait_for(_all_of(work), EXIT_SECONDS))


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
