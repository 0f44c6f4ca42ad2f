"""Servers whose websockets end as a test asks, and waiting for what the disconnect log says of it."""

from __future__ import annotations

import redis

from ops.model.disconnects.record import Disconnect, parse_json

ENDING = "tests.acceptance.ending_application:application"
STREAM = "asgi:ops:disconnects"
IMPATIENT = {
    "daphne": ("--ping-interval", "4", "--ping-timeout", "4"),
    "uvicorn": ("--ws-ping-interval", "4", "--ws-ping-timeout", "4"),
}
"""Arguments with which a server gives a client up that answers no ping within a few seconds."""


def records_in(client: redis.Redis) -> dict[str, Disconnect]:
    """By the name in their path."""
    found = [parse_json(fields[b"d"]) for _, fields in client.xrange(STREAM)]
    assert None not in found
    by_name = {str(one.path).strip("/").removeprefix("ws/"): one for one in found if one is not None}
    assert len(by_name) == len(found), "an end was recorded twice"
    return by_name
