"""What a process knows of its own channels: which of them are in which groups, and which have lost their consumer.

A consumer owns its channel while Channels' own dispatch loop is the only one that receives on it: then the end of the
consumer's task means that nobody receives there any more. Of any other channel nothing is concluded.

Pure: tasks are only asked whether they are done, and time comes in.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

from ops.model.keys import INDEXED_CHANNELS
from ops.model.liveness.abandoned import is_abandoned


class Owner(Protocol):
    """The task of the consumer that asked for a channel. An asyncio.Task, as far as this module knows."""

    def done(self) -> bool: ...

    def get_loop(self) -> Any: ...


ENDED_REMEMBERED = 10_000


@dataclass(slots=True)
class _Channel:
    """One channel. ``owner``: None if no consumer can be held to it; ``dispatched``: Channels' dispatch loop receives
    on it; ``groups``: group -> when it last joined."""

    owner: Owner | None
    index_part: int
    groups: dict[str, float] = field(default_factory=dict)
    receivers: int = 0
    dispatched: bool = False


class Memberships:
    """The channels of one process and their groups. Join times are unix seconds of this host, as the scores are.

    Sync code joins and leaves in threads of its own: what is looked through is a copy, which Python makes in one go.
    """

    def __init__(self) -> None:
        self._channels: dict[str, _Channel] = {}
        # Channels whose consumer has ended, the latest of them -> their part of the index
        self._ended: dict[str, int] = {}
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
        return self._ended[name] if name in self._ended else self._known(name).index_part

    def knows(self, name: str) -> bool:
        return name in self._channels or name in self._ended

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
        """A consumer made it, whose task is ``owner``."""
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

    def joined_at(self, group: str, name: str) -> float | None:
        """When it last joined; None if it is no member."""
        channel = self._channels.get(name)
        return None if channel is None else channel.groups.get(group)

    def clear(self) -> None:
        """Every group is gone, because somebody wanted it so."""
        for channel in list(self._channels.values()):
            channel.groups.clear()

    def receiving(self, name: str, dispatching: Owner | None) -> None:
        """A wait for a message begins. ``dispatching``: the task whose dispatch loop waits; None for anything else."""
        self._ended.pop(name, None)
        channel = self._known(name)
        channel.receivers += 1
        if dispatching is not None and dispatching is channel.owner:
            channel.dispatched = True
        else:
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

    def end(self, name: str) -> list[str] | None:
        """Forget a channel that is abandoned; returns the groups that it was still in, None if it is not abandoned.

        To be asked when the consumer's task has ended, and whenever a wait on a channel ends after that.
        """
        channel = self._channels.get(name)
        if channel is None or channel.owner is None:
            return None
        if channel.owner.done() and not channel.dispatched:
            # Its consumer did not receive on it: whoever it was made for may still do so.
            channel.owner = None
            self._forget_if_idle(name, channel)
            return None
        if not is_abandoned(consumer_has_ended=channel.owner.done(), receivers=channel.receivers):
            return None
        del self._channels[name]
        self._ended[name] = channel.index_part
        if len(self._ended) > ENDED_REMEMBERED:
            del self._ended[next(iter(self._ended))]
        return list(channel.groups)

    def has_ended(self, name: str) -> bool:
        """Whether ``name`` is of the latest ENDED_REMEMBERED channels whose consumer has ended."""
        return name in self._ended

    def joined_before(self, limit: float) -> list[tuple[str, str]]:
        """(group, channel) of each that last joined before ``limit``."""
        return [
            (group, name)
            for name, channel in list(self._channels.items())
            for group, at in list(channel.groups.items())
            if at < limit
        ]
