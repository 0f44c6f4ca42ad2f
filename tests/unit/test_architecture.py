"""Imports point one way: management, jobs, checks -> operations -> store -> model; output -> model."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

OPS = Path(__file__).resolve().parent.parent.parent / "ops"

# Part of the house -> the parts that it may import. All may import `exceptions` and the version in `ops` itself.
ARROWS: dict[str, set[str]] = {
    "model": set(),
    "store": {"model"},
    "operations": {"store", "model"},
    "output": {"model"},
    "management": {"operations", "store", "output", "model", "checks", "conf", "layer_settings"},
    "jobs": {"management"},
    "checks": {"conf", "layer_settings", "model"},
    "layer_settings": {"conf", "layers", "model"},
    "conf": set(),
    "layers": {"store", "model"},
    "middleware": {"store", "model", "conf"},
    "consumers": {"heart", "store", "model"},
    "heart": {"store", "model"},
    "apps": {"checks"},
    "exceptions": set(),
    "testing": set(),
    "": set(),
}

# Pure: what the model may use of the standard library has no randomness, no input and no output; of those that know
# dates, the clock is not for it.
PURE = {"__future__", "collections", "dataclasses", "enum", "functools", "itertools", "json", "math", "re", "typing"}
PURE |= {"datetime", "bisect", "statistics"}
CLOCKS = {"now", "utcnow", "today"}

# Who may speak to Redis, and who may know the names of its failures or its version.
CONNECTS = {"store"}
REDIS_WITHOUT_CONNECTION: dict[str, set[str]] = {
    "management.command": {"redis.exceptions"},
    "layers": {"redis.exceptions", "channels_redis"},
    "layer_settings": {"redis", "channels_redis.core", "channels_redis.pubsub", "channels_redis.utils"},
}
REDIS = {"redis", "hiredis", "channels_redis"}


def modules() -> Iterator[tuple[str, str]]:
    """Each module of ops, named from there, with its source."""
    for path in sorted(OPS.rglob("*.py")):
        name = ".".join(path.relative_to(OPS).with_suffix("").parts)
        yield name.removesuffix("__init__").rstrip("."), path.read_text(encoding="utf-8")


def imported(source: str) -> set[str]:
    """Every module that is imported anywhere in ``source``, inside functions and under TYPE_CHECKING too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module
            found.add(node.module)
            if node.module == "ops" or node.module.startswith("ops."):
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def part_of(module: str) -> str:
    return module.partition(".")[0]


def parts_imported(source: str) -> set[str]:
    names = {name.removeprefix("ops.") for name in imported(source) if name.startswith("ops.")}
    return {part_of(name) for name in names} - {"__version__"}


def arrows_that_go_up(module: str, source: str) -> set[str]:
    part = part_of(module)
    return parts_imported(source) - ARROWS[part] - {part, "exceptions"}


def impure_imports(source: str) -> set[str]:
    return {name for name in imported(source) if part_of(name) not in PURE | {"ops"}}


def clock_readings(source: str) -> set[str]:
    """Calls of what reads the clock in ``datetime``."""
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return {call.attr for call in calls if isinstance(call, ast.Attribute) and call.attr in CLOCKS}


def redis_imports(module: str, source: str) -> set[str]:
    """What ``module`` may not import of Redis clients."""
    if part_of(module) in CONNECTS:
        return set()
    return {name for name in imported(source) if part_of(name) in REDIS} - REDIS_WITHOUT_CONNECTION.get(module, set())


MODULES = dict(modules())
BELOW_THE_COMMANDS = [module for module in MODULES if part_of(module) in ("model", "store", "operations")]


@pytest.mark.parametrize("module", MODULES)
def test_no_import_goes_up(module: str) -> None:
    assert arrows_that_go_up(module, MODULES[module]) == set()


@pytest.mark.parametrize("module", [module for module in MODULES if part_of(module) == "model"])
def test_the_model_is_pure(module: str) -> None:
    assert impure_imports(MODULES[module]) == set()
    assert clock_readings(MODULES[module]) == set()


@pytest.mark.parametrize("module", MODULES)
def test_only_the_store_speaks_to_redis(module: str) -> None:
    assert redis_imports(module, MODULES[module]) == set()


@pytest.mark.parametrize("module", BELOW_THE_COMMANDS)
def test_nothing_below_the_commands_prints_or_knows_django(module: str) -> None:
    source = MODULES[module]
    assert {name for name in imported(source) if part_of(name) in ("django", "rich")} == set()
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]


def test_every_part_has_its_place_in_these_rules() -> None:
    assert {part_of(module) for module in MODULES} <= ARROWS.keys()


def test_these_rules_find_what_they_forbid() -> None:
    assert arrows_that_go_up("model.x", "from ops.store import shards") == {"store"}
    assert arrows_that_go_up("store.x", "def f():\n    import ops.operations.reap") == {"operations"}
    assert arrows_that_go_up("output.x", "from ops import conf, __version__") == {"conf"}
    assert arrows_that_go_up("store.x", "from ops.model import keys\nfrom ops.exceptions import OpsError") == set()
    assert impure_imports("import time\nfrom datetime import datetime\nimport re") == {"time"}
    assert clock_readings("from datetime import datetime as d\nd.now()\nd.fromtimestamp(0)") == {"now"}
    assert impure_imports("def f():\n    import asyncio") == {"asyncio"}
    assert redis_imports("operations.x", "from redis.asyncio import Redis") == {"redis.asyncio"}
    assert redis_imports("management.command", "from redis.exceptions import RedisError") == set()
    assert redis_imports("management.command", "import redis") == {"redis"}
