"""The safeties that the campaign can do without, one at a time: it must notice.

Each entry of `SAFETIES` says what takes it away and which violation must be found then.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch


@dataclass(frozen=True)
class Safety:
    take_away: Callable[[], None]
    finds: str  # a regular expression
    in_workers: bool = False  # not in the commands


def _put(where: str, what: Any) -> None:
    patch(where, what).start()


def _change_script_of_removal(before: bytes, after: bytes) -> None:
    from ops.store.connection.scripts import Script, script

    source = script("purge_members").source
    assert before in source
    source = source.replace(before, after)
    changed = Script(source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())
    _put("ops.store.removal.journal.script", lambda name: changed)


def without_comparing() -> None:
    _change_script_of_removal(b"if score and score <= limits[at] then", b"if score then")


def without_the_members_own_clock() -> None:
    """Who joined before now, by the clock of this host, may go."""
    from ops.operations.reaping import reap

    purge = reap.__dict__["purge"]

    async def purge_by_our_clock(opened: Any, doom: Any, *args: Any, **options: Any) -> None:
        for tally in doom.observation.census.processes.values():
            tally.newest_joined_at = time.time()
        await purge(opened, doom, *args, **options)

    _put("ops.operations.reaping.reap.purge", purge_by_our_clock)


def without_second_round() -> None:
    from ops.model.liveness.judge import State, Verdict, judge

    def judge_at_once(*args: Any) -> Verdict:
        verdict = judge(*args)
        return Verdict(State.DEAD, verdict.evidence) if verdict.state is State.SUSPECT else verdict

    _put("ops.operations.observe.judge", judge_at_once)


def without_life_between() -> None:
    """Whatever a process did between two silences, neither a join nor a marker that it took tells of it."""
    from ops.model.liveness.suspicion import Signs, recall

    _put("ops.operations.reaping.reap.came_back", lambda wanted, marks: set())
    _put("ops.operations.observe.recall", lambda suspicion, _, **how: recall(suspicion, Signs(0.0, marks=99), **how))


def without_second_probe() -> None:
    _put("ops.store.liveness.probes._Probed.answered", property(lambda probed: probed.taken >= 1))


def without_receipts() -> None:
    _change_script_of_removal(b"call('RPUSH', KEYS[1], receipt)", b"call('PING')")


def without_removal() -> None:
    from ops.model.liveness.plan import ReapPlan

    _put("ops.operations.reaping.reap.plan_reap", lambda *args, **options: ReapPlan(frozenset(), None))


def without_leases_as_life() -> None:
    """What a fresh lease of the stock layer says of life is passed over; what it says of settings is not."""
    from ops.operations import observe

    read = observe.__dict__["_read_what_is_known"]

    async def read_and_pass_over(opened: Any, observation: Any) -> None:
        await read(opened, observation)
        for process, lease in observation.leases.items():
            if not lease.restores:
                observation.leases[process] = dataclasses.replace(lease, renewed_at=lease.renewed_at - LONG_AGO_SECONDS)

    _put("ops.operations.observe._read_what_is_known", read_and_pass_over)


def without_readability() -> None:
    """What leases tell of serializers and keys is passed over."""
    _put("ops.store.liveness.readability.reads_ours", lambda layer, lease: None)


def without_the_hosts_of_leases() -> None:
    _put("ops.model.liveness.plan.check_leases", lambda others: None)


def without_leaving() -> None:
    """Consumers that die stay members of their groups."""
    from django.conf import settings

    settings.CHANNELS_OPS = {**settings.CHANNELS_OPS, "LEAVE_GROUPS": False}


LONG_AGO_SECONDS = 3600.0
SAFETIES = {
    "compare and remove": Safety(without_comparing, "after its process woke up"),
    "the member's own clock": Safety(without_the_members_own_clock, "after its process woke up|an orphan stays"),
    "second round": Safety(without_second_round, "silent for no more than"),
    "life between two silences": Safety(without_life_between, "silent for no more than"),
    "second probe in a row": Safety(without_second_probe, "for live, which had been frozen"),
    "receipts": Safety(without_receipts, "its receipts 0"),
    "removal": Safety(without_removal, "an orphan stays"),
    "a fresh lease as a sign of life": Safety(without_leases_as_life, "silent for no more than"),
    "readability by lease": Safety(without_readability, "was closed with"),
    "the stop for other hosts by lease": Safety(without_the_hosts_of_leases, "with other hosts"),
    "the middleware's leaving of groups": Safety(without_leaving, "an orphan stays", in_workers=True),
}
