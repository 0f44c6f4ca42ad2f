"""The map in ARCHITECTURE.md is true: every import goes along an arrow that is drawn there."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent.parent
OPS = REPOSITORY / "ops"
MAP = (REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8")

# Every part may import these.
EVERYWHERE = {"exceptions", "__version__", ""}

# Pure: what the model may use of the standard library has no randomness, no input and no output; of those that know
# dates, the clock is not for it.
PURE = {"__future__", "collections", "dataclasses", "enum", "functools", "itertools", "json", "math", "re", "typing"}
PURE |= {"datetime", "binascii", "bisect", "operator", "statistics", "types"}
CLOCKS = {"now", "utcnow", "today"}

# The store talks to Redis. What else imports its clients, and for what: names of failures, classes of layers, versions.
CONNECTS = {"store"}
REDIS_WITHOUT_CONNECTION: dict[str, set[str]] = {
    "compat": {"hiredis"},
    "management.command": {"redis.exceptions"},
    "layer_settings": {"redis", "channels_redis.utils"},
    "layer_options": {"channels_redis.core", "channels_redis.pubsub", "channels_redis.utils"},
}
# Inside the application's processes: its own layer, on that layer's own connections.
RUNS_ON_THE_LAYER = {"layers", "application"}
REDIS = {"redis", "hiredis", "channels_redis"}

Arrows = Mapping[str, set[str]]


def drawn_arrows(text: str) -> tuple[Arrows, dict[str, Arrows]]:
    """The arrows between the parts of the house, and those between the rooms of each floor.

    A line ``a, b -> c -> d`` lets each name import everything to its right; ``floor: a -> b`` speaks of rooms.
    """
    [block] = re.findall(r"```arrows\n(.*?)```", text, re.DOTALL)
    parts: dict[str, set[str]] = defaultdict(set)
    rooms: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for line in block.splitlines():
        floor, _, chain = line.rpartition(":")
        steps = [step.split(", ") for step in chain.strip().split(" -> ")]
        drawn = rooms[floor.strip()] if floor else parts
        for number, step in enumerate(steps):
            for name in step:
                drawn[name].update(*steps[number + 1 :])
    return dict(parts), {floor: dict(drawn) for floor, drawn in rooms.items()}


PARTS, ROOMS = drawn_arrows(MAP)


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
            if node.module != "ops":
                found.add(node.module)
            if node.module == "ops" or node.module.startswith("ops."):
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def part_of(module: str) -> str:
    return module.partition(".")[0]


def room_of(module: str) -> tuple[str, str]:
    """The floor and the room of a module; no room for a floor itself."""
    floor, _, rest = module.partition(".")
    return floor, part_of(rest)


def imported_of_ops(source: str) -> set[str]:
    return {name.removeprefix("ops.") for name in imported(source) if name.startswith("ops.")}


def imports_beside_the_arrows(module: str, source: str) -> set[str]:
    part, (floor, room) = part_of(module), room_of(module)
    wrong = {part_of(name) for name in imported_of_ops(source)} - PARTS.get(part, set()) - EVERYWHERE - {part}
    if floor in ROOMS:
        entered = {room_of(name)[1] for name in imported_of_ops(source) if part_of(name) == floor}
        wrong |= {f"{floor}.{other}" for other in entered - ROOMS[floor].get(room, set()) - {room, ""}}
    return wrong


def impure_imports(source: str) -> set[str]:
    return {name for name in imported(source) if part_of(name) not in PURE | {"ops"}}


def clock_readings(source: str) -> set[str]:
    """Calls of what reads the clock in ``datetime``."""
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return {call.attr for call in calls if isinstance(call, ast.Attribute) and call.attr in CLOCKS}


def redis_imports(module: str, source: str) -> set[str]:
    """What ``module`` may not import of Redis clients."""
    if part_of(module) in CONNECTS | RUNS_ON_THE_LAYER:
        return set()
    return {name for name in imported(source) if part_of(name) in REDIS} - REDIS_WITHOUT_CONNECTION.get(module, set())


MODULES = dict(modules())
BELOW_THE_API = [m for m in MODULES if part_of(m) in ("model", "store", "application", "operations")]


@pytest.mark.parametrize("module", MODULES)
def test_each_import_goes_along_an_arrow(module: str) -> None:
    assert imports_beside_the_arrows(module, MODULES[module]) == set()


def test_no_arrow_leads_back() -> None:
    """Neither directly nor in a circle."""
    for arrows in (PARTS, *ROOMS.values()):
        for name in arrows:
            reached: set[str] = set()
            ahead = set(arrows[name])
            while ahead:
                reached |= ahead
                ahead = {further for one in ahead for further in arrows.get(one, ())} - reached
            assert name not in reached


def test_each_arrow_is_used_from_both_ends() -> None:
    """What is drawn is there: each name in the map is a part or a room of the house, and each has its place."""
    parts = {part_of(module) for module in MODULES} - {""}
    assert PARTS.keys() == parts - EVERYWHERE
    for floor, arrows in ROOMS.items():
        rooms = {room_of(module)[1] for module in MODULES if part_of(module) == floor} - {""}
        assert arrows.keys() == rooms


@pytest.mark.parametrize("module", [module for module in MODULES if part_of(module) == "model"])
def test_the_model_is_pure(module: str) -> None:
    assert impure_imports(MODULES[module]) == set()
    assert clock_readings(MODULES[module]) == set()


@pytest.mark.parametrize("module", MODULES)
def test_only_the_store_and_the_layer_speak_to_redis(module: str) -> None:
    assert redis_imports(module, MODULES[module]) == set()


@pytest.mark.parametrize("module", BELOW_THE_API)
def test_nothing_below_the_api_prints_or_knows_django(module: str) -> None:
    source = MODULES[module]
    assert {name for name in imported(source) if part_of(name) in ("django", "rich")} == set()
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]


def test_these_rules_find_what_they_forbid() -> None:
    assert imports_beside_the_arrows("model.x", "from ops.store import shards") == {"store"}
    assert imports_beside_the_arrows("store.x.y", "def f():\n    import ops.operations.reaping") == {"operations"}
    assert imports_beside_the_arrows("output.x", "from ops import conf, __version__") == {"conf"}
    assert imports_beside_the_arrows("store.x", "from ops.model import keys\nfrom ops.exceptions import E") == set()
    assert imports_beside_the_arrows("model.text", "from ops.model.liveness import plan") == {"model.liveness"}
    assert imports_beside_the_arrows("model.liveness.x", "from ops.model.text import visible") == set()
    assert drawn_arrows("```arrows\na, b -> c -> d\nf: x -> y\n```") == (
        {"a": {"c", "d"}, "b": {"c", "d"}, "c": {"d"}, "d": set()},
        {"f": {"x": {"y"}, "y": set()}},
    )
    assert impure_imports("import time\nfrom datetime import datetime\nimport re") == {"time"}
    assert clock_readings("from datetime import datetime as d\nd.now()\nd.fromtimestamp(0)") == {"now"}
    assert impure_imports("def f():\n    import asyncio") == {"asyncio"}
    assert redis_imports("operations.x", "from redis.asyncio import Redis") == {"redis.asyncio"}
    assert redis_imports("management.command", "from redis.exceptions import RedisError") == set()
    assert redis_imports("management.command", "import redis") == {"redis"}
