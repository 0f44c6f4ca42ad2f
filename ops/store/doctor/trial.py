"""What an application does with groups, by the layer itself: join, send to all, receive, leave.

On a group and channels of the doctor's own. The two channels are of processes of their own, so their inboxes are two
keys, as in an application. The names of these processes are none that any command takes for one of an application.
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.exceptions import RedisError

from ops.exceptions import ShardError
from ops.model.doctor.facts import Kind, Refusal
from ops.model.keys import INFLIGHT_SUFFIX, Keyspace
from ops.store.connection.permissions import RULES_OF_THE_LAYER, rule_that_is_missing
from ops.store.connection.shards import FAILURES, OpenLayer, Shard, close_layer, make_layer
from ops.store.connection.waiting import within
from ops.store.doctor.round_trip import raised_by_layer

GROUP = "ops.doctor."
PROCESS = "ops-doctor-"
OPERATION_SECONDS = 5.0
MESSAGE = {"type": "ops.trial"}


async def try_groups(opened: OpenLayer, shard: Shard) -> tuple[Refusal, ...]:
    """The operations that failed on ``shard``, the first one first; no more are tried than make sense after it."""
    async with _own_layers(opened, shard) as layers:
        channels = [await _channel_on(layer, shard.index) for layer in layers]
        group = _group_on(layers[0], shard.index)
        trial = _Trial(shard)
        joined = [await trial.works("group_add", layers[0].group_add(group, channel)) for channel in channels]
        if all(joined) and await trial.works("group_send", layers[0].group_send(group, MESSAGE)):
            for layer, channel in zip(layers, channels, strict=True):
                await trial.works("receive", layer.receive(channel))
        for channel in channels:
            await trial.works("group_discard", layers[0].group_discard(group, channel))
        with contextlib.suppress(ShardError):
            await shard.pipeline([("DEL", key) for key in _keys(opened, group, channels)])
        return tuple({failed.said: failed for failed in reversed(trial.failed)}.values())[::-1]


class _Trial:
    """``failed``: what did not work so far."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self.failed: list[Refusal] = []

    async def works(self, operation: str, work: Awaitable[Any]) -> bool:
        try:
            await within(OPERATION_SECONDS, work)
            return True
        except FAILURES as error:
            failure = self._shard.failure(error)
            self.failed.append(Refusal(operation, failure.code, str(failure)))
        except Exception as error:  # whatever the layer of the project's choice may raise
            self.failed.append(Refusal(operation, "", raised_by_layer(self._shard, error)))
        return False


@asynccontextmanager
async def _own_layers(opened: OpenLayer, shard: Shard) -> AsyncIterator[Sequence[Any]]:
    layers = [make_layer(opened.alias) for _ in range(2)]
    try:
        yield layers
    finally:
        for layer in layers:
            with contextlib.suppress(RedisError, OSError, asyncio.TimeoutError):
                await close_layer(layer)


async def _channel_on(layer: Any, index: int) -> str:
    while True:
        layer.client_prefix = PROCESS + uuid.uuid4().hex
        channel: str = await layer.new_channel()
        if layer.consistent_hash(layer.non_local_name(channel)) == index:
            return channel


def _group_on(layer: Any, index: int) -> str:
    while True:
        group = GROUP + uuid.uuid4().hex
        if layer.consistent_hash(group) == index:
            return group


def _keys(opened: OpenLayer, group: str, channels: Sequence[str]) -> list[bytes]:
    inboxes = [opened.keyspace.inbox(channel.partition("!")[0] + "!") for channel in channels]
    return [opened.keyspace.group(group), *inboxes, *(inbox + INFLIGHT_SUFFIX for inbox in inboxes)]


# All rules that are missing, and not only the first


async def missing_rules(opened: OpenLayer, shard: Shard, kind: Kind) -> tuple[str, ...]:
    """Which rules this user lacks of those that the layer needs, each command asked on keys of the doctor's own.

    The stock layer acknowledges what it received in a task of its own, whose failure it never learns of.
    """
    commands = _commands(opened.keyspace, PROCESS + uuid.uuid4().hex, kind)
    pipe = shard.client.pipeline(transaction=False)
    for command in commands:
        pipe.execute_command(*command)
    replies = await shard.ask(pipe.execute(raise_on_error=False))
    asked = zip(commands, replies, strict=True)
    rules = [_rule(opened, command, reply) for command, reply in asked if isinstance(reply, Exception)]
    return tuple(dict.fromkeys(rule for rule in rules if rule is not None))


def _commands(keyspace: Keyspace, process: str, kind: Kind) -> list[tuple[Any, ...]]:
    """What the layer runs on the keys of a group and of a process; nothing is left of it."""
    group, inbox = keyspace.group(GROUP + process), keyspace.inbox(f"specific.{process}!")
    in_flight, index = inbox + INFLIGHT_SUFFIX, keyspace.index(process, 0)
    both: list[tuple[Any, ...]] = [
        ("ZADD", group, 1, "x"),
        ("ZREM", group, "x"),
        ("EXPIRE", group, 60),
        ("ZRANGE", group, 0, -1),
        ("ZREMRANGEBYSCORE", group, 0, 0),
        ("ZADD", inbox, 1, "x"),
        ("EXPIRE", inbox, 60),
        ("BZPOPMIN", inbox, 0.01),
        ("ZREMRANGEBYSCORE", inbox, "-inf", "+inf"),
    ]
    if kind is Kind.DROP_IN:
        return [
            *both,
            ("ZCARD", inbox),
            ("EVALSHA", "0" * 40, 0),
            ("RPUSH", index, "x"),
            ("LREM", index, 0, "x"),
        ]
    return [
        *both,
        ("ZCOUNT", inbox, "-inf", "+inf"),
        ("ZADD", in_flight, 1, "x"),
        ("ZPOPMIN", in_flight),
        ("DEL", in_flight),
        ("EVAL", "return 1", 0),
        ("MULTI",),
        ("EXEC",),
    ]


def _rule(opened: OpenLayer, command: Sequence[Any], error: Exception) -> str | None:
    return rule_that_is_missing(error, RULES_OF_THE_LAYER, opened.keyspace.everything_rule, str(command[0]))
