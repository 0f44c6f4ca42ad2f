"""Seeing which channels and groups an application's own layer object is asked for, without being in the way.

The bound methods of the one layer instance are wrapped, once; the class and every other instance stay as they are.
"""

import weakref
from typing import Any, Protocol

from ops import compat


class Watcher(Protocol):
    """Whoever is told. ``consumer`` is the one whose start asked for the channel; None where anything else did."""

    def created(self, channel: str, consumer: object | None) -> None: ...

    def joined(self, group: str, channel: str) -> None: ...

    def left(self, group: str, channel: str) -> None: ...


_observed: "weakref.WeakSet[Any]" = weakref.WeakSet()


def observe_layer(layer: Any, watcher: Watcher) -> None:
    """Tell ``watcher`` of all that ``layer`` is asked for from now on. It is harmless to ask again."""
    if layer in _observed:
        return
    _observed.add(layer)
    ask_new_channel, ask_group_add, ask_group_discard = layer.new_channel, layer.group_add, layer.group_discard

    # ops.compat finds the consumer behind functions of this name.
    async def new_channel(*args: Any, **options: Any) -> str:
        channel: str = await ask_new_channel(*args, **options)
        watcher.created(channel, compat.consumer_that_starts())
        return channel

    async def group_add(group: str, channel: str, *args: Any, **options: Any) -> Any:
        try:
            added = await ask_group_add(group, channel, *args, **options)
        except (AssertionError, TypeError):  # No such name can be.
            raise
        except BaseException:
            watcher.joined(group, channel)  # Redis may have done it all the same.
            raise
        watcher.joined(group, channel)
        return added

    async def group_discard(group: str, channel: str, *args: Any, **options: Any) -> Any:
        discarded = await ask_group_discard(group, channel, *args, **options)
        watcher.left(group, channel)
        return discarded

    layer.new_channel, layer.group_add, layer.group_discard = new_channel, group_add, group_discard
