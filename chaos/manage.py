"""`manage.py` for the campaign's runs, which can do without one of the safeties: the campaign must notice."""

from __future__ import annotations

import os
import sys
from typing import Any

from django.core.management import execute_from_command_line


def without_second_round() -> None:
    from ops.model.liveness import State, Verdict
    from ops.operations import observe

    judge = observe.judge

    def judge_at_once(*args: Any) -> Verdict:
        verdict = judge(*args)
        return Verdict(State.DEAD, verdict.evidence) if verdict.state is State.SUSPECT else verdict

    observe.judge = judge_at_once


def without_receipts() -> None:
    import hashlib

    from ops.store import journal
    from ops.store.scripts import Script, script

    source = script("purge_members").source.replace(b"call('RPUSH', KEYS[1], receipt)", b"call('PING')")
    journal.script = lambda name: Script(source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())  # type: ignore[assignment]


def without_removal() -> None:
    from ops.model import reaping
    from ops.operations import reap

    reap.plan_reap = lambda *args, **options: reaping.ReapPlan(frozenset(), None)


SAFETIES = {
    "second round": without_second_round,
    "receipts": without_receipts,
    "removal": without_removal,
}

if __name__ == "__main__":
    if without := os.environ.get("CHAOS_WITHOUT"):
        import django

        django.setup()
        SAFETIES[without]()
    execute_from_command_line(["manage.py", *sys.argv[1:]])
