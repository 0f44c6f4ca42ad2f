"""The lock that keeps two runs from doing the same work twice. Safety does not rest on it: that is in the scripts."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio.lock import Lock
from redis.exceptions import LockError, LockNotOwnedError, RedisError, ResponseError

from ops import compat
from ops.exceptions import AnotherRunHoldsTheLock, PermissionMissing
from ops.model.liveness.judgement import JUDGEMENT_SECONDS
from ops.store.connection.shards import ANSWER_TIMEOUT_SECONDS, FAILURES, OpenLayer
from ops.store.connection.waiting import end, within

LOCK_SECONDS = JUDGEMENT_SECONDS  # It must not end before a call by the judgement that it was renewed for.
RENEWALS_PER_LIFETIME = 3
RULES = "+get +del +pexpire"  # of redis-py's Lock, in scripts of its own


class RunLock:
    """The layer's lock, as a run holds it."""

    def __init__(self, opened: OpenLayer, lock: Lock) -> None:
        self._home = opened.home
        self._lock = lock

    async def renew(self) -> bool:
        """Whether it is still ours; it lives for another LOCK_SECONDS then. Raises ShardError."""
        try:
            await within(ANSWER_TIMEOUT_SECONDS, self._lock.reacquire())
        except LockNotOwnedError:
            return False
        except FAILURES as error:
            raise self._home.failure(error, in_script=RULES) from None
        return True


@asynccontextmanager
async def run_lock(opened: OpenLayer) -> AsyncIterator[RunLock]:
    """Hold the layer's lock; it is renewed while held, and gone LOCK_SECONDS after a holder that was killed.

    Raises AnotherRunHoldsTheLock at once where somebody has it.
    """
    lock = Lock(opened.home.client, opened.keyspace.lock, timeout=LOCK_SECONDS, blocking=False, thread_local=False)
    token = uuid.uuid4().hex.encode()
    try:
        acquired = await opened.home.ask(lock.acquire(token=token))
    except asyncio.CancelledError:
        compat.set_lock_token(lock, token)  # The answer was not waited for, and may have been yes.
        await _release(opened, lock)
        raise
    if not acquired:
        await _shorten(opened)
        raise AnotherRunHoldsTheLock(f"another run is at work on layer {opened.alias!r}; nothing was done, come again")
    renewer = asyncio.create_task(_renew(lock))
    try:
        yield RunLock(opened, lock)
    finally:
        await end(renewer)
        await _release(opened, lock)


async def _shorten(opened: OpenLayer) -> None:
    """Have a lock that would outlive LOCK_SECONDS end by then, unless its holder renews it.

    A run that was killed while the clock of Redis was ahead leaves one that lives until that time comes.
    """
    (left_ms,) = await opened.home.pipeline([("PTTL", opened.keyspace.lock)])
    if isinstance(left_ms, int) and (left_ms == -1 or left_ms > LOCK_SECONDS * 1000):
        await opened.home.execute("PEXPIRE", opened.keyspace.lock, int(LOCK_SECONDS * 1000))


async def _release(opened: OpenLayer, lock: Lock) -> None:
    """Let go of it; where that fails, it lapses by itself. Raises PermissionMissing: it would fail each time."""
    try:
        await within(LOCK_SECONDS, lock.release())
    except ResponseError as error:
        failure = opened.home.failure(error, in_script=RULES)
        if isinstance(failure, PermissionMissing):
            raise failure from None
    except (LockError, RedisError, OSError, asyncio.TimeoutError):
        pass


async def _renew(lock: Lock) -> None:
    while True:
        await asyncio.sleep(LOCK_SECONDS / RENEWALS_PER_LIFETIME)
        with contextlib.suppress(LockError, RedisError, OSError):
            await lock.reacquire()
