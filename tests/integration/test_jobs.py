"""`manage.py runjobs minutely` reaps, and says so at the level that fits."""

import logging
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis
from django.conf import LazySettings
from django.core.management import CommandError, call_command
from django_extensions.management.jobs import get_job, get_jobs

from ops.exceptions import InvalidArguments, OpsError
from ops.jobs.minutely import reap_stale
from ops.jobs.minutely.reap_stale import Job
from ops.model.liveness.stops import IDLE_SHOWS_AFTER_SECONDS
from ops.model.runs import ReapReport
from project.embedded_redis import EmbeddedRedis
from tests.conftest import RunCommand
from tests.layer_builders import let_time_pass

DEAD_PROCESS = "d" * 32


@pytest.fixture(autouse=True)
def all_levels(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.DEBUG, logger="ops.jobs"):
        yield


REPORT = ReapReport(
    run_id="20261128T000000Z-abcdef",
    layer="default",
    dry_run=False,
    complete=True,
    stopped=None,
    groups_scanned=3,
    members_scanned=40,
    suspects=2,
    removed=0,
    kept=0,
    processes=(),
    started_at=1e9,
    finished_at=1e9,
    duration_seconds=0.1,
)


@pytest.fixture
def reap_ends(monkeypatch: pytest.MonkeyPatch) -> Callable[[ReapReport | Exception], None]:
    """`reap_ends(how)`: the API's reap returns or raises that, for the ends that take long to bring about."""

    def set_end(how: ReapReport | Exception) -> None:
        def reap() -> ReapReport:
            if isinstance(how, Exception):
                raise how
            return how

        monkeypatch.setattr(reap_stale.api, "reap", reap)

    return set_end


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(record.levelno, record.getMessage()) for record in caplog.records if record.name == "ops.jobs"]


def test_django_extensions_finds_the_job_and_its_schedule() -> None:
    assert get_jobs("minutely", only_scheduled=True)["ops", "reap_stale"] is Job
    assert get_job("ops", "reap_stale").when == "minutely"
    assert ("ops", "reap_stale") not in get_jobs("hourly", only_scheduled=True)


def test_runjobs_minutely_removes_the_members_of_a_dead_process(
    redis_client: redis.Redis, settings: LazySettings
) -> None:
    settings.CHANNELS_OPS = {"CONFIRM_AFTER_SECONDS": 0.5, "PROBE_TIMEOUT_SECONDS": 2}
    joined_at = time.time()
    redis_client.zadd("asgi:group:room", {f"specific.{DEAD_PROCESS}!{n}": joined_at for n in ("one", "two")})

    call_command("runjobs", "minutely")
    assert redis_client.zcard("asgi:group:room") == 2
    let_time_pass(redis_client, IDLE_SHOWS_AFTER_SECONDS)
    call_command("runjobs", "minutely")

    assert redis_client.zcard("asgi:group:room") == 0


def test_who_calls_a_command_keeps_its_own_way_to_end(redis_server: EmbeddedRedis) -> None:
    """As a task queue does that runs it in its main thread."""

    def shut_down_in_order(number: int, frame: Any) -> None:
        pass

    before = signal.signal(signal.SIGTERM, shut_down_in_order)
    try:
        Job().execute()
        assert signal.getsignal(signal.SIGTERM) is shut_down_in_order
    finally:
        signal.signal(signal.SIGTERM, before)


def test_cron_gets_nothing_to_mail_when_a_run_did_its_work(run_command: RunCommand) -> None:
    assert run_command("runjobs", "minutely") == ("", "", 0)


def test_a_run_that_did_its_work_logs_what_it_said(
    redis_server: EmbeddedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    Job().execute()

    [(level, message)] = logged(caplog)
    assert level == logging.INFO
    assert "0 removed" in message


def test_a_layer_without_redis_is_an_error_that_runjobs_reports(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(CommandError):
        Job().execute()

    [(level, message)] = logged(caplog)
    assert level == logging.ERROR
    assert "redis://127.0.0.1:1/0" in message


def test_runjobs_shows_the_error_and_goes_on(run_command: RunCommand) -> None:
    result = run_command("runjobs", "minutely", env={"REDIS_URL": "redis://127.0.0.1:1"})

    assert "ERROR OCCURED IN JOB: reap_stale" in result.out
    assert "reap_stale could not run: shard 0 (redis://127.0.0.1:1/0)" in result.err
    assert result.returncode == 0


def test_a_lock_that_is_held_makes_the_job_quiet(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    redis_client.set("asgi:ops:lock", "another run", ex=60)
    Job().execute()

    assert logged(caplog) == []


def test_a_safety_stop_is_a_warning_that_says_why(
    reap_ends: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    reap_ends(replace(REPORT, stopped="control: the reaper's own probe was not taken"))
    Job().execute()

    [(level, message)] = logged(caplog)
    assert level == logging.WARNING
    assert "safety stop: control: the reaper's own probe was not taken" in message


def test_a_run_that_removed_members_says_how_many_and_which_run_to_undo(
    reap_ends: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    reap_ends(replace(REPORT, removed=38, kept=1))
    Job().execute()

    said = "reap_stale: 38 removed of 40 members, 2 under suspicion, 1 kept, run 20261128T000000Z-abcdef"
    assert logged(caplog) == [(logging.INFO, said)]


@pytest.mark.parametrize(
    ("end", "why", "code"),
    [
        (OpsError("Redis is away"), "Redis is away", 1),
        (InvalidArguments("not a number"), "not a number", 2),
        (replace(REPORT, complete=False, notes=("shard 1 did not answer",)), "shard 1 did not answer", 1),
    ],
    ids=["raised", "usage", "incomplete"],
)
def test_a_run_that_could_not_work_is_logged_and_raised(
    reap_ends: Callable[..., None], caplog: pytest.LogCaptureFixture, end: Any, why: str, code: int
) -> None:
    reap_ends(end)
    with pytest.raises(CommandError, match=why) as caught:
        Job().execute()

    assert caught.value.returncode == code
    [(level, message)] = logged(caplog)
    assert level == logging.ERROR
    assert why in message


def test_settings_that_cannot_be_used_stop_the_job(
    redis_server: EmbeddedRedis, settings: LazySettings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.CHANNELS_OPS = {"CONFIRM_AFTER_SECONDS": "600"}
    with pytest.raises(CommandError, match="CONFIRM_AFTER_SECONDS"):
        Job().execute()

    assert [level for level, _ in logged(caplog)] == [logging.ERROR]


def test_a_defect_is_not_swallowed(reap_ends: Callable[..., None]) -> None:
    reap_ends(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        Job().execute()
