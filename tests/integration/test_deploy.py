"""The files in deploy/ do what they say: each is read as its consumer reads it, and its commands are run."""

import os
import re
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import redis

from ops.management.files import write_reap_metrics
from ops.model.liveness.stops import IDLE_SHOWS_AFTER_SECONDS
from ops.model.runs import ReapReport
from project.embedded_redis import EmbeddedRedis
from tests.conftest import REPOSITORY, StartRedis
from tests.layer_builders import let_time_pass

DEPLOY = REPOSITORY / "deploy"
CRONTAB = DEPLOY / "cron.d" / "channels-ops"
UNITS = DEPLOY / "systemd"
RULES = DEPLOY / "prometheus" / "channels-ops.rules.yml"
SERVICE = "channels-ops-reap.service"

# What a shell, a URL and a crontab each have a meaning of their own for.
AWKWARD_SECRET = 'p%40 s$HOME"`#\\n&;%d'


class CommandLine(NamedTuple):
    schedule: str
    user: str
    command: str
    stdin: str


class Crontab(NamedTuple):
    variables: dict[str, str]
    lines: list[CommandLine]


def read_crontab(path: Path) -> Crontab:
    """As crontab(5): a value may stand in quotes; the first bare % ends the command, the others are line ends."""
    crontab = Crontab({}, [])
    for line in path.read_text().splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if setting := re.fullmatch(r"(\w+)\s*=\s*(.*)", text):
            crontab.variables[setting[1]] = setting[2].strip("\"'")
            continue
        *schedule, user, rest = text.split(None, 6)
        command, *stdin = [part.replace(r"\%", "%") for part in re.split(r"(?<!\\)%", rest)]
        crontab.lines.append(CommandLine(" ".join(schedule), user, command, "\n".join(stdin)))
    return crontab


class Run(NamedTuple):
    """``mailed`` is what cron would send; ``syslog`` are pairs of a level and the text."""

    mailed: str
    syslog: list[tuple[str, str]]


RECORDING_LOGGER = """#!/bin/sh
# Takes the place of logger(1): one file per call, named in order, with the arguments in its first line.
n=$(ls "{directory}" | wc -l)
{{ echo "$@"; cat; }} > "{directory}/$n"
"""

RunCron = Callable[..., Run]


@pytest.fixture
def run_cron(tmp_path: Path) -> RunCron:
    """`run_cron(**variables)`: the line of the crontab as cron runs it, with these variables instead of the file's."""
    written = tmp_path / "syslog"
    written.mkdir()
    executable(tmp_path / "bin" / "logger", RECORDING_LOGGER.format(directory=written))

    def run(**variables: str) -> Run:
        crontab = read_crontab(CRONTAB)
        [line] = crontab.lines
        home = {"HOME": str(tmp_path), "LOGNAME": line.user, "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"}
        environment = {**home, **crontab.variables, **variables}
        environment["PATH"] = f"{tmp_path / 'bin'}:{environment['PATH']}"
        done = subprocess.run(
            ["env", "-i", *(f"{name}={value}" for name, value in environment.items()), "/bin/sh", "-c", line.command],
            cwd=tmp_path,
            input=line.stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        calls = [file.read_text().partition("\n") for file in sorted(written.iterdir(), key=lambda f: int(f.name))]
        return Run(done.stdout, [(arguments, said) for arguments, _, said in calls])

    return run


@pytest.fixture
def demo_project(tmp_path: Path) -> dict[str, str]:
    """Variables for the demo project of this repository, without an environment file."""
    return {
        "PROJECT": str(REPOSITORY),
        "PYTHON": sys.executable,
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "ENVIRONMENT_FILE": str(tmp_path / "environment"),
        "METRICS_FILE": str(tmp_path / "channels_ops.prom"),
    }


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def python_that(tmp_path: Path, script: str) -> dict[str, str]:
    """Variables by which the crontab runs ``script`` (sh) where it would run Python."""
    python = executable(tmp_path / "bin" / "python", f"#!/bin/sh\n{script}\n")
    return {"PROJECT": str(tmp_path), "PYTHON": str(python), "ENVIRONMENT_FILE": str(tmp_path / "environment")}


def impatient_settings(directory: Path) -> str:
    """Lines for an environment file by which the demo project waits for nobody for long."""
    (directory / "impatient.py").write_text(
        "from project.settings import *\nCHANNELS_OPS = {'CONFIRM_AFTER_SECONDS': 0.5, 'PROBE_TIMEOUT_SECONDS': 2}\n"
    )
    return f"PYTHONPATH='{directory}'\nDJANGO_SETTINGS_MODULE=impatient\n"


def metric(path: Path, name: str) -> float:
    [value] = re.findall(rf"^{name}{{[^}}]*}} (\S+)$", path.read_text(), re.MULTILINE)
    return float(value)


class TestCron:
    def test_runs_each_minute_as_an_ordinary_user(self) -> None:
        [line] = read_crontab(CRONTAB).lines

        assert (line.schedule, line.user) == ("* * * * *", "channels-ops")

    def test_file_is_one_that_cron_reads(self) -> None:
        """Debian's cron skips files with a dot in the name, files that others may write, and an unended line."""
        assert re.fullmatch(r"[A-Za-z0-9_-]+", CRONTAB.name)
        assert stat.S_IMODE(CRONTAB.stat().st_mode) & 0o133 == 0
        assert CRONTAB.read_text().endswith("\n")
        assert max(map(len, CRONTAB.read_text().splitlines())) < 1000

    def test_has_no_bare_percent_sign_and_sets_each_variable_that_it_uses(self) -> None:
        crontab = read_crontab(CRONTAB)
        [line] = crontab.lines
        used = set(re.findall(r"\$\{?([A-Z_]+)", line.command))

        assert line.stdin == ""
        assert used == {"PROJECT", "PYTHON", "ENVIRONMENT_FILE", "METRICS_FILE"}
        assert used <= set(crontab.variables)

    def test_removes_a_dead_process_with_a_secret_from_the_environment_file(
        self, run_cron: RunCron, demo_project: dict[str, str], start_redis: StartRedis, tmp_path: Path
    ) -> None:
        server = start_redis(requirepass="s3cret")
        Path(demo_project["ENVIRONMENT_FILE"]).write_text(f"REDIS_URL='{server.url}'\n{impatient_settings(tmp_path)}")
        with redis.Redis.from_url(server.url) as client:
            client.zadd("asgi:group:room", {f"specific.{'d' * 32}!one": time.time()})
            suspecting = run_cron(**demo_project)
            assert client.zcard("asgi:group:room") == 1
            let_time_pass(client, IDLE_SHOWS_AFTER_SECONDS)
            removing = run_cron(**demo_project)
            assert client.zcard("asgi:group:room") == 0

        assert (suspecting.mailed, removing.mailed) == ("", "")
        assert [arguments for arguments, _ in removing.syslog] == ["-t channels-ops -p daemon.info"] * 2
        assert "1 removed" in removing.syslog[-1][1]
        assert not any("s3cret" in said for _, said in removing.syslog)
        assert metric(Path(demo_project["METRICS_FILE"]), "channels_ops_reap_removed") == 1

    def test_says_in_syslog_why_it_could_not_run(self, run_cron: RunCron, demo_project: dict[str, str]) -> None:
        Path(demo_project["ENVIRONMENT_FILE"]).write_text("REDIS_URL=redis://:s3cret@127.0.0.1:1\n")
        run = run_cron(**demo_project)

        [(arguments, said)] = run.syslog
        assert arguments == "-t channels-ops -p daemon.err"
        assert said.strip()
        assert "s3cret" not in said
        assert "Traceback" not in said
        assert run.mailed == ""

    @pytest.mark.parametrize(("code", "level"), [(0, "info"), (3, "warning"), (1, "err"), (2, "err"), (137, "err")])
    def test_exit_code_decides_the_level(self, run_cron: RunCron, tmp_path: Path, code: int, level: str) -> None:
        run = run_cron(**python_that(tmp_path, rf"printf '%s\n' 'a %d \n 100%' >&2; exit {code}"))

        assert run == ("", [(f"-t channels-ops -p daemon.{level}", "a %d \\n 100%\n")])

    def test_is_silent_when_another_run_holds_the_lock(self, run_cron: RunCron, tmp_path: Path) -> None:
        assert run_cron(**python_that(tmp_path, "echo another run is at work >&2; exit 75")) == ("", [])

    def test_logs_nothing_when_nothing_was_said(self, run_cron: RunCron, tmp_path: Path) -> None:
        assert run_cron(**python_that(tmp_path, "exit 0")) == ("", [])

    def test_the_environment_file_reaches_the_command_unchanged(self, run_cron: RunCron, tmp_path: Path) -> None:
        (tmp_path / "environment").write_text(f"# a comment\nREDIS_PASSWORD='{AWKWARD_SECRET}'\n")
        run = run_cron(**python_that(tmp_path, 'printf "%s" "$REDIS_PASSWORD"'))

        assert run.syslog == [("-t channels-ops -p daemon.info", f"{AWKWARD_SECRET}\n")]

    @pytest.mark.parametrize("contents", ["REDIS_PASSWORD='no end\n", None], ids=["damaged", "unreadable"])
    def test_an_environment_file_that_cannot_be_read_is_an_error(
        self, run_cron: RunCron, tmp_path: Path, contents: str | None
    ) -> None:
        if contents is None and os.geteuid() == 0:
            pytest.skip("root may read everything")
        (tmp_path / "environment").write_text(contents or "")
        (tmp_path / "environment").chmod(0o644 if contents else 0)
        run = run_cron(**python_that(tmp_path, "echo must not run"))

        [(arguments, said)] = run.syslog
        assert arguments.endswith("daemon.err")
        assert said.strip()
        assert "must not run" not in said
        assert run.mailed == ""

    def test_a_project_that_is_not_there_is_an_error(self, run_cron: RunCron, tmp_path: Path) -> None:
        variables = python_that(tmp_path, "echo must not run")
        run = run_cron(**{**variables, "PROJECT": str(tmp_path / "nowhere")})

        [(arguments, said)] = run.syslog
        assert arguments.endswith("daemon.err")
        assert "nowhere" in said
        assert run.mailed == ""

    @pytest.mark.parametrize(
        ("metrics_file", "options"),
        [("", []), ("/var/lib/my metrics/x.prom", ["--metrics-file", "/var/lib/my metrics/x.prom"])],
    )
    def test_an_empty_metrics_file_means_none(
        self, run_cron: RunCron, tmp_path: Path, metrics_file: str, options: list[str]
    ) -> None:
        run = run_cron(**python_that(tmp_path, r'printf "%s\n" "$@"'), METRICS_FILE=metrics_file)

        assert run.syslog[0][1].splitlines() == ["manage.py", "reap_stale", *options]


class Unit:
    """A unit file. A setting that stands there several times has several values."""

    def __init__(self, name: str) -> None:
        self.text = (UNITS / name).read_text()
        self._values: dict[tuple[str, str], list[str]] = {}
        section = ""
        for line in re.sub(r"\\\n\s*", "", self.text).splitlines():
            if header := re.fullmatch(r"\[(\w+)\]", line):
                section = header[1]
            elif line and not line.startswith("#"):
                key, _, value = line.partition("=")
                self._values.setdefault((section, key), []).append(value)

    def all(self, section: str, key: str) -> list[str]:
        return self._values.get((section, key), [])

    def one(self, section: str, key: str) -> str:
        [value] = self.all(section, key)
        return value


@pytest.fixture
def installed_units(tmp_path: Path) -> Path:
    """Copies of the units that name a project which exists here, as the documented `sed` makes them."""
    python = tmp_path / "project" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    units = tmp_path / "units"
    units.mkdir()
    for unit in UNITS.iterdir():
        (units / unit.name).write_text(unit.read_text().replace("/srv/project", str(tmp_path / "project")))
    return units


def systemd_analyze(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    environment = {**os.environ, "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""}
    return subprocess.run(["systemd-analyze", *argv], capture_output=True, text=True, timeout=60, env=environment)


class TestSystemd:
    # systemd 252 measures 1.2 for the service, on its scale from 0 (locked up) to 10 (free); an ordinary unit has 9.6.
    # What is left: it talks to Redis over the network (0.5 + 0.3 + 0.1 + 0.2 as the address of Redis is not known
    # here), and sees the host's files. The margin of 0.3 is for the checks that later versions of systemd add.
    MOST_EXPOSURE = 1.5

    @pytest.mark.parametrize("unit", [SERVICE, "channels-ops-reap.timer", "channels-ops-reap-failure@.service"])
    def test_verifies(self, installed_units: Path, unit: str) -> None:
        instance = unit.replace("@.", f"@{SERVICE}.")
        if instance != unit:
            (installed_units / instance).write_text((installed_units / unit).read_text())
        result = systemd_analyze("verify", installed_units / instance)

        # It looks at what the unit needs as well, where this machine may have troubles of its own.
        assert [line for line in result.stderr.splitlines() if "channels-ops" in line] == []
        assert result.returncode == 0

    def test_verification_notices_a_setting_that_systemd_does_not_know(self, installed_units: Path) -> None:
        service = installed_units / SERVICE
        service.write_text(service.read_text().replace("UMask=", "Umsak="))

        assert "Umsak" in systemd_analyze("verify", service).stderr

    def test_service_is_locked_up(self, installed_units: Path) -> None:
        threshold = f"--threshold={self.MOST_EXPOSURE * 10:.0f}"
        result = systemd_analyze("security", "--offline=yes", threshold, installed_units / SERVICE)

        assert result.returncode == 0, result.stdout + result.stderr

    def test_only_a_held_lock_counts_as_success_besides_zero(self) -> None:
        """A safety stop (3) has to reach the failure hook."""
        assert Unit(SERVICE).one("Service", "SuccessExitStatus") == "75"

    def test_runs_never_overlap_and_never_hang(self) -> None:
        service = Unit(SERVICE)

        assert service.one("Service", "Type") == "oneshot"
        assert service.one("Service", "TimeoutStartSec") == "3min"

    def test_timer_starts_it_each_minute_and_makes_up_for_nothing(self) -> None:
        timer = Unit("channels-ops-reap.timer")

        assert timer.one("Timer", "OnCalendar") == "minutely"
        assert timer.one("Timer", "Persistent") == "false"
        assert timer.one("Install", "WantedBy") == "timers.target"

    def test_failure_hook_is_a_unit_that_is_here(self) -> None:
        hook = Unit(SERVICE).one("Unit", "OnFailure")

        assert hook == "channels-ops-reap-failure@%n.service"
        assert (UNITS / hook.replace("%n", "")).is_file()

    def test_failure_hook_says_which_unit_failed_and_how(self, tmp_path: Path) -> None:
        """Run as systemd would: the specifiers and the variables that it knows are filled in."""
        line = Unit("channels-ops-reap-failure@.service").one("Service", "ExecStart").replace("%i", SERVICE)
        told = {"${MONITOR_SERVICE_RESULT}": "exit-code", "${MONITOR_EXIT_STATUS}": "3"}
        program, *arguments = [fill(word, told) for word in shlex.split(line)]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
            syslog.bind(str(tmp_path / "syslog"))
            syslog.settimeout(10)
            subprocess.run([program, "--socket", "syslog", *arguments], cwd=tmp_path, check=True)
            message = syslog.recv(4096).decode()

        assert message.startswith("<27>")  # facility daemon (3 * 8) and level err (3)
        assert f"channels-ops: {SERVICE} failed (exit-code 3). Read: journalctl --unit {SERVICE}" in message

    def test_service_command_reaps_and_leaves_metrics(self, redis_server: EmbeddedRedis, tmp_path: Path) -> None:
        (tmp_path / "channels-ops").mkdir()
        service = Unit(SERVICE)
        program, *arguments = shlex.split(service.one("Service", "ExecStart").replace("%S", str(tmp_path)))
        settings_module = dict([service.one("Service", "Environment").split("=")])
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=REPOSITORY,
            env={**settings_module, "REDIS_URL": redis_server.url},
            capture_output=True,
            text=True,
            umask=int(service.one("Service", "UMask"), 8),
            timeout=60,
        )

        assert program == f"{service.one('Service', 'WorkingDirectory')}/.venv/bin/python"
        assert (done.returncode, done.stderr) == (0, "")
        metrics = tmp_path / service.one("Service", "StateDirectory") / "channels_ops.prom"
        assert metric(metrics, "channels_ops_reap_complete") == 1
        assert stat.S_IMODE(metrics.stat().st_mode) == 0o644


def fill(word: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(name, value)
    return word


def promtool(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    return subprocess.run(["promtool", *argv], cwd=RULES.parent, capture_output=True, text=True, timeout=120)


NOTHING_DONE = ReapReport(
    run_id="none",
    layer="default",
    dry_run=False,
    complete=True,
    stopped=None,
    groups_scanned=0,
    members_scanned=0,
    suspects=0,
    removed=0,
    kept=0,
    processes=(),
    started_at=0.0,
    finished_at=0.0,
    duration_seconds=0.0,
)


class TestPrometheus:
    def test_rules_are_sound(self) -> None:
        result = promtool("check", "rules", RULES)

        assert result.returncode == 0, result.stdout + result.stderr

    def test_alerts_fire_when_they_should_and_only_then(self) -> None:
        result = promtool("test", "rules", RULES.with_name("channels-ops.rules.test.yml"))

        assert result.returncode == 0, result.stdout + result.stderr

    def test_metrics_file_is_sound(self, tmp_path: Path) -> None:
        write_reap_metrics(tmp_path / "x.prom", NOTHING_DONE)
        if shutil.which("promtool") is None:
            pytest.skip("promtool is not installed")
        with (tmp_path / "x.prom").open() as metrics:
            result = subprocess.run(["promtool", "check", "metrics"], stdin=metrics, capture_output=True, text=True)

        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")

    def test_rules_use_only_metrics_and_labels_that_are_written(self, tmp_path: Path) -> None:
        write_reap_metrics(tmp_path / "x.prom", NOTHING_DONE)
        written = set(re.findall(r"^(channels_ops_\w+)", (tmp_path / "x.prom").read_text(), re.MULTILINE))
        used = set(re.findall(r"channels_ops_\w+", RULES.read_text()))

        assert used
        assert used <= written
        assert set(re.findall(r"\$labels\.(\w+)", RULES.read_text())) <= {"layer", "instance"}

    def test_each_alert_has_words_for_the_person_it_wakes_and_a_test(self) -> None:
        alerts = re.split(r"^ +- alert: ", RULES.read_text(), flags=re.MULTILINE)[1:]
        tested = RULES.with_name("channels-ops.rules.test.yml").read_text()

        assert len(alerts) == 6
        for alert in alerts:
            name = alert.split()[0]
            for annotation in ("summary", "description", "runbook"):
                assert re.search(rf'^ +{annotation}: "[^"]+"$', alert, re.MULTILINE), (name, annotation)
            assert re.search(rf"alertname: {name}\n +exp_alerts:", tested), name


SCHEDULING = REPOSITORY / "docs" / "scheduling.md"


class TestSchedulingPage:
    """docs/scheduling.md says what is so."""

    def test_names_each_file_that_is_deployed_and_no_other(self) -> None:
        named = set(re.findall(r"\bdeploy/[\w./@-]*\w", SCHEDULING.read_text()))
        deployed = {str(path.relative_to(REPOSITORY)) for path in DEPLOY.glob("*/*")}

        assert {name for name in named if not (REPOSITORY / name).is_file()} == set()
        assert {name for name in deployed if "redis" not in name} <= named

    def test_lists_each_metric_alert_and_variable(self, tmp_path: Path) -> None:
        page = SCHEDULING.read_text()
        write_reap_metrics(tmp_path / "x.prom", NOTHING_DONE)
        metrics = re.findall(r"^# TYPE (\w+)", (tmp_path / "x.prom").read_text(), re.MULTILINE)
        alerts = re.findall(r"alert: (\w+)", RULES.read_text())
        own = {"MAILTO", "SHELL", "PATH", "COLUMNS"}
        variables = [name for name in read_crontab(CRONTAB).variables if name not in own]

        assert [name for name in (*metrics, *alerts, *variables) if f"`{name}" not in page] == []
        assert set(re.findall(r"`(ChannelsOps\w+)`", page)) == set(alerts)

    def test_settings_find_the_credential_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        [snippet] = re.findall(r"```python\n(.*?)```", SCHEDULING.read_text(), re.DOTALL)
        namespace: dict[str, Callable[[], str]] = {}
        exec(snippet, namespace)
        (tmp_path / "redis-url").write_text("redis://:from-the-credential@127.0.0.1\n")
        monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1")
        monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)

        assert namespace["redis_url"]() == "redis://127.0.0.1"
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        assert namespace["redis_url"]() == "redis://:from-the-credential@127.0.0.1"
