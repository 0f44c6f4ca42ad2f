"""The plan of a run: from the verdicts on the processes, those that may lose their members."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ops.model.liveness.evidence import Bearing
from ops.model.liveness.judge import State, Verdict
from ops.model.liveness.stops import (
    Control,
    MisplacedGroup,
    OtherHosts,
    check_control,
    check_hosts,
    check_keys,
    check_leases,
    check_nobody_live,
    check_readability,
    check_restart,
    check_share,
    how_it_ends,
    shows_if_idle,
)


@dataclass(frozen=True, slots=True)
class ReapPlan:
    """The processes to remove the members of (``dead``), or the reason that nothing goes now (``stopped``).

    ``control_failed``: the reaper could not trust its own probes, so nothing that it saw is worth remembering.
    """

    dead: frozenset[str]
    stopped: str | None = None
    control_failed: bool = False
    waits: bool = False
    """True if a later look may decide more: there are suspects, or a stop that ends by itself."""


def plan_reap(
    verdicts: Mapping[str, Verdict],
    *,
    controls: Collection[Control],
    probe_timeout_seconds: float,
    confirm_after_seconds: float,
    voided_by_restart: Collection[str],
    seen_live: Collection[str],
    max_share: float,
    released: bool,
    members: Mapping[str, int],
    misplaced: Collection[MisplacedGroup],
    other_hosts: Collection[OtherHosts] = (),
) -> ReapPlan:
    """Decide which processes' members may go.

    ``voided_by_restart``: processes that were silent twice, but with a restart of Redis in between.
    ``seen_live``: processes that an earlier run saw live. Only they can have gone silent *now*: a process that was
    dead before the first run looked says nothing about the health of the fleet. ``released``: what the stops fear for
    is ruled out, see ``is_released``.
    ``members``: process -> how many it has. ``misplaced``: groups that the hosts put on another shard; ``other_hosts``:
    processes whose leases tell that they have others.
    """
    silent = _in_states(verdicts, State.DEAD, State.SUSPECT)
    dead = _in_states(verdicts, State.DEAD)
    control_failed = check_control(controls, probe_timeout_seconds) if silent else None
    stopped = (
        control_failed
        or check_readability(verdicts)
        or check_keys(verdicts, members)
        or check_hosts(misplaced)
        or check_leases(other_hosts)
        or check_restart(voided_by_restart)
    )
    waits = stopped is None and len(silent) > len(dead)
    common_cause = common_cause_of(verdicts, (State.DEAD,), seen_live=seen_live, max_share=max_share)
    released = released and all(map(shows_if_idle, silent_without_a_word(dead).values()))
    if stopped is None and common_cause is not None and not released:
        stopped = f"{common_cause}; {how_it_ends(confirm_after_seconds)}"
        waits = True
    return ReapPlan(frozenset() if stopped else frozenset(dead), stopped, control_failed is not None, waits)


def common_cause_of(
    verdicts: Mapping[str, Verdict], states: Collection[State], *, seen_live: Collection[str], max_share: float
) -> str | None:
    """Why the silence of the processes in ``states`` may have a common cause that is not their death; None if not."""
    silent = silent_without_a_word(_in_states(verdicts, *states))
    return check_share(silent, verdicts, seen_live, max_share) or check_nobody_live(
        silent, verdicts, seen_live, max_share
    )


def those_in_doubt(
    verdicts: Mapping[str, Verdict], states: Collection[State], seen_live: Collection[str]
) -> dict[str, Verdict]:
    """The processes of which that is to be found out: those that went silent, or all where none was seen live."""
    silent = silent_without_a_word(_in_states(verdicts, *states))
    return {process: verdict for process, verdict in silent.items() if process in seen_live} or silent


def silent_without_a_word(silent: Mapping[str, Verdict]) -> dict[str, Verdict]:
    """Those that have not said themselves that they have left."""
    return {
        process: verdict
        for process, verdict in silent.items()
        if not any(fact.bearing is Bearing.DEATH for fact in verdict.evidence)
    }


def _in_states(verdicts: Mapping[str, Verdict], *states: State) -> dict[str, Verdict]:
    return {process: verdict for process, verdict in verdicts.items() if verdict.state in states}
