"""What a campaign has to say, in docs/safety.md."""

from __future__ import annotations

import textwrap
from collections import Counter
from pathlib import Path

from chaos.checker import Checker
from chaos.reapers import Reapers
from chaos.shrinking import NEW_WORKERS, OLD_WORKERS, ShrinkingFleet

VIOLATIONS = {
    "after its process woke up": "a member was removed that joined after its process woke up",
    "silent for no more than": "a member was removed whose process had not been silent for long enough",
    "for live, which had been frozen": "a frozen process was taken for live",
    "was closed with": "a socket was closed, and its worker lived",
    "with other hosts": "a run with other hosts than the workers was not stopped",
    "a stop ended while": "a stop ended while a frozen process still had its connections",
    "its receipts 0": "members were removed without receipts",
    "an orphan stays": "an orphan stays",
}
"""What the checker says of a violation, and what it is called in the table of the controls."""

SAFETY_PAGE = Path(__file__).resolve().parent.parent / "docs" / "safety.md"


def campaign(
    faults: Counter[str],
    reapers: Reapers,
    checker: Checker,
    shrinking: ShrinkingFleet,
    *,
    seconds: float,
    seed: int,
    rounds: int,
) -> str:
    """The faults of a run, and what came of them."""
    counts = faults + Counter({"reaper killed at a random moment": reapers.killed})
    rows = [f"| {name} | {count} |" for name, count in sorted(counts.items(), key=lambda row: row[0].lower())]
    said = (
        f"{counts.total()} faults in {seconds:.0f} s and {rounds} rounds (`make chaos SECONDS={seconds:.0f} "
        f"SEED={seed}`): {checker.removed} members of dead processes or recorded ends removed by {reapers.runs} runs "
        f"of `reap_stale`, {reapers.stopped} of them safety stops, and {reapers.cleanups} of `replay_disconnects "
        f"--cleanup --resume` ({reapers.cleaned} members); {shrinking.deploys} deploys from {OLD_WORKERS} workers to "
        f"{NEW_WORKERS}, with {shrinking.stops} stops for the share of the fleet, which ended by themselves within "
        f"{shrinking.slowest_seconds:.0f} s, and {shrinking.removed} members removed then; "
        f"{checker.undone} runs undone since a stock worker was only "
        f"frozen; {checker.members_checked} memberships of open sockets checked; {checker.broadcasts} broadcasts; "
        f"{len(checker.accepted)} members left behind as documented; "
        f"workers of the servers {', '.join(sorted(checker.stage.servers_seen))}; "
        f"violations: {len(checker.violations)}."
    )
    return "\n".join(["| fault | times |", "|---|---|", *rows, "", *_wrapped(said)])


def controls(found: dict[str, tuple[str, float, int] | None], *, seed: int) -> str:
    """What was found without each safety (of VIOLATIONS), after how many seconds and faults; None where nothing was."""
    rows = []
    for name, outcome in found.items():
        if outcome is None:
            rows.append(f"| {name} | nothing | |")
        else:
            violation, seconds, faults = outcome
            rows.append(f"| {name} | {VIOLATIONS[violation]} | {seconds:.0f} s, {faults} faults |")
    said = f"Without one safety at a time, the same campaign (`SEED={seed}`) must fail, and say why:"
    return "\n".join([*_wrapped(said), "", "| without | it finds | after |", "|---|---|---|", *rows])


def write(text: str, mark: str) -> None:
    """Put it between the marks of docs/safety.md, in place of what an earlier run put there."""
    before, begin, rest = SAFETY_PAGE.read_text().partition(f"<!-- {mark} -->\n")
    _, end, after = rest.partition(f"<!-- end of {mark} -->\n")
    assert after, f"no place for the {mark} in {SAFETY_PAGE}"
    SAFETY_PAGE.write_text(f"{before}{begin}{text}\n{end}{after}")


def _wrapped(said: str) -> list[str]:
    return textwrap.wrap(said, 120, break_on_hyphens=False)
