"""Redis that is away: how to tell, how long to wait before the next try, and one log line for each outage."""

import asyncio
import logging
import re
import time
from dataclasses import dataclass, field

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ops.model.ends import without_secrets
from ops.store.waiting import spread

logger = logging.getLogger("ops.layers")

FIRST_WAIT_SECONDS = 0.05
LONGEST_WAIT_SECONDS = 1.0
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


@dataclass(slots=True)
class Outages:
    """The outages of one layer's shards, as its receivers meet them."""

    count: int = 0
    _since: dict[int, float] = field(default_factory=dict)
    _waits: dict[int, float] = field(default_factory=dict)

    async def wait(self, shard: int, error: BaseException) -> None:
        """Note that ``shard`` is away, and wait before the next try: longer each time, and never in step."""
        if shard not in self._since:
            self.count += 1
            self._since[shard] = time.monotonic()
            logger.error(
                "Redis shard %d is away (%s: %s); receivers wait and try again",
                shard,
                type(error).__name__,
                without_secrets(str(error)),
            )
        wait = self._waits.get(shard, FIRST_WAIT_SECONDS)
        self._waits[shard] = min(wait * 2, LONGEST_WAIT_SECONDS)
        await asyncio.sleep(spread(0.5 * wait, wait))

    def is_away(self, shard: int) -> bool:
        return shard in self._since

    def answered(self, shard: int) -> bool:
        """``shard`` has answered; returns whether that ends an outage."""
        since = self._since.pop(shard, None)
        if since is None:
            return False
        self._waits.pop(shard, None)
        logger.warning("Redis shard %d is back after %.1f s", shard, time.monotonic() - since)
        return True
