"""Redis that is away: how to tell, how long to wait before the next try, and one log line for each outage."""

import asyncio
import logging
import time
from dataclasses import dataclass, field

from ops.model.text import without_secrets
from ops.store.connection.waiting import spread

logger = logging.getLogger("ops.layers")

FIRST_WAIT_SECONDS = 0.05
LONGEST_WAIT_SECONDS = 1.0


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
