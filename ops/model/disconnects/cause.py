"""Why a websocket ended: a word for each cause, what it means, and of which kind it is. Pure."""

from enum import Enum, auto

POP_SECONDS = 5.0
"""How long channels_redis waits for a message: ``RedisChannelLayer.brpop_timeout``."""


class CauseKind(Enum):
    """What is asked of a cause, wherever ends are counted."""

    ORDINARY = auto()  # nobody need worry
    CUT = auto()  # the network, or a client that did not answer
    FAULT = auto()  # of the application, or of what was sent to it
    REDIS_LOST = auto()
    REDIS_TIMEOUT = auto()
    STOPPED = auto()  # with its process, in order
    DIED = auto()  # with its process


class Cause(str, Enum):
    """What a record has as its ``cause``. A log may hold other words, of other versions: these are of no kind."""

    words: str
    kind: CauseKind

    NORMAL = "normal", CauseKind.ORDINARY, "closed as it should be: code 1000, or a close frame without a code (1005)"
    GOING_AWAY = "going_away", CauseKind.ORDINARY, "the page was left or the browser ended (1001)"
    CLOSED_WITH_CODE = "closed_with_code", CauseKind.ORDINARY, "closed with another code, which says why"
    NO_CLOSE_FRAME = "no_close_frame", CauseKind.CUT, "the TCP connection ended without a closing handshake (1006)"
    PROTOCOL_ERROR = (
        "protocol_error",
        CauseKind.FAULT,
        "what was sent broke the protocol, or was too big (1002, 1003, 1007-1010)",
    )
    SERVER_ERROR = "server_error", CauseKind.FAULT, "one side gave up: an error, or too much to do (1011, 1013, 1014)"
    HEARTBEAT_TIMEOUT = (
        "heartbeat_timeout",
        CauseKind.CUT,
        "the application closed it since it did not answer a heartbeat (4408)",
    )
    REJECTED = "rejected", CauseKind.FAULT, "closed before it was accepted"
    NO_ROUTE = "no_route", CauseKind.FAULT, "the handshake failed: no URL route fits its path"
    APPLICATION_RETURNED = (
        "application_returned",
        CauseKind.FAULT,
        "the consumer ended before the connection did, without an error",
    )
    HANDLER_EXCEPTION = "handler_exception", CauseKind.FAULT, "the application raised"
    NO_HANDLER = "no_handler", CauseKind.FAULT, "a message came whose type the consumer has no handler for"
    REDIS_CONNECTION_LOST = (
        "redis_connection_lost",
        CauseKind.REDIS_LOST,
        "Redis, or something between, closed the application's connection to it",
    )
    REDIS_TIMEOUT = (
        "redis_timeout",
        CauseKind.REDIS_TIMEOUT,
        "Redis did not answer in time; after 5 s: redis-py 8 and the stock layer",
    )
    REDIS_ERROR = "redis_error", CauseKind.REDIS_LOST, "Redis refused a command"
    SERVICE_RESTART = "service_restart", CauseKind.STOPPED, "the server said that it restarts (1012)"
    SHUTDOWN_CANCELLED = "shutdown_cancelled", CauseKind.STOPPED, "the server ended and cancelled the consumer"
    PROCESS_EXIT = (
        "process_exit",
        CauseKind.STOPPED,
        "the process ended while the connection was open, and disconnect never ran",
    )
    PROCESS_DIED = "process_died", CauseKind.DIED, "the process died without a word; its members were reaped"
    UNKNOWN = "unknown", CauseKind.ORDINARY, "what was known says nothing"

    def __new__(cls, word: str, kind: CauseKind, words: str) -> "Cause":
        one = str.__new__(cls, word)
        one._value_, one.kind, one.words = word, kind, words
        return one

    def __str__(self) -> str:
        return str(self.value)


def of_kind(*kinds: CauseKind) -> frozenset[str]:
    """The causes of these kinds."""
    return frozenset(cause for cause in Cause if cause.kind in kinds)


def explain(cause: str) -> str:
    """What ``cause`` means; empty if it is not known here."""
    return _WORDS.get(cause, "")


def is_five_second_race(seconds: float) -> bool:
    """Whether it is the time after which redis-py 8 gives up waiting, just as long as BZPOPMIN waits.

    A busy host adds to it.
    """
    return POP_SECONDS - 0.1 <= seconds <= POP_SECONDS + 0.6


_WORDS = {str(cause): cause.words for cause in Cause}
