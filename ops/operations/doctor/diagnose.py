"""Say what is wrong with a layer."""

from collections.abc import Collection

from ops.model.doctor.diagnosis import IDS, Diagnosis, diagnose
from ops.model.doctor.facts import Facts, LayerSettings, Missing
from ops.operations.doctor.collect import collect
from ops.store.connection.shards import OpenLayer


async def examine(opened: OpenLayer, settings: LayerSettings, only: Collection[str] = IDS) -> Diagnosis:
    """Collect facts and conclude. A shard that does not answer is told of, and the others are examined."""
    facts = await collect(opened, settings)
    findings, skipped = diagnose(facts, only)
    answered = all(shard.problem is None or shard.problem_code for shard in opened.shards)
    return Diagnosis(settings.alias, findings, skipped, opened.complete, tuple(opened.problems), answered)


def examine_settings(settings: LayerSettings, why: str, only: Collection[str] = IDS) -> Diagnosis:
    """What the settings alone tell, where the layer cannot be opened; ``why``."""
    missing = Missing(why)
    facts = Facts(settings, processes=missing, ends=missing, keyspace=missing)
    findings, skipped = diagnose(facts, only)
    return Diagnosis(settings.alias, findings, skipped, complete=False, problems=(why,), answered=False)
