"""Whose members a run may remove, from the verdicts on the processes."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ops.model.liveness.judge import State, Verdict
from ops.model.liveness.stops import (
    Control,
    MisplacedGroup,
    check_control,
    check_hosts,
    check_keys,
    check_readability,
    check_restart,
    check_share,
)


@dataclass(frozen=True, slots=True)
class ReapPlan:
    """Whose members to remove, or why nothing may be removed now (``stopped``).

    ``control_failed``: the reaper could not trust its own probes, so nothing that it saw is worth remembering.
    """

    dead: frozenset[str]
    stopped: str | None = None
    control_failed: bool = False


def plan_reap(
    verdicts: Mapping[str, Verdict],
    *,
    controls: Collection[Control],
    probe_timeout_seconds: float,
    voided_by_restart: Collection[str],
    seen_live: Collection[str],
    max_share: float,
    members: Mapping[str, int],
    misplaced: Collection[MisplacedGroup],
) -> ReapPlan:
    """Decide which processes' members may go.

    ``voided_by_restart``: processes that were silent twice, but with a restart of Redis in between.
    ``seen_live``: processes that an earlier run saw live. Only they can have gone silent *now*: a process that was
    dead before the first run looked says nothing about the health of the fleet.
    ``members``: process -> how many it has. ``misplaced``: groups that the hosts put on another shard.
    """
    silent = {process for process, verdict in verdicts.items() if verdict.state in (State.DEAD, State.SUSPECT)}
    dead = frozenset(process for process, verdict in verdicts.items() if verdict.state is State.DEAD)
    control_failed = check_control(controls, probe_timeout_seconds) if silent else None
    stopped = (
        control_failed
        or check_readability(verdicts)
        or check_keys(verdicts, members)
        or check_hosts(misplaced)
        or check_restart(voided_by_restart)
        or check_share(dead, verdicts, seen_live, max_share)
    )
    return ReapPlan(frozenset() if stopped else dead, stopped, control_failed is not None)
