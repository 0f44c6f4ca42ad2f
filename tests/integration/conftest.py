"""Fixtures for processes that live in the test's own event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.layer_builders import StartProcess, app_processes


@pytest_asyncio.fixture
async def start_process() -> AsyncIterator[StartProcess]:
    """`await start_process(*groups, count=1, live=False, alias="default")`: a process with channels in the groups."""
    async with app_processes() as start:
        yield start
