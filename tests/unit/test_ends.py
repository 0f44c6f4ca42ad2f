"""Why a connection ended: which close counts, what an error means, and that no secret is written."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ops.compat import close_code
from ops.model.disconnects.cause import Cause, explain
from ops.model.disconnects.conclusions import (
    Seen,
    cause_in_redis,
    cause_of_exception,
    conclude,
    describe_exception,
)
from ops.model.disconnects.record import MAX_CHAIN, MAX_TEXT
from ops.model.text import without_secrets


def raised(error: BaseException, cause: BaseException | None = None) -> tuple[str, ...]:
    try:
        raise error from cause
    except BaseException as caught:
        return describe_exception(caught)


@pytest.mark.parametrize(
    ("chain", "cause"),
    [
        (
            raised(
                RedisConnectionError("Error UNKNOWN while writing to socket. Connection lost."),
                ConnectionResetError("Connection lost"),
            ),
            "redis_connection_lost",
        ),
        (raised(RedisConnectionError("Connection closed by server.")), "redis_connection_lost"),
        (
            raised(RedisConnectionError("Error 111 connecting to 127.0.0.1:1. Connect call failed")),
            "redis_connection_lost",
        ),
        (raised(RedisConnectionError("something new")), "redis_connection_lost"),
        (raised(RedisTimeoutError("Timeout reading from 127.0.0.1:6379")), "redis_timeout"),
        (raised(RuntimeError("cannot"), RedisTimeoutError("Timeout reading from x")), "redis_timeout"),
        (raised(ResponseError("WRONGTYPE Operation against a key")), "redis_error"),
        (raised(ValueError("No handler for message type a.b")), "no_handler"),
        (raised(ValueError("No")), "handler_exception"),
        # Of somebody else's connection.
        (raised(ConnectionResetError("Connection lost")), "handler_exception"),
        (raised(asyncio.TimeoutError("Timeout reading from the printer")), "handler_exception"),
    ],
)
def test_an_exception_has_its_cause(chain: tuple[str, ...], cause: str) -> None:
    assert cause_of_exception(chain) == cause
    assert (cause_in_redis(chain) is not None) == cause.startswith("redis_")


def test_each_cause_is_explained_and_reads_as_its_word() -> None:
    assert all(cause.words for cause in Cause)
    assert f"{Cause.NORMAL}" == str(Cause.NORMAL) == json.loads(json.dumps(Cause.NORMAL)) == "normal"
    assert explain("normal") == Cause.NORMAL.words
    assert explain("of another version") == ""


def test_a_chain_is_bounded_and_ends_where_it_bites_its_tail() -> None:
    error = ValueError("x" * 10_000)
    error.__cause__ = error
    assert [len(line) for line in describe_exception(error)] == [MAX_TEXT]
    for number in range(20):
        outer = ValueError(str(number))
        outer.__cause__ = error
        error = outer
    assert len(describe_exception(error)) == MAX_CHAIN


def test_a_context_that_was_hidden_stays_hidden() -> None:
    error = ValueError("outer")
    error.__context__, error.__suppress_context__ = KeyError("inner"), False
    assert describe_exception(error) == ("ValueError: outer", "KeyError: 'inner'")
    error.__suppress_context__ = True
    assert describe_exception(error) == ("ValueError: outer",)


class Rude(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_an_exception_that_cannot_be_shown_is_named() -> None:
    assert describe_exception(Rude())[0].endswith("Rude: ?")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://user:hunter2@host:1/0 is away", "redis://***@host:1/0 is away"),
        ("password=hunter2, x", "password=***, x"),
        ("{'api_key': 'hunter2'}", "{'api_key': ***}"),
        ("Token: hunter2", "Token: ***"),
        ("SECRET_KEY=hunter2", "SECRET_KEY=***"),
        ("AWS_SECRET_ACCESS_KEY='hunter2'", "AWS_SECRET_ACCESS_KEY=***"),
        ("private_key: hunter2", "private_key: ***"),
        ("privateKey: hunter2", "privateKey: ***"),
        ("api-key: hunter2", "api-key: ***"),
        ("key=hunter2&room=a", "key=***&room=a"),
        ("pass=hunter2", "pass=***"),
        ("DB_PASS=hunter2", "DB_PASS=***"),
        ("passphrase=hunter2", "passphrase=***"),
        ("{'password': b'hunter two'}", "{'password': ***}"),
        ("assert password == 'hunter two'", "assert password == ***"),
        ("symmetric_encryption_keys=['hunter2', 'another one']", "symmetric_encryption_keys=***"),
        ("error: secret=hunter2", "error: secret=***"),
        ("redis://:hun@ter2@host is away", "redis://***@host is away"),
        (
            "unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `default`, `hunt",
            "unknown command `HELLO`, with args beginning with: ***",
        ),
        ("redis://:hun@ter2@host/0, redis://host", "redis://***@host/0, redis://host"),
    ],
)
def test_credentials_are_taken_out(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "nothing here",
        "int is not allowed for map key when strict_map_key=True",
        "unpackb(strict_map_key=False, raw=None)",
        "KeyError: 'x'",
        "monkey=1",
        "db0:keys=3,expires=0",
        "no such key asgi:group:x",
        "compass=north, passed: 5, bypass=1",
        "Key (id)=(5) already exists",
        "https://example.org/@somebody is away",
    ],
)
def test_what_is_no_credential_stays(text: str) -> None:
    assert without_secrets(text) == text


@pytest.mark.parametrize(
    "piece", ["token", "_key", "key=", "key ", "key='", "token=[", "://", "://a@", "@", "pass: ", "a", " ", "=", "'\""]
)
def test_text_made_to_take_long_does_not(piece: str) -> None:
    """It would take minutes or hours if the time grew as the square of the length, or worse."""
    assert without_secrets(piece * 100_000)


def ended(
    *events: Any, asgi: Any = None, send_failed: bool = False, accepted: bool = True, **how: Any
) -> tuple[str, str, int | None]:
    seen = Seen(accepted=accepted, send_failed=send_failed)
    for event in events:
        if isinstance(event, dict):
            seen.client_left(close_code(event, asgi or {}))
        else:
            seen.application_closed(event)
    return *conclude(seen, **how), seen.code


def test_the_first_close_is_the_one_that_counts() -> None:
    assert ended(4001, {"code": 1000}) == ("closed_with_code", "application", 4001)
    assert ended({"code": 1001}, 4001) == ("going_away", "client", 1001)
    assert ended(None) == ("normal", "application", 1000)


def test_a_frame_without_a_code_is_told_from_no_frame() -> None:
    uvicorn = {"version": "3.0", "spec_version": "2.4"}
    assert ended({"code": 1005, "reason": ""}, asgi=uvicorn) == ("normal", "client", 1005)
    assert ended({"code": 1005}, asgi=uvicorn) == ("no_close_frame", "client", 1006)
    assert ended({"code": 1006, "reason": ""}, asgi=uvicorn) == ("no_close_frame", "client", 1006)
    daphne = {"version": "3.0"}
    assert ended({"code": None}, asgi=daphne) == ("normal", "client", 1005)
    assert ended({"code": 1006}, asgi=daphne) == ("no_close_frame", "client", 1006)


@pytest.mark.parametrize("version", ["2.0", "2.3", "", "x", 2, [], None])
def test_a_server_that_tells_no_frame_from_a_frame_says_nothing(version: Any) -> None:
    """Hypercorn has 1006 for each end by a client, Granian 1005 for cut connections too."""
    asgi = {"version": "3.0", "spec_version": version}
    if version is not None:
        for code in (1005, 1006):
            assert ended({"code": code}, asgi=asgi) == ("unknown", "unknown", None)
    assert ended({"code": 1005, "reason": "bye"}, asgi=asgi) == ("normal", "client", 1005)
    assert ended({"code": 1001}, asgi=asgi) == ("going_away", "client", 1001)
    assert ended({"code": 4001}, asgi=asgi) == ("closed_with_code", "client", 4001)


def test_what_the_server_refuses_is_its_own_doing() -> None:
    for code in (1002, 1007, 1009):
        assert ended({"code": code}) == ("protocol_error", "server", code)


def test_who_writes_to_a_client_that_left_did_not_end_the_connection() -> None:
    chain = ("app.Oops: x", "uvicorn.protocols.utils.ClientDisconnected: ")
    assert ended({"code": 1001}, chain=chain, send_failed=True) == ("going_away", "client", 1001)


def test_a_failed_send_tells_that_the_websocket_is_closed_and_not_how() -> None:
    assert ended(chain=("OSError: x",), send_failed=True) == ("unknown", "unknown", None)
    assert ended(send_failed=True) == ("unknown", "unknown", None)
    assert ended(cancelled=True, send_failed=True) == ("unknown", "unknown", None)


def test_other_ends() -> None:
    assert ended() == ("application_returned", "application", None)
    assert ended(cancelled=True) == ("shutdown_cancelled", "shutdown", None)
    assert ended(exited=True) == ("process_exit", "shutdown", None)
    assert ended({"code": 1012}) == ("service_restart", "shutdown", 1012)
    assert ended({"code": "x"}) == ("unknown", "unknown", None)
    assert ended({"code": 1000}, cancelled=True) == ("normal", "client", 1000)
    assert ended({"code": 1006}, cancelled=True, accepted=False) == ("no_close_frame", "unknown", 1006)
    assert ended({"code": 1000}, chain=("ValueError: x",)) == ("normal", "client", 1000)
    assert conclude(Seen(closed_by="application", code=1000)) == ("rejected", "application")
