"""Writes what the documents take from the program: the command reference, and with --pictures its real output.

``python docs/generate.py`` writes docs/commands.md. ``--check`` writes nothing and fails when it is out of date.
``--pictures`` starts a Redis and workers, ends two of them, and writes what the commands show to docs/images/.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
REFERENCE = REPOSITORY / "docs" / "commands.md"
PICTURES = REPOSITORY / "docs" / "images"
COMMANDS = ("channels_groups", "reap_stale", "send_heartbeat", "channels_doctor", "replay_disconnects")
COLUMNS = 96

INTRODUCTION = """# Command reference

Each command also takes Django's own options (`--settings`, `--no-color`, `--force-color`, `--skip-checks` …); with
`--verbosity 0` it shows no progress.

Data goes to standard output; progress, warnings and errors go to standard error. Colour is for terminals only, and
`NO_COLOR` or `--no-color` turns it off there. Names that come from Redis are shown with control characters escaped.

| exit code | meaning |
|---|---|
| 0 | done, or nothing to do |
| 1 | could not run, a shard did not answer, or the answer cannot be written; one line on stderr says what to do |
| 2 | bad usage |
| 3 | findings of `channels_doctor` or `reap_stale`, a safety stop, what `--dry-run` would remove, silent heartbeats |
| 75 | another run holds the lock |
| 130, 143 | ended by Ctrl-C, by SIGTERM |
| 141 | the reader of the output closed the pipe, as `head` does |

At Ctrl-C `channels_groups --watch` ends with 0, and whole rounds of `send_heartbeat` with what they found.

`channels_groups` exits 0 whatever the states are; with `--check` it exits as monitoring plugins do: 0 OK, 1 WARNING,
2 CRITICAL, 3 UNKNOWN.

## Settings

All settings are optional. These are the defaults:

```python
CHANNELS_OPS = {
    "CONFIRM_AFTER_SECONDS": 60,  # how long a process must stay silent before its members may go
    "PROBE_TIMEOUT_SECONDS": 10,  # how long reap_stale waits for probes
    "MAX_SHARE": 0.5,  # the share of live processes that may go silent at once without a safety stop; 1: no such stop
    "JOURNAL_SECONDS": 604800,  # how long a run can be undone; at least 60
}
```

[OpsMiddleware](middleware.md#settings) and the [disconnect log](disconnect-log.md#settings) have more. An option of a
command overrides its setting. `manage.py check` names each key or value that cannot be used, and the
commands exit with 1 until it is corrected.
"""


def reference() -> str:
    from django.core.management import load_command_class

    parts = [INTRODUCTION]
    for name in COMMANDS:
        parser = load_command_class("ops", name).create_parser("manage.py", name)
        parts.append(_section(name, parser))
    return "\n".join(parts)


def _section(name: str, parser: argparse.ArgumentParser) -> str:
    rows = [_row(action, parser) for action in parser._actions if _is_ours(action)]
    table = "\n".join(f"| {options} | {text} |" for options, text in rows)
    example = (REPOSITORY / "docs" / "examples" / f"{name}.md").read_text(encoding="utf-8")
    return f"## {name}\n\n{parser.description}\n\n| option | what it does |\n|---|---|\n{table}\n\n{example}"


def _is_ours(action: argparse.Action) -> bool:
    from django.core.management.base import DjangoHelpFormatter

    common = {*DjangoHelpFormatter.show_last, "--help"}
    return not common & set(action.option_strings)


def _row(action: argparse.Action, parser: argparse.ArgumentParser) -> tuple[str, str]:
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    if action.choices:
        metavar = "|".join(map(str, action.choices))
    # What argparse puts in for %(default)s; rendered here so that no Python version wraps it differently.
    text = (action.help or "") % {**vars(action), "prog": parser.prog}
    names = ", ".join(action.option_strings) or f"[{metavar} …]"
    argument = f" {metavar}" if metavar and action.option_strings else ""
    return f"`{names}{argument}`".replace("|", "\\|"), text.replace("|", "\\|")


def draw(name: str, command: list[str], output: str) -> None:
    """The output of ``command``, colours and all, as an SVG of a terminal."""
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
    console.print(Text(f"$ manage.py {' '.join(command)}", style="bold"))
    console.print(Text.from_ansi(output))
    title = f"manage.py {command[0]}"
    svg = console.export_svg(title=title, unique_id=name)
    # The fonts that rich would have the reader's browser fetch; the picture does without.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    PICTURES.mkdir(exist_ok=True)
    (PICTURES / f"{name}.svg").write_text(svg, encoding="utf-8")


async def take_pictures() -> None:
    """A small fleet, two of whose four workers end badly, seen by the commands."""
    import subprocess

    from project.embedded_redis import EmbeddedRedis
    from project.sockets import SocketFleet
    from project.workers import Worker, start_together

    def show(name: str, *command: str) -> None:
        own = {"REDIS_URL": server.url, "COLUMNS": str(COLUMNS), "OPS_CONFIRM_AFTER_SECONDS": "2"}
        done = subprocess.run(
            [sys.executable, "manage.py", *command, "--force-color"],
            cwd=REPOSITORY,
            env={**os.environ, **own},
            capture_output=True,
            text=True,
            check=False,
        )
        draw(name, list(command), done.stdout + done.stderr)

    with EmbeddedRedis() as server:
        workers = [Worker(kind, env={"REDIS_URL": server.url}) for kind in ("uvicorn", "daphne", "uvicorn", "daphne")]
        try:
            start_together(workers)
            async with SocketFleet() as fleet:
                rooms = ("lobby", "lobby", "lobby", "support", "support", "news", "team-1")
                await fleet.open_many((workers[seat % 4], rooms[seat % len(rooms)]) for seat in range(80))
                workers[2].kill()
                workers[3].terminate()
                show("channels_groups_suspects", "channels_groups", "--probe-timeout", "1")
                show("reap_stale_first", "reap_stale", "--probe-timeout", "1")
                await asyncio.sleep(2)
                show("channels_groups", "channels_groups", "--probe-timeout", "1")
                show("reap_stale", "reap_stale", "--probe-timeout", "1")
        finally:
            for worker in workers:
                worker.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail when docs/commands.md is out of date")
    parser.add_argument("--pictures", action="store_true", help="also take the pictures in docs/images again")
    options = parser.parse_args()
    sys.path.insert(0, str(REPOSITORY))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    import django

    django.setup()
    text = reference()
    if options.check:
        return int(REFERENCE.read_text(encoding="utf-8") != text)
    REFERENCE.write_text(text, encoding="utf-8")
    if options.pictures:
        asyncio.run(take_pictures())
    return 0


if __name__ == "__main__":
    sys.exit(main())
