"""The Python API: what the commands, the jobs and the pages call, and nothing below it.

Each function has a twin for async code with an ``a`` before its name: ``count()`` and ``acount()``. All take ``layer``,
an alias of ``CHANNEL_LAYERS``. They return frozen dataclasses and raise only ``ops.exceptions.OpsError``. Times are
unix seconds. A call opens connections of its own and closes them.

A sync function cannot be called where an event loop runs; await its twin there.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from asgiref.sync import async_to_sync
from channels import DEFAULT_CHANNEL_LAYER
from django.utils.timezone import get_default_timezone

from ops.arguments import checked
from ops.checks import errors_for
from ops.conf import ops_settings
from ops.exceptions import InvalidArguments, LayerError, OpsError, ShardError
from ops.layer_settings import hint_at_another_layer, layer_settings
from ops.model.liveness.judge import MEMBER_STATES
from ops.operations.progress import WAITING, Progress, no_progress
from ops.store.connection.shards import make_layer, naming_redis_failures, open_layer

# Use cases and their results are imported where they are called, so that a command starts with few modules.
if TYPE_CHECKING:
    from ops.model.disconnects.cleanup import CleanupReport as CleanupReport
    from ops.model.disconnects.emitting import EmitReport as EmitReport
    from ops.model.disconnects.report.report import DisconnectReport as DisconnectReport
    from ops.model.doctor.diagnosis import Diagnosis as Diagnosis
    from ops.model.groups import Group as Group
    from ops.model.groups import Inspection as Inspection
    from ops.model.groups import Member as Member
    from ops.model.heartbeats.report import HeartbeatReport as HeartbeatReport
    from ops.model.runs import ReapReport as ReapReport
    from ops.model.runs import RunRecord as RunRecord
    from ops.model.runs import UndoReport as UndoReport
    from ops.operations.heartbeats.run import HeartbeatRun as HeartbeatRun
    from ops.operations.inspect import GroupStream as GroupStream
    from ops.operations.inspect import InspectOptions
    from ops.store.connection.shards import OpenLayer

_RETURNED = {
    "CleanupReport": "ops.model.disconnects.cleanup",
    "Diagnosis": "ops.model.doctor.diagnosis",
    "DisconnectReport": "ops.model.disconnects.report.report",
    "EmitReport": "ops.model.disconnects.emitting",
    "Group": "ops.model.groups",
    "GroupStream": "ops.operations.inspect",
    "HeartbeatReport": "ops.model.heartbeats.report",
    "HeartbeatRun": "ops.operations.heartbeats.run",
    "Inspection": "ops.model.groups",
    "Member": "ops.model.groups",
    "ReapReport": "ops.model.runs",
    "RunRecord": "ops.model.runs",
    "UndoReport": "ops.model.runs",
}


def __getattr__(name: str) -> Any:
    if name not in _RETURNED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_RETURNED[name]), name)


__all__ = [
    "HEARTBEATS_A_SECOND",
    "HEARTBEAT_SECONDS",
    "LOOK_SECONDS",
    "WAITING",
    "CleanupReport",
    "Diagnosis",
    "DisconnectReport",
    "EmitReport",
    "Group",
    "GroupStream",
    "HeartbeatReport",
    "HeartbeatRun",
    "Inspection",
    "Member",
    "Progress",
    "ReapReport",
    "RunRecord",
    "UndoReport",
    "acleanup",
    "acount",
    "adiagnose",
    "aemit",
    "agroups",
    "aheartbeat",
    "ahistory",
    "ainspect",
    "amembers",
    "areap",
    "areport",
    "aundo",
    "cleanup",
    "count",
    "diagnose",
    "emit",
    "groups",
    "heartbeat",
    "heartbeat_rounds",
    "history",
    "inspect",
    "members",
    "no_progress",
    "reap",
    "report",
    "stream_groups",
    "undo",
]

LOOK_SECONDS = 3.0
HEARTBEAT_SECONDS = 5.0
HEARTBEATS_A_SECOND = 2000

P = ParamSpec("P")
R = TypeVar("R")


@asynccontextmanager
async def _opened(layer: str) -> AsyncIterator[OpenLayer]:
    """The layer, unless its settings or those of the toolkit cannot work."""
    if errors := errors_for(layer):
        raise LayerError(f"{errors[0].msg} {errors[0].hint or ''} ({errors[0].id})")
    with naming_redis_failures(), _hinting(layer):
        async with open_layer(layer) as opened:
            yield opened


@contextmanager
def _hinting(layer: str) -> Iterator[None]:
    """Name the layers that could be meant, if ``layer`` is in memory."""
    try:
        yield
    except LayerError as error:
        raise LayerError(f"{error}{hint_at_another_layer(layer)}") from None


def _sync(twin: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, R]:
    """The function that runs its async ``twin`` in an event loop of its own."""

    @functools.wraps(twin)
    def call(*args: P.args, **options: P.kwargs) -> R:
        try:
            run = async_to_sync(twin)
            return run(*args, **options)
        except RuntimeError as error:
            if "AsyncToSync" not in str(error):
                raise
            name = twin.__name__
            raise OpsError(f"{name[1:]}() cannot be called where an event loop runs; await {name}() instead") from None

    call.__name__ = call.__qualname__ = twin.__name__.removeprefix("a")
    return call


# Groups and members


@checked
async def acount(group: str, *, layer: str = DEFAULT_CHANNEL_LAYER) -> int:
    """Members of ``group``; 0 if there is no such group. One command, whatever its size.

    Members of dead processes are among them; ``members()`` tells them apart.
    """
    from ops.operations.inspect import count_group

    async with _opened(layer) as opened:
        return await count_group(opened, group)


@checked
async def amembers(
    group: str, *, state: str | None = None, probe: bool = False, layer: str = DEFAULT_CHANNEL_LAYER
) -> tuple[Member, ...]:
    """The members of ``group``, those that joined first first; empty if there is no such group.

    ``state``: only members in that state. Without ``probe`` nothing is written, and the state of a process without a
    lease is not known. Raises OpsError if a shard does not answer, or if the layer does not know its members.
    """
    states = MEMBER_STATES if state is None else (state,)
    found = await ainspect([group], members=True, states=states, probe=probe, layer=layer)
    _refuse_partial(found)
    return tuple(member for one in found.groups for member in one.channels)


@checked
async def agroups(
    match: str | None = None, *, probe: bool = False, layer: str = DEFAULT_CHANNEL_LAYER
) -> tuple[Group, ...]:
    """The groups with members, by name, each with its counts; ``match``: only those that match this Redis glob.

    It reads every group of the layer. Raises OpsError if a shard does not answer.
    """
    found = await ainspect(match=match, probe=probe, layer=layer)
    _refuse_partial(found)
    return tuple(sorted(found.groups, key=lambda group: group.group))


@checked
async def ainspect(
    groups: Sequence[str] = (),
    *,
    match: str | None = None,
    members: bool = False,
    states: Collection[str] = MEMBER_STATES,
    summary: bool = False,
    probe: bool = False,
    probe_timeout_seconds: float = LOOK_SECONDS,
    layer: str = DEFAULT_CHANNEL_LAYER,
    progress: Progress = no_progress,
) -> Inspection:
    """The groups of the layer, the processes with members in them, and the verdict on each process.

    ``groups`` or ``match`` (a Redis glob): only these. ``members``: with the members of each group. ``states``: only
    groups with members in one of these states, and only those members. ``summary``: totals and processes, no groups.
    ``probe``: ask each process for a sign of life for at most ``probe_timeout_seconds``, by a message in its
    inbox; without it nothing is written. A shard that does not answer is in ``shards``, and the result is not
    ``complete``.
    """
    from ops.operations import inspect

    options = _inspect_options(groups, match, members, states, probe, probe_timeout_seconds)
    async with _opened(layer) as opened:
        if summary:
            return await inspect.summarize(opened, options, progress)
        return await (await inspect.inspect(opened, options, progress)).collect()


@checked
@asynccontextmanager
async def stream_groups(
    groups: Sequence[str] = (),
    *,
    match: str | None = None,
    members: bool = False,
    states: Collection[str] = MEMBER_STATES,
    probe: bool = False,
    probe_timeout_seconds: float = LOOK_SECONDS,
    layer: str = DEFAULT_CHANNEL_LAYER,
    progress: Progress = no_progress,
) -> AsyncIterator[GroupStream]:
    """As ``ainspect()``, one group at a time, for layers of any size.

    ::

        async with stream_groups() as stream:
            async for group in stream.groups():
                …
            stream.inspection  # all of it, without the groups
    """
    from ops.operations import inspect

    options = _inspect_options(groups, match, members, states, probe, probe_timeout_seconds)
    async with _opened(layer) as opened:
        yield await inspect.inspect(opened, options, progress)


def _inspect_options(
    groups: Sequence[str],
    match: str | None,
    members: bool,
    states: Collection[str],
    probe: bool,
    probe_timeout_seconds: float,
) -> InspectOptions:
    from ops.operations.inspect import InspectOptions
    from ops.operations.observe import Look

    look = Look.from_settings(
        ops_settings(),
        names=tuple(groups),
        glob=match,
        probe=probe,
        probe_timeout_seconds=probe_timeout_seconds,
    )
    return InspectOptions(look, members=members, states=tuple(states))


def _refuse_partial(found: Inspection) -> None:
    for shard in found.shards:
        if shard.problem is not None:
            raise ShardError(f"{shard.problem}; inspect() returns what the other shards have")


# Reaping


@checked
async def areap(
    *,
    match: str | None = None,
    dry_run: bool = False,
    wait: bool = False,
    confirm_after_seconds: float | None = None,
    probe_timeout_seconds: float | None = None,
    max_share: float | None = None,
    layer: str = DEFAULT_CHANNEL_LAYER,
    progress: Progress = no_progress,
) -> ReapReport:
    """Remove the members of dead processes from the groups of the layer, as ``manage.py reap_stale`` does.

    ``match``: only from groups that match this Redis glob. ``dry_run``: change nothing. ``wait``: suspect, wait for the
    confirm time, and remove in this one call. None stands for the setting in ``CHANNELS_OPS``. A safety stop is in
    ``stopped``, a shard that did not answer makes the report not ``complete``; ``removed`` says what had gone by then.
    Raises AnotherRunHoldsTheLock if another run is at work.
    """
    from ops.operations.reaping import reap

    options = reap.ReapOptions.from_settings(
        ops_settings(),
        glob=match,
        dry_run=dry_run,
        wait=wait,
        confirm_after_seconds=confirm_after_seconds,
        probe_timeout_seconds=probe_timeout_seconds,
        max_share=max_share,
    )
    async with _opened(layer) as opened:
        return await reap.reap(opened, options, progress)


@checked
async def aundo(run_id: str, *, layer: str = DEFAULT_CHANNEL_LAYER, progress: Progress = no_progress) -> UndoReport:
    """Put back the members that a run removed, if they are still absent. A second call changes nothing.

    Raises RunNotFound if the journal has no such run, AnotherRunHoldsTheLock if another run is at work.
    """
    from ops.operations.reaping.undo import undo

    async with _opened(layer) as opened:
        return await undo(opened, run_id, progress)


@checked
async def ahistory(*, layer: str = DEFAULT_CHANNEL_LAYER) -> tuple[RunRecord, ...]:
    """The runs that removed something and can be undone, the latest first."""
    from ops.operations.reaping.undo import read_history

    async with _opened(layer) as opened:
        return tuple(await read_history(opened))


# Heartbeats


@checked
async def aheartbeat(
    groups: Sequence[str] = (),
    *,
    match: str | None = None,
    depth: str = "channel",
    timeout_seconds: float = HEARTBEAT_SECONDS,
    rate: int = HEARTBEATS_A_SECOND,
    layer: str = DEFAULT_CHANNEL_LAYER,
    progress: Progress = no_progress,
) -> HeartbeatReport:
    """Ask the members of ``groups`` once whether a message reaches them; of all groups if none is given.

    ``match``: of the groups that match this Redis glob. ``depth``: ``process`` works with any application, ``channel``
    needs the drop-in layer, ``client`` also a consumer that can ping its client. ``rate``: members a second, at most.
    """
    async with heartbeat_rounds(
        groups, match=match, depth=depth, timeout_seconds=timeout_seconds, rate=rate, layer=layer
    ) as run:
        async for _ in run.round(progress):
            pass
        return run.report


@checked
@asynccontextmanager
async def heartbeat_rounds(
    groups: Sequence[str] = (),
    *,
    match: str | None = None,
    depth: str = "channel",
    timeout_seconds: float = HEARTBEAT_SECONDS,
    rate: int = HEARTBEATS_A_SECOND,
    layer: str = DEFAULT_CHANNEL_LAYER,
) -> AsyncIterator[HeartbeatRun]:
    """As ``aheartbeat()``, round by round and group by group.

    ::

        async with heartbeat_rounds(["room.lobby"]) as run:
            async for group in run.round():
                …
            run.report  # of all rounds so far
    """
    from ops.operations.heartbeats.run import HeartbeatOptions, heartbeats
    from ops.operations.observe import Look

    look = Look.from_settings(ops_settings(), names=tuple(groups), glob=match)
    async with (
        _opened(layer) as opened,
        heartbeats(opened, HeartbeatOptions(look, depth, timeout_seconds, rate)) as run,
    ):
        yield run


# Diagnosis


@checked
async def adiagnose(*, only: Collection[str] | None = None, layer: str = DEFAULT_CHANNEL_LAYER) -> Diagnosis:
    """Say what is wrong with the layer, as ``manage.py channels_doctor`` does. ``only``: just these ids."""
    from ops.model.doctor.diagnosis import IDS
    from ops.operations.doctor.diagnose import examine, examine_settings

    wanted = IDS if only is None else tuple(only)
    if unknown := [one for one in wanted if one not in IDS]:
        raise InvalidArguments(f"{unknown[0]!a} is no id of a finding; manage.py channels_doctor --list shows them")
    settings = layer_settings(layer)
    if settings is None:
        make_layer(layer)  # says what is wrong with it
        raise LayerError(f"channel layer {layer!r} cannot be examined; look at its BACKEND and CONFIG")
    if settings.obstacle is not None:
        why = f"channel layer {layer!r} cannot work with its CONFIG: {settings.obstacle}"
        return examine_settings(settings, why, wanted)
    try:
        with naming_redis_failures(), _hinting(layer):
            async with open_layer(layer) as opened:  # What the system checks object to is among the findings.
                return await examine(opened, settings, wanted)
    except LayerError as error:
        return examine_settings(settings, str(error), wanted)


# Disconnects


@checked
async def areport(
    sources: Sequence[str] = (),
    *,
    since: float | None = None,
    until: float | None = None,
    layer: str = DEFAULT_CHANNEL_LAYER,
    progress: Progress = no_progress,
) -> DisconnectReport:
    """Why websockets ended: the report on the disconnect log in Redis, or on the log files ``sources``.

    ``since``, ``until``: unix seconds. Sources that cannot be read are among ``reading.problems``.
    """
    from ops.operations.disconnects.replay import Span, report_files, report_stream

    span = Span(since, until)
    if sources:
        return await report_files(layer, sources, get_default_timezone(), span, progress)
    async with _opened(layer) as opened:
        return await report_stream(opened, span, progress)


@checked
async def acleanup(
    sources: Sequence[str] = (),
    *,
    since: float | None = None,
    until: float | None = None,
    dry_run: bool = False,
    resume: bool = False,
    layer: str = DEFAULT_CHANNEL_LAYER,
    progress: Progress = no_progress,
) -> CleanupReport:
    """Remove each channel with a recorded end from the groups that it is still in, with receipts for ``undo()``.

    ``sources``, ``since`` and ``until`` as in ``areport()``. ``resume``: begin where the last clean-up of the log in
    Redis stopped. Raises ShardError if a shard does not answer, AnotherRunHoldsTheLock if another run is at work.
    """
    from ops.operations.disconnects.cleanup import CleanupOptions, clean_up
    from ops.operations.disconnects.replay import Span

    options = CleanupOptions.from_settings(
        ops_settings(),
        zone=get_default_timezone(),
        sources=tuple(sources),
        span=Span(since, until),
        dry_run=dry_run,
        resume=resume,
    )
    async with _opened(layer) as opened:
        return await clean_up(opened, options, progress)


@checked
async def aemit(
    target: str,
    sources: Sequence[str] = (),
    *,
    since: float | None = None,
    until: float | None = None,
    speed: float | None = 1.0,
    force: bool = False,
    dry_run: bool = False,
    layer: str = DEFAULT_CHANNEL_LAYER,
    progress: Progress = no_progress,
) -> EmitReport:
    """Send each recorded end as a message of type ``ops.disconnect`` to the channel or group ``target``.

    ``speed``: how many times faster than they were recorded; None for as fast as the rate limit allows. ``force``: also
    to members that are not known to handle the message. Raises TargetNotAble otherwise, before anything is sent.
    """
    from ops.channel_handlers import handles_disconnects
    from ops.operations.disconnects import emit
    from ops.operations.disconnects.replay import Span

    options = emit.EmitOptions(
        target=target,
        handles=handles_disconnects(),
        zone=get_default_timezone(),
        speed=speed,
        sources=tuple(sources),
        span=Span(since, until),
        force=force,
        dry_run=dry_run,
    )
    async with _opened(layer) as opened:
        return await emit.emit(opened, options, progress)


count = _sync(acount)
members = _sync(amembers)
groups = _sync(agroups)
inspect = _sync(ainspect)
reap = _sync(areap)
undo = _sync(aundo)
history = _sync(ahistory)
heartbeat = _sync(aheartbeat)
diagnose = _sync(adiagnose)
report = _sync(areport)
cleanup = _sync(acleanup)
emit = _sync(aemit)
