"""Fixtures for processes that live in the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
import redis

from ops.layers import RedisChannelLayer
from project.embedded_redis import EmbeddedRedis
from tests.layer_builders import MakeLayer, StartProcess, app_processes


@pytest_asyncio.fixture
async def start_process() -> AsyncIterator[StartProcess]:
    """`await start_process(*groups, count=1, live=False, alias="default")`: a process with channels in the groups."""
    async with app_processes() as start:
        yield start


@pytest_asyncio.fixture
async def make_layer() -> AsyncIterator[MakeLayer]:
    """`make_layer(*servers, **config)`: a drop-in layer with these shards; its tasks end with the test."""
    made: list[RedisChannelLayer] = []

    def make(*servers: EmbeddedRedis, **config: Any) -> RedisChannelLayer:
        config.setdefault("lease_seconds", 1.0)
        made.append(RedisChannelLayer(hosts=[server.url for server in servers], **config))
        return made[-1]

    yield make
    ours = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in ours:
        task.cancel()
    await asyncio.gather(*ours, return_exceptions=True)
    for layer in made:
        with contextlib.suppress(redis.RedisError):
            await layer.close_pools()
