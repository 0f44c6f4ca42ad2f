"""The textfile for node_exporter: what it says, and that a reader never meets half of it."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from ops import __version__
from ops.exceptions import OpsError
from ops.management.files import write_reap_metrics
from ops.model.runs import ReapedProcess, ReapReport

LAST_SUCCESS = "channels_ops_reap_last_success_timestamp_seconds"

Sample = tuple[str, tuple[tuple[str, str], ...]]


def process(name: str, state: str, removed: int = 0) -> ReapedProcess:
    return ReapedProcess(process=name, state=state, members=removed, removed=removed, evidence=("took no probe",))


REPORT = ReapReport(
    run_id="20260102T030405Z-1",
    layer="default",
    dry_run=False,
    complete=True,
    stopped=None,
    groups_scanned=7,
    members_scanned=100,
    suspects=3,
    removed=20,
    kept=80,
    processes=(process("a" * 32, "dead", 15), process("b" * 32, "dead", 5), process("c" * 32, "suspect")),
    started_at=1_700_000_000.0,
    finished_at=1_700_000_001.5,
    duration_seconds=1.5,
)
STOPPED = replace(REPORT, stopped="share: 5 of 6 processes went silent at once", removed=0)
INCOMPLETE = replace(REPORT, complete=False, removed=0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "channels_ops.prom"


@contextmanager
def as_nobody_special() -> Iterator[None]:
    """Without the rights of root, who may write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def samples(path: Path) -> dict[Sample, float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }


def value(path: Path, name: str, **labels: str) -> float:
    return samples(path)[name, tuple(sorted({"layer": "default", **labels}.items()))]


def test_the_file_holds_exactly_the_promised_series(path: Path) -> None:
    write_reap_metrics(path, REPORT)

    default = ("layer", "default")
    assert samples(path) == {
        ("channels_ops_reap_last_run_timestamp_seconds", (default,)): 1_700_000_001.5,
        (LAST_SUCCESS, (default,)): 1_700_000_001.5,
        ("channels_ops_reap_duration_seconds", (default,)): 1.5,
        ("channels_ops_reap_groups", (default,)): 7,
        ("channels_ops_reap_members", (default,)): 100,
        ("channels_ops_reap_suspects", (default,)): 3,
        ("channels_ops_reap_removed", (default,)): 20,
        ("channels_ops_reap_kept", (default,)): 80,
        ("channels_ops_reap_processes", (default, ("state", "live"))): 0,
        ("channels_ops_reap_processes", (default, ("state", "suspect"))): 1,
        ("channels_ops_reap_processes", (default, ("state", "dead"))): 2,
        ("channels_ops_reap_processes", (default, ("state", "unknown"))): 0,
        ("channels_ops_reap_complete", (default,)): 1,
        ("channels_ops_reap_safety_stop", (default,)): 0,
        ("channels_ops_reap_info", (default, ("version", __version__))): 1,
    }


def test_every_series_is_a_gauge_with_a_description(path: Path) -> None:
    write_reap_metrics(path, REPORT)

    families = list(text_string_to_metric_families(path.read_text()))
    assert {family.type for family in families} == {"gauge"}
    assert all(family.documentation.endswith(".") for family in families)


def test_no_name_of_a_process_reaches_prometheus(path: Path) -> None:
    write_reap_metrics(path, REPORT)

    assert not any(reaped.process in path.read_text() for reaped in REPORT.processes)
    assert REPORT.run_id not in path.read_text()


def test_a_layer_alias_with_odd_characters_is_escaped(path: Path) -> None:
    write_reap_metrics(path, replace(REPORT, layer='a"b\\c\nd'))

    assert value(path, "channels_ops_reap_removed", layer='a"b\\c\nd') == 20


@pytest.mark.parametrize(
    ("report", "complete", "safety_stop"),
    [
        pytest.param(REPORT, 1, 0, id="done"),
        pytest.param(STOPPED, 1, 1, id="stopped"),
        pytest.param(INCOMPLETE, 0, 0, id="incomplete"),
    ],
)
def test_the_outcome_of_the_run_is_two_flags(path: Path, report: ReapReport, complete: int, safety_stop: int) -> None:
    write_reap_metrics(path, report)

    assert value(path, "channels_ops_reap_complete") == complete
    assert value(path, "channels_ops_reap_safety_stop") == safety_stop


class TestTheLatestSuccess:
    @pytest.mark.parametrize("report", [STOPPED, INCOMPLETE], ids=["stopped", "incomplete"])
    def test_is_kept_by_a_run_that_is_none(self, path: Path, report: ReapReport) -> None:
        write_reap_metrics(path, REPORT)
        write_reap_metrics(path, replace(report, finished_at=REPORT.finished_at + 60))
        write_reap_metrics(path, replace(report, finished_at=REPORT.finished_at + 120))

        assert value(path, LAST_SUCCESS) == REPORT.finished_at
        assert value(path, "channels_ops_reap_last_run_timestamp_seconds") == REPORT.finished_at + 120

    def test_is_zero_when_no_run_has_succeeded_yet(self, path: Path) -> None:
        write_reap_metrics(path, STOPPED)

        assert value(path, LAST_SUCCESS) == 0

    def test_of_another_layer_is_not_taken_over(self, path: Path) -> None:
        write_reap_metrics(path, replace(REPORT, layer="other"))
        write_reap_metrics(path, STOPPED)

        assert value(path, LAST_SUCCESS) == 0

    def test_is_never_later_than_the_run(self, path: Path) -> None:
        write_reap_metrics(path, replace(REPORT, finished_at=REPORT.finished_at + 1e9))
        write_reap_metrics(path, STOPPED)

        assert value(path, LAST_SUCCESS) == STOPPED.finished_at

    @pytest.mark.parametrize("kept", ["NaN", "+Inf", "-Inf", "-5", "soon", "", "1e400"])
    def test_is_zero_when_the_file_does_not_say_a_time(self, path: Path, kept: str) -> None:
        path.write_text(f'{LAST_SUCCESS}{{layer="default"}} {kept}\n')
        write_reap_metrics(path, STOPPED)

        assert value(path, LAST_SUCCESS) == 0

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(garbage=st.binary(max_size=200))
    def test_survives_a_file_of_garbage(self, path: Path, garbage: bytes) -> None:
        path.write_bytes(garbage)
        write_reap_metrics(path, STOPPED)

        assert value(path, LAST_SUCCESS) == 0

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(data=st.data())
    def test_survives_a_file_that_was_cut_or_damaged(self, path: Path, data: st.DataObject) -> None:
        write_reap_metrics(path, REPORT)
        sound = path.read_text()
        start = data.draw(st.integers(0, len(sound)))
        end = data.draw(st.integers(start, min(len(sound), start + 40)))
        path.write_text(sound[:start] + data.draw(st.text(alphabet='{}="\\ \n#,e-1aN', max_size=20)) + sound[end:])
        write_reap_metrics(path, STOPPED)

        assert 0 <= value(path, LAST_SUCCESS) <= STOPPED.finished_at


class TestTheFile:
    @pytest.mark.parametrize("umask", [0o000, 0o027, 0o077])
    def test_can_be_read_by_node_exporter_whatever_the_umask(self, path: Path, umask: int) -> None:
        before = os.umask(umask)
        try:
            write_reap_metrics(path, REPORT)
        finally:
            os.umask(before)

        assert stat.S_IMODE(path.stat().st_mode) == 0o644

    def test_is_replaced_in_one_step(self, path: Path) -> None:
        """A reader that has the old file open goes on reading the old one: it was renamed over, not written into."""
        write_reap_metrics(path, REPORT)
        with path.open() as old:
            write_reap_metrics(path, replace(REPORT, removed=21))
            assert 'channels_ops_reap_removed{layer="default"} 20.0' in old.read()

        assert value(path, "channels_ops_reap_removed") == 21

    def test_leaves_nothing_beside_it(self, path: Path) -> None:
        write_reap_metrics(path, REPORT)

        assert list(path.parent.iterdir()) == [path]

    def test_is_prepared_in_its_own_directory_under_a_name_that_node_exporter_skips(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[Path] = []

        def look(source: str, target: Path) -> None:
            seen.extend(Path(target).parent.iterdir())
            raise OSError("stopped to look")

        monkeypatch.setattr(os, "replace", look)
        with pytest.raises(OpsError):
            write_reap_metrics(path, REPORT)

        assert [file.suffix for file in seen] == [".tmp"]
        assert list(path.parent.iterdir()) == []

    def test_in_a_directory_that_does_not_exist_is_an_error_that_says_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(OpsError, match=r"nowhere/x\.prom: No such file or directory; the directory must exist"):
            write_reap_metrics(tmp_path / "nowhere" / "x.prom", REPORT)

    def test_below_a_file_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OpsError, match="Not a directory"):
            write_reap_metrics(tmp_path / "file" / "x.prom", REPORT)

    @pytest.mark.parametrize("mode", [0o555, 0o000], ids=["read-only", "closed"])
    def test_in_a_directory_of_somebody_else_is_an_error(self, tmp_path: Path, mode: int) -> None:
        directory = tmp_path / "closed"
        directory.mkdir(mode=mode)
        with as_nobody_special(), pytest.raises(OpsError, match="Permission denied; the directory must exist"):
            write_reap_metrics(directory / "x.prom", REPORT)

    def test_never_takes_the_place_of_a_device_pipe_or_directory(self, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe.prom"
        os.mkfifo(pipe)
        for unsuitable in (pipe, tmp_path, Path("/dev/null")):
            with pytest.raises(OpsError, match="not a regular file"):
                write_reap_metrics(unsuitable, REPORT)

        assert stat.S_ISFIFO(pipe.stat().st_mode)

    def test_error_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(OpsError) as caught:
            write_reap_metrics(tmp_path / "nowhere" / "x.prom", REPORT)

        assert "\n" not in str(caught.value)
