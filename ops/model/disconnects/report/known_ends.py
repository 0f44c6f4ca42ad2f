"""Which records of the reaper tell of an end that is on record already. Pure."""

from ops.model.disconnects.cause import Cause
from ops.model.disconnects.record import Disconnect
from ops.model.disconnects.report.counting import RecentKeys

CHANNELS_KEPT = 50_000


class KnownEnds:
    """Ends in the order in which they were recorded; a record of the reaper's may tell of no further one.

    Its channel is in an earlier record then, whether its own process wrote that, or the reaper for another of its
    groups. Known of the newest CHANNELS_KEPT channels that were left in a group.
    """

    def __init__(self) -> None:
        self._left_behind = RecentKeys(CHANNELS_KEPT)

    def has(self, one: Disconnect) -> bool:
        """Note ``one``; whether it is the reaper's, of an end that is known. It only finds what stayed in a group."""
        if one.channel is None or not one.groups:
            return False
        is_new = self._left_behind.add(one.channel)
        return one.cause == Cause.PROCESS_DIED and not is_new
