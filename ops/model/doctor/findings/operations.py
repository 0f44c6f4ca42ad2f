"""What the layer itself cannot do: its own operations, tried on a channel of the doctor's, were refused or failed."""

from ops.model.doctor.facts import Facts, Missing, Refusal, ServerFacts
from ops.model.doctor.findings import Symptom, symptom
from ops.model.doctor.findings.servers import is_told_of_here

_CLUSTER_CODES = ("MOVED", "ASK", "CROSSSLOT", "CLUSTERDOWN", "TRYAGAIN")
_CLUSTER = (
    "It is a node of a Redis Cluster, which spreads keys over its nodes, and the layer talks to one of them. Use a "
    "server without cluster mode (cluster-enabled no); or channels_redis.pubsub.RedisPubSubChannelLayer; or "
    '"prefix": "{asgi}", which keeps all keys in one slot, with the node in hosts that CLUSTER NODES shows for '
    'CLUSTER KEYSLOT "{asgi}".'
)
_FIXES = {
    "NOREPLICAS": "It refuses writes until enough replicas are connected (INFO replication): bring them back, or "
    "CONFIG SET min-replicas-to-write 0.",
    "MISCONF": "It cannot save its data, and refuses writes until it can: its log says why (a full disk, a folder that "
    "it may not write). Until then: CONFIG SET stop-writes-on-bgsave-error no.",
    "LOADING": "Wait: it reads its data from the disk (INFO persistence: loading_eta_seconds).",
    "NOAUTH": "Put the password into the URL of this host: redis://:password@host:6379/0.",
    "WRONGPASS": "Correct the user and the password in the URL of this host.",
    "DENIED": "It is in protected mode, and takes connections of its own machine only: give it a password "
    "(requirepass, or a user), and bind it to an address that only the application reaches.",
    "CERTIFICATE_VERIFY_FAILED": 'Name the CA that issued its certificate: {"address": "rediss://…", "ssl_ca_certs": '
    '"/path/ca.pem"}. The host in the URL must be a name in the certificate.',
    "NOPERM": "Add these rules to the ACL of the user, with ACL SETUSER.",
}
_UNKNOWN_COMMAND = "The server is too old, or has the command renamed: the layer needs BZPOPMIN, so Redis 5 or later."
_NO_ANSWER = "See that it is up and can be reached from here: redis-cli -u URL PING."
_ELSE = "See its log for the word that it refused with."


def check_operations(facts: Facts) -> Symptom | None:
    """``ops.E300``: an operation of the layer is refused or fails, and no finding about the server says why."""
    evidence: list[str] = []
    fixes: list[str] = []
    for server in facts.servers:
        failures = [failure for failure in server.failures if not is_told_of_here(failure)]
        for failure in failures:
            evidence.append(_words(failure))
            fixes.append(_fix(failure))
        if server.missing_rules:
            evidence.append(
                f"{server.where}: all that the layer needs and this user lacks; add to its ACL: "
                f"{' '.join(server.missing_rules)}"
            )
            fixes.append(_FIXES["NOPERM"])
        if failures and _is_cluster(server):
            evidence.append(f"{server.where}: INFO says cluster_enabled:1")
            fixes.append(_CLUSTER)
    return symptom(list(dict.fromkeys(evidence)), " ".join(dict.fromkeys(fixes)))


def _words(failure: Refusal) -> str:
    code = "" if failure.code in ("", "ERR") or failure.code in failure.said else f"{failure.code}: "
    return f"{failure.operation} failed: {code}{failure.said}"


def _fix(failure: Refusal) -> str:
    if failure.code in _CLUSTER_CODES or "non local key" in failure.said:
        return _CLUSTER
    if "does not have this command" in failure.said:
        return _UNKNOWN_COMMAND
    return _FIXES.get(failure.code, _ELSE if failure.code else _NO_ANSWER)


def _is_cluster(server: ServerFacts) -> bool:
    return not isinstance(server.info, Missing) and server.info.get("cluster_enabled") in (1, "1")
