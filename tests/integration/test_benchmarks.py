"""The benchmark at a tiny size: that it works and says everything, not how fast anything is."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import SUBJECTS
from benchmarks.figures import Target
from benchmarks.keyspace import Layout
from benchmarks.report import BEGIN, END, beside, write_docs
from project.embedded_redis import NoRedisServer, find_redis_server
from tests.conftest import REPOSITORY, started_redis

pytestmark = pytest.mark.xdist_group("benchmarks")  # They need the processor: no two at a time.
# The time-out: a hundred layers that must answer share one process, on a machine that is busy.
TINY = ("--members", "2000", "--repeat", "1", "--probe-timeout", "2")
ENDS_WITHIN_SECONDS = 240  # the longest takes 50 s where nothing else goes on
FIGURES = {
    "scan": "ours ours_cpu start bigkeys to_bigkeys pages to_pages",
    "reap": "purge floor loop to_floor to_loop census without_wait wall cpu suspect undo undo_rate",
    "block": "send_quiet_p50 send_quiet_p99 send_scan_p50 send_scan_p99 send_reap_p50 send_reap_p99 send_undo_p50 "
    "slow_scan longest_scan scan_scan zrange_scan slow_reap longest_reap scan_reap zrange_reap evalsha_reap slow_undo",
    "memory": "channels_groups_tenth channels_groups_full channels_groups_growth reap_stale_tenth reap_stale_full",
    "layer": "group_add_1_1 group_add_100_20 send_1_1 group_send_1_1 receive_1_1 memory_more commands_ours "
    "commands_stock index_memory purge_tenth purge_full purge_growth reap_tenth reap_full",
    "heartbeat": "rate wall all_rate all_memory paced_memory rtt_p50 rtt_p99 send_quiet_p99 send_paced_p50 "
    "send_paced_p99 send_unbounded_p50 send_unbounded_p99",
    "disconnects": "throughput",
    "replay": "report report_rate report_tenth report_memory cleanup cleanup_memory",
    "groups": "many_groups_channels_groups_memory many_groups_channels_doctor_longest many_groups_reap_stale_memory",
    "huge": "one_group_channels_groups_memory one_group_reap_stale_longest one_process_send_heartbeat_memory "
    "one_process_reap_stale_longest backlog_channels_doctor_memory backlog_send_heartbeat_longest",
}


@pytest.fixture(autouse=True)
def needs_redis() -> None:
    try:
        find_redis_server()
    except NoRedisServer:
        started_redis()  # skips, or fails where nobody watches


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *TINY, *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("subject", FIGURES)
def test_every_figure_is_measured_printed_and_written(subject: str, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    with start("--only", subject, "--json", str(results)) as benchmark:
        out, err = benchmark.communicate(timeout=ENDS_WITHIN_SECONDS)
    assert benchmark.returncode == 0, err
    document = json.loads(results.read_text())

    assert {figure["subject"] for figure in document["figures"]} == {subject}
    assert set(FIGURES[subject].split()) <= {figure["name"] for figure in document["figures"]}
    for figure in document["figures"]:
        assert figure["what"].split()[0] in out
        if figure["value"] is None:
            assert figure["note"]
    assert {"python", "redis", "hiredis", "redis-server"} <= set(document["versions"])
    assert document["cores"] == os.cpu_count()

    page = tmp_path / "performance.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_docs(document, page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert all(f"| {figure['what']} |" in text for figure in document["figures"])


def test_every_subject_has_its_figures_here() -> None:
    assert set(FIGURES) == set(SUBJECTS)


def test_the_page_shows_the_results_that_lie_beside_the_benchmark(tmp_path: Path) -> None:
    page = REPOSITORY / "docs" / "performance.md"
    copy = tmp_path / "performance.md"
    copy.write_text(page.read_text())
    write_docs(json.loads((REPOSITORY / "benchmarks" / "results.json").read_text()), copy)
    assert copy.read_text() == page.read_text()


def test_a_rival_that_is_not_there_is_said_to_be_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "redis-server").symlink_to(str(shutil.which(find_redis_server())))
    monkeypatch.setenv("PATH", str(tmp_path))
    with start("--only", "scan") as benchmark:
        out, err = benchmark.communicate(timeout=ENDS_WITHIN_SECONDS)
    assert benchmark.returncode == 0, err
    assert "skipped: redis-cli is not on PATH" in out


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_benchmark_leaves_nothing_behind(
    ending: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as folder:  # a short path: the server has a socket in there
        monkeypatch.setenv("TMPDIR", folder)
        with start("--only", "reap") as benchmark:
            assert benchmark.stderr is not None
            while "reap 1" not in benchmark.stderr.readline():
                assert benchmark.poll() is None
            assert os.listdir(folder)
            benchmark.send_signal(ending)
            _, err = benchmark.communicate(timeout=ENDS_WITHIN_SECONDS)
        assert os.listdir(folder) == []
    assert benchmark.returncode == 130
    assert "Interrupted" in err


def test_the_keyspace_has_the_shape_and_the_size_that_were_asked_for() -> None:
    layout = Layout(20_000, seed=3, now=1_800_000_000.0)
    groups = list(layout.read())
    names = [name for _, members in groups for name, _ in members]
    assert sorted(layout.sizes)[-10:] == [1000] * 10
    assert set(layout.sizes[10:]) == {5}
    assert len(names) == len(set(names)) == 20_000
    assert len(layout.processes) == 200
    assert {name[:42] for name in names} == {f"specific.{process}!".encode() for process in layout.processes}
    assert list(layout.read()) == groups
    dead = {name for _, members in layout.read(layout.dead) for name, _ in members}
    assert dead == {name for name in names if name[9:41].decode() in layout.dead}


def test_a_missed_target_is_called_missed() -> None:
    at_most = Target(required=0.9, aim=0.5)
    assert [at_most.judge(value) for value in (0.5, 0.7, 1.0)] == ["met", "met, not the aim", "MISSED"]
    at_least = Target(required=10.0, at_least=True)
    assert [at_least.judge(value) for value in (10.0, 9.9)] == ["met", "MISSED"]


def test_what_is_measured_again_stands_beside_what_was_not_with_a_time_of_its_own() -> None:
    def document(taken_at: str, **values: int) -> dict[str, Any]:
        figures = [{"subject": subject, "value": value} for subject, value in values.items()]
        return {"taken_at": taken_at, "failures": {}, "figures": figures}

    whole, later = document("monday", scan=1, layer=2), document("tuesday", layer=3)
    both = beside(whole, later)
    assert (both["taken_at"], both["apart"]) == ("monday", {"layer": "tuesday"})
    assert [(figure["subject"], figure["value"]) for figure in both["figures"]] == [("scan", 1), ("layer", 3)]
    assert beside(both, document("wednesday", scan=4, layer=5)) == document("wednesday", scan=4, layer=5)
    assert beside(None, later) == later
