"""From facts to findings: every check there is, the most causal first."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from ops.model.doctor.facts import Facts, LayerSettings, NotKnown
from ops.model.doctor.findings import (
    Finding,
    Skipped,
    Symptom,
    agreement,
    level_of,
    operations,
    processes,
    servers,
    settings,
)


@dataclass(frozen=True, slots=True)
class Check:
    """A finding that can be made. ``title`` says it in a line."""

    id: str
    title: str
    examine: Callable[[Facts], Symptom | None]

    @property
    def level(self) -> str:
        return level_of(self.id)


@dataclass(frozen=True, slots=True)
class SettingsCheck:
    """A finding that needs nothing but the settings. ``for_production``: a check for ``manage.py check --deploy``."""

    id: str
    title: str
    examine: Callable[[LayerSettings], Symptom | None]
    for_production: bool = False


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The findings, the most causal first, and what could not be checked.

    ``complete``: every shard could be examined. ``answered``: every shard answered, some with a refusal perhaps.
    """

    layer: str
    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...]
    complete: bool = True
    problems: tuple[str, ...] = ()
    answered: bool = True

    @property
    def healthy(self) -> bool:
        return self.complete and all(finding.level == "info" for finding in self.findings)


SETTINGS_CHECKS = (
    SettingsCheck("ops.E201", "An option that the layer does not take", settings.check_layer_options),
    SettingsCheck("ops.E209", "A host that is no address", settings.check_hosts),
    SettingsCheck("ops.E210", "An option of the wrong type", settings.check_option_types),
    SettingsCheck("ops.W205", "An in-memory layer in production", settings.check_in_memory, for_production=True),
    SettingsCheck("ops.W202", "Sockets give up as early as the layer waits", settings.check_socket_timeout),
    SettingsCheck("ops.E203", "The lease outlasts the confirm time", settings.check_lease),
    SettingsCheck("ops.W206", "Direct sends are lost between several hosts", settings.check_direct_sends),
    SettingsCheck("ops.W204", "Members expire before their sockets", settings.check_group_expiry),
    SettingsCheck("ops.W207", "Nothing survives a connection that is cut on the way", settings.check_host_options),
)


def _by_settings(finding_id: str) -> Check:
    check = next(check for check in SETTINGS_CHECKS if check.id == finding_id)
    return Check(check.id, check.title, lambda facts: check.examine(facts.settings))


def _title(finding_id: str) -> str:
    return next(check.title for check in SETTINGS_CHECKS if check.id == finding_id)


CHECKS = (
    Check(
        "ops.E101",
        "A setting of CHANNELS_OPS that cannot be used",
        lambda facts: settings.check_ops_settings(facts.settings.ops_problems, facts.settings.ops_keys),
    ),
    _by_settings("ops.E201"),
    _by_settings("ops.E209"),
    _by_settings("ops.E210"),
    Check("ops.E300", "An operation of the layer is refused or fails", operations.check_operations),
    _by_settings("ops.W205"),
    Check("ops.E305", "The server turns connections away", servers.check_maxclients),
    Check("ops.E301", "A host is a replica", servers.check_primary),
    Check("ops.E302", "Redis is out of memory and refuses writes", servers.check_out_of_memory),
    Check("ops.E303", "Redis has evicted keys", servers.check_evictions),
    Check("ops.E308", "Subscribers fall behind their output buffer limit", servers.check_output_buffers),
    Check("ops.W311", "Two hosts are one server", servers.check_twins),
    Check("ops.E401", "Websockets die after five seconds", agreement.check_five_second_storm),
    Check("ops.E407", "Processes disagree on the hosts", agreement.check_hosts_order),
    Check("ops.E406", "Messages that cannot be read", agreement.check_readability),
    Check("ops.E415", "A message that can be packed and not unpacked", agreement.check_map_keys),
    Check("ops.W408", "The same groups under another prefix", agreement.check_prefixes),
    Check("ops.E412", "One layer in several event loops", agreement.check_event_loops),
    Check("ops.E414", "Several connections read one inbox", processes.check_shared_inboxes),
    Check("ops.W309", "Redis restarted or failed over under live processes", servers.check_restarts),
    Check("ops.W409", "Clocks differ", agreement.check_clocks),
    Check("ops.E402", "A connected worker takes no messages", processes.check_hung),
    Check("ops.E405", "Inboxes are full", processes.check_full_inboxes),
    Check("ops.W404", "Deploys leave members behind", processes.check_deploys),
    Check("ops.W403", "Members that no worker reads for", processes.check_orphans),
    Check("ops.W416", "Nobody runs reap_stale", processes.check_reaper),
    Check("ops.W410", "Messages in flight that nobody will acknowledge", processes.check_in_flight),
    Check("ops.W411", "Live members are about to expire", processes.check_members_near_expiry),
    Check("ops.W310", "Redis is slow", servers.check_speed),
    Check("ops.W202", _title("ops.W202"), agreement.check_short_socket_timeout),
    _by_settings("ops.E203"),
    Check("ops.W206", _title("ops.W206"), servers.check_lost_sends),
    _by_settings("ops.W204"),
    Check("ops.W207", _title("ops.W207"), servers.check_path),
    Check("ops.W307", "Redis closes idle connections", servers.check_idle_timeout),
    Check("ops.W306", "Few connections are left", servers.check_connections_left),
    Check("ops.W304", "A full Redis would drop groups", servers.check_eviction_policy),
    Check("ops.W413", "A part of the hash ring has no groups", agreement.check_ring),
    Check(
        "ops.W208",
        "A version that has not been tested",
        lambda facts: settings.check_versions(facts.settings.untested_versions),
    ),
    Check("ops.I417", "Other databases are in use, and this one is not", servers.check_databases),
    Check("ops.I312", "Memberships were put back", processes.check_put_back),
)

IDS = tuple(check.id for check in CHECKS)


def diagnose(facts: Facts, only: Collection[str] = IDS) -> tuple[tuple[Finding, ...], tuple[Skipped, ...]]:
    """The findings and what could not be checked."""
    findings: list[Finding] = []
    skipped: list[Skipped] = []
    for check in CHECKS:
        if check.id not in only:
            continue
        try:
            symptom = check.examine(facts)
        except NotKnown as reason:
            skipped.append(Skipped(check.id, str(reason)))
            continue
        if symptom is not None:
            findings.append(Finding(check.id, check.title, symptom.evidence, symptom.fix))
    return tuple(findings), tuple(skipped)
