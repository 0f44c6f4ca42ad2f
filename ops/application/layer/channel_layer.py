"""The drop-in channel layer."""

import asyncio
import contextlib
import copy
import logging
import math
import socket
import time
import uuid
from collections.abc import Coroutine, Sequence
from typing import Any

from asgiref.sync import markcoroutinefunction
from channels.exceptions import ChannelFull
from channels_redis import core
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from ops import compat
from ops.application.background import start_task
from ops.application.layer.acknowledgements import Acknowledger, Ping
from ops.application.layer.connections import watched
from ops.application.layer.keeper import Keeper
from ops.application.layer.memberships import Memberships
from ops.application.layer.outages import Outages
from ops.model.heartbeats.message import HEARTBEAT
from ops.model.keys import Keyspace, inbox_of, index_entry
from ops.store.connection.failures import comes_from_a_replica, will_pass
from ops.store.connection.scripts import run_script

# Applications filter and test for the stock layer's log lines.
logger = logging.getLogger(core.__name__)

SOCKET_TIMEOUT_MARGIN_SECONDS = 5.0
CONNECT_TIMEOUT_SECONDS = 5.0
RETRY_AFTER_SECONDS = (0.05, 0.2, 0.75)


class RedisChannelLayer(core.RedisChannelLayer):
    """The stock layer, which it can replace and be replaced by at any time, with workers of both kinds at once.

    One option more than the stock layer's: ``lease_seconds`` (30), how long a process counts as live without another
    sign. It is renewed three times in that time.
    """

    holds_lease = True
    """Whether whoever receives here is a process of the application, which others shall know to be live."""

    def __init__(self, *args: Any, lease_seconds: float = 30.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if lease_seconds <= 0:
            raise ValueError("lease_seconds must be above 0")
        self.lease_seconds = float(lease_seconds)
        self.memberships = Memberships()
        self.outages = Outages()
        self._keyspace = Keyspace(self.prefix)
        self._keeper = Keeper(self)
        self._heartbeats = Acknowledger(self)
        # One receiver for each inbox: the stock layer polls only one of a process's inboxes at a time.
        self._receivers: dict[str, RedisChannelLayer] = {}
        self._pops: dict[str, asyncio.Future[Any]] = {}
        self._reset_receiving()

    # Connections

    def create_pool(self, index: int) -> Any:
        """The stock pool, whose connections outlast ``BZPOPMIN``.

        redis-py 8 gives up on a silent socket after 5 s, which is what BZPOPMIN waits; older ones never do. The None by
        which the stock layer has to be spared that would here only keep a connection that is dead without a word.
        """
        pool = super().create_pool(index)
        options = compat.pool_options(pool)
        if options.get("socket_timeout") is None:
            options["socket_timeout"] = self.brpop_timeout + SOCKET_TIMEOUT_MARGIN_SECONDS
        options.setdefault("socket_connect_timeout", CONNECT_TIMEOUT_SECONDS)
        if "path" not in options:  # A unix socket has no use for it, and redis-py no such option.
            options.setdefault("socket_keepalive", True)
        pool.connection_class = watched(pool.connection_class)
        return pool

    def _longest_pop_seconds(self, index: int, wanted: float) -> float:
        """How long BZPOPMIN may wait: half of the socket's own time-out, if the user has set a short one."""
        timeout: float = compat.pool_options(self.connection(index).connection_pool)["socket_timeout"]
        if timeout >= wanted + 1:
            return wanted
        shorter = min(wanted, timeout / 2)
        return math.floor(shorter) if shorter >= 1 else shorter

    async def _run(
        self, index: int, script: str, keys: Sequence[Any], args: Sequence[Any], *, twice_is_once: bool = True
    ) -> Any:
        """Run a script, again where the connection was cut or led to a replica.

        Where doing it twice is not the same as doing it once, only if it cannot have been done: a connection was
        refused, so nothing was sent, or the server writes nothing.
        """
        for wait in RETRY_AFTER_SECONDS:
            try:
                return await run_script(self.connection(index), script, keys, args)
            except (RedisConnectionError, ResponseError) as error:
                refused = isinstance(error.__context__, (ConnectionRefusedError, socket.gaierror))
                cut = isinstance(error, RedisConnectionError)
                if not (comes_from_a_replica(error) or (cut and (twice_is_once or refused))):
                    raise
                await asyncio.sleep(wait)
        return await run_script(self.connection(index), script, keys, args)

    # Sending

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        """As the stock layer, in one round trip, and to the shard where the inbox is read."""
        assert isinstance(message, dict), "message is not a dict"
        assert compat.require_channel_name(self, channel), "Channel name not valid"
        assert "__asgi_channel__" not in message
        if "!" in channel:
            message = {**message, "__asgi_channel__": channel}
            name = self.non_local_name(channel)
            index = self.consistent_hash(name)
        else:
            name = channel
            index = compat.next_send_index(self)
        args = [self.serialize(message), time.time(), int(self.expiry), self.get_capacity(channel)]
        if not await self._run(index, "send_message", [self.prefix + name], args, twice_is_once=False):
            raise ChannelFull()

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        """As the stock layer, in one round trip for the members and one for each shard that has inboxes of theirs."""
        assert compat.require_group_name(self, group), "Group name not valid"
        expired = int(time.time()) - self.group_expiry
        key = compat.group_key(self, group)
        members = await self._run(self.consistent_hash(group), "read_members", [key], [expired])
        channels = [member.decode("utf8") for member in members]
        keys_by_shard, messages, capacities = compat.messages_by_shard(self, channels, message)
        for index, keys in keys_by_shard.items():
            args = [time.time(), int(self.expiry), *(messages[key] for key in keys), *(capacities[key] for key in keys)]
            over_capacity = await self._run(index, "send_messages", keys, args, twice_is_once=False)
            if over_capacity > 0:
                logger.info("%s of %s channels over capacity in group %s", over_capacity, len(channels), group)

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        """As the stock layer, in one round trip; and it remembers what its own channels are in."""
        assert compat.require_group_name(self, group), "Group name not valid"
        assert compat.require_channel_name(self, channel), "Channel name not valid"
        if self.memberships.has_ended(channel):
            return  # A handler in a thread, say, outlives its consumer: nobody would take this out again.
        now = time.time()
        keys: list[Any] = [compat.group_key(self, group)]
        args: list[Any] = [channel, now, self.group_expiry]
        if (taken_out := self.taken_out_key(channel)) is not None:
            keys.append(taken_out)
            args.append(index_entry(group, channel))
        mine, before = self._is_mine(channel), None
        repairs = self._keeper.repairs
        if mine:
            # First, so that whoever repairs meanwhile knows that it is wanted.
            repairs.join_begins((group, channel))
            before = self.memberships.joined(group, channel, now)
            keys.append(self.index_key(channel))
        try:
            await repairs.have_written((group, channel))
            await self._run(self.consistent_hash(group), "join_group", keys, args)
        except BaseException:
            if mine and self.memberships.join_failed(group, channel, now, before):
                repairs.doubt((group, channel))
            raise
        finally:
            if mine:
                repairs.join_ends((group, channel))
            if self.memberships.has_ended(channel):
                # It ended meanwhile, maybe in another thread, and may have been taken out before this was done.
                self.memberships.left(group, channel)
                self._keeper.take_out([(group, channel)])

    async def group_discard(self, group: str, channel: str) -> None:
        """As the stock layer. It forgets the membership before it asks, so that no repair can bring it back."""
        assert compat.require_group_name(self, group), "Group name not valid"
        assert compat.require_channel_name(self, channel), "Channel name not valid"
        script, keys, args = self._how_to_leave(group, channel)
        self.memberships.left(group, channel)
        repairs = self._keeper.repairs
        try:
            await repairs.have_written((group, channel))
            await self._run(self.consistent_hash(group), script, keys, args)
        except BaseException:
            if self._is_mine(channel):
                repairs.doubt((group, channel))
            raise

    def _how_to_leave(self, group: str, channel: str) -> tuple[str, list[Any], list[Any]]:
        """The script, with its keys and arguments. Before it is forgotten that the channel is a member."""
        key = compat.group_key(self, group)
        if self.memberships.knows(channel):
            return "leave_group", [key, self.index_key(channel)], [channel, index_entry(group, channel)]
        inbox = None if self._is_mine(channel) else inbox_of(channel)
        if inbox is None:
            return "leave_group", [key], [channel]
        keys = [key, self._keyspace.lease(inbox.process), self._keyspace.taken_out(inbox.process)]
        return "take_out", keys, [channel, index_entry(group, channel), self.group_expiry]

    def taken_out_key(self, channel: str) -> bytes | None:
        """Where word is left that other processes have taken ``channel`` out of groups; None for a general channel."""
        if self._is_mine(channel):
            return self._keyspace.taken_out(self.client_prefix)
        inbox = inbox_of(channel)
        return None if inbox is None else self._keyspace.taken_out(inbox.process)

    def index_key(self, channel: str) -> bytes:
        """Where the memberships of a channel of this process are indexed."""
        return self._keyspace.index(self.client_prefix, self.memberships.index_part(channel))

    def _is_mine(self, channel: str) -> bool:
        return f".{self.client_prefix}!" in channel

    async def flush(self) -> None:
        """As the stock layer; what was flushed on purpose is not put back."""
        self.memberships.clear()
        await super().flush()

    async def close_pools(self) -> None:
        """As the stock layer; what runs in the background stops with it, until somebody receives again."""
        await self._keeper.stop()
        await super().close_pools()

    # Receiving

    async def new_channel(self, prefix: str = "specific") -> str:
        """As the stock layer. Where a consumer asks, the end of its task means that nobody listens any more."""
        channel: str = await super().new_channel(prefix)
        consumer = asyncio.current_task() if compat.is_asked_by_consumer_start() else None
        if consumer is not None:
            self.memberships.created(channel, consumer)
            consumer.add_done_callback(lambda _: self._end_if_abandoned(channel))
        return channel

    def _end_if_abandoned(self, channel: str) -> None:
        """The consumer of ``channel`` has ended, or somebody has stopped receiving on it: it may leave its groups."""
        groups = self.memberships.end(channel)
        if groups is not None:
            self._forget_messages(channel)
            self._keeper.discard(channel, groups)

    @markcoroutinefunction
    def receive(self, channel: str) -> Coroutine[Any, Any, dict[str, Any]]:
        """As the stock layer, but Redis that is away is waited for, and each inbox has a receiver of its own.

        No coroutine function: only the call shows who receives, because the coroutine may run in a task of its own.
        """
        return self._receive(channel, asyncio.current_task() if compat.is_called_by_dispatch_loop() else None)

    async def _receive(self, channel: str, dispatching: "asyncio.Task[Any] | None") -> dict[str, Any]:
        assert compat.require_channel_name(self, channel)
        if "!" not in channel or not self._is_mine(channel):
            taken: dict[str, Any] = await super().receive(channel)
            return taken
        receiver = self._receiver_of(self.non_local_name(channel))
        self._keeper.keep_running()
        self.memberships.receiving(channel, dispatching)
        try:
            # Not by way of another coroutine, which each connection would hold for as long as it waits.
            message: dict[str, Any] = await super(RedisChannelLayer, receiver).receive(channel)
            while message.get("type") == HEARTBEAT:
                self._heartbeats.answer(channel, message)
                message = await super(RedisChannelLayer, receiver).receive(channel)
            return message
        finally:
            self.memberships.received(channel)
            self._end_if_abandoned(channel)
            if not self.memberships.knows(channel):
                self._heartbeats.set_ping(channel, None)
            if not self.memberships.is_received_on(channel):
                # The stock layer keeps the empty queue of a receiver that was cancelled.
                compat.drop_buffer(receiver, channel, only_if_empty=True)
                self._release(self.non_local_name(channel), receiver)

    def _receiver_of(self, inbox: str) -> "RedisChannelLayer":
        """This layer itself, as long as it has one inbox only."""
        loop = asyncio.get_running_loop()
        if any(compat.receiving_loop(other) not in (None, loop) for other in self._receivers.values()):
            raise RuntimeError("Two event loops are trying to receive() on one channel layer at once!")
        if inbox not in self._receivers:
            in_use = any(other is self for other in self._receivers.values())
            self._receivers[inbox] = self._another_receiver() if in_use else self
        return self._receivers[inbox]

    def _release(self, inbox: str, receiver: "RedisChannelLayer") -> None:
        if not (compat.is_receiving(receiver) or inbox in self._pops):
            self._receivers.pop(inbox, None)

    def _another_receiver(self) -> "RedisChannelLayer":
        """This layer again, sharing all but what ``receive()`` keeps while it waits."""
        other = copy.copy(self)
        other._reset_receiving()
        return other

    def _reset_receiving(self) -> None:
        compat.reset_receiving(self, _Buffers(self.capacity, self.memberships))

    def _forget_messages(self, channel: str) -> None:
        """Nobody will ever receive on ``channel`` again."""
        self._heartbeats.set_ping(channel, None)
        receiver = self._receivers.get(inbox := self.non_local_name(channel))
        if receiver is not None:
            compat.drop_buffer(receiver, channel)
            self._release(inbox, receiver)

    async def _brpop_with_clean(self, index: int, channel: str, timeout: float) -> Any:
        """Take a message from an inbox or a general channel; None where there was none, or Redis is away.

        The stock layer copies each message to a backup first, lest a worker dies with it. Nobody else reads the inbox
        of a process, so only general channels need that.
        """
        try:
            if self.outages.is_away(index):
                # Not a PING, which one that is full or read-only answers too. There is no such message.
                await self.connection(index).zrem(channel, b"")
                if self.outages.answered(index):
                    self._keeper.look_now()
            timeout = self._longest_pop_seconds(index, timeout)
            if not channel.endswith("!"):
                return await super()._brpop_with_clean(index, channel, timeout)
            self._keeper.keep_running()
            return await self._pop(index, channel, timeout)
        except Exception as error:
            if not will_pass(error):
                raise
            await self.outages.wait(index, error)
            return None

    async def _pop(self, index: int, inbox: str, timeout: float) -> Any:
        """BZPOPMIN that outlives the consumer in whose name it was sent: what it takes goes to the next that waits."""
        pop = self._pops.pop(inbox, None)
        if pop is not None and not pop.done() and pop.get_loop() is not asyncio.get_running_loop():
            # Its loop is not run any more, or is about to learn that receivers have moved to this one.
            with contextlib.suppress(RuntimeError):
                pop.get_loop().call_soon_threadsafe(pop.cancel)
            pop = None
        if pop is None:
            pop = start_task(self._pop_once(index, inbox, timeout), "pop")
        try:
            # A future may be awaited in another loop once it is done.
            popped = pop.result() if pop.done() else await asyncio.shield(pop)
        except asyncio.CancelledError:
            if not pop.cancelled():
                self._keep_pop(inbox, pop)
            raise
        return None if popped is None else popped[1]

    async def _pop_once(self, index: int, inbox: str, timeout: float) -> Any:
        return await self.connection(index).bzpopmin(inbox, timeout=timeout)

    def _keep_pop(self, inbox: str, pop: "asyncio.Future[Any]") -> None:
        """For the next receiver, unless it ends without a message before one comes."""

        def forget_if_empty(done: "asyncio.Future[Any]") -> None:
            empty = done.cancelled() or done.exception() is not None or done.result() is None
            if empty and self._pops.get(inbox) is done:
                del self._pops[inbox]

        self._pops[inbox] = pop
        pop.add_done_callback(forget_if_empty)

    async def _clean_receive_backup(self, index: int, channel: str) -> None:
        if not channel.endswith("!"):
            try:
                await super()._clean_receive_backup(index, channel)
            except Exception as error:
                if not will_pass(error):
                    raise

    def set_client_ping(self, channel: str, ping: Ping | None) -> None:
        """Have heartbeats of depth ``client`` ask the client behind ``channel``; None: not any more.

        ``ping`` is a coroutine function that asks it and returns whether it answered in time. What that time is, it
        decides itself. It runs beside the consumer, which never sees the heartbeat. It goes with its channel.
        """
        self._heartbeats.set_ping(channel, ping)

    # Children

    def begin_in_child(self) -> None:
        """This process was forked: a name of its own, or it would take its parent's messages."""
        self.client_prefix = uuid.uuid4().hex
        self.memberships = Memberships()
        self._heartbeats = Acknowledger(self)
        self._receivers, self._pops = {}, {}
        self._reset_receiving()


class _Buffer(asyncio.Queue[Any]):
    """The messages that a consumer has not taken yet.

    A full one drops its oldest message, as in the stock layer, so heartbeats fill at most half of it.
    """

    def put_nowait(self, item: Any) -> None:
        if isinstance(item, dict) and item.get("type") == HEARTBEAT and 2 * self.qsize() >= self.maxsize:
            return
        if self.full():
            self.get_nowait()
        super().put_nowait(item)


class _Buffers(dict[str, _Buffer]):
    """The buffers of the channels of a process. What arrives for a channel whose consumer has ended is dropped."""

    def __init__(self, capacity: int, memberships: Memberships) -> None:
        super().__init__()
        self._capacity = capacity
        self._memberships = memberships

    def __missing__(self, channel: str) -> _Buffer:
        buffer = _Buffer(self._capacity)
        if not self._memberships.has_ended(channel):
            self[channel] = buffer
        return buffer
