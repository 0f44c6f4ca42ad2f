"""The verdict: no silence alone kills, and every sign of life clears."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ops.model.liveness.evidence import (
    AppearedMeanwhile,
    Bearing,
    Evidence,
    InboxDrained,
    InboxStuck,
    JoinedSince,
    LeaseEnded,
    LeaseFresh,
    LeaseLapsed,
    NoProcessInName,
    NotProbed,
    ProbesTaken,
    ProbeUnanswered,
    SuspectedBefore,
)
from ops.model.liveness.judge import MEMBER_STATES, Policy, State, judge

seconds = st.floats(min_value=0, max_value=1e7)
life = (
    st.builds(ProbesTaken, seconds)
    | st.builds(InboxDrained, st.integers(1, 100))
    | st.builds(LeaseFresh, seconds, st.just("h"))
)
silence = st.builds(ProbeUnanswered, seconds, st.integers(0, 1)) | st.builds(
    InboxStuck, st.integers(1), seconds, seconds
)
earlier = st.builds(SuspectedBefore, seconds, st.integers(1, 4), st.booleans()) | st.builds(
    LeaseLapsed, seconds, st.just("host")
)
nothing = (
    st.builds(NotProbed, st.just("why"))
    | st.builds(JoinedSince, seconds)
    | st.builds(NoProcessInName, st.booleans())
    | st.builds(AppearedMeanwhile)
)
end = st.builds(LeaseEnded, st.just("host"))
policies = st.builds(Policy, st.floats(min_value=0.001, max_value=1e6))


def facts(*kinds: st.SearchStrategy[Evidence]) -> st.SearchStrategy[list[Evidence]]:
    return st.lists(st.one_of(*kinds), max_size=5)


@given(facts(life, silence, earlier, nothing, end), life, policies)
def test_any_sign_of_life_makes_live(others: list[Evidence], sign: Evidence, policy: Policy) -> None:
    for evidence in ([sign, *others], [*others, sign]):
        assert judge(evidence, policy).state is State.LIVE


@given(facts(silence, nothing), policies)
def test_silence_now_alone_never_makes_dead(evidence: list[Evidence], policy: Policy) -> None:
    assert judge(evidence, policy).state is not State.DEAD


@given(facts(earlier, nothing), policies)
def test_silence_in_earlier_rounds_alone_never_makes_dead(evidence: list[Evidence], policy: Policy) -> None:
    assert judge(evidence, policy).state is not State.DEAD


@given(facts(silence, nothing), st.lists(st.floats(0, 0.999), max_size=4), policies)
def test_nobody_is_dead_before_the_confirm_time_is_over(
    evidence: list[Evidence], shares: list[float], policy: Policy
) -> None:
    young: list[Evidence] = [
        SuspectedBefore(share * policy.confirm_after_seconds, 5, unbroken=True) for share in shares
    ]
    young += [LeaseLapsed(share * policy.confirm_after_seconds, "host") for share in shares]
    assert judge(evidence + young, policy).state is not State.DEAD


@given(silence, facts(silence, nothing), policies, st.floats(min_value=1, max_value=1000))
def test_silence_now_and_long_enough_ago_makes_dead(
    now: Evidence, others: list[Evidence], policy: Policy, times: float
) -> None:
    long_ago = policy.confirm_after_seconds * times
    for ago in (SuspectedBefore(long_ago, unbroken=True), SuspectedBefore(long_ago, looks=2)):
        assert judge([*others, now, ago], policy).state is State.DEAD


@given(silence, facts(silence, nothing), policies, st.floats(min_value=1, max_value=1000))
def test_two_looks_between_which_it_may_have_lived_do_not_make_dead(
    now: Evidence, others: list[Evidence], policy: Policy, times: float
) -> None:
    ago = SuspectedBefore(policy.confirm_after_seconds * times)
    assert judge([*others, now, ago], policy).state is State.SUSPECT


@given(end, facts(silence, earlier, nothing), policies)
def test_its_own_word_that_it_left_makes_dead(word: Evidence, others: list[Evidence], policy: Policy) -> None:
    assert judge([*others, word], policy).state is State.DEAD


@given(facts(nothing), policies)
def test_no_evidence_leaves_unknown(evidence: list[Evidence], policy: Policy) -> None:
    assert judge(evidence, policy).state is State.UNKNOWN


@given(facts(silence, earlier), policies)
def test_any_silence_makes_at_least_a_suspect(evidence: list[Evidence], policy: Policy) -> None:
    expected = {State.SUSPECT, State.DEAD} if evidence else {State.UNKNOWN}
    assert judge(evidence, policy).state in expected


@given(facts(life, silence, earlier, nothing, end), policies)
def test_the_order_of_the_facts_does_not_matter_and_all_are_kept(evidence: list[Evidence], policy: Policy) -> None:
    verdict = judge(evidence, policy)
    assert verdict.state is judge(reversed(evidence), policy).state
    assert verdict.evidence == tuple(evidence)
    assert verdict.words == [fact.words for fact in evidence]


@given(facts(silence, earlier, nothing), policies, seconds)
def test_more_patience_never_kills_more(evidence: list[Evidence], policy: Policy, more: float) -> None:
    if judge(evidence, Policy(policy.confirm_after_seconds + more)).state is State.DEAD:
        assert judge(evidence, policy).state is State.DEAD


def test_only_these_facts_can_end_a_process() -> None:
    """Whoever adds a kind of evidence that bears death must come by here."""
    kinds = {kind.__name__ for kind in Evidence.__subclasses__() if kind.bearing is Bearing.DEATH}
    assert kinds == {LeaseEnded.__name__}


def test_a_member_of_a_dead_process_is_an_orphan() -> None:
    assert [state.of_members for state in State] == ["live", "suspect", "orphan", "unknown"] == list(MEMBER_STATES)
