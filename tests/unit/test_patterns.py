"""Each pattern is found where it is, named with its evidence, and not found where there is none."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from zoneinfo import ZoneInfo

import pytest

from ops.model.disconnects.logs.reader import LogReader
from ops.model.disconnects.record import Disconnect
from ops.model.disconnects.report.pattern import Pattern
from ops.model.disconnects.report.patterns import find_patterns
from ops.model.disconnects.report.tally import DisconnectTally, normalised
from tests.conftest import REPOSITORY

NOON = 1_795_608_000.0
DAY = 86400.0


def worker(number: int) -> dict[str, object]:
    return {"process": f"{number:032x}", "host": "web-1", "pid": 1000 + number}


def ordinary(number: int = 2000, *, seed: int = 1, span: float = 6 * 3600.0) -> Iterator[Disconnect]:
    """People who come and go: ages of all kinds, four workers, three paths, few faults."""
    chance = random.Random(seed)
    for at in sorted(NOON + chance.random() * span for _ in range(number)):
        cause, code = chance.choices(
            [("going_away", 1001), ("normal", 1000), ("no_close_frame", 1006), ("handler_exception", None)],
            [60, 25, 13, 1],
        )[0]
        path = chance.choice(["/ws/room/17/", "/ws/news/", "/ws/me/"])
        lived = chance.lognormvariate(5.5, 1.8)
        yield Disconnect(at, cause, "client", lived_seconds=lived, code=code, path=path, **worker(chance.randrange(4)))


def tallied(*records: Iterable[Disconnect]) -> DisconnectTally:
    tally = DisconnectTally()
    for one in sorted((one for some in records for one in some), key=lambda one: one.at):
        tally.add(one)
    return tally


def patterns_in(*records: Iterable[Disconnect]) -> dict[str, Pattern]:
    return {pattern.id: pattern for pattern in find_patterns(tallied(*records))}


@pytest.mark.parametrize("seed", range(20))
def test_people_who_come_and_go_make_no_pattern(seed: int) -> None:
    assert patterns_in(ordinary(seed=seed)) == {}


def test_nothing_makes_no_pattern() -> None:
    assert patterns_in([]) == {}


def test_a_worker_whose_members_were_reaped_died() -> None:
    died = [
        Disconnect(NOON + 900, "process_died", source="reaper", process=f"{9:032x}", groups=("room",))
        for _ in range(40)
    ]
    found = patterns_in(ordinary(), died)
    assert found.keys() == {"worker_died"}
    assert found["worker_died"].connections == 40
    assert found["worker_died"].evidence == (f"{9:032x}: 40 reaped at 2026-11-25T12:15:00Z; it recorded no end itself",)


def reaped(at: float, process: str, channels: Iterable[str], *, group: str = "room") -> list[Disconnect]:
    """As the disconnect log says it: one record for each group that a channel was in."""
    return [
        Disconnect(at, "process_died", source="reaper", process=process, channel=channel, groups=(group,))
        for channel in channels
    ]


def test_when_a_worker_died_is_told_by_its_own_last_record_and_by_the_reaper() -> None:
    own = Disconnect(NOON + 300, "normal", "client", lived_seconds=30.0, **worker(9))
    found = patterns_in(ordinary(), [own], reaped(NOON + 900, f"{9:032x}", map(str, range(40))))
    assert found["worker_died"].title == "worker web-1 pid 1009 died without a word, with 40 connections open"
    assert found["worker_died"].evidence == (
        "web-1 pid 1009: 40 reaped at 2026-11-25T12:15:00Z; its own last record is of 2026-11-25T12:05:00Z",
    )


@pytest.mark.parametrize("cause", ["process_exit", "handler_exception", "redis_timeout"])
def test_what_a_recorded_end_left_behind_is_no_second_end_when_it_is_reaped(cause: str) -> None:
    channels = [f"specific.x!{number}" for number in range(40)]
    ended = [
        Disconnect(NOON + 100 * number, cause, channel=channel, groups=("room",), **worker(9))
        for number, channel in enumerate(channels)
    ]
    tally = tallied(ordinary(), ended, reaped(NOON + 9000, f"{9:032x}", channels))
    assert "worker_died" not in {pattern.id for pattern in find_patterns(tally)}
    assert (tally.records, tally.reaped_later) == (2040, 40)


def test_a_member_of_several_groups_is_one_connection_when_it_is_reaped() -> None:
    groups = (reaped(NOON + 900, f"{9:032x}", map(str, range(40)), group=name) for name in ("a", "b", "c"))
    tally = tallied(ordinary(), *groups)
    [pattern] = find_patterns(tally)
    assert (pattern.id, pattern.connections, tally.reaped_later) == ("worker_died", 40, 80)


@pytest.mark.parametrize("cause", ["process_exit", "shutdown_cancelled", "service_restart"])
def test_workers_that_were_stopped_are_named_by_host_and_pid(cause: str) -> None:
    stopped = [
        Disconnect(
            NOON + 60 * (number % 2) + number / 100, cause, "shutdown", lived_seconds=500.0, **worker(7 + number % 2)
        )
        for number in range(60)
    ]
    found = patterns_in(ordinary(), stopped)
    assert found.keys() == {"worker_stopped"}
    assert found["worker_stopped"].title == "2 workers stopped, as in a deploy, with 60 connections open"
    assert found["worker_stopped"].evidence == (
        "web-1 pid 1007: 30 open when it was stopped at 2026-11-25T12:00:00Z",
        "web-1 pid 1008: 30 open when it was stopped at 2026-11-25T12:01:00Z",
    )


def test_a_worker_that_vanished_is_noticed_by_what_was_cut_at_once() -> None:
    cut = [
        Disconnect(
            NOON + 600 + number / 50, "no_close_frame", "client", lived_seconds=300.0 + number, code=1006, **worker(8)
        )
        for number in range(50)
    ]
    found = patterns_in(ordinary(), cut)
    assert found.keys() == {"worker_vanished"}
    assert found["worker_vanished"].connections == 50


def test_one_that_goes_on_afterwards_did_not_vanish() -> None:
    def end(at: float) -> Disconnect:
        return Disconnect(at, "no_close_frame", "client", lived_seconds=at - NOON + 77, code=1006, **worker(8))

    cut = [end(NOON + 600 + number / 50) for number in range(50)]
    assert "worker_vanished" not in patterns_in(ordinary(), cut, [end(NOON + 3000)])


def test_redis_that_was_lost_is_one_event_for_all_workers() -> None:
    lost = [
        Disconnect(
            NOON + 700 + number / 100, "redis_connection_lost", "application", lived_seconds=60.0, **worker(number % 4)
        )
        for number in range(100)
    ]
    found = patterns_in(ordinary(), lost)
    assert found.keys() == {"redis_lost"}
    assert found["redis_lost"].connections == 100
    first, second = found["redis_lost"].evidence
    assert first == "100 from 2026-11-25T12:11:40Z to 2026-11-25T12:11:50Z"
    assert second.startswith("in 4 of the 4 workers in the log: ")
    assert "web-1 pid 1002 (25)" in second


def test_the_clock_of_redis_py_8_is_heard_though_the_ages_differ() -> None:
    ticking = [
        Disconnect(NOON + 5.004 * number, "redis_timeout", "application", lived_seconds=5.004 * number, **worker(1))
        for number in range(1, 30)
    ]
    found = patterns_in(ordinary(), ticking)
    assert found.keys() == {"redis_py_8_timeout"}
    assert found["redis_py_8_timeout"].connections == 29


def test_one_socket_each_that_dies_after_five_seconds_is_redis_py_8_too() -> None:
    dying = [
        Disconnect(NOON + 97 * number, "redis_timeout", "application", lived_seconds=5.01, **worker(number))
        for number in range(20)
    ]
    assert patterns_in(ordinary(), dying).keys() == {"redis_py_8_timeout"}


def test_a_redis_that_is_merely_slow_is_not_redis_py_8() -> None:
    chance = random.Random(3)
    slow = [
        Disconnect(NOON + 600 * number + chance.random() * 400, "redis_timeout", "application", lived_seconds=900.0)
        for number in range(20)
    ]
    assert "redis_py_8_timeout" not in patterns_in(slow)


@pytest.mark.parametrize(
    ("age", "jitter", "says"),
    [
        (60.0, 0.3, "nginx"),
        (86400.0, 10.0, "Daphne's --websocket_timeout"),
        (350.0, 1.0, "network load balancers"),
        (17.0, 0.3, "Look for a time-out of that length"),
    ],
)
def test_connections_that_die_at_one_age_are_told_what_ends_at_that_age(age: float, jitter: float, says: str) -> None:
    chance = random.Random(5)
    dying = [
        Disconnect(
            NOON + chance.random() * 20000, "no_close_frame", "client", lived_seconds=age + chance.random() * jitter
        )
        for _ in range(150)
    ]
    found = patterns_in(ordinary(), dying)
    assert found.keys() == {"same_age"}
    assert says in found["same_age"].advice
    assert 140 <= found["same_age"].connections <= 200


def test_others_that_end_near_an_age_do_not_shift_it() -> None:
    idle = [Disconnect(NOON + 3 * number, "no_close_frame", lived_seconds=13.01) for number in range(16)]
    frozen = [Disconnect(NOON + number, "no_close_frame", lived_seconds=12.3) for number in range(4)]
    found = patterns_in(idle, frozen)["same_age"]
    assert (found.title, found.connections) == ("20 connections died at the same age: 13 s", 20)


def test_whole_seconds_of_an_access_log_are_good_enough_for_an_age() -> None:
    chance = random.Random(5)
    dying = [
        Disconnect(
            float(int(NOON + chance.random() * 20000)), source="daphne", lived_seconds=60.0 + chance.randrange(2)
        )
        for _ in range(100)
    ]
    whole = [Disconnect(float(int(one.at)), lived_seconds=float(int(one.lived_seconds or 0))) for one in ordinary()]
    assert patterns_in(whole, dying).keys() == {"same_age"}
    assert patterns_in(whole) == {}


def test_sockets_that_began_and_ended_together_did_not_die_of_their_age() -> None:
    together = [
        Disconnect(NOON + 900 + number / 1000, "no_close_frame", "client", lived_seconds=60.0) for number in range(200)
    ]
    assert "same_age" not in patterns_in(ordinary(), together)


@pytest.mark.parametrize(("youngest", "spread"), [(0.0, 2.2), (20.0, 2.2), (10.0, 4.0)])
def test_ages_that_are_spread_evenly_are_no_time_out(youngest: float, spread: float) -> None:
    chance = random.Random(4)
    brief = [
        Disconnect(NOON + 7 * number, "normal", lived_seconds=youngest + spread * chance.random())
        for number in range(200)
    ]
    assert patterns_in(brief) == {}


def test_a_deploy_is_no_reconnect_storm_and_its_ends_are_not_in_one() -> None:
    def ends(cause: str, number: int) -> list[Disconnect]:
        return [Disconnect(NOON + index / 100, cause, lived_seconds=0.5, path="/ws/a/") for index in range(number)]

    assert patterns_in(ends("service_restart", 400)).keys() == set()
    storm = patterns_in(ends("service_restart", 20), ends("no_close_frame", 400))["reconnect_storm"]
    assert storm.connections == 400
    assert storm.evidence[-1] == "what ended so soon: 400 /ws/a/ no_close_frame"


def test_the_numbers_of_a_storm_add_up() -> None:
    causes = ["rejected", "no_close_frame", "handler_exception", "closed_with_code"]
    storm = [
        Disconnect(NOON + number / 20, causes[number % 4], lived_seconds=0.5, path="/ws/a/") for number in range(2000)
    ]
    later = [Disconnect(NOON + 1000 * number, "rejected", lived_seconds=0.5, path="/ws/b/") for number in range(2, 9)]
    found = patterns_in(storm, later)["reconnect_storm"]
    assert found.connections == 2000
    assert found.evidence[-1] == (
        "what ended so soon: 500 /ws/a/ closed_with_code, 500 /ws/a/ handler_exception, 500 /ws/a/ no_close_frame, "
        "500 others"
    )


def test_a_worker_that_recorded_an_end_after_it_was_reaped_has_not_died() -> None:
    later = Disconnect(NOON + 1000, "normal", "client", lived_seconds=30.0, **worker(9))
    members = reaped(NOON + 900, f"{9:032x}", map(str, range(40)))
    assert patterns_in(ordinary(), members, [later]) == {}


def test_a_worker_is_one_with_and_without_the_name_of_its_process() -> None:
    named, unnamed = worker(3), {"host": "web-1", "pid": 1003}
    ends = [Disconnect(NOON + number, "normal", **(named if number == 5 else unnamed)) for number in range(10)]
    tally = tallied(ends)
    assert [(one.label, one.total) for one in tally.workers.values()] == [("web-1 pid 1003", 10)]


def test_a_server_that_says_1006_of_every_end_tells_nothing_of_the_network() -> None:
    ends = [Disconnect(NOON + number / 50, "no_close_frame", "client", code=1006, **worker(8)) for number in range(50)]
    later = [Disconnect(NOON + 3000, "no_close_frame", "client", code=1006, **worker(7))]
    assert patterns_in(ends, later).keys() == {"no_close_codes"}


def test_ends_that_left_members_behind_are_named_with_their_exception() -> None:
    tally = tallied([Disconnect(NOON, "handler_exception", exception=("KeyError: 'x'",), groups=("room",))] * 3)
    assert tally.left_behind.top(1) == ([("KeyError: 'x'", 3)], 0)


def test_a_reconnect_storm_stands_out_from_what_is_usual() -> None:
    chance = random.Random(7)
    storm = [
        Disconnect(
            NOON + 3600 + chance.random() * 120, "rejected", "application", lived_seconds=chance.random(), path=path
        )
        for path in ("/ws/news/", "/ws/me/", "/ws/room/17/")
        for _ in range(500)
    ]
    found = patterns_in(ordinary(), storm)
    assert found.keys() == {"reconnect_storm"}
    assert 1500 <= found["reconnect_storm"].connections <= 1560
    assert "2026-11-25T13:00:00Z to 2026-11-25T13:02:00Z" in found["reconnect_storm"].evidence[0]


def test_a_storm_that_fills_most_of_a_short_log_is_one_all_the_same() -> None:
    quiet = [Disconnect(NOON + 7 * number, "normal", lived_seconds=300.0) for number in range(9)]
    storm = [
        Disconnect(NOON + 20 + number / 10, "closed_with_code", lived_seconds=0.1, path="/ws/news/")
        for number in range(600)
    ]
    found = patterns_in(quiet, storm)
    assert found["reconnect_storm"].connections == 600
    assert found["reconnect_storm"].evidence == (
        "600 from 2026-11-25T12:00:20Z to 2026-11-25T12:01:20Z, 100 in the worst 10 s",
        "usual in 10 s: 100",
        "what ended so soon: 600 /ws/news/ closed_with_code",
    )


def test_a_storm_over_two_of_four_steps_is_not_what_is_usual() -> None:
    at = [NOON + 1, NOON + 39, *(NOON + 15 + number / 12 for number in range(120))]
    storm = [Disconnect(when, "closed_with_code", lived_seconds=0.1) for when in at]
    assert patterns_in(storm)["reconnect_storm"].connections == 120


def test_a_log_that_is_nothing_but_storm_has_one() -> None:
    storm = [Disconnect(NOON + number / 20, "no_close_frame", "client", lived_seconds=0.5) for number in range(2000)]
    assert patterns_in(storm).keys() == {"reconnect_storm"}


def test_one_bad_path_among_good_ones_is_named() -> None:
    chance = random.Random(9)
    bad = [
        Disconnect(
            NOON + chance.random() * 20000,
            "handler_exception",
            "application",
            lived_seconds=chance.lognormvariate(5, 1.5),
            path=f"/ws/upload/{number}/",
            exception=("KeyError: 'size'",),
        )
        for number in range(80)
    ]
    found = patterns_in(ordinary(), bad)
    assert found.keys() == {"bad_path"}
    assert "/ws/upload/{number}/" in found["bad_path"].title
    assert found["bad_path"].evidence[0].startswith("80 of its 80 connections ended in a fault")


def test_a_path_is_not_bad_for_being_the_busiest() -> None:
    chance = random.Random(9)

    def end(path: str, *, fault: bool) -> Disconnect:
        cause = "handler_exception" if fault else "normal"
        return Disconnect(NOON + chance.random() * 20000, cause, lived_seconds=chance.lognormvariate(5, 1.5), path=path)

    busy = [end("/ws/busy/", fault=chance.random() < 0.1) for _ in range(1000)]
    quiet = [end("/ws/quiet/", fault=chance.random() < 0.1) for _ in range(100)]
    assert patterns_in(busy, quiet) == {}


def test_a_path_is_one_whatever_ids_are_in_it() -> None:
    assert normalised("/ws/room/17/") == "/ws/room/{number}/"
    assert normalised("/ws/8f3380675db04c158fb4b3ef63063193/") == "/ws/{hex}/"
    assert normalised("/ws/8f338067-5db0-4c15-8fb4-b3ef63063193/x") == "/ws/{uuid}/x"
    assert normalised("/ws/eyJhbGciOiJIUzI1NiJ9.x/") == "/ws/{token}/"
    assert normalised("/ws/a-room-with-a-long-name/") == "/ws/a-room-with-a-long-name/"


def test_the_log_of_real_servers_has_its_patterns() -> None:
    tally = DisconnectTally()
    for name in ("daphne.jsonl", "uvicorn.jsonl", "uvicorn-timed.jsonl"):
        reader = LogReader(ZoneInfo("UTC"), tally.add)
        for line in (REPOSITORY / "tests" / "data" / "logs" / name).read_bytes().splitlines():
            reader.feed(line)
    assert {pattern.id for pattern in find_patterns(tally)} == {"redis_lost", "redis_py_8_timeout"}


def test_what_is_counted_does_not_grow_with_hostile_names() -> None:
    tally = DisconnectTally()
    for number in range(20000):
        name = f"name-{number}"
        tally.add(Disconnect(NOON + number, path=f"/{name}", process=name, exception=(name,), cause="normal"))
    assert len(tally.workers) <= 4000
    assert len(tally.by_path_and_cause.ordered()) <= 4000
    assert sum(worker.total for worker in tally.workers.values()) + tally.other_workers == 20000
    assert len(list(tally.timeline.steps())) <= 10000


@pytest.mark.parametrize("at", [0.0, -62135596800.0, 253402300799.0])
def test_a_time_that_no_clock_shows_is_none(at: float) -> None:
    tally = DisconnectTally()
    tally.add(Disconnect(at, "process_died", process="p"))
    assert (tally.untimed, list(tally.timeline.steps())) == (1, [])
    assert find_patterns(tally) == []
