"""When a websocket has ended, however, the channels of its consumers leave the groups that they are still in.

Leaving goes in batches in the background, over a connection for each shard: no disconnect waits for Redis. What is left
when the process ends goes then. Channel names are never used again, so a channel that has ended is never a live member.
"""

import asyncio
import contextlib
import functools
import logging
import os
from collections.abc import Coroutine, Mapping, Sequence
from contextvars import Context
from typing import Any

from ops import compat
from ops.application import outbox
from ops.application.observation import (
    Application,
    Channel,
    Websocket,
    end_channels,
    hear_of_late_joins,
    open_websockets,
    websocket_of,
)
from ops.application.outbox import Outbox
from ops.application.process_exit import at_exit
from ops.store.connection.backends import backend_of
from ops.store.connection.failures import will_pass

logger = logging.getLogger("ops.middleware")

PART = "leave"
WRITTEN_WITHIN_SECONDS = 2.0
CERTAIN_SECONDS = 2.0

Member = tuple[str, str]
"""Group and channel."""


def leaving(application: Application) -> Application:
    """``application``, with websockets that leave all groups when they have ended."""

    async def leave_at_end(scope: Mapping[str, Any], receive: Any, send: Any) -> Any:
        websocket = websocket_of(scope)
        if websocket is None or not websocket.takes(PART):
            return await application(scope, receive, send)
        _watch_the_process()
        try:
            return await application(scope, receive, send)
        finally:
            leavers = _leave(websocket)
            if websocket.is_told_of_restart:
                # The server waits for this task, and for nothing that comes after it.
                await asyncio.gather(*(leaver.written(WRITTEN_WITHIN_SECONDS) for leaver in leavers))

    return leave_at_end


def _leave(websocket: Websocket) -> set["Leaver"]:
    """Have the channels of ``websocket`` leave their groups; returns the leavers that have something to do."""
    if not websocket.is_of_this_process:
        return set()  # A child that a handler has forked ends: the members are its parent's, and alive.
    try:
        end_channels(websocket)
        return {
            _leave_group(channel, group, in_doubt=in_doubt)
            for channel in websocket.channels
            for group, in_doubt in list(channel.groups.items())
        }
    except Exception:
        logger.exception("the groups of a websocket could not be left")
        return set()


def _leave_late(channel: Channel, group: str, in_doubt: bool) -> None:
    _leave_group(channel, group, in_doubt=in_doubt)


def _leave_group(channel: Channel, group: str, *, in_doubt: bool) -> "Leaver":
    leaver = _leaver_of(channel, group)
    leaver.put((group, channel.name))
    if in_doubt:
        leaver.put_later((group, channel.name))
    return leaver


class Leaver(Outbox[Member]):
    """The memberships of one shard that end."""

    AWAY = "groups cannot be left; all memberships wait (%(error)s)"
    BACK = "groups are left again; %d memberships were dropped so far"
    LOST = "%d memberships could not be removed in time; they stay until reap_stale or group_expiry removes them"

    def __init__(self, layer: Any, shard: int) -> None:
        # Without a limit: what was dropped would stay, and each item is a membership that this process has had anyway.
        super().__init__(layer, shard)

    def put_later(self, member: Member) -> None:
        """Remove it once more: a join that was cancelled may be on its way, and overtaken by the first removal."""
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop().call_later(CERTAIN_SECONDS, self.put, member, context=Context())

    async def _send(self, client: Any, batch: Sequence[Member]) -> None:
        if self.backend.discard_is_zrem:
            pipe = client.pipeline(transaction=False)
            for group, channel in batch:
                pipe.zrem(compat.group_key(self.layer, group), channel)
            for reply in await pipe.execute(raise_on_error=False):
                if isinstance(reply, Exception) and will_pass(reply):
                    raise reply
            return
        for group, channel in batch:
            # The drop-in layer sees to what fails here itself, and the publish/subscribe layer forgets first.
            with contextlib.suppress(Exception):
                await self.layer.group_discard(group, channel)


# The leavers of this process

_leavers: dict[tuple[str, int], Leaver] = {}


def _leaver_of(channel: Channel, group: str) -> Leaver:
    layer = channel.layer
    shard = layer.consistent_hash(group) if backend_of(layer).discard_is_zrem else 0
    leaver = _leavers.get((channel.alias, shard))
    if leaver is None or leaver.layer is not layer:
        leaver = _leavers[channel.alias, shard] = Leaver(layer, shard)
    return leaver


@functools.cache
def _watch_the_process() -> None:
    hear_of_late_joins(_leave_late)
    at_exit(_leave_at_exit)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=outbox.begin_in_child)


def _leave_at_exit() -> Coroutine[Any, Any, None] | None:
    """The process takes with it what is still open."""
    for websocket in open_websockets():
        if PART in websocket.parts:
            _leave(websocket)
    # The keeper of a drop-in layer takes all of its members with it.
    return outbox.send_the_rest(leaver for leaver in _leavers.values() if leaver.backend.lacks_keeper)
