"""What the latest reap run found, as a file for the textfile collector of Prometheus's node_exporter.

Labels are ``layer``, ``state`` and ``version``: names of groups, channels and processes come from clients or are never
seen twice, and each new label value would cost Prometheus a series for ever.
"""

import math
from collections import Counter
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ops import __version__
from ops.model.groups import Inspection
from ops.model.liveness.judge import MEMBER_STATES, State
from ops.model.liveness.lease import LEASE_COUNTS
from ops.model.runs import ReapReport

LAST_SUCCESS = "channels_ops_reap_last_success_timestamp_seconds"


def reap_metrics(report: ReapReport, replaced: str) -> bytes:
    """The figures of ``report``; ``replaced``: the text of the file that is replaced, for the latest success."""
    return generate_latest(reap_registry(report, last_success_at=_last_success_at(replaced, report)))


def reap_registry(report: ReapReport, *, last_success_at: float) -> CollectorRegistry:
    """The figures of ``report`` as gauges. ``last_success_at``: unix seconds, 0 when no run has succeeded yet."""
    registry = CollectorRegistry()

    def gauge(name: str, documentation: str, value: float, **labels: str) -> None:
        labels = {"layer": report.layer, **labels}
        Gauge(f"channels_ops_reap_{name}", documentation, list(labels), registry=registry).labels(**labels).set(value)

    gauge("last_run_timestamp_seconds", "When the latest run of reap_stale ended.", report.finished_at or 0.0)
    gauge(
        "last_success_timestamp_seconds",
        "When the latest run ended that saw every shard and was not stopped; 0 when there was none.",
        last_success_at,
    )
    gauge("duration_seconds", "How long the latest run took.", report.duration_seconds)
    gauge("groups", "Groups that the latest run looked at.", report.groups_scanned)
    gauge("members", "Members of those groups before the run.", report.members_scanned)
    gauge("suspects", "Members with evidence against them that a later run has to confirm.", report.suspects)
    gauge("removed", "Members of dead processes that the latest run removed.", report.removed)
    gauge(
        "kept",
        "Members of dead processes that stayed because they had left or joined again since they were judged.",
        report.kept,
    )
    gauge("complete", "1 when every shard answered, else 0; then nothing was removed.", report.complete)
    gauge("safety_stop", "1 when a safety stop ended the latest run, else 0.", report.stopped is not None)
    gauge("info", "The version of channels-ops that wrote this file.", 1, version=__version__)

    processes = Gauge(
        "channels_ops_reap_processes",
        "Processes that the latest run reported, by state.",
        ["layer", "state"],
        registry=registry,
    )
    counts = Counter(State(process.state) for process in report.processes)
    # A state that nobody is in is written as 0: a series that comes and goes cannot be alerted on.
    for state in State:
        processes.labels(layer=report.layer, state=state.value).set(counts[state])
    return registry


def _last_success_at(replaced: str, report: ReapReport) -> float:
    finished_at = report.finished_at or 0.0
    if report.complete and report.stopped is None:
        return finished_at
    # A clock that was ahead once must not silence the alert until that time has come.
    return min(_recorded_success(replaced, report.layer), finished_at)


def _recorded_success(text: str, layer: str) -> float:
    """The time of the latest success in ``text``; 0 when there is none, whatever it holds."""
    try:
        families = list(text_string_to_metric_families(text))
    except (ValueError, IndexError):  # the last of prometheus_client before 0.21
        return 0.0
    values = [
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == LAST_SUCCESS and sample.labels.get("layer") == layer and math.isfinite(sample.value)
    ]
    return max([0.0, *values])


LEASE_COUNTS_SAY = {
    "outages": "Times that Redis was away",
    "leases_lost": "Leases that were found gone",
    "members_put_back": "Memberships that were put back",
    "members_refreshed": "Memberships that were refreshed before they expired",
    "channels_discarded": "Channels that were taken out of their groups because their consumer was gone",
}


def inspection_metrics(inspection: Inspection) -> str:
    """What ``channels_groups`` found, in the text format of Prometheus."""
    registry = CollectorRegistry()

    def gauge(name: str, documentation: str, values: Mapping[str, float] | float) -> None:
        by_state = isinstance(values, Mapping)
        labels = ["layer", "state"] if by_state else ["layer"]
        metric = Gauge(f"channels_ops_{name}", documentation, labels, registry=registry)
        if isinstance(values, Mapping):
            for state, value in values.items():
                metric.labels(inspection.layer, state).set(value)
        else:
            metric.labels(inspection.layer).set(values)

    totals = inspection.totals
    processes = Counter(process.verdict.state for process in inspection.processes)
    gauge("groups", "Groups of the layer.", inspection.total_groups)
    gauge("members", "Members of all groups, by state.", {state: getattr(totals, state) for state in MEMBER_STATES})
    gauge("processes", "Processes with members, by state.", {state.value: processes[state] for state in State})
    leases = [process.lease for process in inspection.processes if process.lease is not None and process.lease.restores]
    gauge("leases", "Processes that hold a lease, with the drop-in layer.", len(leases))
    repairs = Counter(dict.fromkeys(LEASE_COUNTS, 0))
    for lease in leases:
        repairs.update(dict(lease.counts))
    for name in LEASE_COUNTS:
        gauge(f"layer_{name}", f"{LEASE_COUNTS_SAY[name]}, in all processes that hold a lease.", repairs[name])
    gauge("shards", "Shards of the layer.", len(inspection.shards))
    gauge("shards_answered", "Shards that answered.", sum(shard.answered for shard in inspection.shards))
    gauge("taken_timestamp_seconds", "When this was read.", inspection.taken_at)
    return generate_latest(registry).decode("utf-8")
