"""Writing the disconnect log from inside an application.

What the queue cannot hold is dropped, and the next record that is written says how many. A record may be there twice if
a reply of Redis was lost.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ops.application.outbox import Outbox
from ops.model.disconnects.record import Disconnect
from ops.store.disconnects.log import append_records

QUEUE_LENGTH = 10_000


class Recorder(Outbox[Disconnect]):
    """The records of one layer that wait for its stream."""

    AWAY = "the disconnect log cannot be written; up to %(room)d records wait (%(error)s)"
    BACK = "the disconnect log is written again; %d records were dropped so far"
    LOST = "%d records of the disconnect log could not be written in time"
    FULL = "%d records of the disconnect log wait to be written; those that come now are dropped"

    def __init__(self, layer: Any, length: int) -> None:
        """``length``: about how many entries the stream keeps."""
        super().__init__(layer, 0, QUEUE_LENGTH)
        self._length = length
        self._dropped_said = 0

    async def _send(self, client: Any, batch: Sequence[Disconnect]) -> None:
        key, dropped = self.backend.keyspace.disconnects, self.dropped
        first = replace(batch[0], dropped_before=dropped - self._dropped_said)
        await append_records(client, key, [first, *batch[1:]], self._length)
        self._dropped_said = dropped
