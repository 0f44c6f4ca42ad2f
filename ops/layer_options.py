"""Options of a layer that cannot work, whatever the server says: values of another type, hosts that are no addresses.

Objects of connections are made and thrown away; nothing is connected.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from channels_redis.core import RedisChannelLayer as StockLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from channels_redis.utils import create_pool

NUMBERS = ("expiry", "group_expiry", "capacity", "random_prefix_length", "lease_seconds")
TEXTS = ("prefix", "serializer_format")
HOST_NUMBERS = ("socket_timeout", "socket_connect_timeout", "health_check_interval")
SCHEMES = ("redis://", "rediss://", "unix://")
_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w{1,60})'")
_INSTEAD = {
    "ssl": "rediss:// as the scheme is TLS",
    "url": "the URL is called address",
    "uri": "the URL is called address",
}


def wrong_options(backend: type, options: Mapping[str, Any]) -> tuple[str, ...]:
    """What is wrong with each option of ``CONFIG`` but the hosts. No value of a key is in the words."""
    if not _takes_options_as_they_are(backend):
        return ()
    pubsub = issubclass(backend, RedisPubSubChannelLayer)
    found = [] if pubsub else [_wrong_number(name, options[name]) for name in NUMBERS if name in options]
    found += [f"{name} is {_shown(options[name])} and must be a text" for name in TEXTS if _is_no_text(options, name)]
    if not pubsub:
        found += _wrong_capacities(options.get("channel_capacity"))
    keys = options.get("symmetric_encryption_keys")
    if keys is not None and isinstance(keys, (str, bytes, Mapping)):
        found.append(f"symmetric_encryption_keys is a {type(keys).__name__} and must be a list of keys")
    return tuple(filter(None, found))


def _takes_options_as_they_are(backend: type) -> bool:
    """A subclass with a constructor of its own may convert what it is given."""
    from ops.layers import RedisChannelLayer

    own = (StockLayer.__init__, RedisPubSubChannelLayer.__init__, RedisChannelLayer.__init__)
    return vars(backend).get("__init__", getattr(backend, "__init__", None)) in own


def _is_no_text(options: Mapping[str, Any], name: str) -> bool:
    return name in options and not isinstance(options[name], str)


def _wrong_number(name: str, value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"{name} is {_shown(value)} and must be a number{_HOW if isinstance(value, str) else ''}"
    return None if 0 < value < math.inf else f"{name} is {value!r} and must be above 0 and finite"


_HOW = ", as int() makes of a text from the environment"


def _wrong_capacities(capacities: object) -> list[str | None]:
    if not capacities:
        return []
    if not isinstance(capacities, Mapping):
        return [f"channel_capacity is {_shown(capacities)} and must be a dict: pattern of channel names to capacity"]
    return [_wrong_number(f"channel_capacity[{_shown(pattern)}]", value) for pattern, value in capacities.items()]


def _shown(value: object) -> str:
    if value is None:
        return "None"
    if isinstance(value, str):
        return f"the text {value[:40]!a}"
    return f"a value of type {type(value).__name__}"


# Hosts


def wrong_hosts(backend: type, hosts: Any) -> tuple[str, ...]:
    """What is wrong with each entry of ``hosts``, without any secret."""
    if not hosts or not _takes_options_as_they_are(backend) or _connects_by_itself(backend):
        return ()
    if isinstance(hosts, (str, bytes, Mapping)) or not hasattr(hosts, "__iter__"):
        return (f"hosts is a {type(hosts).__name__} and must be a list, of one host too",)
    return tuple(filter(None, (_wrong_host(index, entry) for index, entry in enumerate(hosts))))


def _connects_by_itself(backend: type) -> bool:
    """Whether a layer makes something else of its hosts than the one that it is built on."""
    from ops.layers import RedisChannelLayer

    create_pool_of_layer: Any = getattr(backend, "create_pool", None)
    known = (StockLayer.create_pool, RedisChannelLayer.create_pool)
    return issubclass(backend, StockLayer) and create_pool_of_layer not in known


def _wrong_host(index: int, entry: Any) -> str | None:
    why = next(_faults_of(entry), None)
    return None if why is None else f"host {index} {why}"


def _faults_of(entry: Any) -> Iterator[str]:
    if entry is None:
        yield "is None; a variable of the environment that is not set?"
    elif isinstance(entry, (tuple, list)):
        if len(entry) != 2:
            yield f"is a {type(entry).__name__} of {len(entry)}, and not of host and port"
            return
        yield from _faults_of_options({"host": entry[0], "port": entry[1]})
    elif isinstance(entry, Mapping):
        yield from _faults_of_options(dict(entry))
    else:
        yield from _faults_of_options({"address": entry})


def _faults_of_options(options: dict[str, Any]) -> Iterator[str]:
    address = options.get("address", "redis://")
    if not isinstance(address, str):
        yield f"has {_shown(address)} as its address"
    elif not address.startswith(SCHEMES):
        yield f"has an address without a scheme ({', '.join(SCHEMES)})"
    for name in HOST_NUMBERS:
        if isinstance(options.get(name), str):
            yield f"has {_shown(options[name])} as {name}, which must be a number{_HOW}"
    if "host" in options and not isinstance(options["host"], str):
        yield f"has {_shown(options['host'])} in the place of its name"
    if "master_name" in options or "sentinels" in options:
        return
    try:
        create_pool(options).make_connection()
    except (TypeError, ValueError, AttributeError) as error:
        yield _why_refused(error, address)


def _why_refused(error: Exception, address: str) -> str:
    """The message itself may hold a part of the URL, and so of its password."""
    unexpected = _UNEXPECTED.search(str(error))
    if unexpected is None:
        return "is not an address that redis-py accepts"
    option = unexpected[1]
    instead = _INSTEAD.get(option, "")
    if option.startswith("ssl_") and not address.startswith("rediss://"):
        instead = "options of TLS need rediss:// as the scheme"
    return f"has the option {option}, which redis-py does not take here{f': {instead}' if instead else ''}"
