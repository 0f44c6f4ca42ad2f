"""Telling Redis' failures apart: which will pass, and which come from a server that is no master."""

import asyncio
import re

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

GONE = (RedisConnectionError, RedisTimeoutError, OSError, asyncio.TimeoutError)
# Scripts quote the server's answer, and redis-py takes away the codes that it knows.
_PASSES = re.compile(
    r"(^|[\s-])(OOM|LOADING|UNBLOCKED|MASTERDOWN|CLUSTERDOWN|NOREPLICAS|MISCONF|BUSY|TRYAGAIN) "
    r"|used memory >|MASTER is down|cluster is down"
)
_READ_ONLY = re.compile(r"(^|[\s-])READONLY |read only replica")


def will_pass(error: BaseException) -> bool:
    """Whether ``error`` says that a server is away, full, or not the master just now, and so is worth another try."""
    if isinstance(error, ResponseError):
        return comes_from_a_replica(error) or _PASSES.search(str(error)) is not None
    return isinstance(error, GONE)


def comes_from_a_replica(error: BaseException) -> bool:
    """Whether ``error`` says that nothing was written, since the server that was asked is no master (any more)."""
    return isinstance(error, ResponseError) and _READ_ONLY.search(str(error)) is not None
