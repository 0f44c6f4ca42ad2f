"""Django system checks: what can be known to be wrong from the settings alone."""

import inspect
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any
from urllib.parse import parse_qs, urlsplit

import redis
from channels.layers import channel_layers
from channels_redis.core import RedisChannelLayer as StockLayer
from channels_redis.utils import decode_hosts
from django.apps import apps
from django.core.checks import CheckMessage, Error, Warning, register
from django.utils.module_loading import import_string

from ops import conf

TAG = "ops"
DAPHNE_WEBSOCKET_TIMEOUT_SECONDS = 86400  # daphne --websocket_timeout
STOCK_GROUP_EXPIRY_SECONDS = 86400
DEFAULT_LEASE_SECONDS = 30.0


@register(TAG)
def check_settings(**_: Any) -> list[CheckMessage]:
    """``ops.E101``: a key or value of ``CHANNELS_OPS`` that cannot be used."""
    values = conf.configured()
    if not isinstance(values, Mapping):
        return [Error("CHANNELS_OPS must be a dict.", hint="CHANNELS_OPS = {}", id="ops.E101")]
    problems = filter(None, (conf.problem_with(key, values) for key in values))
    hint = f"Known keys: {', '.join(conf.known_keys())}."
    return [Error(f"CHANNELS_OPS: {problem}.", hint=hint, id="ops.E101") for problem in problems]


@register(TAG)
def check_layer_options(**_: Any) -> list[CheckMessage]:
    """``ops.E201``: an option in a layer's ``CONFIG`` that its backend does not take."""
    found: list[CheckMessage] = []
    for alias, backend, options in _redis_layers():
        known = _options_of(backend)
        for option in options:
            if option not in known:
                near = get_close_matches(str(option).lower(), known, n=1, cutoff=0.0)
                text = f"CHANNEL_LAYERS[{alias!r}]: {backend.__module__}.{backend.__name__} has no option {option!r}."
                found.append(Error(text, hint=f"The nearest known one is {near[0]!r}.", id="ops.E201"))
    return found


def _options_of(backend: type) -> list[str]:
    names: list[str] = []
    for kind in backend.__mro__:
        parameters = inspect.signature(kind.__init__).parameters.values()  # type: ignore[misc]
        names.extend(p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return [name for name in names if name != "args"]


@register(TAG)
def check_socket_timeout(**_: Any) -> list[CheckMessage]:
    """``ops.W202``: with redis-py 8 the stock layer's idle websockets die after exactly 5 s.

    redis-py 8 gives up on a socket that was silent for 5 s, which is as long as the layer's BZPOPMIN waits
    (channels_redis issue 422).
    """
    if int(redis.__version__.partition(".")[0]) < 8:
        return []
    return [
        Warning(
            f"CHANNEL_LAYERS[{alias!r}]: host {index} has no socket_timeout, and redis-py {redis.__version__} gives up "
            f"after 5 s then: each idle websocket dies after 5.0 s and leaves its members behind.",
            hint='Give each host as a dict with "socket_timeout": None, or use ops.layers.RedisChannelLayer.',
            id="ops.W202",
        )
        for alias, backend, options in _redis_layers()
        if not _is_drop_in(backend)
        for index, host in enumerate(_hosts_of(options))
        if "socket_timeout" not in host and not _in_url(host, "socket_timeout")
    ]


def _hosts_of(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    try:
        hosts: list[dict[str, Any]] = decode_hosts(options.get("hosts"))
    except (ValueError, TypeError, IndexError, KeyError):
        return []  # The layer itself says what is wrong with them.
    return hosts


def _in_url(host: Mapping[str, Any], option: str) -> bool:
    try:
        return option in parse_qs(urlsplit(str(host.get("address", ""))).query)
    except ValueError:
        return False


@register(TAG)
def check_lease(**_: Any) -> list[CheckMessage]:
    """``ops.E203``: a lease that outlasts the confirm time: the reaper could act before the lease has lapsed."""
    confirm_after = conf.ops_settings().confirm_after_seconds
    return [
        Error(
            f"CHANNEL_LAYERS[{alias!r}]: lease_seconds ({lease:g}) is longer than CONFIRM_AFTER_SECONDS "
            f"({confirm_after:g}).",
            hint="Make the lease at most half of the confirm time.",
            id="ops.E203",
        )
        for alias, backend, options in _redis_layers()
        if _is_drop_in(backend)
        and isinstance(lease := options.get("lease_seconds", DEFAULT_LEASE_SECONDS), (int, float))
        and lease > confirm_after
    ]


@register(TAG)
def check_group_expiry(**_: Any) -> list[CheckMessage]:
    """``ops.W204``: the stock layer drops live members whose sockets are open for longer than ``group_expiry``."""
    if not apps.is_installed("daphne"):
        return []
    return [
        Warning(
            f"CHANNEL_LAYERS[{alias!r}]: group_expiry ({expiry}) is shorter than Daphne's websocket time-out "
            f"({DAPHNE_WEBSOCKET_TIMEOUT_SECONDS} s): older sockets silently stop receiving.",
            hint="Raise group_expiry, or use ops.layers.RedisChannelLayer, which refreshes live members.",
            id="ops.W204",
        )
        for alias, backend, options in _redis_layers()
        if not _is_drop_in(backend)
        and isinstance(expiry := options.get("group_expiry", STOCK_GROUP_EXPIRY_SECONDS), int)
        and expiry < DAPHNE_WEBSOCKET_TIMEOUT_SECONDS
    ]


def _redis_layers() -> Iterator[tuple[str, type, Mapping[str, Any]]]:
    """Alias, backend and options of each layer that is built on ``channels_redis.core``. Nothing is connected."""
    for alias, entry in channel_layers.configs.items():
        try:
            backend = import_string(entry["BACKEND"])
        except (ImportError, KeyError, TypeError, AttributeError):
            continue
        options = entry.get("CONFIG", {})
        if isinstance(backend, type) and issubclass(backend, StockLayer) and isinstance(options, Mapping):
            yield alias, backend, options


def _is_drop_in(backend: type) -> bool:
    from ops.layers import RedisChannelLayer

    return issubclass(backend, RedisChannelLayer)
