"""Find the members of dead processes and remove exactly those."""

import asyncio
import functools
import secrets
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from ops.exceptions import ShardError
from ops.model.liveness.judge import State
from ops.model.liveness.judgement import check_came_back
from ops.model.liveness.plan import ReapPlan, common_cause_of, plan_reap, those_in_doubt
from ops.model.liveness.stops import (
    SEEN_BEFORE_A_STEP,
    Absence,
    absence_after,
    check_epoch,
    is_released,
    last_uses,
    release_after_seconds,
    voided_by_restart,
)
from ops.model.liveness.suspicion import (
    MOST_VANISHED,
    Suspicion,
    always_back,
    begun_anew,
    came_back,
    seen_live_after,
    sees_a_new_process,
    suspicion_lifetime_seconds,
    suspicions_after,
)
from ops.model.runs import ReapedProcess, ReapReport
from ops.model.settings import DEFAULTS, OpsSettings
from ops.operations.observe import Look, Observation, observe, options_from
from ops.operations.progress import WAITING, Progress, no_progress
from ops.operations.reaping.purge import Removal, Removed, purge
from ops.store.connection.shards import OpenLayer
from ops.store.disconnects.log import append_reaped, read_position
from ops.store.liveness import suspects
from ops.store.liveness.markers import count_markers, expire_markers, place_markers
from ops.store.liveness.receivers import Connections, count_idle_connections, read_own_connections
from ops.store.removal import journal
from ops.store.removal.judgement import Judgement
from ops.store.removal.locks import RunLock, run_lock
from ops.store.removal.retention import delete_what_is_over, read_retention

LOOKS_AT_MOST = 3
MARKER_SPARE_SECONDS = 300.0
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
        """All groups are counted and judged, whatever ``glob`` is: a join to any of them is a sign of life."""
        return Look(
            probe_timeout_seconds=self.probe_timeout_seconds,
            confirm_after_seconds=self.confirm_after_seconds,
            scores=True,
            controls=True,
            leftovers=True,
        )


async def reap(opened: OpenLayer, options: ReapOptions, progress: Progress = no_progress) -> ReapReport:
    """One run: look, remember who is silent, remove the members of those who were silent before.

    With ``wait``, looks as often as is needed, three times at most. With ``dry_run``, writes nothing but its probes.
    Raises AnotherRunHoldsTheLock.
    """
    if not opened.backend.keeps_members:
        return _nothing_to_reap(opened, options)
    if options.dry_run or not opened.complete:
        return await _Run(opened, options, progress).run()
    async with run_lock(opened) as lock:
        return await _Run(opened, options, progress, lock).run()


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
    """The state of one run. ``lock``: not held by one that changes nothing."""

    def __init__(
        self, opened: OpenLayer, options: ReapOptions, progress: Progress, lock: RunLock | None = None
    ) -> None:
        self._opened = opened
        self._options = options
        self._progress = progress
        self._lock = lock
        self._clock = time.monotonic()
        self._suspicions: dict[str, Suspicion] = {}
        self._absence: Absence | None = None
        self._own: Connections | None = None
        self._purged = Removed()
        self._notes: list[str] = []

    async def run(self) -> ReapReport:
        opened = self._opened
        if opened.complete and not opened.epoch:
            raise ShardError(
                "this Redis user may not run INFO, and without it a restart inside the confirm time cannot be seen; "
                "add to its ACL: +info"
            )
        self._own = await read_own_connections(opened)
        if opened.home.problem is None:
            self._suspicions = await suspects.read_suspicions(opened)
        observation = await self._look()
        started_at, run_id = observation.now, new_run_id(observation.now)
        self._absence = observation.absence
        plan = await self._conclude(observation)
        for _ in range(LOOKS_AT_MOST - 1):
            if not (self._options.wait and opened.complete and plan.waits):
                break
            observation, plan = await self._look_again()
        if plan.dead and opened.complete:
            try:
                plan = await self._refuse_another_epoch(plan)
                plan = replace(plan, dead=plan.dead - await self._came_back(observation, plan.dead))
                if plan.dead:
                    stopped = await self._purge(run_id, observation, plan.dead)
                    plan = replace(plan, stopped=stopped)
            except ShardError as error:
                self._notes.append(str(error))
                await asyncio.gather(*(shard.identify() for shard in opened.shards))
                if opened.complete:  # It answers, but this run could not do its work.
                    opened.home.note_failure(error)
        if self._lock is not None and opened.complete:
            self._notes.extend(await delete_what_is_over(opened))
            self._notes.extend(await self._expire_markers(observation))
        return self._report(run_id, started_at, observation, plan)

    async def _look(self) -> Observation:
        return await observe(self._opened, self._options.look, self._progress, self._suspicions)

    async def _look_again(self) -> tuple[Observation, ReapPlan]:
        pause = self._options.confirm_after_seconds
        if self._absence is not None:  # A stop may depend on what the next look finds.
            pause = release_after_seconds(pause)
        until = time.monotonic() + pause
        while (left := until - time.monotonic()) > 0:
            self._progress(f"{WAITING} {left:.0f} s", 0, 0)
            await asyncio.sleep(min(1.0, left))
        await asyncio.gather(*(shard.identify() for shard in self._opened.shards))
        # Our connections of before would look like idle ones of others.
        await asyncio.gather(*(shard.drop_idle_connections() for shard in self._opened.shards))
        self._own = await read_own_connections(self._opened)
        observation = await self._look()
        return observation, await self._conclude(observation)

    async def _conclude(self, observation: Observation) -> ReapPlan:
        """Who may be reaped now; remembers who was silent and who was live for the next round."""
        opened, options = self._opened, self._options
        if not opened.complete:
            return ReapPlan(frozenset(), None)
        verdicts, now = observation.verdicts, observation.moment
        seen_live = await suspects.read_seen_live(opened)
        if observation.this_look.stepped_at == now:
            seen_live = dict.fromkeys(seen_live, SEEN_BEFORE_A_STEP)
        if sees_a_new_process(seen_live, verdicts):
            observation.this_look = replace(observation.this_look, new_at=now)
        await self._look_for_idle_connections(observation, seen_live)
        plan = plan_reap(
            verdicts,
            controls=observation.controls,
            probe_timeout_seconds=options.probe_timeout_seconds,
            confirm_after_seconds=options.confirm_after_seconds,
            voided_by_restart=voided_by_restart(
                verdicts, observation.recalls, now=now, confirm_after_seconds=options.confirm_after_seconds
            ),
            seen_live=seen_live,
            max_share=options.max_share,
            released=is_released(
                self._absence, now=now, epoch=opened.epoch, confirm_after_seconds=options.confirm_after_seconds
            ),
            members={process: tally.members for process, tally in observation.census.processes.items()},
            misplaced=observation.census.misplaced,
            other_hosts=observation.other_hosts,
        )
        if plan.control_failed:
            return plan
        self._suspicions = suspicions_after(
            verdicts,
            observation.recalls,
            observation.newest_joins,
            now=now,
            epoch=opened.epoch,
            evicted_keys=opened.evicted_keys,
        )
        back = set() if options.dry_run else await self._remember(observation, seen_live)
        return replace(plan, dead=plan.dead - back)

    async def _look_for_idle_connections(self, observation: Observation, seen_live: Mapping[str, float]) -> None:
        """Note whether any stands idle, if a stop may depend on it now or at the next look."""
        silent = (State.DEAD, State.SUSPECT)
        share = self._options.max_share
        if common_cause_of(observation.verdicts, silent, seen_live=seen_live, max_share=share) is None:
            self._absence = None
            return
        opened, now = self._opened, await self._opened.home.now()
        in_doubt = those_in_doubt(observation.verdicts, silent, seen_live)
        uses = last_uses(in_doubt, seen_live, now=now, this_look=observation.this_look)
        idle = None if uses is None else await count_idle_connections(opened, self._own, uses)
        self._absence = absence_after(self._absence, idle, now=observation.moment, epoch=opened.epoch)

    async def _remember(self, observation: Observation, seen_live: Mapping[str, float]) -> set[str]:
        """Leave for the next run what it needs: markers for the silent, and what was seen.

        Returns the processes that have given a sign of life since their markers were counted.
        """
        opened = self._opened
        # The lease of a process with the drop-in layer tells whether it has been alive. One that was not asked may not
        # be able to read what it is sent.
        asked = [
            process
            for process, suspicion in self._suspicions.items()
            if not observation.restores(process) and suspicion.renewed == observation.moment
        ]
        earlier = {process: observation.recalls[process] for process in asked if process in observation.recalls}
        marked = observation.marked_inboxes({process: recall.suspicion for process, recall in earlier.items()})
        inboxes = {
            process: names | marked.get(process, set()) for process, names in observation.inboxes_of(asked).items()
        }
        # Before markers are replaced: a run that ends in between must not leave new ones to an old suspicion.
        await suspects.record_suspicions(opened, list(self._suspicions.values()))
        placed = await place_markers(opened, inboxes, self._marker_seconds)
        back = self._note_who_came_back(
            {process: recall.marks for process, recall in earlier.items()},
            {process: sum(placed.before[name] for name in names) for process, names in marked.items()},
        )
        for process in asked:
            left = tuple(sorted(placed.inboxes[process]))
            suspicion = replace(self._suspicions[process], marks=placed.now[process], inboxes=left)
            self._suspicions[process] = begun_anew(suspicion) if process in back else suspicion
        await suspects.record_suspicions(opened, list(self._suspicions.values()))
        await suspects.record_latest_look(opened, observation.this_look, self._absence)
        await suspects.record_seen_live(opened, seen_live_after(seen_live, observation.verdicts, observation.now))
        return back

    async def _expire_markers(self, observation: Observation) -> list[str]:
        """A process takes its markers to its inbox, and may end before it drops them."""
        try:
            await expire_markers(self._opened, observation.census.without_messages, self._marker_seconds)
        except ShardError as error:
            return [f"markers of processes that are gone were not given an expiry: {error}"]
        return []

    @property
    def _marker_seconds(self) -> float:
        return suspicion_lifetime_seconds(self._options.confirm_after_seconds) + MARKER_SPARE_SECONDS

    async def _purge(self, run_id: str, observation: Observation, dead: frozenset[str]) -> str | None:
        """Remove the members of ``dead`` as they were judged, then what else these processes left behind.

        Returns why that was stopped, if it was.
        """
        opened, options = self._opened, self._options
        retention = await read_retention(opened, options.journal_seconds)
        self._notes.extend(retention.notes)
        still_silent = functools.partial(self._still_silent, observation, dead, opened.epoch)
        judgement = None if self._lock is None else Judgement(opened, run_id, self._lock, still_silent)
        if judgement is not None:
            await journal.record_run_started(
                opened,
                run_id,
                observation.now,
                retention,
                options.glob,
                takes_leases=True,
                cleaned=await read_position(opened),
            )
        removal = Removal(run_id, dead, observation, options.glob, retention)
        try:
            await purge(opened, removal, self._purged, judgement, self._progress)
        except ShardError:
            await self._log(run_id)
            raise
        await self._log(run_id)
        # Without an end the run is listed as interrupted, with what its receipts say.
        if judgement is not None and opened.complete:
            summary = {
                "removed": self._purged.removed.total(),
                "processes": len(dead),
                "set_aside": len(self._purged.leftovers),
            }
            await journal.record_run_ended(opened, run_id, summary)
        return judgement.stopped if judgement is not None else None

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

    async def _came_back(self, observation: Observation, dead: Collection[str]) -> set[str]:
        """Which of the dead have given a sign of life since they were judged."""
        known = {process: self._suspicions[process] for process in dead if process in self._suspicions}
        left = {process: suspicion.marks for process, suspicion in known.items()}
        return self._note_who_came_back(left, await count_markers(self._opened, observation.marked_inboxes(known)))

    def _note_who_came_back(self, wanted: Mapping[str, int], marks: Mapping[str, int]) -> set[str]:
        back = came_back(wanted, marks)
        self._notes.extend(
            f"the marker of process {process} is gone since it was judged: no more of its members go"
            for process in sorted(back)
        )
        return back

    async def _still_silent(self, observation: Observation, dead: Collection[str], epoch: str) -> str | None:
        """Look at the evidence again while members go: why none may any more, or None."""
        await asyncio.gather(*(shard.identify() for shard in self._opened.shards))
        if self._opened.problems:
            raise ShardError(self._opened.problems[0])
        return check_epoch(epoch, self._opened.epoch) or check_came_back(await self._came_back(observation, dead))

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
                    lease=observation.leases.get(process),
                )
                for process, verdict in verdicts.items()
            ),
            started_at=started_at,
            finished_at=started_at + duration,
            duration_seconds=duration,
            leftovers=tuple(self._purged.leftovers),
            notes=tuple(dict.fromkeys([*opened.problems, *observation.notes, *self._notes])),
            findings=tuple(
                f"process {process} was silent at {MOST_VANISHED + 1} looks in a row and alive between all of them: "
                f"its event loop is often blocked, or another process reads its inbox"
                for process in always_back(self._suspicions)
            ),
        )


def new_run_id(now: float) -> str:
    """Sorts by time, and is unique across hosts."""
    at = datetime.fromtimestamp(now, timezone.utc)
    return f"{at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
