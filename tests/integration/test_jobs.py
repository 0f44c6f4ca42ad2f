"""`manage.py runjobs minutely` reaps, and says so at the level that fits."""

import logging
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from django.conf import LazySettings
from django.core.management import CommandError, call_command
from django_extensions.management.jobs import get_job, get_jobs

from ops.jobs.minutely import reap_stale
from ops.jobs.minutely.reap_stale import Job
from project.embedded_redis import EmbeddedRedis
from tests.conftest import RunCommand
from tests.layer_builders import let_time_pass

DEAD_PROCESS = "d" * 32


def type_name(value: object) -> str:
    return type(value).__name__


@pytest.fixture(autouse=True)
def all_levels(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.DEBUG, logger="ops.jobs"):
        yield


@pytest.fixture
def command_ends(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException | None], None]:
    """`command_ends(how)`: reap_stale prints a line and ends so, for the ends that take long to bring about."""

    def set_end(how: BaseException | None) -> None:
        def command(name: str, *, stdout: Any, **options: Any) -> None:
            assert name == "reap_stale"
            stdout.write("what it printed\n")
            if how is not None:
                raise how

        monkeypatch.setattr(reap_stale, "call_command", command)

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
    let_time_pass(redis_client, 1)
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
    assert "exit code 1" in message


def test_runjobs_shows_the_error_and_goes_on(run_command: RunCommand) -> None:
    result = run_command("runjobs", "minutely", env={"REDIS_URL": "redis://127.0.0.1:1"})

    assert "ERROR OCCURED IN JOB: reap_stale" in result.out
    assert "reap_stale ended with exit code 1" in result.err
    assert result.returncode == 0


@pytest.mark.parametrize("end", [SystemExit(75), CommandError("another run holds it", returncode=75)], ids=type_name)
def test_another_run_at_work_is_nothing_to_report(
    command_ends: Callable[..., None], caplog: pytest.LogCaptureFixture, end: BaseException
) -> None:
    command_ends(end)
    Job().execute()

    assert logged(caplog) == []


def test_a_lock_that_is_held_makes_the_job_quiet(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    redis_client.set("asgi:ops:lock", "another run", ex=60)
    Job().execute()

    assert logged(caplog) == []


@pytest.mark.parametrize("end", [SystemExit(3), CommandError("stopped", returncode=3)], ids=type_name)
def test_a_safety_stop_is_a_warning(
    command_ends: Callable[..., None], caplog: pytest.LogCaptureFixture, end: BaseException
) -> None:
    command_ends(end)
    Job().execute()

    [(level, message)] = logged(caplog)
    assert level == logging.WARNING
    assert "what it printed" in message


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (SystemExit(1), 1),
        (SystemExit("a message"), 1),
        (SystemExit(2), 2),
        (CommandError("Redis is away"), 1),
    ],
    ids=repr,
)
def test_a_run_that_could_not_work_is_logged_and_raised(
    command_ends: Callable[..., None], caplog: pytest.LogCaptureFixture, end: BaseException, code: int
) -> None:
    command_ends(end)
    with pytest.raises(CommandError) as caught:
        Job().execute()

    assert caught.value.returncode == code
    [(level, message)] = logged(caplog)
    assert level == logging.ERROR
    assert f"exit code {code}" in message
    assert "what it printed" in message


@pytest.mark.parametrize("end", [None, SystemExit(0), SystemExit(None)], ids=repr)
def test_every_way_to_end_well_is_well(
    command_ends: Callable[..., None], caplog: pytest.LogCaptureFixture, end: BaseException | None
) -> None:
    command_ends(end)
    Job().execute()

    assert [level for level, _ in logged(caplog)] == [logging.INFO]


def test_a_defect_is_not_swallowed(command_ends: Callable[..., None]) -> None:
    command_ends(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        Job().execute()
