"""The kinds of channel layers: a class for each, with everything that its kind does in its own way.

The rest of the toolkit asks ``backend_of(layer)`` and tests no layer for its class. A further kind is a class here, or
in a file of its own, and an entry in ``BACKENDS``.
"""

from typing import Any, ClassVar

from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from channels_redis.utils import create_pool
from redis import asyncio as aioredis

from ops import compat
from ops.model.keys import Keyspace, encode_name


class Backend:
    """A channel layer; this class itself is for all kinds without Redis.

    ``has_redis``: its groups are in Redis. ``keeps_members``: Redis has the names of the members of each group, and an
    inbox for each process; otherwise a member is a subscribed connection, which Redis only counts. ``lacks_keeper``:
    its processes have names, but it renews no lease, leaves no group at exit and renames no child of a fork by itself.
    ``discard_is_zrem``: ``group_discard()`` removes a member from the sorted set of its group and does nothing else.
    """

    layer_class: ClassVar[type] = object
    has_redis: ClassVar[bool] = False
    keeps_members: ClassVar[bool] = False

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.lacks_keeper = False
        self.discard_is_zrem = False

    @property
    def keyspace(self) -> Keyspace:
        return Keyspace(str(self.layer.prefix))

    @property
    def process_name(self) -> str:
        """The name of this process; empty if the layer gives it none."""
        return ""

    def clients(self) -> list[Any]:
        """A client for each shard; ``close()`` may close them. In an event loop."""
        return []

    def new_client(self, shard: int) -> Any:
        """A client of that shard with connections of its own; None without Redis. In an event loop."""
        return None

    def shard_of_group(self, group: str) -> int:
        return 0

    async def close(self) -> None:
        """Close the connections that the layer has made."""


class StockBackend(Backend):
    """``RedisChannelLayer`` of channels_redis and its subclasses, the drop-in layer among them."""

    layer_class = RedisChannelLayer
    has_redis = True
    keeps_members = True

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        # The drop-in layer has a keeper, and this attribute, which no other layer has.
        self.lacks_keeper = not hasattr(type(layer), "holds_lease")
        self.discard_is_zrem = type(layer).group_discard is self.layer_class.group_discard

    @property
    def process_name(self) -> str:
        return str(self.layer.client_prefix)

    def clients(self) -> list[Any]:
        return [self.layer.connection(shard) for shard in range(self.layer.ring_size)]

    def new_client(self, shard: int) -> Any:
        return aioredis.Redis(connection_pool=self.layer.create_pool(shard))

    def shard_of_group(self, group: str) -> int:
        return int(self.layer.consistent_hash(encode_name(group)))

    async def close(self) -> None:
        clients = compat.clients_of(self.layer)
        await self.layer.close_pools()
        for client in clients:
            await close_client(client)


class PubSubBackend(Backend):
    """``RedisPubSubChannelLayer`` of channels_redis and its subclasses. It answers only in an event loop."""

    layer_class = RedisPubSubChannelLayer
    has_redis = True

    def clients(self) -> list[Any]:
        return [self.new_client(shard) for shard in range(len(compat.pubsub_hosts(self.layer)))]

    def new_client(self, shard: int) -> Any:
        return aioredis.Redis(connection_pool=create_pool(compat.pubsub_hosts(self.layer)[shard]))

    def shard_of_group(self, group: str) -> int:
        return compat.pubsub_shard_of_group(self.layer, group)

    async def close(self) -> None:
        await self.layer.flush()


# The first that is of a layer's class counts.
BACKENDS = (StockBackend, PubSubBackend, Backend)


def backend_class(layer_class: type) -> type[Backend]:
    return next(backend for backend in BACKENDS if issubclass(layer_class, backend.layer_class))


def backend_of(layer: Any) -> Backend:
    return backend_class(type(layer))(layer)


async def close_client(client: Any) -> None:
    """Close its connections, those to Sentinels among them, which redis-py leaves open."""
    await client.aclose(close_connection_pool=True)
    for sentinel in compat.sentinels_of(client.connection_pool):
        await sentinel.aclose()
