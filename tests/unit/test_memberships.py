"""What a process knows of its own channels."""

from __future__ import annotations

import itertools
import math
import threading

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from ops.application.layer import memberships as memberships_module
from ops.application.layer.memberships import Memberships
from ops.model.keys import INDEXED_CHANNELS


class Task:
    """Whether a consumer is still at work."""

    def __init__(self) -> None:
        self.is_done = False

    def done(self) -> bool:
        return self.is_done


def consumer(memberships: Memberships, *groups: str, name: str = "a!1") -> Task:
    """A consumer in whose dispatch loop a wait for the next message has begun."""
    task = Task()
    memberships.created(name, task)
    for group in groups:
        memberships.joined(group, name, 100.0)
    memberships.receiving(name, task)
    return task


def test_a_channel_ends_with_the_task_of_its_consumer() -> None:
    memberships = Memberships()
    task = consumer(memberships, "room", "lobby")
    memberships.received("a!1")
    assert memberships.end("a!1") is None
    task.is_done = True
    assert memberships.end("a!1") == ["room", "lobby"]
    assert memberships.end("a!1") is None
    assert (memberships.channels, memberships.has_ended("a!1")) == (0, True)


def test_a_channel_that_somebody_waits_on_does_not_end_before_that() -> None:
    memberships = Memberships()
    consumer(memberships, "room").is_done = True
    assert memberships.end("a!1") is None
    memberships.received("a!1")
    assert memberships.end("a!1") == ["room"]


@pytest.mark.parametrize("before", [True, False], ids=["before the dispatch loop", "after it"])
def test_a_channel_on_which_anything_else_has_received_has_no_owner(before: bool) -> None:
    memberships, task = Memberships(), Task()
    memberships.created("a!1", task)
    memberships.joined("room", "a!1", 100.0)
    for dispatching in (None, task) if before else (task, None):
        memberships.receiving("a!1", dispatching)
        memberships.received("a!1")
    task.is_done = True
    assert memberships.end("a!1") is None
    assert memberships.is_member("room", "a!1")


def test_another_consumers_dispatch_loop_is_something_else_too() -> None:
    memberships, task = Memberships(), Task()
    memberships.created("a!1", task)
    memberships.receiving("a!1", Task())
    memberships.received("a!1")
    task.is_done = True
    assert memberships.end("a!1") is None


def test_a_channel_on_which_its_consumer_has_never_received_has_no_owner() -> None:
    memberships, task = Memberships(), Task()
    memberships.created("a!1", task)
    memberships.joined("room", "a!1", 100.0)
    task.is_done = True
    assert memberships.end("a!1") is None
    assert memberships.owners() == []
    memberships.receiving("a!1", None)
    memberships.received("a!1")
    assert memberships.is_member("room", "a!1")


def test_a_channel_that_has_ended_is_as_any_other_when_somebody_receives_on_it() -> None:
    memberships = Memberships()
    consumer(memberships).is_done = True
    memberships.received("a!1")
    assert memberships.end("a!1") == []
    memberships.receiving("a!1", None)
    memberships.joined("room", "a!1", 1.0)
    memberships.received("a!1")
    assert (memberships.has_ended("a!1"), memberships.end("a!1")) == (False, None)
    assert memberships.is_member("room", "a!1")


def test_a_channel_that_no_consumer_made_never_ends() -> None:
    memberships = Memberships()
    memberships.joined("room", "a!1", 1.0)
    memberships.receiving("a!1", None)
    memberships.received("a!1")
    assert memberships.end("a!1") is None


def test_so_many_channels_that_have_ended_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memberships_module, "ENDED_REMEMBERED", 2)
    memberships = Memberships()
    for number in range(4):
        consumer(memberships, name=f"a!{number}").is_done = True
        memberships.received(f"a!{number}")
        memberships.end(f"a!{number}")
    assert [number for number in range(4) if memberships.has_ended(f"a!{number}")] == [2, 3]


def test_a_channel_that_no_consumer_made_is_forgotten_when_it_is_in_no_group() -> None:
    memberships = Memberships()
    memberships.joined("room", "a!1", 1.0)
    memberships.left("room", "a!1")
    memberships.receiving("a!2", None)
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
        self.members: set[tuple[str, str]] = set()
        self.tasks: dict[str, Task] = {}
        self.waiting: dict[str, int] = {}
        self.dispatched: set[str] = set()
        self.in_other_hands: set[str] = set()
        self.ended: set[str] = set()
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
        if self.memberships.has_ended(name):
            return  # as the layer does
        self.memberships.joined(group, name, 1.0)
        self.members.add((group, name))

    @rule(name=names, group=st.sampled_from("gh"))
    def leave(self, name: str, group: str) -> None:
        self.memberships.left(group, name)
        self.members.discard((group, name))

    @rule(name=names, dispatching=st.booleans())
    def wait(self, name: str, dispatching: bool) -> None:
        own = dispatching and name in self.tasks and not self.tasks[name].done()
        (self.dispatched if own else self.in_other_hands).add(name)
        self.memberships.receiving(name, self.tasks[name] if own else None)
        self.waiting[name] += 1

    @rule(name=names)
    def get(self, name: str) -> None:
        if self.waiting[name]:
            self.memberships.received(name)
            self.waiting[name] -= 1
            self.look(name)

    @rule(name=names)
    def die(self, name: str) -> None:
        if name in self.tasks:
            self.tasks[name].is_done = True
            self.look(name)

    @rule(name=names)
    def look(self, name: str) -> None:
        groups = self.memberships.end(name)
        if groups is None:
            return
        assert self.tasks[name].done()
        assert not self.waiting[name]
        assert name in self.dispatched - self.in_other_hands - self.ended
        assert set(groups) == {group for group, member in self.members if member == name}
        self.ended.add(name)
        self.members.difference_update((group, name) for group in groups)

    @invariant()
    def every_channel_has_ended_that_can(self) -> None:
        for name in self.dispatched - self.in_other_hands:
            assert not self.tasks[name].done() or self.waiting[name] or name in self.ended

    @invariant()
    def agrees(self) -> None:
        assert set(self.memberships.joined_before(math.inf)) == self.members
        assert len(self.memberships) == len(self.members)
        assert all(self.memberships.is_member(*member) for member in self.members)
        assert self.memberships.channels <= self.made


TestAnyHistory = AnyHistory.TestCase
