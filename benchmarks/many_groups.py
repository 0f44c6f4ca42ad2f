"""A group for each member: the shape at which everything that is done once for a group costs most."""

from __future__ import annotations

from benchmarks.figures import Results
from benchmarks.huge import Groups, Shape, measure_shape, members_of_all
from benchmarks.keyspace import GROUP_PREFIX
from benchmarks.session import Session

SUBJECT = "groups"


def _keys(session: Session) -> Groups:
    for number, member in enumerate(members_of_all(session)):
        yield GROUP_PREFIX + b"room-%07d" % number, [member]


SHAPE = Shape(
    "many_groups", "a group for each member", _keys, lambda members: members // 2, heartbeat=False, subject=SUBJECT
)


def run(session: Session, results: Results) -> None:
    measure_shape(session, results, SHAPE)
    session.fill()
