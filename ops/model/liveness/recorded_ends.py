"""Which recorded ends prove that a channel is gone."""

from ops.model.disconnects.cause import Cause
from ops.model.disconnects.record import Disconnect, is_timed
from ops.model.keys import encode_name, inbox_of

AT_PRECISION_SECONDS = 0.001
"""A record says when to the millisecond, cut off: what joined in it joined before the end."""


CLOCKS_DIFFER_SECONDS = 5.0
"""What may be between the clock of a host and that of Redis."""


def gone_channel(one: Disconnect, now: float | None = None) -> tuple[bytes, float] | None:
    """The channel whose end ``one`` proves, and the join time up to which its memberships are orphans.

    Both are by the clock of the host that had the socket. ``now``: unix seconds; not given where nobody but an
    application can have written ``one``. None where nothing is proved:

    - The reaper's own records: its members are removed already. Where an undo has brought them back they may be alive.
    - An end without a channel or a time, as in a server's own log.
    - An end that is yet to come at ``now``: nobody knows of one.
    - A general channel, which many may read.
    - A channel of which no consumer is known: something else on the way to a consumer may have made it for itself.
    """
    if one.source == "reaper" or one.cause == Cause.PROCESS_DIED or one.channel is None or not is_timed(one):
        return None
    if now is not None and one.at > now + CLOCKS_DIFFER_SECONDS:
        return None
    if one.consumer is None or inbox_of(one.channel) is None:
        return None
    return encode_name(one.channel), one.at + AT_PRECISION_SECONDS
