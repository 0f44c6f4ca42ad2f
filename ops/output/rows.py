"""Groups as CSV and as lines of JSON, one at a time, for layers of any size."""

import csv
import io
from collections.abc import Iterable, Iterator

from ops.model.groups import Group
from ops.output.columns import GROUP_COLUMNS, MEMBER_COLUMNS, record
from ops.output.documents import dump, group_record

GROUP_FIELDS = [column.name for column in GROUP_COLUMNS]
MEMBER_FIELDS = ["group", "shard", *(column.name for column in MEMBER_COLUMNS)]
# What a spreadsheet would run: https://owasp.org/www-community/attacks/CSV_Injection
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def json_line(group: Group, *, members: bool) -> str:
    return dump(group_record(group, members=members)) + "\n"


def csv_header(*, members: bool) -> str:
    return _csv_line(MEMBER_FIELDS if members else GROUP_FIELDS)


def csv_lines(group: Group, *, members: bool) -> Iterator[str]:
    """A line for the group, or one for each of its members. No cell begins like a formula."""
    found = record(GROUP_COLUMNS, group)
    rows = [{**found, **record(MEMBER_COLUMNS, member)} for member in group.channels] if members else [found]
    for row in rows:
        yield _csv_line(row[name] for name in (MEMBER_FIELDS if members else GROUP_FIELDS))


def _csv_line(cells: Iterable[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow([_cell(cell) for cell in cells])
    return line.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, list):
        return _cell("; ".join(value))
    if isinstance(value, str) and value.startswith(FORMULA_STARTS):
        return f"'{value}"
    return value
