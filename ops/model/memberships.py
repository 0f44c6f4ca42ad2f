"""What a process knows of its own channels: which of them are in which groups, and which have lost their consumer.

Pure: tasks are only asked whether they are done, and time comes in.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from ops.model.keys import INDEXED_CHANNELS


class Owner(Protocol):
    """The task that asked for a channel. An asyncio.Task, as far as this module knows."""

    def done(self) -> bool: ...


@dataclass(slots=True)
class _Channel:
    """One channel. ``owner`` is None where nobody can be held to it; ``groups``: group -> when it last joined."""

    owner: Owner | None
    index_part: int
    groups: dict[str, float] = field(default_factory=dict)
    receivers: int = 0
    was_received_on: bool = False
    without_owner_since: float | None = None


class Memberships:
    """The channels of one process and their groups. Join times are unix seconds of this host, as the scores are."""

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
        return sum(len(channel.groups) for channel in self._channels.values())

    @property
    def channels(self) -> int:
        return len(self._channels)

    def created(self, name: str, owner: Owner | None) -> None:
        """``new_channel()`` made it, in the task ``owner``."""
        self._channels[name] = self._new(owner)

    def joined(self, group: str, name: str, now: float) -> None:
        self._known(name).groups[group] = now

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
        for channel in self._channels.values():
            channel.groups.clear()

    def receiving(self, name: str) -> None:
        """Somebody began to wait for a message."""
        channel = self._known(name)
        channel.receivers += 1
        channel.was_received_on = True
        if channel.owner is not None and channel.owner.done():
            # It is in other hands than those it was made by: nobody can say when these let go of it.
            channel.owner = None

    def received(self, name: str) -> None:
        """The wait has ended, with a message or without."""
        channel = self._channels.get(name)
        if channel is not None:
            channel.receivers -= 1
            self._forget_if_idle(name, channel)

    def _forget_if_idle(self, name: str, channel: _Channel) -> None:
        owned = channel.owner is not None and not channel.owner.done()
        if not owned and not channel.groups and channel.receivers <= 0:
            self._channels.pop(name, None)

    def abandoned(self, now: float, grace_seconds: float) -> list[tuple[str, list[str]]]:
        """Channels whose consumer is gone, each with the groups it is still in.

        Its owner is done, had received on it while it lived, and nobody has received on it in ``grace_seconds``
        since. A channel that is merely received on with time-outs has an owner that is at work, or none at all.
        """
        gone = []
        for name, channel in list(self._channels.items()):
            if channel.owner is None or not channel.owner.done() or channel.receivers > 0:
                channel.without_owner_since = None
            elif not channel.groups:
                del self._channels[name]
            elif channel.was_received_on:
                if channel.without_owner_since is None:
                    channel.without_owner_since = now
                if now - channel.without_owner_since >= grace_seconds:
                    gone.append((name, list(channel.groups)))
        return gone

    def joined_before(self, limit: float) -> dict[str, list[str]]:
        """Group -> the channels that last joined it before ``limit``."""
        found: dict[str, list[str]] = {}
        for name, group, at in self._each():
            if at < limit:
                found.setdefault(group, []).append(name)
        return found

    def by_group(self) -> dict[str, list[str]]:
        """Group -> its channels."""
        found: dict[str, list[str]] = {}
        for name, group, _ in self._each():
            found.setdefault(group, []).append(name)
        return found

    def _each(self) -> Iterator[tuple[str, str, float]]:
        for name, channel in self._channels.items():
            for group, at in channel.groups.items():
                yield name, group, at
