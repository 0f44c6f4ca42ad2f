"""For tests of applications and of this toolkit."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def override_redis_config(client: Any, **directives: object) -> Iterator[None]:
    """CONFIG SET for as long as the block lasts; what was there before comes back, whatever happens.

    ``client``: a synchronous redis-py client. Underscores stand for hyphens::

        with override_redis_config(client, maxmemory_policy="allkeys-lru", timeout=300):
            …
    """
    before: dict[str, str] = {}
    try:
        for keyword, value in directives.items():
            name = keyword.replace("_", "-")
            [found] = client.config_get(name).values()
            before[name] = found.decode() if isinstance(found, bytes) else str(found)
            client.config_set(name, value)
        yield
    finally:
        for name, value in reversed(before.items()):
            client.config_set(name, value)
