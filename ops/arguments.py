"""The values that the arguments of the Python API accept. A name means the same in all of its functions."""

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ParamSpec, TypeVar, cast

from ops.exceptions import InvalidArguments
from ops.model.heartbeats.message import DEPTHS
from ops.model.liveness.judge import MEMBER_STATES
from ops.model.values import (
    BOOLEAN,
    MOMENT,
    POSITIVE_COUNT,
    SECONDS,
    SHARE,
    SPEED,
    TEXT,
    TEXTS,
    ValueKind,
    one_of,
    some_of,
)

P = ParamSpec("P")
R = TypeVar("R")

KINDS: Mapping[str, ValueKind] = {
    **dict.fromkeys(("layer", "group", "run_id", "target"), TEXT),
    **dict.fromkeys(("groups", "sources"), TEXTS),
    **dict.fromkeys(("members", "probe", "summary", "dry_run", "wait", "resume", "force"), BOOLEAN),
    **dict.fromkeys(("confirm_after_seconds", "probe_timeout_seconds"), SECONDS.or_none()),
    **dict.fromkeys(("since", "until"), MOMENT.or_none()),
    "depth": one_of(DEPTHS),
    "match": TEXT.or_none(),
    "max_share": SHARE.or_none(),
    "only": TEXTS.or_none(),
    "rate": POSITIVE_COUNT,
    "speed": SPEED.or_none(),
    "state": one_of(MEMBER_STATES).or_none(),
    "states": some_of(MEMBER_STATES),
    "timeout_seconds": SECONDS,
}


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """``function``, which raises InvalidArguments where it is called with a value that cannot be used."""

    async def call_async(*args: P.args, **options: P.kwargs) -> Any:
        _refuse(inspect.signature(function).bind(*args, **options).arguments)
        return await cast("Callable[P, Awaitable[Any]]", function)(*args, **options)

    def call(*args: P.args, **options: P.kwargs) -> R:
        _refuse(inspect.signature(function).bind(*args, **options).arguments)
        return function(*args, **options)

    chosen: Any = call_async if inspect.iscoroutinefunction(function) else call
    return cast("Callable[P, R]", functools.wraps(function)(chosen))


def _refuse(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        kind = KINDS.get(name)
        if kind is not None and (problem := kind.problem_with(name, value)) is not None:
            raise InvalidArguments(problem)
    if given.get("groups") and given.get("match") is not None:
        raise InvalidArguments("give group names or a glob to match, not both")
    since, until = given.get("since"), given.get("until")
    if since is not None and until is not None and since > until:
        raise InvalidArguments("since is later than until")
