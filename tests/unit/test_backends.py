"""What each kind of layer is asked before anything is done with it, or inside of its process."""

from __future__ import annotations

from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer
from channels_redis.core import RedisChannelLayer as StockLayer
from channels_redis.pubsub import RedisPubSubChannelLayer

from ops.layers import RedisChannelLayer
from ops.store.connection.backends import Backend, PubSubBackend, StockBackend, backend_of


class StockSubclass(StockLayer):
    """A project's own, which says nothing of leaving groups."""


class LeavesInItsOwnWay(StockLayer):
    async def group_discard(self, group: str, channel: str) -> None:
        """Something that the toolkit does not know."""


class DropInSubclass(RedisChannelLayer):
    """A project's own."""


class PubSubSubclass(RedisPubSubChannelLayer):
    """A project's own."""


ANSWERS = ("has_redis", "keeps_members", "lacks_keeper", "discard_is_zrem")
KEPT = {"has_redis", "keeps_members"}


@pytest.mark.parametrize(
    ("layer_class", "kind", "true"),
    [
        (StockLayer, StockBackend, {*KEPT, "lacks_keeper", "discard_is_zrem"}),
        (StockSubclass, StockBackend, {*KEPT, "lacks_keeper", "discard_is_zrem"}),
        (LeavesInItsOwnWay, StockBackend, {*KEPT, "lacks_keeper"}),
        (RedisChannelLayer, StockBackend, KEPT),
        (DropInSubclass, StockBackend, KEPT),
        (RedisPubSubChannelLayer, PubSubBackend, {"has_redis"}),
        (PubSubSubclass, PubSubBackend, {"has_redis"}),
        (InMemoryChannelLayer, Backend, set()),
        (object, Backend, set()),
    ],
)
def test_subclasses_are_of_the_kind_of_their_base(layer_class: Any, kind: type[Backend], true: set[str]) -> None:
    """Outside of an event loop, where a publish/subscribe layer answers nothing."""
    backend = backend_of(layer_class())
    assert type(backend) is kind
    assert {name for name in ANSWERS if getattr(backend, name)} == true
