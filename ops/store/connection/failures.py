"""Telling Redis' failures apart: their codes, which will pass, and which come from a server that is no master."""

import asyncio
import re

from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

_CODES = (
    (NoPermissionError, "NOPERM"),
    (BusyLoadingError, "LOADING"),
    (ReadOnlyError, "READONLY"),
    (OutOfMemoryError, "OOM"),
    (MovedError, "MOVED"),
    (AskError, "ASK"),
    (TryAgainError, "TRYAGAIN"),
    (ClusterCrossSlotError, "CROSSSLOT"),
    (ClusterDownError, "CLUSTERDOWN"),
    (MasterDownError, "MASTERDOWN"),
)
_CODE = re.compile(r"(?:^|script: -|^ERR .*: -)([A-Z][A-Z0-9]{2,20}) ")
_OWN_WORDS = (
    ("max number of clients", "ERR"),
    ("HELLO must be called", "NOAUTH"),
    ("Authentication required", "NOAUTH"),
    ("invalid username-password", "WRONGPASS"),
    ("invalid password", "WRONGPASS"),
    ("CERTIFICATE_VERIFY_FAILED", "CERTIFICATE_VERIFY_FAILED"),
    ("unknown command", "ERR"),
    ("non local key", "ERR"),
)


def code_of(error: BaseException) -> str:
    """The word with which the server refused, which redis-py takes away if it knows it; empty if nothing answered."""
    known = next((code for kind, code in _CODES if isinstance(error, kind)), None)
    if known is not None:
        return known
    said = str(error)
    own = next((code for words, code in _OWN_WORDS if words.lower() in said.lower()), None)
    if own is not None:
        return own
    found = _CODE.search(said)
    return found[1] if found else "ERR" if isinstance(error, ResponseError) else ""


GONE = (RedisConnectionError, RedisTimeoutError, OSError, asyncio.TimeoutError)
# Scripts quote the server's answer, and redis-py takes away the codes that it knows.
_PASSES = re.compile(
    r"(^|[\s-])(OOM|LOADING|UNBLOCKED|MASTERDOWN|CLUSTERDOWN|NOREPLICAS|MISCONF|BUSY|TRYAGAIN) "
    r"|used memory >|MASTER is down|cluster is down"
)
_READ_ONLY = re.compile(r"(^|[\s-])READONLY |read only replica")


def will_pass(error: BaseException) -> bool:
    """Whether ``error`` says that a server is away, full, or not the master just now, and so is worth another try."""
    if isinstance(error, ResponseError):
        return comes_from_a_replica(error) or _PASSES.search(str(error)) is not None
    return isinstance(error, GONE)


def comes_from_a_replica(error: BaseException) -> bool:
    """Whether ``error`` says that nothing was written, since the server that was asked is no master (any more)."""
    return isinstance(error, ResponseError) and _READ_ONLY.search(str(error)) is not None
