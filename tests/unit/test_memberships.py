"""What a process knows of its own channels."""

from __future__ import annotations

import itertools
import math
import threading

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from ops.application.layer.memberships import Memberships
from ops.model.keys import INDEXED_CHANNELS

GRACE = 5.0


class Task:
    """Whether a consumer is still at work."""

    def __init__(self) -> None:
        self.is_done = False

    def done(self) -> bool:
        return self.is_done


def consumer(memberships: Memberships, *groups: str, name: str = "a!1") -> Task:
    """A consumer that waits for its next message."""
    task = Task()
    memberships.created(name, task)
    for group in groups:
        memberships.joined(group, name, 100.0)
    memberships.receiving(name)
    return task


def test_a_channel_is_abandoned_when_its_consumer_has_been_gone_for_the_grace_time() -> None:
    memberships = Memberships()
    task = consumer(memberships, "room", "lobby")
    assert memberships.abandoned(0.0, GRACE) == []
    task.is_done = True
    memberships.received("a!1")
    assert memberships.abandoned(10.0, GRACE) == []
    assert memberships.abandoned(10.0 + GRACE - 0.1, GRACE) == []
    assert memberships.abandoned(10.0 + GRACE, GRACE) == [("a!1", ["room", "lobby"])]


def test_an_abandoned_channel_is_forgotten_when_it_has_left_its_groups() -> None:
    memberships = Memberships()
    task = consumer(memberships, "room")
    task.is_done = True
    memberships.received("a!1")
    [(channel, [group])] = memberships.abandoned(0.0, 0.0)
    memberships.left(group, channel)
    # Once more, so that messages that came too late can be thrown away.
    assert memberships.abandoned(0.0, 0.0) == [("a!1", [])]
    assert memberships.abandoned(0.0, 0.0) == []
    assert memberships.channels == 0


def test_a_channel_that_somebody_waits_on_is_never_abandoned() -> None:
    memberships = Memberships()
    consumer(memberships, "room").is_done = True
    assert memberships.abandoned(0.0, 0.0) == []
    assert memberships.abandoned(1e9, GRACE) == []


def test_a_channel_that_was_received_on_after_its_consumer_was_gone_is_nobodys_to_judge() -> None:
    memberships = Memberships()
    consumer(memberships, "room").is_done = True
    memberships.received("a!1")
    memberships.abandoned(0.0, GRACE)
    memberships.receiving("a!1")
    memberships.received("a!1")
    assert memberships.abandoned(1e9, 0.0) == []


def test_a_channel_that_no_consumer_made_is_never_abandoned() -> None:
    memberships = Memberships()
    memberships.joined("room", "a!1", 1.0)
    memberships.receiving("a!1")
    memberships.received("a!1")
    assert memberships.abandoned(1e9, 0.0) == []


def test_a_channel_that_no_consumer_made_is_forgotten_when_it_is_in_no_group() -> None:
    memberships = Memberships()
    memberships.joined("room", "a!1", 1.0)
    memberships.left("room", "a!1")
    memberships.receiving("a!2")
    assert memberships.channels == 1
    memberships.received("a!2")
    assert memberships.channels == 0


def test_a_membership_counts_from_when_it_was_last_renewed() -> None:
    memberships = Memberships()
    memberships.joined("room", "a!1", 1.0)
    memberships.joined("room", "a!2", 2.0)
    assert memberships.joined_before(2.0) == [("room", "a!1")]
    memberships.joined("room", "a!1", 3.0)
    assert memberships.joined_before(2.0) == []
    assert memberships.joined_before(math.inf) == [("room", "a!1"), ("room", "a!2")]


def test_a_join_that_failed_leaves_what_was_there_before() -> None:
    memberships = Memberships()
    consumer(memberships, "old")
    assert memberships.joined("new", "a!1", 200.0) is None
    assert memberships.join_failed("new", "a!1", 200.0, None)
    before = memberships.joined("old", "a!1", 200.0)
    assert not memberships.join_failed("old", "a!1", 200.0, before)
    assert memberships.joined_before(101.0) == [("old", "a!1")]


def test_a_join_that_failed_takes_nothing_from_whoever_joined_at_the_same_time() -> None:
    memberships = Memberships()
    consumer(memberships)
    memberships.joined("room", "a!1", 100.0)
    memberships.joined("room", "a!1", 100.1)
    assert not memberships.join_failed("room", "a!1", 100.0, None)
    assert memberships.is_member("room", "a!1")


def test_threads_may_join_and_leave_while_memberships_are_looked_through() -> None:
    memberships = Memberships()
    ended = threading.Event()

    def join_and_leave() -> None:
        for number in itertools.count():
            if ended.is_set():
                return
            memberships.joined("room", f"a!{number % 500}", 100.0)
            memberships.left("room", f"a!{(number + 250) % 500}")

    thread = threading.Thread(target=join_and_leave)
    thread.start()
    try:
        for _ in range(300):
            memberships.joined_before(math.inf)
            len(memberships)
    finally:
        ended.set()
        thread.join()


def test_what_is_cleared_is_no_membership_any_more_and_its_channels_are_still_known() -> None:
    memberships = Memberships()
    task = consumer(memberships, "room")
    memberships.clear()
    assert (len(memberships), memberships.owners()) == (0, [task])


def test_each_part_of_the_index_has_so_many_channels_and_a_channel_stays_in_its_part() -> None:
    memberships = Memberships()
    names = [f"a!{number}" for number in range(INDEXED_CHANNELS + 1)]
    parts = [memberships.index_part(name) for name in names]
    assert parts == [0] * INDEXED_CHANNELS + [1]
    assert [memberships.index_part(name) for name in names] == parts
    assert memberships.index_parts == 2


class AnyHistory(RuleBasedStateMachine):
    """Whatever consumers do, what is known agrees with what they did, and no working consumer is given up."""

    names = Bundle("names")

    def __init__(self) -> None:
        super().__init__()
        self.memberships = Memberships()
        self.now = 0.0
        self.members: dict[tuple[str, str], float] = {}
        self.tasks: dict[str, Task] = {}
        self.waiting: dict[str, int] = {}
        self.in_other_hands: set[str] = set()
        self.made = 0

    @rule(target=names, by_a_consumer=st.booleans())
    def make(self, by_a_consumer: bool) -> str:
        self.made += 1
        name = f"a!{self.made}"
        self.waiting[name] = 0
        if by_a_consumer:
            self.tasks[name] = Task()
            self.memberships.created(name, self.tasks[name])
        return name

    @rule(name=names, group=st.sampled_from("gh"))
    def join(self, name: str, group: str) -> None:
        self.memberships.joined(group, name, self.now)
        self.members[group, name] = self.now

    @rule(name=names, group=st.sampled_from("gh"))
    def leave(self, name: str, group: str) -> None:
        self.memberships.left(group, name)
        self.members.pop((group, name), None)

    @rule(name=names)
    def wait(self, name: str) -> None:
        if name in self.tasks and self.tasks[name].done():
            self.in_other_hands.add(name)
        self.memberships.receiving(name)
        self.waiting[name] += 1

    @rule(name=names)
    def get(self, name: str) -> None:
        if self.waiting[name]:
            self.memberships.received(name)
            self.waiting[name] -= 1

    @rule(name=names)
    def die(self, name: str) -> None:
        if name in self.tasks:
            self.tasks[name].is_done = True

    @rule(seconds=st.sampled_from([0.0, 1.0, GRACE]))
    def look(self, seconds: float) -> None:
        self.now += seconds
        for name, groups in self.memberships.abandoned(self.now, GRACE):
            assert self.tasks[name].done()
            assert not self.waiting[name]
            assert name not in self.in_other_hands
            assert set(groups) == {group for group, member in self.members if member == name}
            for group in groups:
                self.memberships.left(group, name)
                del self.members[group, name]

    @invariant()
    def agrees(self) -> None:
        assert set(self.memberships.joined_before(math.inf)) == set(self.members)
        assert len(self.memberships) == len(self.members)
        assert all(self.memberships.is_member(*member) for member in self.members)
        assert self.memberships.channels <= self.made


TestAnyHistory = AnyHistory.TestCase
