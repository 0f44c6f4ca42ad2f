"""Whether a channel of a process's own has lost its consumer for good. The drop-in layer asks in its own process."""


def is_abandoned(*, consumer_has_ended: bool | None, receivers: int) -> bool:
    """Whether the channel leaves its groups: its consumer has ended, and nobody can be waiting for its messages.

    ``consumer_has_ended``: None if no consumer is known to own the channel. Such a channel is never abandoned, because
    whatever made it may receive on it again at any time. ``receivers``: how many wait for a message on it now.
    """
    return consumer_has_ended is True and receivers <= 0
