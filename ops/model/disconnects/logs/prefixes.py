"""What stands before a line: a log handler's time and level, and what Docker, journald or another shipper put there.

There is no list of shippers. Wherever a server's own words begin in a line, all before them is its prefix; and what
stood before one line of a stream stands, with another time, before every line of it. Pure.
"""

import re
from dataclasses import dataclass
from datetime import tzinfo
from functools import lru_cache

from ops.model.disconnects.logs.lines import LONGEST_PREFIX
from ops.model.disconnects.logs.times import TIME, iso_seconds

MOST_PREFIXES = 4
MOST_SHAPES = 32
MOST_WORDS = 10
EMPTY_ENDS = frozenset("|:]-FPZ0123456789")
"""A shipper's prefix ends so, without its last blank."""

_ISO_STAMP = re.compile(r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?(Z|[+-]\d\d:?\d\d)?[ \t]")
_SYSLOG_STAMP = re.compile(r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d ")
_SYSLOG_TAG = re.compile(r"[\w.-]{1,255} [\w./@-]{1,64}\[\d{1,10}\]: ?")
_LEVEL_NAMES = "DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL"
_LEVEL = re.compile(rf"\[?(?:{_LEVEL_NAMES})\]?:?\s{{1,8}}")
_LOGGER_NAME = re.compile(r"[\w.]{1,100}: ")
_ANY_LEVEL = re.compile(rf"(?<![\w.])(?:{_LEVEL_NAMES})(?!\w)")
_HANDLED = re.compile(
    rf"(?<![\w.])(?:{_LEVEL_NAMES})(?!\w)|\d{{4}}-\d\d-\d\d \d\d:\d\d|\d\d/[A-Z][a-z]{{2}}/\d{{4}}[ :]\d\d:"
)
_HANDLED_WITHIN = 120

_VARYING = re.compile(
    rf"{TIME}|(?P<output>\bstd(?:out|err)\b(?: [FP]\b)?)"
    r'|(?P<priority><\d{1,3}>)|(?P<sequence>sequenceId="\d{1,20}")',
    re.ASCII,
)
_MARKS = {"handler": "\x01", "output": "\x02", "priority": "\x03", "sequence": "\x04"}
_TIME_MARK = "\x00"
_ANY_TIME = "(?:" + re.sub(r"\?P<\w+>", "?:", TIME) + ")"
_PATTERNS = {"output": r"std(?:out|err)(?: [FP])?", "priority": r"<\d{1,3}>", "sequence": r'sequenceId="\d{1,20}"'}

_PID = re.compile(r"\[(\d{1,7})\]|(?<=\s)(\d{1,7})(?=\s)", re.ASCII)
_HOST = re.compile(
    r"(?:\x03\d )?\x00 (?P<syslog>[\w.-]{1,255}) [^\s\[]{1,64}(?:\[\d{1,10}\]:? |: | \d{1,10} )"
    r"|(?:\x00 )?\w{1,64}\[(?P<dyno>[A-Za-z][\w.-]{0,100})\]: "
    r"|(?P<container>[\w.-]{1,255}) {1,64}\| "
    r"|\[pod/(?P<pod>[\w.-]{1,255})/",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Stamped:
    """A line without what a log handler, Docker or journald put before it. ``at``: unix seconds, None if not said.

    ``logged``: it begins as the line of a log handler does, with a time or a level.
    """

    text: str
    at: float | None = None
    logged: bool = False


def split_stamp(line: str, zone: tzinfo) -> Stamped:
    """``line`` without the prefixes that leave no doubt; a time that says no zone is one of ``zone``.

    What it takes off before one of the toolkit's own records leaves that a proof: nothing may be added here that a
    client could have written.
    """
    at, logged = None, False
    for _ in range(MOST_PREFIXES):
        if (stamp := _ISO_STAMP.match(line)) is not None:
            at = iso_seconds(stamp, zone)
            logged = logged or line[10] == " "  # as a log handler writes it; Docker and journald put a T
            line = line[stamp.end() :]
        elif (syslog := _SYSLOG_STAMP.match(line)) is not None:
            line = line[syslog.end() :]
        elif (tag := _SYSLOG_TAG.match(line)) is not None:
            line = line[tag.end() :]
        else:
            break
    if (level := _LEVEL.match(line)) is not None:
        logged, line = True, line[level.end() :]
        if (name := _LOGGER_NAME.match(line)) is not None:
            line = line[name.end() :]
    return Stamped(line, at, logged=logged)


def looks_logged(text: str) -> bool:
    """Whether a log handler of anybody's wrote the line: it has a level, or a date as handlers write it."""
    return _HANDLED.search(text, 0, _HANDLED_WITHIN) is not None


def key_of(prefix: str) -> str:
    """``prefix`` with a mark for whatever differs from line to line: the same for all lines of a stream."""
    return _VARYING.sub(lambda found: _MARKS.get(str(found.lastgroup), _TIME_MARK), prefix) if prefix else ""


@lru_cache(maxsize=4096)
def place_of(key: str) -> tuple[str | None, int | None]:
    """The host or container and the process that a prefix names; None if it does not."""
    pid = _PID.search(key)
    host = _HOST.match(key)
    return (
        None if host is None else host["syslog"] or host["dyno"] or host["container"] or host["pod"],
        None if pid is None else int(pid[1] or pid[2]),
    )


def is_shippers(prefix: str) -> bool:
    """Whether a shipper of lines may have written ``prefix``, and no log handler did.

    A client may have: what comes after it is counted, and proves nothing.
    """
    key = key_of(prefix)
    words = key.split(" ")
    if not prefix.endswith((" ", "\t")) or len(words) > MOST_WORDS + 1 or "\x01" in key or _ANY_LEVEL.search(key):
        return False
    last = key.split()[-1:] or [""]
    return last[0].endswith(("|", "]:", "]", "-", _TIME_MARK, "\x02")) or _is_syslogs(key.split())


def _is_syslogs(words: list[str]) -> bool:
    """A time, a host and a tag without a process."""
    return len(words) == 3 and words[0].endswith(_TIME_MARK) and words[2].endswith(":")


class Prefixes:
    """The prefixes that were seen before a server's own words, newest last; times and numbers in them may differ."""

    def __init__(self) -> None:
        self._shapes: dict[str, re.Pattern[str]] = {}
        self._ordered: list[re.Pattern[str]] = []
        self._tried: tuple[str, re.Pattern[str]] | None = None

    def split(self, line: str) -> int:
        """How long the prefix of ``line`` is, as far as it is known."""
        if self._tried is not None:
            self._confirm(line)
        for shape in self._ordered:
            if (found := shape.match(line)) is not None:
                return found.end()
        return 0

    def learn(self, prefix: str) -> None:
        """It stands before every line of its stream."""
        if prefix.strip() and len(prefix) <= LONGEST_PREFIX:
            self._add(*_shape(prefix))

    def try_out(self, prefix: str) -> None:
        """It may stand before every line: the next line, if it is indented behind it, says so."""
        if prefix.strip() and len(prefix) <= LONGEST_PREFIX:
            self._tried = _shape(prefix)

    def _confirm(self, line: str) -> None:
        assert self._tried is not None
        name, shape = self._tried
        self._tried = None
        if (found := shape.match(line)) is not None and line[found.end() : found.end() + 1] in (" ", "\t"):
            self._add(name, shape)

    def _add(self, name: str, shape: "re.Pattern[str]") -> None:
        if name not in self._shapes:
            self._shapes[name] = shape
            if len(self._shapes) > MOST_SHAPES:
                del self._shapes[next(iter(self._shapes))]
            self._ordered = sorted(self._shapes.values(), key=lambda one: -len(one.pattern))


def _shape(prefix: str) -> "tuple[str, re.Pattern[str]]":
    """A pattern for ``prefix`` with other times and numbers. A line that is empty after it may lack its last blanks."""
    bare = prefix.rstrip(" ")
    parts: list[str] = []
    end = 0
    for found in _VARYING.finditer(bare):
        parts.append(_literal(bare[end : found.start()]))
        parts.append(_PATTERNS.get(str(found.lastgroup), _ANY_TIME))
        end = found.end()
    parts.append(_literal(bare[end:]))
    blanks = len(prefix) - len(bare)
    pattern = "".join(parts) + (f"(?: {{{blanks}}}|$)" if blanks else "")
    return pattern, re.compile(pattern, re.ASCII)


def _literal(text: str) -> str:
    parts = re.split("([0-9]+)", text)
    return "".join(r"\d{1,20}" if number % 2 else re.escape(part) for number, part in enumerate(parts))
