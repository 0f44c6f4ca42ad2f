"""Every option and argument that any command has, with values that make no sense: found in the parsers themselves."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import pytest
import redis
from django.core.management import find_commands, load_command_class

import ops
from ops.management.command import OpsCommand
from ops.model.disconnects.record import Disconnect, to_json
from tests.in_process_commands import run_here
from tests.integration.test_hostile_input import HOSTILE, assert_harmless
from tests.layer_builders import ASGI, dump

COMMANDS = sorted(find_commands(str(Path(ops.__file__).parent / "management")))
NO_VALUES = [
    "", " ", "x", "nan", "inf", "-inf", "-1", "-0.5", "1e999", "9" * 5000, "0x10", "1 s", "five", "\x1b[31mred",
    "\udcff", "1\n2", "[]", "None", "%s", "\u202e1", "@file",
]  # fmt: skip
# No command line can hold a NUL.
NAMES = [name.decode("utf-8", "surrogateescape") for name in HOSTILE if b"\0" not in name]
TEXTS = [*NAMES, "-", "--", "/", "nowhere/at/all", "x" * 300]


def actions_of(command: str) -> list[argparse.Action]:
    """Those of the command itself, not those that Django gives to all."""
    django = {"version", "verbosity", "settings", "pythonpath", "traceback", "no_color", "force_color", "skip_checks"}
    loaded = load_command_class("ops", command)
    assert isinstance(loaded, OpsCommand)
    return [
        action for action in loaded.create_parser("manage.py", command)._actions if action.dest not in {*django, "help"}
    ]


def is_narrow(action: argparse.Action) -> bool:
    """Whether the option takes some values only."""
    return action.choices is not None or action.type not in (None, str, Path)


NARROW = [(name, action.option_strings[-1]) for name in COMMANDS for action in actions_of(name) if is_narrow(action)]
FLAGS = [(name, action.option_strings[-1]) for name in COMMANDS for action in actions_of(name) if action.nargs == 0]
WIDE = [
    (name, action.option_strings[-1] if action.option_strings else "")
    for name in COMMANDS
    for action in actions_of(name)
    if action.nargs != 0 and not is_narrow(action)
]


def named(values: list[tuple[str, str]]) -> list[str]:
    return [" ".join(value).strip() for value in values]


@pytest.mark.parametrize(("command", "option"), NARROW, ids=named(NARROW))
def test_a_value_that_cannot_be_used_is_a_usage_error_that_names_its_option(command: str, option: str) -> None:
    for value in NO_VALUES:
        result = run_here(command, f"{option}={value}")
        assert (result.returncode, result.out) == (2, ""), (value, result)
        assert f"argument {option}" in result.err, (value, result)
        assert "Traceback" not in result.err
        assert "\x1b" not in result.err, result
        assert len(result.err) < 10_000
    without = run_here(command, option)
    assert (without.returncode, without.out) == (2, "")
    assert f"argument {option}" in without.err


@pytest.mark.parametrize(("command", "option"), FLAGS, ids=named(FLAGS))
def test_a_switch_takes_no_value(command: str, option: str) -> None:
    for value in ("", "yes", "\x1b[31mred"):
        result = run_here(command, f"{option}={value}")
        assert (result.returncode, result.out) == (2, ""), (value, result)
        assert option in result.err
        assert "\x1b" not in result.err


@pytest.mark.parametrize(("command", "option"), WIDE, ids=named(WIDE))
def test_any_text_is_a_name_that_is_not_there_or_a_usage_error(
    redis_client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, option: str
) -> None:
    redis_client.zadd("asgi:group:room", {"a": 1.0})
    redis_client.xadd(ASGI.disconnects, {"d": to_json(Disconnect(1.0))})
    before = dump(redis_client)
    monkeypatch.chdir(tmp_path)  # some of these are good names of files
    monkeypatch.setattr("sys.stdin", io.StringIO())
    for text in TEXTS:
        argv = [f"{option}={text}"] if option else ["--", text]
        assert_harmless((command, *argv), run_here(command, *argv))
        if command == "send_heartbeat" and option not in ("", "--match"):
            assert_harmless((command, *argv), run_here(command, "--all", *argv))
        if option == "--emit":
            assert_harmless((command, *argv), run_here(command, "--force", "--speed=max", *argv))
    assert {key: value for key, value in dump(redis_client).items() if key in before} == before
