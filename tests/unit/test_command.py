"""What all commands share."""

from __future__ import annotations

import asyncio
import gc

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from ops.management.command import OpsCommand


@pytest.mark.parametrize(("error", "said"), [(RedisConnectionError("gone"), False), (ValueError("a mistake"), True)])
def test_a_task_that_nobody_waits_for_may_meet_an_outage_without_a_traceback(
    error: Exception, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise error

    async def work() -> None:
        unheard = asyncio.ensure_future(fail())
        await asyncio.sleep(0)
        assert unheard.done()
        del unheard
        gc.collect()

    OpsCommand().run_async(work())
    assert ("never retrieved" in caplog.text) is said
