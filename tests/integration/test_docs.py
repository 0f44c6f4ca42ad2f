"""The documents say what is so: the reference is current, links lead somewhere, tests that are named exist."""

import inspect
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from textwrap import indent

import pytest

from ops import api
from ops.conf import known_keys
from ops.model.disconnects.cause import Cause
from ops.model.disconnects.record import CLOSED_BY, Disconnect
from ops.model.doctor.diagnosis import CHECKS

REPOSITORY = Path(__file__).resolve().parent.parent.parent
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)(?:#[^)]*)?\)")
TAKEN = re.compile(r"<!-- from (\S+) -->\n```python\n(.*?)```", re.DOTALL)
NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`")


def test_the_command_reference_is_what_the_commands_say() -> None:
    done = subprocess.run([sys.executable, "docs/generate.py", "--check"], cwd=REPOSITORY, check=False)
    assert done.returncode == 0, "docs/commands.md is out of date: run make docs"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_to_files_that_exist(document: Path) -> None:
    missing = [link for link in LINK.findall(document.read_text("utf-8")) if not (document.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_tests_that_a_document_names_exist(document: Path) -> None:
    for path, name in NAMED_TEST.findall(document.read_text("utf-8")):
        source = (REPOSITORY / path).read_text("utf-8")
        assert not name or re.search(rf"def {name}\(", source), f"{path} has no {name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_code_that_a_document_takes_from_a_file_is_in_that_file(document: Path) -> None:
    text = document.read_text("utf-8")
    taken = TAKEN.findall(text)
    assert len(taken) == text.count("<!-- from "), "a marker must stand right above its code"
    for path, code in taken:
        # A method or a block may stand in a document without what is around it; blank lines do not matter.
        source = without_blank_lines((REPOSITORY / path).read_text("utf-8"))
        here = without_blank_lines(code)
        assert any(indent(here, " " * deep) in source for deep in (0, 4, 8)), f"{path} has not:\n{code}"


def without_blank_lines(code: str) -> str:
    return "".join(f"{line}\n" for line in code.splitlines() if line.strip())


def test_each_room_of_the_toolkit_has_its_place_in_the_architecture() -> None:
    """A room is a folder of a floor, or a module that stands alone on it."""
    house = (REPOSITORY / "ARCHITECTURE.md").read_text("utf-8").partition("```arrows")[0]
    floors = [
        REPOSITORY / "ops",
        *(REPOSITORY / "ops" / name for name in ("application", "operations", "store", "model")),
    ]
    rooms = {path.name for floor in floors for path in floor.iterdir() if path.name[0] not in "_."}
    assert not [name for name in rooms - {"py.typed", "static"} if name not in house]


def test_each_function_of_the_api_is_documented_with_its_arguments() -> None:
    rows = re.findall(r"^\| `(\w+)\((.*?)\)` \|", (REPOSITORY / "docs" / "api.md").read_text("utf-8"), re.MULTILINE)
    functions = {name for name in api.__all__ if inspect.isfunction(getattr(api, name))} - {"no_progress"}
    assert {name for name, _ in rows} == {name for name in functions if f"a{name}" in functions or "_" in name}
    for name, arguments in rows:
        wanted = set(inspect.signature(getattr(api, name)).parameters) - {"layer"}
        assert arguments == "…" or set(re.findall(r"(\w+)(?:=|,|$)", arguments)) - {"None", "False"} == wanted, name


def test_each_finding_has_its_section() -> None:
    document = (REPOSITORY / "docs" / "findings.md").read_text("utf-8")
    sections = re.findall(r"^### (ops\.\w+)\n\n\*\*(.+?)\.\*\* .", document, re.MULTILINE)
    assert sorted(sections) == sorted((check.id, check.title) for check in CHECKS)


def test_each_word_of_the_disconnect_log_is_explained() -> None:
    text = (REPOSITORY / "docs" / "disconnect-log.md").read_text("utf-8")
    names = [field.name for field in fields(Disconnect)]
    settings = [key for key in known_keys() if key.startswith("DISCONNECT_LOG_")]
    assert not [word for word in (*names, *Cause, *CLOSED_BY, *settings) if f"`{word}`" not in text]


def test_each_lua_script_says_what_it_takes_and_returns() -> None:
    for script in (REPOSITORY / "ops/store/lua").glob("*.lua"):
        head = script.read_text("utf-8").split("\nlocal", 1)[0]
        assert all(word in head for word in ("-- KEYS", "-- ARGV", "-- Returns")), script.name
