"""Which ends prove that a channel is gone."""

from __future__ import annotations

from dataclasses import replace

from ops.model.disconnects.record import UNTIMED, Disconnect, parse_json, to_json
from ops.model.liveness.recorded_ends import gone_channel

CHANNEL = f"specific.{'a' * 32}!{'b' * 32}"
END = Disconnect(
    1_795_608_000.25, "handler_exception", "application", channel=CHANNEL, consumer="chat.Consumer", groups=("room",)
)


def test_a_recorded_end_proves_its_channel_gone_up_to_its_time() -> None:
    assert gone_channel(END) == (CHANNEL.encode(), 1_795_608_000.251)


def test_what_joined_in_the_millisecond_of_the_end_joined_before_it() -> None:
    joined_at = ended_at = 1_795_608_000.2509
    read = parse_json(to_json(replace(END, at=ended_at)))
    assert read is not None
    assert read.at < joined_at
    proved = gone_channel(read)
    assert proved is not None
    assert proved[1] >= joined_at


def test_the_reapers_records_prove_nothing_since_an_undo_may_have_brought_its_members_back() -> None:
    assert gone_channel(replace(END, source="reaper", cause="process_died")) is None
    assert gone_channel(replace(END, cause="process_died")) is None


def test_without_a_channel_or_a_time_nothing_is_proved() -> None:
    assert gone_channel(replace(END, channel=None)) is None
    assert gone_channel(replace(END, at=UNTIMED)) is None
    assert gone_channel(replace(END, at=253402300799.0)) is None


def test_an_end_that_is_yet_to_come_proves_nothing_where_anybody_may_have_written_it() -> None:
    assert gone_channel(END, now=END.at - 3) == gone_channel(END, now=END.at + 1e6) == gone_channel(END)
    assert gone_channel(END, now=END.at - 60) is None


def test_a_general_channel_is_never_gone() -> None:
    assert gone_channel(replace(END, channel="thumbnails")) is None
    assert gone_channel(replace(END, channel="specific.x!y")) is None


def test_a_channel_that_no_consumer_waited_in_may_be_somebody_elses() -> None:
    """Of a middleware that listens for the whole process, say, and made it when the first websocket came."""
    assert gone_channel(replace(END, consumer=None)) is None
