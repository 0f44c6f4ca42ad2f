"""What the settings alone show to be wrong. These are system checks too (:mod:`ops.checks`)."""

import re
from collections.abc import Sequence

from ops import __version__
from ops.model.disconnects.cause import POP_SECONDS
from ops.model.doctor.facts import HostSettings, Kind, LayerSettings, UntestedVersion
from ops.model.doctor.findings import Symptom, symptom
from ops.model.text import visible

DAPHNE_WEBSOCKET_TIMEOUT_SECONDS = 86400  # daphne --websocket_timeout
USE_DROP_IN = "use ops.layers.RedisChannelLayer"

# Names under which providers hand out managed servers, which stand behind a load balancer or fail over.
_MANAGED = re.compile(
    r"\.(cache\.amazonaws\.com|memorydb\.[\w-]+\.amazonaws\.com|redis\.cache\.windows\.net|redis\.azure\.net"
    r"|redis(-cloud|labs)\.com|redns\.redis-cloud\.com|cloud\.rlrcp\.com|db\.ondigitalocean\.com|aivencloud\.com"
    r"|upstash\.io|render\.com|rlwy\.net|compute(-1)?\.amazonaws\.com|scw\.cloud|googleapis\.com)$",
    re.IGNORECASE,
)


def is_managed(name: str) -> bool:
    """Whether a host of that name is one of a provider's managed servers."""
    return _MANAGED.search(name.rstrip(".")) is not None


def check_ops_settings(problems: Sequence[str], known_keys: Sequence[str]) -> Symptom | None:
    """``ops.E101``: a key or value of ``CHANNELS_OPS`` that cannot be used."""
    return symptom([f"CHANNELS_OPS: {problem}." for problem in problems], f"Known keys: {', '.join(known_keys)}.")


def check_layer_options(settings: LayerSettings) -> Symptom | None:
    """``ops.E201``: an option in a layer's ``CONFIG`` that its backend does not take."""
    evidence = [f"{settings.backend} has no option {option}." for option, _ in settings.unknown_options]
    nearest = ", ".join(near for _, near in settings.unknown_options)
    return symptom(evidence, f"The nearest known one is {nearest}.")


def check_hosts(settings: LayerSettings) -> Symptom | None:
    """``ops.E209``: entries of ``hosts`` that are no addresses."""
    fix = (
        'hosts is a list, and each entry "redis://host:6379/0" (rediss:// with TLS, unix:///path for a socket), '
        '("host", 6379), or {"address": "redis://host:6379/0", "socket_timeout": None, …}.'
    )
    return symptom([f"{wrong}." for wrong in settings.wrong_hosts], fix)


def check_option_types(settings: LayerSettings) -> Symptom | None:
    """``ops.E210``: options with a value of a type that the layer cannot work with: its operations raise."""
    evidence = [f"{wrong}." for wrong in settings.wrong_options]
    return symptom(evidence, 'Convert what comes from the environment: int(os.environ.get("CHANNELS_CAPACITY", 100)).')


def check_socket_timeout(settings: LayerSettings) -> Symptom | None:
    """``ops.W202``: sockets that give up before BZPOPMIN has waited: the stock layer's idle websockets die of it.

    redis-py 8 gives up on a socket that was silent for 5 s, which is as long as the layer's BZPOPMIN waits
    (channels_redis issue 422).
    """
    if settings.kind is not Kind.STOCK:
        return None
    evidence = [_short_socket_timeout(host, settings.redis_py) for host in settings.hosts if gives_up_too_early(host)]
    fix = f'Give each host as a dict with "socket_timeout": None, or {USE_DROP_IN}.'
    return symptom(evidence, fix)


def gives_up_too_early(host: HostSettings) -> bool:
    return host.socket_timeout_seconds is not None and host.socket_timeout_seconds <= POP_SECONDS


def _short_socket_timeout(host: HostSettings, redis_py: str) -> str:
    seconds = f"{host.socket_timeout_seconds:g}"
    if host.own_socket_timeout:
        what = f"a socket_timeout of {seconds} s, and the layer waits 5 s for a message"
    else:
        what = f"no socket_timeout, and redis-py {redis_py} gives up after {seconds} s then"
    return (
        f"host {host.index} has {what}: each idle websocket dies after {host.socket_timeout_seconds:.1f} s and leaves "
        f"its members behind."
    )


def check_lease(settings: LayerSettings) -> Symptom | None:
    """``ops.E203``: a lease that outlasts the confirm time: the reaper could act before the lease has lapsed."""
    lease, confirm_after = settings.lease_seconds, settings.confirm_after_seconds
    if settings.kind is not Kind.DROP_IN or lease is None or lease <= confirm_after:
        return None
    return Symptom(
        (f"lease_seconds ({lease:g}) is longer than CONFIRM_AFTER_SECONDS ({confirm_after:g}).",),
        "Make the lease at most half of the confirm time.",
    )


def check_group_expiry(settings: LayerSettings) -> Symptom | None:
    """``ops.W204``: the stock layer drops live members whose sockets are open for longer than ``group_expiry``."""
    expiry = settings.group_expiry_seconds
    concerned = settings.kind is Kind.STOCK and settings.daphne_is_installed
    if not concerned or expiry is None or expiry >= DAPHNE_WEBSOCKET_TIMEOUT_SECONDS:
        return None
    return Symptom(
        (
            f"group_expiry ({expiry:g}) is shorter than Daphne's websocket time-out "
            f"({DAPHNE_WEBSOCKET_TIMEOUT_SECONDS} s): older sockets silently stop receiving.",
        ),
        "Raise group_expiry, or use ops.layers.RedisChannelLayer, which refreshes live members.",
    )


def check_in_memory(settings: LayerSettings) -> Symptom | None:
    """``ops.W205``: an in-memory layer outside of development: each process has groups of its own."""
    if settings.kind is not Kind.IN_MEMORY or settings.debug:
        return None
    workers = f", and WEB_CONCURRENCY starts {settings.worker_count} workers" if settings.worker_count > 1 else ""
    return Symptom(
        (
            f"{settings.backend} is in use with DEBUG = False{workers}: a message reaches only the process that sent "
            f"it, and nothing that any other worker, command or task sends.",
        ),
        'Use "BACKEND": "channels_redis.core.RedisChannelLayer" or "ops.layers.RedisChannelLayer".',
    )


def check_direct_sends(settings: LayerSettings) -> Symptom | None:
    """``ops.W206``: with several hosts the stock layer's ``send()`` writes where nobody reads.

    It picks the host by the full channel name, ``receive()`` by the part before the ``!`` (channels issue 1492).
    """
    hosts = len(settings.hosts)
    if settings.kind is not Kind.STOCK or hosts < 2:
        return None
    return Symptom(
        (
            f"{hosts} hosts: send() to the channel of a consumer picks one by the full name, receive() by a part of "
            f"it, so {hosts - 1} of {hosts} direct messages are lost; group_send() is right.",
        ),
        "Use ops.layers.RedisChannelLayer, which sends to where the inbox is read, or a single host.",
    )


def check_host_options(settings: LayerSettings) -> Symptom | None:
    """``ops.W207``: a managed host, and nothing in its options that would survive a connection that it cuts."""
    if settings.kind is Kind.DROP_IN:
        return None
    managed = [host for host in settings.hosts if is_managed(host.name) and not survives_a_cut(host)]
    return symptom([f"{_nothing(host)}, and it is a managed server." for host in managed], HOST_OPTIONS_FIX)


def check_versions(untested: Sequence[UntestedVersion]) -> Symptom | None:
    """``ops.W208``: installed versions that the tests have never run with."""
    evidence = [
        f"{one.library} {visible(one.installed)} has not been tested with channels-ops {__version__}; "
        f"tested: {_span(one)}."
        for one in untested
    ]
    return symptom(evidence, VERSIONS_FIX)


def _span(one: UntestedVersion) -> str:
    return one.lowest if one.lowest == one.highest else f"{one.lowest} to {one.highest}"


VERSIONS_FIX = (
    "Install a tested version or upgrade channels-ops. To stay on this one, run it in staging first, then add ops.W208 "
    "to SILENCED_SYSTEM_CHECKS."
)


def survives_a_cut(host: HostSettings) -> bool:
    return host.retries or host.health_checks or host.keepalive


HOST_OPTIONS_FIX = (
    'Add to the host: "health_check_interval": 30, "socket_keepalive": True, "retry": '
    "Retry(ExponentialBackoff(), 3) (Retry from redis.asyncio.retry, ExponentialBackoff from redis.backoff); or "
    f"{USE_DROP_IN}."
)


def _nothing(host: HostSettings) -> str:
    return f"host {host.index} ({visible(host.name)}) has no retry, no health_check_interval and no socket_keepalive"


def check_path_to_host(settings: LayerSettings, index: int, arrives_as: tuple[str, str]) -> str | None:
    """Evidence of ``ops.W207`` that needs a connection: the server sees another address than the one that we have."""
    seen, ours = arrives_as
    host = settings.hosts[index] if index < len(settings.hosts) else None
    if host is None or seen == ours or survives_a_cut(host):
        return None
    return (
        f"{_nothing(host)}, and something stands between: our connection from {visible(ours)} reaches the server as "
        f"{visible(seen)}."
    )
