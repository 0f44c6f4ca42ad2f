"""What a process knows of its own channels: which of them are in which groups, and which have lost their consumer.

Pure: tasks are only asked whether they are done, and time comes in.
"""

from dataclasses import dataclass, field
from typing import Protocol

from ops.model.keys import INDEXED_CHANNELS
from ops.model.liveness.abandoned import is_abandoned


class Owner(Protocol):
    """The task of the consumer that asked for a channel. An asyncio.Task, as far as this module knows."""

    def done(self) -> bool: ...


@dataclass(slots=True)
class _Channel:
    """One channel. ``owner`` is None where nobody can be held to it; ``groups``: group -> when it last joined."""

    owner: Owner | None
    index_part: int
    groups: dict[str, float] = field(default_factory=dict)
    receivers: int = 0
    without_owner_since: float | None = None


class Memberships:
    """The channels of one process and their groups. Join times are unix seconds of this host, as the scores are.

    Sync code joins and leaves in threads of its own: what is looked through is a copy, which Python makes in one go.
    """

    def __init__(self) -> None:
        self._channels: dict[str, _Channel] = {}
        self._created = 0

    def _new(self, owner: Owner | None) -> _Channel:
        self._created += 1
        return _Channel(owner, (self._created - 1) // INDEXED_CHANNELS)

    @property
    def index_parts(self) -> int:
        """How many parts the index of this process has, with those that are empty by now."""
        return -(-self._created // INDEXED_CHANNELS)

    def index_part(self, name: str) -> int:
        """The part of the index that a channel's memberships go into."""
        return self._known(name).index_part

    def knows(self, name: str) -> bool:
        return name in self._channels

    def _known(self, name: str) -> _Channel:
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = self._new(None)
        return channel

    def __len__(self) -> int:
        return sum(len(channel.groups) for channel in list(self._channels.values()))

    @property
    def channels(self) -> int:
        return len(self._channels)

    def created(self, name: str, owner: Owner) -> None:
        """A consumer made it, whose task is ``owner``: when that is done, nobody receives on it any more."""
        self._channels[name] = self._new(owner)

    def joined(self, group: str, name: str, now: float) -> float | None:
        """Returns when it had joined before; None if it was no member."""
        groups = self._known(name).groups
        before = groups.get(group)
        groups[group] = now
        return before

    def join_failed(self, group: str, name: str, at: float, before: float | None) -> bool:
        """What ``joined()`` noted at ``at`` may not be so; returns whether it is no member now.

        Whoever has joined since, at the same time as this, knows better.
        """
        channel = self._channels.get(name)
        if channel is not None and channel.groups.get(group) == at:
            if before is None:
                self.left(group, name)
            else:
                channel.groups[group] = before
        return not self.is_member(group, name)

    def left(self, group: str, name: str) -> None:
        channel = self._channels.get(name)
        if channel is not None:
            channel.groups.pop(group, None)
            self._forget_if_idle(name, channel)

    def is_member(self, group: str, name: str) -> bool:
        channel = self._channels.get(name)
        return channel is not None and group in channel.groups

    def clear(self) -> None:
        """Every group is gone, because somebody wanted it so."""
        for channel in list(self._channels.values()):
            channel.groups.clear()

    def receiving(self, name: str) -> None:
        """Somebody began to wait for a message."""
        channel = self._known(name)
        channel.receivers += 1
        if channel.owner is not None and channel.owner.done():
            # It is in other hands than its consumer's: nobody can say when these let go of it.
            channel.owner = None

    def received(self, name: str) -> None:
        """The wait has ended, with a message or without."""
        channel = self._channels.get(name)
        if channel is not None:
            channel.receivers -= 1
            self._forget_if_idle(name, channel)

    def is_received_on(self, name: str) -> bool:
        channel = self._channels.get(name)
        return channel is not None and channel.receivers > 0

    def _forget_if_idle(self, name: str, channel: _Channel) -> None:
        if channel.owner is None and not channel.groups and channel.receivers <= 0:
            self._channels.pop(name, None)

    def owners(self) -> list[Owner]:
        """The consumers that still have a channel."""
        return [channel.owner for channel in list(self._channels.values()) if channel.owner is not None]

    def abandoned(self, now: float, grace_seconds: float) -> list[tuple[str, list[str]]]:
        """The channels whose consumer has been gone for ``grace_seconds``, each with the groups it is still in.

        One that is in none is forgotten with this. A channel without an owner is nobody's to judge: whoever made it
        may receive on it again at any time.
        """
        gone = []
        for name, channel in list(self._channels.items()):
            ended = None if channel.owner is None else channel.owner.done()
            if not ended or channel.receivers > 0:
                channel.without_owner_since = None
                continue
            if channel.without_owner_since is None:
                channel.without_owner_since = now
            if is_abandoned(
                consumer_has_ended=ended,
                receivers=channel.receivers,
                ended_for_seconds=now - channel.without_owner_since,
                grace_seconds=grace_seconds,
            ):
                gone.append((name, list(channel.groups)))
                if not channel.groups:
                    del self._channels[name]
        return gone

    def joined_before(self, limit: float) -> list[tuple[str, str]]:
        """(group, channel) of each that last joined before ``limit``."""
        return [
            (group, name)
            for name, channel in list(self._channels.items())
            for group, at in list(channel.groups.items())
            if at < limit
        ]
