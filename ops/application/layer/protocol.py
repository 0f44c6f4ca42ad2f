"""What the parts of the drop-in layer need of it."""

from typing import Any, Protocol

from ops.application.layer.memberships import Memberships
from ops.application.layer.outages import Outages


class DropInLayer(Protocol):
    """The channel layer, as its parts see it. They hold it weakly: it holds them."""

    prefix: str
    client_prefix: str
    ring_size: int
    group_expiry: int
    lease_seconds: float
    holds_lease: bool
    memberships: Memberships
    outages: Outages

    def connection(self, index: int) -> Any: ...

    def consistent_hash(self, value: str) -> int: ...

    def index_key(self, channel: str) -> bytes: ...

    def taken_out_key(self, channel: str) -> bytes | None: ...

    def begin_in_child(self) -> None: ...
