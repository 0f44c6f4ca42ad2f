"""The columns of groups, members and processes, each declared once: for tables, CSV, lines of JSON and JSON."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Generic, TypeVar

from ops.model.groups import Group, Member, Process
from ops.model.liveness.judge import MEMBER_STATES
from ops.model.text import visible
from ops.output.text import iso

T = TypeVar("T")


class ColumnKind(Enum):
    """What a column holds, which decides how each format writes it."""

    NAME = auto()  # from Redis, or None
    NUMBER = auto()
    STATE = auto()
    TIME = auto()  # unix seconds, or None: a table says how long ago
    WORDS = auto()  # several texts of our own


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """``name`` is the field of CSV and JSON; ``heading`` that of a table, which leaves out a column without one."""

    name: str
    kind: ColumnKind
    value: Callable[[T], Any]
    heading: str = ""


def _number_in_state(state: str) -> Column[Group]:
    return Column(state, ColumnKind.NUMBER, lambda group: getattr(group.counts, state), state.title())


SHARD: Column[Group] = Column("shard", ColumnKind.NUMBER, lambda group: group.shard, "Shard")
GROUP_COLUMNS: Sequence[Column[Group]] = (
    Column("group", ColumnKind.NAME, lambda group: group.group, "Group"),
    SHARD,
    Column("members", ColumnKind.NUMBER, lambda group: group.counts.members, "Members"),
    *map(_number_in_state, MEMBER_STATES),
    Column("oldest_joined_at", ColumnKind.TIME, lambda group: group.oldest_joined_at, "Oldest"),
)
CHANNEL: Column[Member] = Column("channel", ColumnKind.NAME, lambda member: member.channel, "Channel")
MEMBER_COLUMNS: Sequence[Column[Member]] = (
    CHANNEL,
    Column("process", ColumnKind.NAME, lambda member: member.process),
    Column("state", ColumnKind.STATE, lambda member: member.state, "State"),
    Column("joined_at", ColumnKind.TIME, lambda member: member.joined_at, "Joined"),
    Column("evidence", ColumnKind.WORDS, lambda member: member.evidence),
)
PROCESS_COLUMNS: Sequence[Column[Process]] = (
    Column("process", ColumnKind.NAME, lambda process: process.process, "Process"),
    Column("state", ColumnKind.STATE, lambda process: process.verdict.state.value, "State"),
    Column("members", ColumnKind.NUMBER, lambda process: process.members, "Members"),
    Column("evidence", ColumnKind.WORDS, lambda process: process.verdict.words, "Evidence"),
)


def shown_in_tables(columns: Iterable[Column[T]]) -> list[Column[T]]:
    return [column for column in columns if column.heading]


def record(columns: Iterable[Column[T]], row: T) -> dict[str, Any]:
    """``row`` as JSON has it."""
    return {column.name: _WRITTEN[column.kind](column.value(row)) for column in columns}


_WRITTEN: dict[ColumnKind, Callable[[Any], Any]] = {
    ColumnKind.NAME: lambda name: None if name is None else visible(name),
    ColumnKind.NUMBER: lambda number: number,
    ColumnKind.STATE: lambda state: state,
    ColumnKind.TIME: iso,
    ColumnKind.WORDS: list,
}
