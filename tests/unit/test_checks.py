"""System checks of CHANNEL_LAYERS: what the settings alone show to be wrong. Nothing is connected."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import pytest
import redis
from channels_redis.core import RedisChannelLayer
from django.conf import LazySettings
from django.core.checks import CheckMessage, run_checks

from ops import __version__
from ops.checks import TAG, errors_for
from ops.layer_settings import untested_versions

STOCK = "channels_redis.core.RedisChannelLayer"
PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"
DROP_IN = "ops.layers.RedisChannelLayer"
# What a host needs so that idle websockets outlive five seconds.
HOST = {"address": "redis://127.0.0.1:1", "socket_timeout": None}


def found(settings: LazySettings, backend: str, **options: Any) -> list[CheckMessage]:
    settings.CHANNEL_LAYERS = {"chat": {"BACKEND": backend, "CONFIG": {"hosts": [HOST], **options}}}
    return run_checks(tags=[TAG])


def ids(messages: list[CheckMessage]) -> list[str | None]:
    return [message.id for message in messages]


@pytest.mark.parametrize("backend", [STOCK, DROP_IN, PUBSUB])
def test_good_settings_are_not_objected_to(settings: LazySettings, backend: str) -> None:
    assert found(settings, backend, prefix="chat", capacity=10) == []


@pytest.mark.parametrize("layers", [{}, {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}])
def test_other_layers_are_none_of_its_business(settings: LazySettings, layers: dict[str, Any]) -> None:
    settings.CHANNEL_LAYERS = layers
    assert run_checks(tags=[TAG]) == []


@pytest.mark.parametrize("backend", [STOCK, DROP_IN])
@pytest.mark.parametrize(
    ("option", "nearest"), [("group_expire", "group_expiry"), ("host", "hosts"), ("PREFIX", "prefix"), (5, "")]
)
def test_an_option_that_the_backend_does_not_take_names_the_nearest(
    settings: LazySettings, backend: str, option: Any, nearest: str
) -> None:
    settings.CHANNEL_LAYERS = {"chat": {"BACKEND": backend, "CONFIG": {"hosts": [HOST], option: 1}}}
    (error,) = run_checks(tags=[TAG])
    assert error.id == "ops.E201"
    assert error.msg == f"CHANNEL_LAYERS['chat']: {backend} has no option {option!r}."
    if nearest:
        assert error.hint == f"The nearest known one is {nearest!r}."


@pytest.mark.parametrize("backend", [STOCK, DROP_IN])
@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("capacity", "500", "capacity is the text '500' and must be a number"),
        ("capacity", None, "capacity is None and must be a number."),
        ("capacity", True, "capacity is a value of type bool and must be a number."),
        ("capacity", 0, "capacity is 0 and must be above 0 and finite."),
        ("expiry", "30", "expiry is the text '30' and must be a number"),
        ("expiry", float("inf"), "expiry is inf and must be above 0 and finite."),
        ("group_expiry", "", "group_expiry is the text '' and must be a number"),
        ("prefix", b"asgi", "prefix is a value of type bytes and must be a text."),
        ("channel_capacity", {"x*": "5"}, "channel_capacity[the text 'x*'] is the text '5' and must be a number"),
        ("channel_capacity", [("x*", 5)], "channel_capacity is a value of type list and must be a dict"),
        ("symmetric_encryption_keys", "hunter2", "symmetric_encryption_keys is a str and must be a list of keys."),
    ],
)
def test_an_option_of_the_wrong_type_is_an_error(
    settings: LazySettings, backend: str, option: str, value: Any, said: str
) -> None:
    (error,) = found(settings, backend, **{option: value})
    assert error.id == "ops.E210"
    assert error.msg.startswith(f"CHANNEL_LAYERS['chat']: {said}")
    assert "hunter2" not in error.msg


class ConvertingLayer(RedisChannelLayer):
    def __init__(self, capacity: str, hosts: str) -> None:
        super().__init__(hosts=[hosts], capacity=int(capacity))


def test_a_layer_of_ones_own_may_convert_what_it_is_given(settings: LazySettings) -> None:
    settings.CHANNEL_LAYERS = {
        "chat": {
            "BACKEND": f"{__name__}.ConvertingLayer",
            "CONFIG": {"capacity": "500", "hosts": "redis://h?socket_timeout=30"},
        }
    }
    assert ids(run_checks(tags=[TAG])) == []


@pytest.mark.parametrize("backend", [STOCK, DROP_IN, PUBSUB])
@pytest.mark.parametrize(
    ("hosts", "said"),
    [
        ([None], "host 0 is None; a variable of the environment that is not set?"),
        ("redis://h", "hosts is a str and must be a list, of one host too."),
        ({"address": "redis://h"}, "hosts is a dict and must be a list, of one host too."),
        (("h", 6379), "host 0 has an address without a scheme (redis://, rediss://, unix://)."),
        (["h:6379"], "host 0 has an address without a scheme (redis://, rediss://, unix://)."),
        (["redis://:hunter2@h:63x"], "host 0 is not an address that redis-py accepts."),
        ([("h",)], "host 0 is a tuple of 1, and not of host and port."),
        ([("h", "x")], "host 0 is not an address that redis-py accepts."),
        ([{"url": "redis://h"}], "host 0 has the option url, which redis-py does not take here: the URL is called"),
        ([{"address": "redis://h", "ssl": True}], "host 0 has the option ssl, which redis-py does not take here: red"),
        (
            [{"address": "redis://h", "ssl_cert_reqs": None}],
            "host 0 has the option ssl_cert_reqs, which redis-py does not take here: options of TLS need rediss://",
        ),
        (
            [{"address": "redis://h", "socket_timeout": "5"}],
            "host 0 has the text '5' as socket_timeout, which must be a number",
        ),
    ],
    ids=str,
)
def test_hosts_that_are_no_addresses_are_an_error(settings: LazySettings, backend: str, hosts: Any, said: str) -> None:
    first, *_ = found(settings, backend, hosts=hosts)
    assert first.id == "ops.E209"
    assert first.msg.startswith(f"CHANNEL_LAYERS['chat']: {said}")
    assert "hunter2" not in first.msg


@pytest.mark.parametrize(
    "host",
    [
        ("h", 6379),
        ["h", "6379"],
        {"host": "h", "port": 1, "socket_timeout": 30},
        {"address": "rediss://h", "ssl_cert_reqs": None, "socket_timeout": 30},
        {"address": "unix:///tmp/x", "socket_timeout": None},
        {"sentinels": [("h", 1)], "master_name": "m", "socket_timeout": 30},
        {},
    ],
    ids=str,
)
def test_hosts_that_are_addresses_are_not_objected_to(settings: LazySettings, host: Any) -> None:
    assert set(ids(found(settings, STOCK, hosts=[host]))) <= {"ops.W202"}


@pytest.mark.parametrize("host", ["redis://h", ("h", 1), {"host": "h"}, {"address": "redis://h?db=1"}], ids=str)
def test_a_stock_layer_whose_websockets_would_die_after_5_seconds_is_warned_of(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch, host: Any
) -> None:
    monkeypatch.setattr(redis, "__version__", "8.1.0")
    (warning,) = found(settings, STOCK, hosts=[host])
    assert warning.id == "ops.W202"
    assert "CHANNEL_LAYERS['chat']: host 0 has no socket_timeout" in warning.msg
    assert ids(found(settings, STOCK, hosts=[HOST, host])) == ["ops.W202", "ops.W206"]
    assert found(settings, DROP_IN, hosts=[host]) == []
    monkeypatch.setattr(redis, "__version__", "7.4.0")
    assert found(settings, STOCK, hosts=[host]) == []


@pytest.mark.parametrize("host", [HOST, {"host": "h", "socket_timeout": 30}, "redis://h?socket_timeout=30"], ids=str)
def test_a_socket_timeout_of_ones_own_is_respected(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch, host: Any
) -> None:
    monkeypatch.setattr(redis, "__version__", "8.1.0")
    assert found(settings, STOCK, hosts=[host]) == []


def test_a_lease_that_outlasts_the_confirm_time_is_an_error(settings: LazySettings) -> None:
    settings.CHANNELS_OPS = {"CONFIRM_AFTER_SECONDS": 20}
    assert ids(found(settings, DROP_IN)) == ["ops.E203"]
    assert ids(found(settings, DROP_IN, lease_seconds=20.5)) == ["ops.E203"]
    assert ids(found(settings, DROP_IN, lease_seconds=10)) == []
    assert ids(found(settings, STOCK)) == []


def test_members_that_expire_before_their_sockets_are_warned_of_where_daphne_serves(settings: LazySettings) -> None:
    assert found(settings, STOCK, group_expiry=60) == []
    settings.INSTALLED_APPS = ["daphne", *settings.INSTALLED_APPS]
    assert ids(found(settings, STOCK, group_expiry=86399)) == ["ops.W204"]
    assert found(settings, STOCK, group_expiry=86400) == []
    assert found(settings, DROP_IN, group_expiry=60) == []


@pytest.mark.parametrize(
    "host", [{"address": "redis://h", "socket_timeout": 5}, "redis://h?socket_timeout=0.5"], ids=str
)
def test_a_socket_timeout_that_is_too_short_is_warned_of_with_any_redis_py(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch, host: Any
) -> None:
    monkeypatch.setattr(redis, "__version__", "5.0.1")
    assert ids(found(settings, STOCK, hosts=[host])) == ["ops.W202"]
    assert found(settings, DROP_IN, hosts=[host]) == []
    assert found(settings, PUBSUB, hosts=[host]) == []


def test_several_hosts_are_warned_of_with_the_stock_layer_only(settings: LazySettings) -> None:
    (warning,) = found(settings, STOCK, hosts=[HOST, HOST, HOST])
    assert warning.id == "ops.W206"
    assert "2 of 3 direct messages are lost" in warning.msg
    assert found(settings, DROP_IN, hosts=[HOST, HOST]) == []
    assert found(settings, PUBSUB, hosts=[HOST, HOST]) == []


@pytest.mark.parametrize(
    "name", ["x.abc123.0001.use1.cache.amazonaws.com", "c.redis.cache.windows.net", "a.b.upstash.io"]
)
@pytest.mark.parametrize("backend", [STOCK, PUBSUB])
def test_a_managed_host_that_is_given_nothing_to_survive_a_cut_is_warned_of(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch, backend: str, name: str
) -> None:
    monkeypatch.setattr(redis, "__version__", "7.4.0")
    url = f"rediss://user:secret@{name}:6380/0"
    (warning,) = found(settings, backend, hosts=[url])
    assert warning.id == "ops.W207"
    assert f"host 0 ({name})" in warning.msg
    assert "secret" not in warning.msg
    for option in ({"health_check_interval": 30}, {"retry_on_timeout": True}, {"socket_keepalive": True}):
        assert found(settings, backend, hosts=[{"address": url, **option}]) == []
    assert found(settings, DROP_IN, hosts=[url]) == []
    assert found(settings, backend, hosts=["redis://redis.internal"]) == []
    monkeypatch.setattr(redis, "__version__", "8.1.0")  # keeps its sockets alive by itself
    assert found(settings, backend, hosts=[{"address": url, "socket_timeout": None}]) == []


def test_an_in_memory_layer_is_warned_of_in_checks_for_production(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_deployment() -> list[CheckMessage]:
        return run_checks(tags=[TAG], include_deployment_checks=True)

    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    (warning,) = of_deployment()
    assert warning.id == "ops.W205"
    assert "WEB_CONCURRENCY starts 4 workers" in warning.msg
    settings.DEBUG = True
    assert of_deployment() == []


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"BACKEND": None},
        {"BACKEND": "no.such.Layer"},
        {"BACKEND": "ops.checks.check_settings"},
        {"BACKEND": STOCK, "CONFIG": None},
        {"BACKEND": STOCK, "CONFIG": {"hosts": "redis://h"}},
        {"BACKEND": STOCK, "CONFIG": {"hosts": [("h",)]}},
        {"BACKEND": STOCK, "CONFIG": {"hosts": 5}},
        {"BACKEND": STOCK, "CONFIG": {"hosts": [{"address": "redis://[", "socket_timeout": None}]}},
        {"BACKEND": DROP_IN, "CONFIG": {"hosts": [HOST], "lease_seconds": "30"}},
        {"BACKEND": DROP_IN, "CONFIG": {"hosts": [HOST], "lease_seconds": None}},
        None,
        "redis",
    ],
    ids=str,
)
def test_settings_that_are_entirely_wrong_do_not_break_the_checks(settings: LazySettings, entry: Any) -> None:
    settings.CHANNEL_LAYERS = {"chat": entry}
    assert set(ids(run_checks(tags=[TAG]))) <= {"ops.W202", "ops.E201", "ops.E209", "ops.E210"}


def test_a_version_that_was_never_tested_is_warned_of_once_for_all_layers(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = {"BACKEND": DROP_IN, "CONFIG": {"hosts": [HOST]}}
    settings.CHANNEL_LAYERS = {"chat": layer, "jobs": layer}
    monkeypatch.setattr(redis, "__version__", "9.1.0")
    (warning,) = run_checks(tags=[TAG])
    assert warning.id == "ops.W208"
    assert warning.msg == f"redis 9.1.0 has not been tested with channels-ops {__version__}; tested: 5 to 8."
    assert "SILENCED_SYSTEM_CHECKS" in warning.hint
    assert not warning.is_serious()
    assert errors_for("chat") == []
    settings.SILENCED_SYSTEM_CHECKS = ["ops.W208"]
    assert warning.is_silenced()


@pytest.mark.parametrize(
    ("library", "version", "tested"),
    [
        ("django", "6.1", "5.2 to 6.0"),
        ("channels", "4.4.0", "4.2 to 4.3"),
        ("channels_redis", "5.0.0b1", "4.2 to 4.3"),
        ("redis", "4.6.0", "5 to 8"),
        ("hiredis", "4.0.0", "3"),
    ],
)
def test_each_library_has_its_range_of_tested_versions(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch, library: str, version: str, tested: str
) -> None:
    monkeypatch.setattr(import_module(library), "__version__", version)
    (warning,) = found(settings, DROP_IN)
    assert warning.id == "ops.W208"
    assert f"{library} {version} has" in warning.msg.lower()
    assert warning.msg.endswith(f"tested: {tested}.")


def test_a_python_that_was_never_tested_is_warned_of(settings: LazySettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 99, 0, "final", 0))
    assert [one.library for one in untested_versions()] == ["Python"]
    (warning,) = found(settings, DROP_IN)
    assert "Python 3.99.0 has not been tested" in warning.msg
