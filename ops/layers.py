"""A drop-in replacement for ``channels_redis.core.RedisChannelLayer`` that stops making orphans.

::

    CHANNEL_LAYERS = {"default": {"BACKEND": "ops.layers.RedisChannelLayer", "CONFIG": {…as before…}}}

It relies on these parts of channels_redis 4.2 and 4.3 and overrides no others: ``create_pool``, ``send``,
``group_add``, ``group_discard``, ``group_send``, ``new_channel``, ``receive``, ``flush``, ``_brpop_with_clean``,
``_clean_receive_backup``, ``_map_channel_keys_to_connection``, ``_group_key``, and the attributes of ``receive()``.
"""

import asyncio
import collections
import contextlib
import copy
import functools
import logging
import time
from collections.abc import Sequence
from typing import Any

from channels.exceptions import ChannelFull
from channels_redis import core
from redis.exceptions import ConnectionError as RedisConnectionError

from ops.model.keys import Keyspace, index_entry
from ops.model.memberships import Memberships
from ops.store.keeper import Keeper
from ops.store.outages import GONE, Outages
from ops.store.scripts import run_script

# Applications filter and test for the stock layer's log lines.
logger = logging.getLogger(core.__name__)

SOCKET_TIMEOUT_MARGIN_SECONDS = 5.0
RETRY_AFTER_SECONDS = (0.05, 0.2, 0.75)


class RedisChannelLayer(core.RedisChannelLayer):  # type: ignore[misc]  # channels_redis has no types
    """The stock layer, which it can replace and be replaced by at any time, with workers of both kinds at once.

    One option more than the stock layer's: ``lease_seconds`` (30), how long a process counts as live without another
    sign. It is renewed three times in that time.
    """

    brpop_timeout: float = core.RedisChannelLayer.brpop_timeout

    def __init__(self, *args: Any, lease_seconds: float = 30.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if lease_seconds <= 0:
            raise ValueError("lease_seconds must be above 0")
        self.lease_seconds = float(lease_seconds)
        self.memberships = Memberships()
        self.outages = Outages()
        self._keyspace = Keyspace(self.prefix)
        self._keeper = Keeper(self)
        # One receiver for each inbox: the stock layer polls only one of a process's inboxes at a time.
        self._receivers: dict[str, RedisChannelLayer] = {}
        self._pops: dict[str, asyncio.Future[Any]] = {}

    # Connections

    def create_pool(self, index: int) -> Any:
        """The stock pool, whose connections outlast ``BZPOPMIN``.

        redis-py 8 gives up on a silent socket after 5 s, which is what BZPOPMIN waits; older ones never do.
        """
        pool = super().create_pool(index)
        options = pool.connection_kwargs
        options.setdefault("socket_timeout", self.brpop_timeout + SOCKET_TIMEOUT_MARGIN_SECONDS)
        options.setdefault("socket_keepalive", True)
        timeout = options["socket_timeout"]
        if timeout is not None:
            self.brpop_timeout = min(self.brpop_timeout, max(timeout * 0.8, 0.1))
        return pool

    async def _run(self, index: int, script: str, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """Run a script, again where the connection was cut: each does the same when it is run twice."""
        for wait in RETRY_AFTER_SECONDS:
            try:
                return await run_script(self.connection(index), script, keys, args)
            except RedisConnectionError:
                await asyncio.sleep(wait)
        return await run_script(self.connection(index), script, keys, args)

    # Sending

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        """As the stock layer, in one round trip, and to the shard where the inbox is read."""
        assert isinstance(message, dict), "message is not a dict"
        assert self.require_valid_channel_name(channel), "Channel name not valid"
        assert "__asgi_channel__" not in message
        if "!" in channel:
            message = {**message, "__asgi_channel__": channel}
            name = self.non_local_name(channel)
            index = self.consistent_hash(name)
        else:
            name = channel
            index = next(self._send_index_generator)
        args = [self.serialize(message), time.time(), int(self.expiry), self.get_capacity(channel)]
        if not await self._run(index, "send_message", [self.prefix + name], args):
            raise ChannelFull()

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        """As the stock layer, in one round trip for the members and one for each shard that has inboxes of theirs."""
        assert self.require_valid_group_name(group), "Group name not valid"
        expired = int(time.time()) - self.group_expiry
        members = await self._run(self.consistent_hash(group), "read_members", [self._group_key(group)], [expired])
        channels = [member.decode("utf8") for member in members]
        keys_by_shard, messages, capacities = self._map_channel_keys_to_connection(channels, message)
        for index, keys in keys_by_shard.items():
            args = [time.time(), int(self.expiry), *(messages[key] for key in keys), *(capacities[key] for key in keys)]
            over_capacity = await self._run(index, "send_messages", keys, args)
            if over_capacity > 0:
                logger.info("%s of %s channels over capacity in group %s", over_capacity, len(channels), group)

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        """As the stock layer, in one round trip; and it remembers what its own channels are in."""
        assert self.require_valid_group_name(group), "Group name not valid"
        assert self.require_valid_channel_name(channel), "Channel name not valid"
        now = time.time()
        keys: list[Any] = [self._group_key(group)]
        args: list[Any] = [channel, now, self.group_expiry]
        if self._is_mine(channel):
            keys.append(self.index_key(channel))
            args.append(index_entry(group, channel))
        await self._run(self.consistent_hash(group), "join_group", keys, args)
        if self._is_mine(channel):
            self.memberships.joined(group, channel, now)

    async def group_discard(self, group: str, channel: str) -> None:
        """As the stock layer. It forgets the membership before it asks, so that no repair can bring it back."""
        assert self.require_valid_group_name(group), "Group name not valid"
        assert self.require_valid_channel_name(channel), "Channel name not valid"
        keys: list[Any] = [self._group_key(group)]
        args: list[Any] = [channel]
        if self.memberships.knows(channel):
            keys.append(self.index_key(channel))
            args.append(index_entry(group, channel))
            self.memberships.left(group, channel)
        await self._run(self.consistent_hash(group), "leave_group", keys, args)

    def index_key(self, channel: str) -> bytes:
        """Where the memberships of a channel of this process are indexed."""
        return self._keyspace.index(self.client_prefix, self.memberships.index_part(channel))

    def _is_mine(self, channel: str) -> bool:
        return f".{self.client_prefix}!" in channel

    async def flush(self) -> None:
        """As the stock layer; what was flushed on purpose is not put back."""
        self.memberships.clear()
        await super().flush()

    # Receiving

    async def new_channel(self, prefix: str = "specific") -> str:
        """As the stock layer; the task that asks is the one whose end means that nobody listens any more."""
        channel: str = await super().new_channel(prefix)
        self.memberships.created(channel, asyncio.current_task())
        return channel

    async def receive(self, channel: str) -> dict[str, Any]:
        """As the stock layer, but Redis that is away is waited for, and each inbox has a receiver of its own."""
        if "!" not in channel or not self._is_mine(channel):
            return await self._receive(channel)
        self._keeper.keep_running()
        self.memberships.receiving(channel)
        try:
            return await self._receiver_of(channel)._receive(channel)
        finally:
            self.memberships.received(channel)

    async def _receive(self, channel: str) -> dict[str, Any]:
        message: dict[str, Any] = await super().receive(channel)
        return message

    def _receiver_of(self, channel: str) -> "RedisChannelLayer":
        inbox = self.non_local_name(channel)
        if not self._receivers:
            self._receivers[inbox] = self
        if inbox not in self._receivers:
            self._receivers[inbox] = self._another_receiver()
        return self._receivers[inbox]

    def _another_receiver(self) -> "RedisChannelLayer":
        """This layer again, sharing all but what ``receive()`` keeps while it waits."""
        other = copy.copy(self)
        other.receive_count = 0
        other.receive_lock = None
        other.receive_event_loop = None
        other.receive_buffer = collections.defaultdict(functools.partial(core.BoundedQueue, self.capacity))
        return other

    async def _brpop_with_clean(self, index: int, channel: str, timeout: float) -> Any:
        """Take a message from an inbox or a general channel; None where there was none, or Redis is away.

        The stock layer copies each message to a backup first, lest a worker dies with it. Nobody else reads the inbox
        of a process, so only general channels need that.
        """
        try:
            if self.outages.is_away(index):
                await self.connection(index).ping()
                if self.outages.answered(index):
                    self._keeper.look_now()
            if channel.endswith("!"):
                return await self._pop(index, channel, timeout)
            return await super()._brpop_with_clean(index, channel, timeout)
        except GONE as error:
            await self.outages.wait(index, error)
            return None

    async def _pop(self, index: int, inbox: str, timeout: float) -> Any:
        """BZPOPMIN that outlives the consumer in whose name it was sent: what it takes goes to the next that waits."""
        pop = self._pops.pop(inbox, None)
        if pop is None or pop.get_loop() is not asyncio.get_running_loop():
            pop = asyncio.ensure_future(self.connection(index).bzpopmin(inbox, timeout=timeout))
            # Who waits for it may be gone by the time it fails.
            pop.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            popped = await asyncio.shield(pop)
        except asyncio.CancelledError:
            if self.receive_count > 1:
                self._pops[inbox] = pop
            else:
                pop.cancel()
            raise
        return None if popped is None else popped[1]

    async def _clean_receive_backup(self, index: int, channel: str) -> None:
        if not channel.endswith("!"):
            with contextlib.suppress(*GONE):
                await super()._clean_receive_backup(index, channel)
