"""The toolkit in somebody else's project: installed from the wheel, next to stock channels_redis, run by cron."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from project.embedded_redis import EmbeddedRedis
from project.sockets import SocketFleet
from project.workers import Kind
from tests.acceptance.bare_project import BareProject, desk_urls
from tests.acceptance.conftest import Installed
from tests.acceptance.memberships import (
    channels,
    in_redis,
    let_confirm_time_pass,
    of_sockets,
    process_of,
    suspects,
    without,
)
from tests.acceptance.reach import assert_all_hear
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.xdist_group("the wheel")  # which is built and installed once
SOCKETS_OF_EACH = 50
CONFIRM_AFTER_SECONDS = 2  # as the project's settings say


def test_the_wheel_has_all_of_the_toolkit_and_nothing_else(installed_toolkit: Installed) -> None:
    with ZipFile(installed_toolkit.wheel) as wheel:
        names = set(wheel.namelist())
    sources = {path for path in (REPOSITORY / "ops").rglob("*") if path.suffix in {".py", ".lua", ".js", ".typed"}}
    assert {path.relative_to(REPOSITORY).as_posix() for path in sources} <= names
    assert {
        "ops/store/lua/purge_members.lua",
        "ops/py.typed",
        "ops/static/ops/heartbeat-socket.js",
        "ops/jobs/minutely/reap_stale.py",
    } <= names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"ops", "channels_ops"}


def test_the_project_uses_the_installed_toolkit_and_passes_its_checks(
    second_project: BareProject, installed_toolkit: Installed
) -> None:
    done = second_project.manage("check", "--fail-level", "WARNING")
    assert (done.returncode, done.err) == (0, "")
    done = second_project.manage("shell", "--no-imports", "-c", "import ops; print(ops.__file__)")
    assert Path(installed_toolkit.python).parents[1] in Path(done.out.strip()).parents
    for command in ("channels_groups", "reap_stale"):
        assert second_project.manage(command, "--help").returncode == 0


@pytest.mark.parametrize(
    ("killed", "frozen", "untouched"),
    [("uvicorn", "daphne", "uvicorn"), ("daphne", "uvicorn", "daphne")],
    ids=["uvicorn killed, Daphne stopped and frozen", "Daphne killed and stopped, uvicorn frozen"],
)
async def test_cron_finds_and_removes_the_dead_of_a_fleet_and_undo_brings_them_back(
    killed: Kind,
    frozen: Kind,
    untouched: Kind,
    second_project: BareProject,
    sockets: SocketFleet,
    redis_server: EmbeddedRedis,
    redis_client: Any,
) -> None:
    workers = [second_project.start_worker(kind, wait=False) for kind in (killed, "daphne", frozen, untouched)]
    for worker in workers:
        worker.wait_ready()
    urls = [
        url
        for worker in workers
        for parity in ("even", "odd")
        for url in desk_urls(worker, f"everybody,{parity},of-{worker.port}", SOCKETS_OF_EACH // 2)
    ]
    await sockets.open_urls(urls)

    async def run(*argv: str) -> dict[str, Any]:
        done = await asyncio.to_thread(second_project.manage, *argv, "--format", "json")
        assert (done.returncode, done.err) == (0, ""), done
        read: dict[str, Any] = json.loads(done.out)
        return read

    report = await run("reap_stale")
    assert [process["state"] for process in report["processes"]] == ["live"] * 4

    to_kill, to_stop, to_freeze, _ = workers
    to_kill.kill()
    to_stop.terminate()
    orphans = [socket for socket in sockets.sockets if socket.pid in (to_kill.pid, to_stop.pid)]
    survivors = [socket for socket in sockets.sockets if socket not in orphans]
    assert len(orphans) == len(survivors) == 2 * SOCKETS_OF_EACH
    assert await sockets.await_closed(orphans) == orphans
    before = in_redis(redis_client, "office")
    assert channels(before) == of_sockets(sockets.sockets)

    # One is frozen for less than the confirm time, just when the first run looks.
    to_freeze.freeze()
    report = await run("reap_stale")
    to_freeze.thaw()
    assert report["removed"] == 0
    silent = {process_of(socket) for socket in sockets.sockets if socket.pid != workers[-1].pid}
    assert set(suspects(redis_client, "office")) == silent
    await assert_all_hear(sockets, survivors, redis_server, prefix="office")

    await asyncio.to_thread(let_confirm_time_pass, redis_client, CONFIRM_AFTER_SECONDS, "office")
    groups = (await run("channels_groups", "--members"))["groups"]
    assert in_state("orphan", groups) == of_sockets(orphans)
    assert in_state("live", groups) == of_sockets(survivors)
    assert in_redis(redis_client, "office") == before

    report = await run("reap_stale")
    assert {process["process"]: process["removed"] for process in report["processes"] if process["removed"]} == {
        process_of(socket): 3 * SOCKETS_OF_EACH for socket in orphans
    }
    assert in_redis(redis_client, "office") == without(before, {socket.channel for socket in orphans})
    await assert_all_hear(sockets, survivors, redis_server, prefix="office")

    undone = await run("reap_stale", "--undo", report["run_id"])
    assert (undone["restored"], undone["already_present"]) == (3 * len(orphans), 0)
    assert in_redis(redis_client, "office") == before
    await assert_all_hear(sockets, survivors, redis_server, prefix="office")


def in_state(state: str, groups: list[dict[str, Any]]) -> dict[str, set[str]]:
    """Group -> its channels in that state, of what `channels_groups` says."""
    found = {
        group["group"]: {channel["channel"] for channel in group["channels"] if channel["state"] == state}
        for group in groups
    }
    return {group: members for group, members in found.items() if members}
