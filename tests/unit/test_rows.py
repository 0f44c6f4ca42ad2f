"""CSV and lines of JSON: every row whole, and no cell that a spreadsheet would run."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.model.groups import Group, Member, StateCounts
from ops.model.text import visible
from ops.output.rows import GROUP_FIELDS, MEMBER_FIELDS, csv_header, csv_lines, json_line

any_text = st.text(st.characters(exclude_categories=()), max_size=9) | st.text("=+-@\t\r\n\",;'|a", max_size=5)


def group_of(name: str, channel: str, words: str = "words") -> Group:
    member = Member(channel, None, "unknown", 1.5, (words, "more; words"))
    return Group(name, 3, StateCounts(live=1, suspect=2, orphan=3, unknown=4), 1.5, (member,))


def test_the_fields_are_those_of_the_json_document() -> None:
    assert csv_header(members=False) == "group,shard,members,live,suspect,orphan,unknown,oldest_joined_at\n"
    assert csv_header(members=True) == "group,shard,channel,process,state,joined_at,evidence\n"
    assert list(csv_lines(group_of("room", "general"), members=False)) == [
        "room,3,10,1,2,3,4,1970-01-01T00:00:01.500Z\n"
    ]
    assert list(csv_lines(group_of("room", "general"), members=True)) == [
        "room,3,general,,unknown,1970-01-01T00:00:01.500Z,words; more; words\n"
    ]


@given(any_text, any_text, any_text.map(visible))
def test_every_row_has_every_field_and_no_cell_begins_like_a_formula(name: str, channel: str, words: str) -> None:
    group = group_of(name, channel, words)
    for members, fields in ((False, GROUP_FIELDS), (True, MEMBER_FIELDS)):
        (line,) = csv_lines(group, members=members)
        (row,) = csv.reader(io.StringIO(line, newline=""))
        assert len(row) == len(fields)
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in row)


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", '=HYPERLINK("http://x")'])
def test_a_name_that_begins_like_a_formula_is_shown_behind_a_quote(name: str) -> None:
    (line,) = csv_lines(group_of(name, "general"), members=False)
    ((cell, *_),) = csv.reader([line])
    assert cell == f"'{name}"


def test_a_line_of_json_is_a_document_of_its_own() -> None:
    line = json_line(group_of("room\n", "general"), members=True)
    assert line.count("\n") == 1
    assert line.endswith("}\n")
    found = json.loads(line)
    assert (found["group"], found["members"], len(found["channels"])) == ("room\\n", 10, 1)
