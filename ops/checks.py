"""Django system checks: what can be known to be wrong from the settings alone."""

from collections.abc import Mapping
from typing import Any

from django.core.checks import CheckMessage, Error, register

from ops import conf

TAG = "ops"


@register(TAG)
def check_settings(**_: Any) -> list[CheckMessage]:
    """``ops.E101``: a key or value of ``CHANNELS_OPS`` that cannot be used."""
    values = conf.configured()
    if not isinstance(values, Mapping):
        return [Error("CHANNELS_OPS must be a dict.", hint="CHANNELS_OPS = {}", id="ops.E101")]
    problems = filter(None, (conf.problem_with(key, values) for key in values))
    hint = f"Known keys: {', '.join(conf.known_keys())}."
    return [Error(f"CHANNELS_OPS: {problem}.", hint=hint, id="ops.E101") for problem in problems]
