"""Disconnect logs, log files and acknowledgements that somebody has damaged, or written to do harm."""

from __future__ import annotations

import asyncio
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import msgpack
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ops.operations.doctor import collect
from ops.store.disconnects import log as disconnect_log
from ops.store.groups.index import MOST_PARTS
from tests.in_process_commands import run_beside, run_here
from tests.integration.test_hostile_input import ANYTHING, HOSTILE, assert_harmless
from tests.layer_builders import ASGI, add_members, channels_of, members_of, new_process_name

LOGS = Path(__file__).resolve().parent.parent / "data" / "logs"
NAMES = [name.decode("utf-8", "backslashreplace") for name in HOSTILE]
LIVING = "a" * 32


class Drawn(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def assert_page_is_harmless(page: str) -> None:
    drawn = Drawn()
    drawn.feed(page)
    assert not drawn.tags & {"script", "img", "a", "iframe", "object", "link", "form", "base"}, drawn.tags
    assert not [name for name in drawn.attributes if name.startswith("on") or name in ("href", "src", "action")]
    assert not re.findall(r"[^\n\x20-\x7e\u00a1-\uffff]", page)


MOST_OF_IT = "could be read: what follows tells little"
NOT_PROVED = "proved nothing, since a client may have had it logged: clean up with the toolkit's own lines"


def is_said(line: str) -> bool:
    """Whether it is what a damaged log may have a command say."""
    return any(said in line for said in (MOST_OF_IT, NOT_PROVED, "lines of JSON were not understood"))


def read_everything(*sources: str, page: Path) -> None:
    """Each way in which records are read: shown, drawn, cleaned up, told on, examined."""
    runs = [
        ("replay_disconnects", *sources),
        ("replay_disconnects", "--format", "json", "--html", str(page), *sources),
        ("replay_disconnects", "--cleanup", *sources),
        ("replay_disconnects", "--emit", "nobody", "--force", "--speed", "max", "--dry-run", *sources),
    ]
    for argv in runs if sources else (*runs, ("channels_doctor", "--only", "ops.E401,ops.W403,ops.W404,ops.E412")):
        result = run_here(*argv)
        assert_harmless(argv, result)
        assert all(map(is_said, result.err.splitlines())), (argv, result)
        assert result.returncode in (0, 3) or (result.returncode == 1 and result.err), (argv, result)
        if "json" in argv:
            json.loads(result.out)
    assert_page_is_harmless(page.read_text())


SURROGATES = ["\ud800", "\udcff", *(f"specific.{'b' * 32}!{end}" for end in ("\ud800", "\udcff"))]
TEXTS = st.sampled_from(NAMES) | st.sampled_from(SURROGATES) | st.text(st.characters(), max_size=20)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, st.lists(TEXTS, max_size=4),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)  # fmt: skip
TIMES = (
    st.sampled_from(
        [
            "2026-11-25T14:00:00.000Z",
            "0001-01-01T00:00:00.000Z",
            "0001-01-01T00:00:00+14:00",
            "9999-12-31T23:59:59.999+14:00",
        ]
    )
    | VALUES
)
FIELDS = (
    "cause", "closed_by", "source", "lived_seconds", "code", "exception", "path", "consumer", "channel", "process",
    "host", "pid", "groups", "groups_omitted", "layer", "run_id", "dropped_before", "client", "user", "query",
)  # fmt: skip
RECORDS = st.builds(
    lambda at, rest: json.dumps({"schema_version": 1, "at": at, **rest}).encode(),
    TIMES,
    st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=12),
)
REAPED = st.builds(
    lambda run_id, at, removed: json.dumps({"run_id": run_id, "at": at, "removed": removed}).encode(),
    st.just("run") | VALUES,
    TIMES,
    st.dictionaries(TEXTS, st.integers(-5, 5) | VALUES, max_size=3) | VALUES | st.lists(st.lists(VALUES, max_size=2)),
)
ENTRIES = st.dictionaries(
    st.sampled_from([b"d", b"reaped", b"\xff", b""]), RECORDS | REAPED | ANYTHING, min_size=1, max_size=2
)
NO_POSITIONS = [
    b"99999999999999999999-0", b"0-18446744073709551616", b"18446744073709551615-18446744073709551615",
    "\u0663-\u0661".encode(), b"\xff", b"-", b"(1-1", b"$",
]  # fmt: skip
QUIETLY = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@QUIETLY
@given(
    entries=st.lists(ENTRIES, min_size=1, max_size=5),
    position=st.sampled_from([b"0-0", *NO_POSITIONS]),
)
def test_damaged_records_in_redis_are_passed_over(
    redis_client: redis.Redis,
    tmp_path_factory: pytest.TempPathFactory,
    entries: list[dict[bytes, bytes]],
    position: bytes,
) -> None:
    redis_client.flushdb()
    add_members(redis_client, "room", channels_of(LIVING, 2))
    before = members_of(redis_client, "room")
    redis_client.set(ASGI.cleaned, position)
    redis_client.rpush(ASGI.journal("run"), b"\xff", b"{}")
    for entry in entries:
        redis_client.xadd(ASGI.disconnects, entry)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect, "PROBE_TIMEOUT_SECONDS", 0.02)
        read_everything(page=tmp_path_factory.getbasetemp() / "page.html")
    resumed = run_here("replay_disconnects", "--cleanup", "--resume")
    assert_harmless((), resumed)
    assert resumed.returncode == (1 if MOST_OF_IT in resumed.err else 0), resumed
    assert members_of(redis_client, "room") == before


SOME_TIME = "2026-11-25T14:00:00.000Z"


@pytest.mark.parametrize("text", SURROGATES)
def test_lone_surrogates_are_passed_over_or_shown(redis_client: redis.Redis, tmp_path: Path, text: str) -> None:
    channel = f"specific.{LIVING}!{text}"
    ends: list[dict[str, object]] = [
        {"channel": channel, "groups": ["room"]},
        {"channel": f"specific.{LIVING}!a", "groups": [text]},
        {name: text for name in FIELDS if name not in ("exception", "groups")},
        {"exception": [text], "groups": [text]},
    ]
    lines = [json.dumps({"schema_version": 1, "at": SOME_TIME, **end}) for end in ends]
    reaped = [{"run_id": text, "removed": {}}, {"run_id": "run", "removed": {text: 2}}]
    for line in lines:
        redis_client.xadd(ASGI.disconnects, {"d": line})
    for entry in reaped:
        redis_client.xadd(ASGI.disconnects, {"reaped": json.dumps({"at": SOME_TIME, **entry})})
    file = tmp_path / "ends.jsonl"
    file.write_text("\n".join(lines))
    for sources in ((), (str(file),)):
        read_everything(*sources, page=tmp_path / "page.html")
        sent = run_here("replay_disconnects", "--emit", "nobody", "--force", "--speed", "max", *sources)
        assert (sent.returncode, sent.err) == (0, ""), sent


@pytest.mark.parametrize("removed", [[[1, 5]], [[None, 5]], ["ab"], {"a": True}, {"a": -5}, {"a": 10**400}])
def test_an_entry_of_the_reaper_with_other_counts_is_passed_over(
    redis_client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: object
) -> None:
    monkeypatch.setattr(disconnect_log, "MOST_REAPED", 5)
    entry = {"run_id": "run", "at": SOME_TIME, "removed": removed}
    redis_client.xadd(ASGI.disconnects, {"reaped": json.dumps(entry)})
    read_everything(page=tmp_path / "page.html")


REAL_LINES = [line for log in sorted(LOGS.glob("*.*")) for line in log.read_bytes().splitlines()[:60]]


PUT_IN = st.binary(max_size=12) | st.sampled_from([name[:200] for name in HOSTILE])


@st.composite
def damaged_lines(draw: st.DrawFn) -> bytes:
    """A real line with some of its bytes replaced, cut out or put in."""
    line = bytearray(draw(st.sampled_from(REAL_LINES)))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(line)))
        length = draw(st.integers(0, 12))
        line[start : start + length] = draw(PUT_IN)
    return bytes(line)


@QUIETLY
@given(lines=st.lists(damaged_lines() | RECORDS | ANYTHING, max_size=30), end=st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_damaged_log_files_are_read_as_far_as_they_can_be(
    redis_client: redis.Redis, tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], end: bytes
) -> None:
    redis_client.flushdb()
    add_members(redis_client, "room", channels_of(LIVING, 2))
    before = members_of(redis_client, "room")
    log = tmp_path_factory.getbasetemp() / "damaged.log"
    log.write_bytes(end.join(lines))
    read_everything(str(log), page=tmp_path_factory.getbasetemp() / "page.html")
    assert members_of(redis_client, "room") == before


def test_what_a_record_says_is_shown_and_neither_obeyed_nor_drawn(redis_client: redis.Redis, tmp_path: Path) -> None:
    for name in NAMES:
        texts = dict.fromkeys(("path", "consumer", "host", "client", "user", "query", "run_id", "layer"), name)
        record = {"schema_version": 1, "at": "2026-11-25T14:00:00.000Z", "cause": "error", "exception": [name], **texts}
        for _ in range(3):  # often enough for a pattern
            redis_client.xadd(ASGI.disconnects, {"d": json.dumps({**record, "channel": name, "groups": [name]})})
    read_everything(page=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "&lt;script&gt;" in page
    assert "<script>" not in page


# Acknowledgements

FORGED = [
    b"\xff", b"", b"\xc1", b"\x93\x01\xc3", msgpack.packb(None), msgpack.packb([1, True]),
    msgpack.packb([1, True, "text"]), msgpack.packb([1, True, None]), msgpack.packb([[], True, ["x"]]),
    msgpack.packb([1, "yes", {"a": 1}]), msgpack.packb([2**63, True, ["x"]]),
    msgpack.packb([1, True, [None, 5, b"\xff"]]), b"\x91" * 5000, b"\xdd\xff\xff\xff\xff",
    *(msgpack.packb([1, True, [name]]) for name in NAMES),
]  # fmt: skip


@pytest.mark.parametrize("how", ["entries", "another type", "deleted"])
async def test_forged_acknowledgements_answer_for_nobody(redis_client: redis.Redis, how: str) -> None:
    process = new_process_name()
    dead = channels_of(process, 3)
    add_members(redis_client, "room", dead)
    lease = {"renewed_at": str(time.time()), "lease_seconds": "60", "index_parts": "1", "heartbeats": "1"}
    redis_client.hset(ASGI.lease(process), mapping=lease)
    redis_client.zadd(ASGI.inbox(f"specific.{process}!"), {"a message": time.time()})
    heartbeat = asyncio.create_task(run_beside("send_heartbeat", "room", "--timeout", "0.5", "--format", "json"))
    while not (keys := redis_client.keys(ASGI.acknowledgements("*"))):
        assert not heartbeat.done(), heartbeat.result()
        await asyncio.sleep(0.005)
    if how == "entries":
        redis_client.rpush(keys[0], *FORGED, msgpack.packb([1, True, dead[:1]]))
    else:
        redis_client.delete(keys[0])
    if how == "another type":
        redis_client.set(keys[0], b"\xff")
    result = await heartbeat
    assert_harmless((how,), result)
    [group] = json.loads(result.out)["groups"]
    # Behind all that is forged comes one that is none, and it is read.
    assert group["answered"] == (1 if how == "entries" else 0)
    assert set(members_of(redis_client, "room")) == set(dead)


async def test_a_run_reads_no_more_of_an_index_than_anybody_can_have(redis_client: redis.Redis) -> None:
    process = new_process_name()
    add_members(redis_client, "room", channels_of(process, 3))
    lease = {"renewed_at": str(time.time() - 3600), "lease_seconds": "1", "index_parts": "999999999"}
    redis_client.hset(ASGI.lease(process), mapping=lease)
    redis_client.config_resetstat()
    argv = ("reap_stale", "--max-share", "1", "--confirm-after", "0.1", "--probe-timeout", "0.1", "--format", "json")
    runs = [await run_beside(*argv) for _ in range(3)]
    assert sum(json.loads(run.out)["removed"] for run in runs) == 3, runs
    assert members_of(redis_client, "room") == {}
    assert redis_client.info("commandstats")["cmdstat_lrange"]["calls"] < 2 * MOST_PARTS
