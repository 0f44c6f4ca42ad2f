"""Django system checks: what the settings alone show to be wrong. ``channels_doctor`` knows them by the same ids."""

from collections.abc import Iterator
from typing import Any

from django.core.checks import CheckMessage, Error, Warning, register

from ops import conf
from ops.layer_settings import configured_layers, layer_settings, untested_versions
from ops.model.doctor.diagnosis import SETTINGS_CHECKS
from ops.model.doctor.facts import LayerSettings
from ops.model.doctor.findings import Symptom, level_of
from ops.model.doctor.findings.settings import check_ops_settings, check_versions

TAG = "ops"
OPS_SETTINGS = "ops.E101"
VERSIONS = "ops.W208"


@register(TAG)
def check_settings(**_: Any) -> list[CheckMessage]:
    """``ops.E101``: a key or value of ``CHANNELS_OPS`` that cannot be used."""
    return list(_messages(OPS_SETTINGS, check_ops_settings(conf.problems(), conf.known_keys())))


@register(TAG)
def check_installed_versions(**_: Any) -> list[CheckMessage]:
    """``ops.W208``: installed versions that the tests have never run with, once for the project."""
    return list(_messages(VERSIONS, check_versions(untested_versions())))


@register(TAG)
def check_layers(**_: Any) -> list[CheckMessage]:
    """What is wrong with ``CHANNEL_LAYERS``."""
    return [message for settings in configured_layers() for message in _of_layer(settings, for_production=False)]


@register(TAG, deploy=True)
def check_layers_in_production(**_: Any) -> list[CheckMessage]:
    """What would be wrong with ``CHANNEL_LAYERS`` in production: ``manage.py check --deploy``."""
    return [message for settings in configured_layers() for message in _of_layer(settings, for_production=True)]


def errors_for(alias: str) -> list[CheckMessage]:
    """What keeps a command from working on the layer ``alias``, unless ``SILENCED_SYSTEM_CHECKS`` has it."""
    settings = layer_settings(alias)
    found = [*check_settings(), *(_of_layer(settings, for_production=False) if settings else ())]
    return [message for message in found if message.is_serious() and not message.is_silenced()]


def _of_layer(settings: LayerSettings, *, for_production: bool) -> Iterator[CheckMessage]:
    for check in SETTINGS_CHECKS:
        if check.for_production is for_production:
            yield from _messages(check.id, check.examine(settings), f"CHANNEL_LAYERS[{settings.alias!r}]: ")


def _messages(check_id: str, symptom: Symptom | None, where: str = "") -> Iterator[CheckMessage]:
    kind = Error if level_of(check_id) == "error" else Warning
    if symptom is not None:
        for evidence in symptom.evidence:
            yield kind(f"{where}{evidence}", hint=symptom.fix, id=check_id)
