"""Find the members of dead processes and remove exactly those."""

import asyncio
import secrets
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ops.exceptions import ShardError
from ops.model.liveness.judge import State
from ops.model.liveness.plan import ReapPlan, plan_reap
from ops.model.liveness.stops import check_epoch, voided_by_restart
from ops.model.liveness.suspicion import Suspicion, seen_live_after, suspicions_after
from ops.model.runs import ReapedProcess, ReapReport
from ops.model.settings import DEFAULTS, OpsSettings
from ops.operations.observe import Look, Observation, observe, options_from
from ops.operations.progress import Progress, no_progress
from ops.operations.reaping.purge import Doom, Purged, purge
from ops.store.connection.shards import OpenLayer
from ops.store.disconnects.log import append_reaped
from ops.store.liveness import suspects
from ops.store.removal import journal
from ops.store.removal.locks import run_lock

NOTHING_TO_REAP = "publish/subscribe memberships end with their connection: there is nothing to reap"


@dataclass(frozen=True, slots=True)
class ReapOptions:
    """How to reap. ``disconnect_log_stream``: record what was removed in the disconnect log, too."""

    glob: str | None = None
    dry_run: bool = False
    wait: bool = False
    confirm_after_seconds: float = DEFAULTS.confirm_after_seconds
    probe_timeout_seconds: float = DEFAULTS.probe_timeout_seconds
    max_share: float = DEFAULTS.max_share
    journal_seconds: float = DEFAULTS.journal_seconds
    disconnect_log_stream: bool = False
    disconnect_log_length: int = DEFAULTS.disconnect_log_length

    @classmethod
    def from_settings(cls, settings: OpsSettings, **chosen: Any) -> "ReapOptions":
        """``chosen``: fields by name; None stands for the setting."""
        return cls(**options_from(settings, cls, chosen))

    @property
    def look(self) -> Look:
        return Look(
            glob=self.glob,
            probe_timeout_seconds=self.probe_timeout_seconds,
            confirm_after_seconds=self.confirm_after_seconds,
            scores=True,
            controls=True,
            leftovers=True,
        )


async def reap(opened: OpenLayer, options: ReapOptions, progress: Progress = no_progress) -> ReapReport:
    """One run: look, remember who is silent, remove the members of those who were silent before.

    With ``wait``, looks twice. With ``dry_run``, writes nothing but its probes. Raises AnotherRunHoldsTheLock.
    """
    if opened.is_pubsub:
        return _nothing_to_reap(opened, options)
    if options.dry_run or not opened.complete:
        return await _Run(opened, options, progress).run()
    async with run_lock(opened):
        return await _Run(opened, options, progress).run()


def _nothing_to_reap(opened: OpenLayer, options: ReapOptions) -> ReapReport:
    return ReapReport(
        run_id=None,
        layer=opened.alias,
        dry_run=options.dry_run,
        complete=True,
        stopped=None,
        groups_scanned=0,
        members_scanned=0,
        suspects=0,
        removed=0,
        kept=0,
        processes=(),
        started_at=None,
        finished_at=None,
        duration_seconds=0.0,
        not_applicable=NOTHING_TO_REAP,
    )


class _Run:
    """The state of one run."""

    def __init__(self, opened: OpenLayer, options: ReapOptions, progress: Progress) -> None:
        self._opened = opened
        self._options = options
        self._progress = progress
        self._clock = time.monotonic()
        self._suspicions: dict[str, Suspicion] = {}
        self._purged = Purged()
        self._notes: list[str] = []

    async def run(self) -> ReapReport:
        opened = self._opened
        if opened.complete and not opened.epoch:
            raise ShardError(
                "this Redis user may not run INFO, and without it a restart inside the confirm time cannot be seen; "
                "add to its ACL: +info"
            )
        if opened.home.problem is None:
            self._suspicions = await suspects.read_suspicions(opened, self._options.glob)
        observation = await self._look()
        started_at, run_id = observation.now, new_run_id(observation.now)
        plan = await self._conclude(observation)
        if self._options.wait and opened.complete and not plan.stopped and _has(observation, State.SUSPECT):
            observation, plan = await self._look_again()
        if plan.dead and opened.complete:
            try:
                plan = await self._refuse_another_epoch(plan)
                if plan.dead:
                    await self._purge(run_id, observation, plan.dead)
            except ShardError as error:
                self._notes.append(str(error))
                await asyncio.gather(*(shard.identify() for shard in opened.shards))
                if opened.complete:  # It answers, but this run could not do its work.
                    opened.home.problem = str(error)
        return self._report(run_id, started_at, observation, plan)

    async def _look(self) -> Observation:
        return await observe(self._opened, self._options.look, self._progress, self._suspicions)

    async def _look_again(self) -> tuple[Observation, ReapPlan]:
        until = time.monotonic() + self._options.confirm_after_seconds
        while (left := until - time.monotonic()) > 0:
            self._progress(f"second look in {left:.0f} s", 0, 0)
            await asyncio.sleep(min(1.0, left))
        await asyncio.gather(*(shard.identify() for shard in self._opened.shards))
        observation = await self._look()
        return observation, await self._conclude(observation)

    async def _conclude(self, observation: Observation) -> ReapPlan:
        """Who may be reaped now; remembers who was silent and who was live for the next round."""
        opened, options = self._opened, self._options
        if not opened.complete:
            return ReapPlan(frozenset(), None)
        seen_live = await suspects.read_seen_live(opened)
        plan = plan_reap(
            observation.verdicts,
            controls=observation.controls,
            probe_timeout_seconds=options.probe_timeout_seconds,
            voided_by_restart=voided_by_restart(
                observation.verdicts,
                observation.recalls,
                now=observation.now,
                confirm_after_seconds=options.confirm_after_seconds,
            ),
            seen_live=seen_live,
            max_share=options.max_share,
            members={process: tally.members for process, tally in observation.census.processes.items()},
            misplaced=observation.census.misplaced,
        )
        if plan.control_failed:
            return plan
        self._suspicions = suspicions_after(
            observation.verdicts,
            observation.recalls,
            {process: tally.newest_joined_at for process, tally in observation.census.processes.items()},
            now=observation.now,
            epoch=opened.epoch,
        )
        if not options.dry_run:
            await suspects.record_suspicions(opened, list(self._suspicions.values()), options.glob)
            await suspects.record_seen_live(opened, seen_live_after(seen_live, observation.verdicts, observation.now))
        return plan

    async def _purge(self, run_id: str, observation: Observation, dead: frozenset[str]) -> None:
        """Remove the members of ``dead`` as they were judged, then what else these processes left behind."""
        opened, options = self._opened, self._options
        if not options.dry_run:
            await journal.record_run_started(
                opened, run_id, observation.now, options.journal_seconds, options.glob, takes_leases=True
            )
        await purge(
            opened,
            Doom(run_id, dead, observation, options.glob, options.journal_seconds),
            self._purged,
            dry_run=options.dry_run,
            progress=self._progress,
        )
        await self._log(run_id)
        # Without an end the run is listed as interrupted, with what its receipts say.
        if not options.dry_run and opened.complete:
            summary = {
                "removed": self._purged.removed.total(),
                "processes": len(dead),
                "set_aside": len(self._purged.leftovers),
            }
            await journal.record_run_ended(opened, run_id, summary)

    async def _log(self, run_id: str) -> None:
        """Have the disconnect log say what went. It is only told: a run does not fail of it."""
        options, opened = self._options, self._opened
        if options.dry_run or not options.disconnect_log_stream or opened.home.problem is not None:
            return
        try:
            await append_reaped(
                opened, run_id, await opened.home.now(), self._purged.removed, options.disconnect_log_length
            )
        except ShardError as error:
            self._notes.append(f"the disconnect log was not told: {error}")

    async def _refuse_another_epoch(self, plan: ReapPlan) -> ReapPlan:
        """The last look before anything is removed. Raises ShardError where a shard does not answer any more."""
        epoch = self._opened.epoch
        await asyncio.gather(*(shard.identify() for shard in self._opened.shards))
        if self._opened.problems:
            raise ShardError(self._opened.problems[0])
        stopped = check_epoch(epoch, self._opened.epoch)
        return plan if stopped is None else ReapPlan(frozenset(), stopped)

    def _report(self, run_id: str, started_at: float, observation: Observation, plan: ReapPlan) -> ReapReport:
        opened, census, verdicts = self._opened, observation.census, observation.verdicts
        states = {state: [p for p, verdict in verdicts.items() if verdict.state is state] for state in State}
        duration = time.monotonic() - self._clock
        return ReapReport(
            run_id=run_id,
            layer=opened.alias,
            dry_run=self._options.dry_run,
            complete=opened.complete,
            stopped=plan.stopped,
            groups_scanned=census.groups,
            members_scanned=census.members,
            suspects=sum(census.processes[process].members for process in states[State.SUSPECT]),
            orphans=sum(census.processes[process].members for process in states[State.DEAD]),
            removed=self._purged.removed.total(),
            kept=self._purged.kept,
            processes=tuple(
                ReapedProcess(
                    process=process,
                    state=verdict.state.value,
                    members=census.processes[process].members,
                    removed=self._purged.removed[process],
                    evidence=tuple(verdict.words),
                )
                for process, verdict in verdicts.items()
            ),
            started_at=started_at,
            finished_at=started_at + duration,
            duration_seconds=duration,
            leftovers=tuple(self._purged.leftovers),
            notes=tuple(dict.fromkeys([*opened.problems, *observation.notes, *self._notes])),
        )


def _has(observation: Observation, state: State) -> bool:
    return any(verdict.state is state for verdict in observation.verdicts.values())


def new_run_id(now: float) -> str:
    """Sorts by time, and is unique across hosts."""
    at = datetime.fromtimestamp(now, timezone.utc)
    return f"{at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
