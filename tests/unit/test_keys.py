"""Names and keys: what is built is parsed again, and what is shown harms nobody."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ops.model.keys import (
    Inbox,
    Keyspace,
    decode_name,
    encode_name,
    escape_glob,
    inbox_of,
    index_entry,
    parse_inbox,
    parse_index_entry,
)
from ops.model.text import visible

PROCESS = "0123456789abcdef" * 2
processes = st.text("0123456789abcdef", min_size=32, max_size=32)
any_text = st.text(st.characters(exclude_categories=()), max_size=20)
# Pieces that look alike once they are shown, when they are shown carelessly.
LOOKALIKES = (
    b"\x85 \xc2\x85 \xad \xc2\xad \xa0 \xc2\xa0 \\ x 85 u00 n \n \x1b 1b \xe2\x80\xae 202e \xed\xa0\x80 d800 ' \xc3\xa9"
).split(b" ")
pieces = st.lists(st.sampled_from(LOOKALIKES), max_size=6).map(b"".join)


# Names as text


@given(st.binary())
def test_a_name_from_redis_survives_the_way_through_text(raw: bytes) -> None:
    assert encode_name(decode_name(raw)) == raw


# Names as they are shown


@given(any_text | pieces.map(decode_name))
def test_what_is_shown_holds_nothing_that_a_terminal_acts_on(name: str) -> None:
    shown = visible(name)
    assert shown.isprintable()
    shown.encode("utf-8")
    for character in shown:
        assert unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
        assert character == " " or not character.isspace()


@given(pieces, pieces)
@example(b"\x85", b"\xc2\x85")
@example(b"\xad", b"\xc2\xad")
@example(b"\\x1b", b"\x1b")
def test_two_different_names_are_never_shown_alike(one: bytes, other: bytes) -> None:
    assume(one != other)
    assert visible(decode_name(one)) != visible(decode_name(other))


@given(any_text, any_text)
def test_two_different_texts_are_never_shown_alike(one: str, other: str) -> None:
    assume(one != other)
    assert visible(one) != visible(other)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("room.1", "room.1"),
        ("with space", "with space"),
        ("部屋-чат-é", "部屋-чат-é"),
        ("red\x1b[31m", "red\\x1b[31m"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("back\\slash", "back\\\\slash"),
        ("\u202eevil", "\\u202eevil"),
        ("zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\x9b", "\\u009b"),
        (decode_name(b"\x9b"), "\\x9b"),
        ("\U000e0041", "\\U000e0041"),
        ("", ""),
    ],
)
def test_names_are_shown_so(name: str, shown: str) -> None:
    assert visible(name) == shown


# Inboxes


@given(prefix=any_text.filter(lambda text: "!" not in text), process=processes, local=any_text)
def test_the_inbox_of_a_channel_names_its_process(prefix: str, process: str, local: str) -> None:
    expected = Inbox(f"{prefix}.{process}!", prefix, process)
    assert inbox_of(f"{prefix}.{process}!{local}") == expected
    assert parse_inbox(expected.name) == expected


@pytest.mark.parametrize(
    "channel",
    [
        "general",
        "",
        "!",
        f"specific.{PROCESS}",
        f"specific{PROCESS}!x",
        f"specific.{PROCESS[1:]}!x",
        f"specific.{PROCESS.upper()}!x",
        f"a!specific.{PROCESS}!x",
        f"specific.{PROCESS} !x",
        f"specific.{PROCESS}\n!x",
    ],
)
def test_other_channels_name_none(channel: str) -> None:
    assert inbox_of(channel) is None


@given(any_text)
def test_any_name_can_be_asked_for_its_inbox(name: str) -> None:
    inbox = inbox_of(name)
    assert inbox is None or (name.startswith(inbox.name) and inbox.name.count("!") == 1)


# Keys


@given(prefix=st.text(max_size=9), group=st.text(max_size=9))
def test_a_group_is_found_in_its_key(prefix: str, group: str) -> None:
    assume(prefix + group < "\ud800" or all(not 0xD800 <= ord(c) < 0xDC80 for c in prefix + group))
    assume(all(not 0xD800 <= ord(c) <= 0xDFFF for c in prefix + group))
    keyspace = Keyspace(prefix)
    key = keyspace.group(group)
    assert keyspace.group_name(key) == group
    assert key.startswith(keyspace.group_prefix)
    if ":" not in group:
        assert keyspace.is_group(key)
    assert keyspace.inbox_in_key(key) is None or "!" in group


def test_keys_are_those_of_channels_redis_and_our_own() -> None:
    keyspace = Keyspace("asgi")
    inbox = f"specific.{PROCESS}!"
    assert keyspace.group("room.1") == b"asgi:group:room.1"
    assert keyspace.inbox(inbox) == f"asgi{inbox}".encode()
    assert keyspace.inflight(inbox) == f"asgi{inbox}$inflight".encode()
    assert keyspace.suspects == b"asgi:ops:suspects"
    assert keyspace.looks == b"asgi:ops:looks"
    assert keyspace.seen == b"asgi:ops:seen"
    assert keyspace.runs == b"asgi:ops:runs"
    assert keyspace.run("id") == b"asgi:ops:run:id"
    assert keyspace.journal("id") == b"asgi:ops:journal:id"
    assert keyspace.lock == b"asgi:ops:lock"
    assert keyspace.kept == b"asgi:ops:kept"
    assert keyspace.aside("id", b"\xff") == b"asgi:ops:aside:id:\xff"
    assert keyspace.aside_pattern("id") == b"asgi:ops:aside:id:*"


@given(prefix=st.text("asgi:*?[]\\ü", max_size=6))
def test_the_keys_of_a_run_are_told_from_all_others(prefix: str) -> None:
    keyspace = Keyspace(prefix)
    inbox = keyspace.inbox(f"specific.{PROCESS}!")
    assert all(map(keyspace.is_of_a_run, (keyspace.run("x"), keyspace.journal("x"), keyspace.aside("x", inbox))))
    others = (keyspace.runs, keyspace.kept, keyspace.lock, keyspace.group("room"), inbox, b"sessions", b"")
    assert not any(map(keyspace.is_of_a_run, others))


@given(prefix=st.text("asgi:*?[]\\ü", max_size=6), process=processes)
def test_an_inbox_is_found_in_its_keys_and_in_no_other(prefix: str, process: str) -> None:
    keyspace = Keyspace(prefix)
    name = f"specific.{process}!"
    assert keyspace.inbox_in_key(keyspace.inbox(name)) == Inbox(name, "specific", process)
    assert keyspace.inbox_in_key(keyspace.inflight(name)) == Inbox(name, "specific", process)
    for key in (keyspace.aside("id", keyspace.inbox(name)), keyspace.group("room"), keyspace.lock, keyspace.run(name)):
        assert keyspace.inbox_in_key(key) is None


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"asgi:group:room", True),
        (b"asgi:group:room:1", True),
        (b"asgi:group:", True),
        (b"asgi:group", False),
        (b"asgi2:group:room", False),
        (b"asgi:group:group:room", False),
        (b"asgi:group:x:group:room", False),
    ],
)
def test_a_group_of_a_longer_prefix_is_none_of_ours(key: bytes, expected: bool) -> None:
    assert Keyspace("asgi").is_group(key) is expected


@given(st.binary(max_size=30))
def test_an_escaped_glob_has_no_special_character_left(raw: bytes) -> None:
    escaped = escape_glob(raw)
    position, plain = 0, b""
    while position < len(escaped):
        if escaped[position : position + 1] == b"\\":
            position += 1
        else:
            assert escaped[position : position + 1] not in b"*?[]\\"
        plain += escaped[position : position + 1]
        position += 1
    assert plain == raw


# The index of a process


@given(
    group=st.text("ab.-_1", min_size=1, max_size=20),
    local=st.uuids().map(lambda found: found.hex) | st.text("xyz", max_size=5),
    prefix=st.sampled_from(["specific", "other.app"]),
)
def test_a_membership_survives_the_way_through_the_index(group: str, local: str, prefix: str) -> None:
    channel = f"{prefix}.{PROCESS}!{local}"
    assert parse_index_entry(PROCESS, index_entry(group, channel)) == (group.encode(), channel.encode())


@given(st.binary(max_size=60))
def test_an_index_entry_of_any_bytes_names_a_channel_of_its_process_or_none(raw: bytes) -> None:
    found = parse_index_entry(PROCESS, raw)
    if found is not None:
        inbox = inbox_of(decode_name(found[1]))
        assert inbox is not None
        assert inbox.process == PROCESS
