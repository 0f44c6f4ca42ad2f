"""Evidence says a fact in words that a person can check."""

from __future__ import annotations

import pytest

from ops.model.liveness.evidence import (
    AliveSince,
    AppearedMeanwhile,
    Bearing,
    Evidence,
    InboxDrained,
    InboxStuck,
    JoinedSince,
    LeaseEnded,
    LeaseFresh,
    LeaseLapsed,
    NoProcessInName,
    NotProbed,
    OtherSettings,
    ProbesTaken,
    ProbeUnanswered,
    ProbeWithheld,
    SeveralKeys,
    SuspectedBefore,
    UnreadableMessages,
)
from ops.model.text import format_seconds

CASES: list[tuple[Evidence, Bearing, str]] = [
    (ProbesTaken(1.25), Bearing.LIFE, "took two probes in a row, the second within 1.2 ms"),
    (InboxDrained(100), Bearing.LIFE, "inbox is full (100 messages) but is being drained"),
    (LeaseFresh(3, "web-1, pid 7"), Bearing.LIFE, "renewed its lease 3 s ago (web-1, pid 7)"),
    (LeaseFresh(12, "web-1, pid 7", 2), Bearing.LIFE, "renewed its lease 12 s ago, 2 s late (web-1, pid 7)"),
    (LeaseLapsed(90, "web-1"), Bearing.EARLIER_SILENCE, "let its lease lapse, last renewed 90 s ago (web-1)"),
    (LeaseEnded("web-1"), Bearing.DEATH, "ended its lease by itself (web-1)"),
    (ProbeUnanswered(10, 0), Bearing.SILENCE, "took no probe within 10 s"),
    (
        ProbeUnanswered(10, 1),
        Bearing.SILENCE,
        "took a first probe but no second within 10 s, as a frozen process does",
    ),
    (
        InboxStuck(100, 42, 3),
        Bearing.SILENCE,
        "inbox is full (100 messages, the oldest 42 s old) and nothing left it within 3 s",
    ),
    (SuspectedBefore(61), Bearing.EARLIER_SILENCE, "was already silent 61 s ago"),
    (SuspectedBefore(61, 2, unbroken=True), Bearing.EARLIER_SILENCE, "was already silent 61 s ago, and ever since"),
    (
        AliveSince("took the marker that was left for it"),
        Bearing.NONE,
        "was alive after it was suspected: it took the marker that was left for it",
    ),
    (JoinedSince(5), Bearing.NONE, "joined a group 5 s after it was suspected"),
    (NotProbed("not asked to"), Bearing.NONE, "not probed: not asked to"),
    (
        SeveralKeys(),
        Bearing.NONE,
        "not probed: there are several encryption keys, and a process without the first of them cannot read a probe",
    ),
    (
        OtherSettings(),
        Bearing.NONE,
        "not probed: by its lease it uses another serializer, or lacks the encryption key that a probe would have",
    ),
    (UnreadableMessages("a message cannot be read"), Bearing.NONE, "not probed: a message cannot be read"),
    (NoProcessInName(general=True), Bearing.NONE, "a general channel: any worker may read it"),
    (NoProcessInName(general=False), Bearing.NONE, "the channel name names no process"),
    (AppearedMeanwhile(), Bearing.NONE, "appeared after the probes were sent"),
]


@pytest.mark.parametrize(("fact", "bearing", "words"), CASES, ids=[type(fact).__name__ for fact, _, _ in CASES])
def test_each_fact_has_its_words_and_its_bearing(fact: Evidence, bearing: Bearing, words: str) -> None:
    assert (fact.words, fact.bearing) == (words, bearing)


def test_every_kind_of_evidence_is_among_these() -> None:
    kinds = {*Evidence.__subclasses__(), *ProbeWithheld.__subclasses__()}
    assert {kind.__name__ for kind in kinds} == {type(fact).__name__ for fact, _, _ in CASES}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.25, "0.25 s"),
        (9.4, "9.4 s"),
        (12.3, "12 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "120 min"),
        (7200, "2 h"),
        (86400, "24 h"),
        (2 * 86400, "2 d"),
    ],
)
def test_spans_are_said_in_the_unit_that_reads_best(seconds: float, words: str) -> None:
    assert format_seconds(seconds) == words
