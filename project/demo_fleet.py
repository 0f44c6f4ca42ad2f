"""The workers of the demo, what happens to them, and which rooms their sockets are in."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from typing import Literal

from project.workers import Kind

Layer = Literal["stock", "drop-in"]
STOCK_LAYER = "channels_redis.core.RedisChannelLayer"
CONFIRM_AFTER_SECONDS = 5
# The story needs both, and what the stock layer leaves behind, whatever the environment asks for.
LAYER_ENV: dict[Layer, dict[str, str]] = {
    "stock": {"CHANNEL_BACKEND": STOCK_LAYER, "CHANNEL_LAYER_OPTIONS": ""},
    "drop-in": {
        "CHANNEL_BACKEND": "ops.layers.RedisChannelLayer",
        # A lease must not be longer than the confirm time.
        "CHANNEL_LAYER_OPTIONS": json.dumps({"lease_seconds": CONFIRM_AFTER_SECONDS}),
    },
}

BIGGEST_ROOM = "lobby"
# Dealt out in turn, so the lengths share no factor: every room has sockets of every worker, in these proportions.
ROOMS = (
    BIGGEST_ROOM,
    "support",
    BIGGEST_ROOM,
    "news",
    BIGGEST_ROOM,
    "support",
    BIGGEST_ROOM,
    "team-1",
    "team-2",
    "news",
)
# Apart from the others: the members that stay there are of no worker of the fleet.
BUSY_ROOMS = ("busy-without", "busy-with")
SEATS = (0, 1, 2, 0, 3, 1, 2, 4, 0)


@dataclass(frozen=True)
class Role:
    """One worker of the fleet and what happens to it."""

    kind: Kind
    fate: str
    ending: signal.Signals | None = None
    layer: Layer = "stock"


FLEET = (
    Role("uvicorn", "stays"),
    Role("daphne", "stays"),
    Role("uvicorn", "stays", layer="drop-in"),
    Role("uvicorn", "killed", signal.SIGKILL),
    Role("daphne", "stopped", signal.SIGTERM),
)
