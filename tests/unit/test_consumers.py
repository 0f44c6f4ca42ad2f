"""A consumer class with values that cannot work says so when it is defined, not at three in the morning."""

from __future__ import annotations

from typing import Any

import pytest
from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer, WebsocketConsumer
from django.core.exceptions import ImproperlyConfigured

from ops.consumers import HeartbeatMixin


@pytest.mark.parametrize("base", [AsyncWebsocketConsumer, AsyncJsonWebsocketConsumer, WebsocketConsumer])
def test_the_defaults_are_usable(base: type) -> None:
    type("Chat", (HeartbeatMixin, base), {})


@pytest.mark.parametrize("name", ["heartbeat_interval", "heartbeat_timeout"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "25", None, True])
def test_a_time_that_is_none_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=rf"Chat: {name} must be a number of seconds above 0, not "):
        type("Chat", (HeartbeatMixin, AsyncWebsocketConsumer), {name: value})


@pytest.mark.parametrize("value", [1000, 1006, 3999, 5000, 4408.0, "4408", True, None])
def test_a_close_code_that_an_application_may_not_use_is_refused(value: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="Chat: heartbeat_close_code must be from 4000 to 4999, not "):
        type("Chat", (HeartbeatMixin, AsyncWebsocketConsumer), {"heartbeat_close_code": value})


def test_values_are_checked_where_they_are_inherited_from_a_mixin_of_ones_own() -> None:
    with pytest.raises(ImproperlyConfigured, match="heartbeat_timeout"):
        type("Ours", (HeartbeatMixin,), {"heartbeat_timeout": 0})


def test_a_mixin_that_comes_too_late_to_have_an_effect_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="must come before the consumer class"):
        type("Chat", (AsyncWebsocketConsumer, HeartbeatMixin), {})


def test_consumers_of_other_protocols_are_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="for websocket consumers"):
        type("Page", (HeartbeatMixin, AsyncHttpConsumer), {})
