"""What a Redis that is full may evict, and what that means for what runs leave behind."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Eviction:
    """``maxmemory-policy`` and ``maxmemory`` of one server, as its INFO has them; empty and 0 if it does not say."""

    policy: str = ""
    maxmemory_bytes: int = 0

    @property
    def spares_keys_without_expiry(self) -> bool:
        """Whether it evicts keys that expire and no others. It may be given a ``maxmemory`` at any time."""
        return self.policy.startswith("volatile-")

    @property
    def warning(self) -> str | None:
        """Why receipts may be lost, whatever expiry they have."""
        if not self.policy.startswith("allkeys-") or not self.maxmemory_bytes:
            return None
        return (
            f"may evict receipts, and then --undo cannot restore what this run removed: its maxmemory-policy is "
            f"{self.policy} with maxmemory {self.maxmemory_bytes / 1e6:,.1f} MB"
        )
