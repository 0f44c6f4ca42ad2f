"""What the project's settings say of its channel layers, as facts to be checked. Nothing is connected."""

import inspect
import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any
from urllib.parse import parse_qs, urlsplit

import redis
from channels.layers import InMemoryChannelLayer, channel_layers
from channels_redis.utils import decode_hosts
from django.apps import apps
from django.conf import settings
from django.utils.module_loading import import_string

from ops import compat, conf
from ops.layer_options import wrong_hosts, wrong_options
from ops.model.doctor.facts import HostSettings, Kind, LayerSettings, UntestedVersion
from ops.store.connection.backends import Backend, PubSubBackend, StockBackend, backend_class

STOCK_GROUP_EXPIRY_SECONDS = 86400.0
DEFAULT_LEASE_SECONDS = 30.0
DEFAULT_PREFIX = "asgi"
REDIS_PY_8_TIMEOUT_SECONDS = 5.0


def configured_layers() -> Iterator[LayerSettings]:
    """Each layer of ``CHANNEL_LAYERS`` whose backend can be imported."""
    for alias in channel_layers.configs:
        found = layer_settings(alias)
        if found is not None:
            yield found


def layer_settings(alias: str) -> LayerSettings | None:
    """The layer ``alias``; None where there is none, or its backend cannot be imported."""
    try:
        entry = channel_layers.configs[alias]
        backend, options = import_string(entry["BACKEND"]), entry.get("CONFIG", {})
    except (ImportError, LookupError, TypeError, AttributeError):
        return None
    if not isinstance(backend, type) or not isinstance(options, Mapping):
        return None
    return LayerSettings(
        alias=str(alias),
        backend=str(entry["BACKEND"]),
        kind=_kind(backend),
        hosts=_hosts(options),
        redis_py=redis.__version__,
        unknown_options=_unknown_options(backend, options),
        wrong_options=wrong_options(backend, options),
        wrong_hosts=wrong_hosts(backend, options.get("hosts")),
        group_expiry_seconds=_number(options.get("group_expiry", STOCK_GROUP_EXPIRY_SECONDS)),
        lease_seconds=_number(options.get("lease_seconds", DEFAULT_LEASE_SECONDS)),
        confirm_after_seconds=conf.ops_settings().confirm_after_seconds,
        daphne_is_installed=apps.is_installed("daphne"),
        debug=settings.DEBUG,
        other_prefixes=frozenset(_prefix(other) for name, other in channel_layers.configs.items() if name != alias),
        worker_count=_worker_count(),
        ops_problems=tuple(conf.problems()),
        ops_keys=tuple(conf.known_keys()),
        untested_versions=untested_versions(),
    )


def hint_at_another_layer(alias: str) -> str:
    """Which other layers could be meant by a command that got one in memory; empty if there is none on Redis."""
    asked = layer_settings(alias)
    if asked is None or asked.kind is not Kind.IN_MEMORY:
        return ""
    on_redis = (Kind.STOCK, Kind.DROP_IN, Kind.PUBSUB)
    others = [f"--layer {other.alias}" for other in configured_layers() if other.kind in on_redis]
    return f"; on Redis there is {', '.join(others)}" if others else ""


def untested_versions() -> tuple[UntestedVersion, ...]:
    """The installed libraries with a version that the tests have never run with."""
    return tuple(
        UntestedVersion(tested.library, installed, _dotted(tested.lowest), _dotted(tested.highest))
        for tested, installed in compat.untested_versions()
    )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _kind(backend: type) -> Kind:
    from ops.layers import RedisChannelLayer

    if issubclass(backend, RedisChannelLayer):
        return Kind.DROP_IN
    if issubclass(backend, InMemoryChannelLayer):
        return Kind.IN_MEMORY
    kinds = ((StockBackend, Kind.STOCK), (PubSubBackend, Kind.PUBSUB), (Backend, Kind.OTHER))
    return next(kind for base, kind in kinds if issubclass(backend_class(backend), base))


def _prefix(entry: Any) -> str:
    options = entry.get("CONFIG", {}) if isinstance(entry, Mapping) else {}
    return str(options.get("prefix", DEFAULT_PREFIX)) if isinstance(options, Mapping) else DEFAULT_PREFIX


def _unknown_options(backend: type, options: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    if not issubclass(backend_class(backend), StockBackend):
        return ()
    known = _options_of(backend)
    return tuple(
        (repr(option), repr(get_close_matches(str(option).lower(), known, n=1, cutoff=0.0)[0]))
        for option in options
        if option not in known
    )


def _options_of(backend: type) -> list[str]:
    names: list[str] = []
    for kind in backend.__mro__:
        if "__init__" not in vars(kind):
            continue
        parameters = inspect.signature(vars(kind)["__init__"]).parameters.values()
        names.extend(p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return [name for name in names if name != "args"]


def _hosts(options: Mapping[str, Any]) -> tuple[HostSettings, ...]:
    try:
        hosts: list[Mapping[str, Any]] = decode_hosts(options.get("hosts"))
        return tuple(_host(index, host) for index, host in enumerate(hosts))
    except (ValueError, TypeError, IndexError, KeyError, AttributeError):
        return ()  # The layer itself says what is wrong with them.


def _host(index: int, host: Mapping[str, Any]) -> HostSettings:
    given = {**_in_url(host), **host}
    timeout = given.get("socket_timeout", REDIS_PY_8_TIMEOUT_SECONDS if _is_redis_py_8() else None)
    return HostSettings(
        index=index,
        name=_name(host),
        socket_timeout_seconds=_number(timeout),
        own_socket_timeout="socket_timeout" in given,
        retries=any(given.get(name) for name in ("retry", "retry_on_timeout", "retry_on_error")),
        health_checks=bool(_number(given.get("health_check_interval", 0))),
        keepalive=str(given.get("socket_keepalive", _is_redis_py_8())).lower() in ("true", "1", "yes", "t", "y"),
    )


def _is_redis_py_8() -> bool:
    """Since then a socket times out after 5 s and is kept alive, unless told otherwise."""
    return int(redis.__version__.partition(".")[0]) >= 8


def _in_url(host: Mapping[str, Any]) -> dict[str, str]:
    try:
        return {name: values[-1] for name, values in parse_qs(urlsplit(str(host.get("address", ""))).query).items()}
    except ValueError:
        return {}


def _name(host: Mapping[str, Any]) -> str:
    """The host's name without anything secret."""
    if "sentinels" in host:
        return ""
    try:
        return urlsplit(str(host["address"])).hostname or "" if "address" in host else str(host.get("host", ""))
    except ValueError:
        return ""


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _worker_count() -> int:
    said = os.environ.get("WEB_CONCURRENCY", "")
    return int(said) if said.isdecimal() and len(said) < 6 else 1
