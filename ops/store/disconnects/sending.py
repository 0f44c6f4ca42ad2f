"""Messages to others' channels and groups, by the layer's own ``send()`` and ``group_send()``."""

from typing import Any

from ops import compat
from ops.store.connection.shards import ANSWER_TIMEOUT_SECONDS, FAILURES, OpenLayer, Shard
from ops.store.connection.waiting import within


class Sender:
    """Sends to one target. ``to_group``: it is a group.

    A group is on one shard and the inboxes of its members on any, and a general channel is on all in turn: only the
    layer knows which one it used last, so it is watched as it asks for its connections.

    Raises TypeError or ValueError where the layer does not send to such a name.
    """

    def __init__(self, opened: OpenLayer, target: str, *, to_group: bool) -> None:
        self._layer = opened.layer
        self._shards = opened.shards
        self._target = target
        self._to_group = to_group
        self._key_rule = ""
        self._used = 0
        if not opened.backend.keeps_members:
            self._used = opened.backend.shard_of_group(target)
            return
        if to_group:
            compat.require_group_name(opened.layer, target)
        else:
            compat.require_channel_name(opened.layer, target)
            self._key_rule = opened.keyspace.rule_for(opened.layer.non_local_name(target))
        self._connection = opened.layer.connection
        opened.layer.connection = self._note_connection

    def _note_connection(self, index: int) -> Any:
        self._used = index
        return self._connection(index)

    @property
    def shard(self) -> Shard:
        """The one that was used last."""
        return self._shards[self._used]

    async def send(self, message: dict[str, Any]) -> None:
        """Raises ShardError that names the shard which failed, and ChannelFull; whether a group is full nobody says."""
        send = self._layer.group_send if self._to_group else self._layer.send
        try:
            await within(ANSWER_TIMEOUT_SECONDS, send(self._target, message))
        except FAILURES as error:
            raise self.shard.failure(error, key_rule=self._key_rule) from None
