"""Compares what is in Redis, and what the sockets got, with what is true."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import msgpack
import redis

from chaos.actors import Client
from chaos.reapers import Reapers
from chaos.stage import CONFIRM_SECONDS, GROUPS, LEASE_SECONDS, PREFIX, Stage
from ops.model.keys import Keyspace

KEYSPACE = Keyspace(PREFIX)
SETTLE_WITHIN_SECONDS = 60.0
ANSWER_WITHIN_SECONDS = 15.0
TWICE_WITHIN_SECONDS = 1.0
NOTICED_WITHIN_SECONDS = 4.0  # by the client, after its consumer has died
AWAKE_WITHIN_SECONDS = 1.0  # until a process that goes on takes what waits for it
OTHER_RUN = 75


class Removed(NamedTuple):
    """A member, as a receipt has it. ``score``: when it had joined, by the clock of its host."""

    group: str
    channel: str
    score: float


@dataclass
class Checker:
    """Collects violations of the promise, each as a sentence."""

    stage: Stage
    reapers: Reapers
    violations: list[str] = field(default_factory=list)
    members_checked: int = 0
    removed: int = 0
    undone: int = 0
    broadcasts: int = 0
    accepted: set[tuple[str, str]] = field(default_factory=set)  # documented losses: channel and group
    _noted: dict[str, set[Removed]] = field(default_factory=dict)  # by run
    _judged: dict[str, set[Removed]] = field(default_factory=dict)
    _to_undo: set[str] = field(default_factory=set)
    _undone: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stage.note_receipts = self.note_receipts

    async def check(self) -> None:
        """After the dust has settled: everybody who is there can be reached, and nobody else is a member."""
        await self._check_receipts()
        await self._undo()
        await asyncio.gather(*(self.stage.settle_doubts(client) for client in self._clients()))
        if self.stage.evictions:
            await asyncio.to_thread(self._forgive_evictions)
        deadline = time.monotonic() + SETTLE_WITHIN_SECONDS
        # There is nothing to be woken by: others change what is in Redis.
        while (wrong := await asyncio.to_thread(self._wrong_members)) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        for what, channel, group in wrong:
            self.violations.append(
                f"{what}: {channel} in {group} {await asyncio.to_thread(self._about, channel, group)}"
            )
        self.members_checked += sum(len(client.groups) for client in self._clients())
        await self._check_broadcast()
        self._check_closed()
        await self._check_receipts()  # Some came meanwhile.
        for found in (self.stage.unexpected, self.reapers.unexpected):
            self.violations += found
            found.clear()

    def _clients(self) -> list[Client]:
        return [client for client in self.stage.open_clients if client.actor.running and not client.actor.lost]

    def _in_redis(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = defaultdict(set)
        for shard in self.stage.shards:
            with redis.Redis.from_url(shard.url) as client:
                for key in client.scan_iter(KEYSPACE.groups_pattern()):
                    found[KEYSPACE.group_name(key)] |= {raw.decode() for raw in client.zrange(key, 0, -1)}
        return found

    def _forgive_evictions(self) -> None:
        """Redis may have evicted whole groups; the stock layer does not restore them. A removal has a receipt."""
        self.note_receipts()
        removed = {member[:2] for members in self._noted.values() for member in members}
        found = self._in_redis()
        for client in self._clients():
            channel = client.socket.channel
            client.groups -= {
                group for group in client.groups if channel not in found[group] and (group, channel) not in removed
            }

    def _wrong_members(self) -> list[tuple[str, str, str]]:
        """What is wrong, with which channel, in which group."""
        found, clients = self._in_redis(), self._clients()
        wrong = [
            ("the member of an open socket is gone", client.socket.channel, group)
            for client in clients
            for group in client.groups - client.doubtful
            if client.socket.channel not in found[group]
        ]
        expected: dict[str, set[str]] = defaultdict(set)
        for client in clients:
            for group in client.groups | client.doubtful:
                expected[group].add(client.socket.channel)
        documented = {
            client.socket.channel
            for client in self.stage.clients
            if not client.socket.is_open and (client.may_have_left_members or client.may_be_unknown_for_ever)
        }
        for group, members in found.items():
            orphans = members - expected[group]
            wrong += [("an orphan stays", channel, group) for channel in orphans - documented]
            self.accepted |= {(channel, group) for channel in orphans & documented}
        return wrong

    def _about(self, channel: str, group: str) -> str:
        """What helps to find out why."""
        client = next((client for client in self.stage.clients if client.socket.channel == channel), None)
        known = "a socket that nobody knows of"
        if client is not None:
            state = "open" if client.socket.is_open else f"closed with {client.socket.close_code}"
            known = f"{client.actor.name}, {state}, closed by us: {client.closed_by_us}, in {sorted(client.groups)}"
        seen = []
        for index, shard in enumerate(self.stage.shards):
            with redis.Redis.from_url(shard.url) as redis_client:
                score = redis_client.zscore(KEYSPACE.group(group), channel)
                ends = [
                    (at.decode(), fields)
                    for at, fields in redis_client.xrange(KEYSPACE.disconnects)
                    if channel.encode() in b" ".join(fields.values())
                ]
                seen.append(f"shard {index}: score {score}, ends {ends}")
        self.note_receipts()
        runs = [run_id for run_id, members in self._noted.items() if (group, channel) in {m[:2] for m in members}]
        return f"({known}; {'; '.join(seen)}; removed by {runs}, undone {self._undone})"

    def _check_closed(self) -> None:
        """No socket is closed as long as its worker lives, whatever happens to Redis; of a stock worker, if nothing."""
        for client in self.stage.clients:
            actor, closed_at = client.actor, client.socket.closed_at
            until = actor.ended_at if actor.drop_in else min(actor.ended_at, actor.lost_at)
            if closed_at < until and not client.closed_by_us and not client.reported:
                client.reported = True
                code = client.socket.close_code
                self.violations.append(f"a socket of {actor.name} was closed with {code}, and its worker lived")

    def note_receipts(self) -> None:
        """Before a shard loses them, if it does."""
        for run_id, members in self._read_receipts().items():
            if len(set(members)) != len(members):
                self.violations.append(f"run {run_id} has two receipts for one member")
            self._noted.setdefault(run_id, set()).update(members)

    async def _check_receipts(self) -> None:
        """Each removal has one receipt, reports say what receipts say, and none is of a member that was live."""
        # Those of runs that end meanwhile are for the next time.
        reports, self.reapers.reports = self.reapers.reports, {}
        await asyncio.to_thread(self.note_receipts)
        clients = {client.socket.channel: client for client in self.stage.clients}
        for run_id, noted in self._noted.items():
            judged = self._judged.setdefault(run_id, set())
            for member in noted - judged:
                self._check_removal(run_id, member, clients.get(member.channel), reports.get(run_id, {}))
            self.removed += len(noted - judged)
            judged |= noted
        for run_id, report in reports.items():
            receipts = len(self._noted.get(run_id, ()))
            as_said = report["removed"] == receipts if report["complete"] else report["removed"] <= receipts
            if not as_said and not self.stage.data_lost:
                self.violations.append(
                    f"run {run_id} says that it removed {report['removed']}, its receipts {receipts}"
                )
            if "started_at" in report:  # of `reap_stale`
                self._check_states(report)

    def _check_removal(self, run_id: str, member: Removed, client: Client | None, report: dict[str, Any]) -> None:
        if client is None:
            return
        actor = client.actor
        # The run's id begins with the time of its probes, to the second.
        at = self.stage.really(time.mktime(time.strptime(run_id[:16], "%Y%m%dT%H%M%SZ")) - time.timezone)
        if client.socket.closed_at < at + NOTICED_WITHIN_SECONDS or actor.lost_at < at + 1:
            return
        silences = actor.silences_at(at - AWAKE_WITHIN_SECONDS, at + 3)
        long_enough = [silence for silence in silences if silence.seconds >= CONFIRM_SECONDS - 1]
        joined_at = member.score - actor.role.skew_seconds
        removal = f"run {run_id} removed {member.channel} of {actor.name} from {member.group}"
        if actor.reads_otherwise and at < actor.ended_at:
            self.violations.append(f"{removal}, which could not be asked")
        elif not long_enough:
            longest = max((silence.seconds for silence in silences), default=0.0)
            self.violations.append(
                f"{removal}, and its process was silent for no more than {longest:.1f} s; it "
                f"was said that it {_evidence(report, client.process)}"
            )
        elif (late := joined_at - max(silence.end for silence in long_enough)) > 0:
            self.violations.append(f"{removal}, which it joined {late:.1f} s after its process woke up")
        elif not actor.drop_in and client.socket.is_open and actor.running and not actor.lost:
            self._to_undo.add(run_id)

    def _check_states(self, report: dict[str, Any]) -> None:
        """Who was frozen all through a run is not live. (With a lease it may be, until that has lapsed.)"""
        start = self.stage.really(datetime.fromisoformat(report["started_at"].replace("Z", "+00:00")).timestamp())
        end = start + report["duration_seconds"]
        live = {seen["process"] for seen in report["processes"] if seen["state"] == "live"}
        for client in self.stage.open_clients:
            actor = client.actor
            told = LEASE_SECONDS if actor.role.has_lease else 0.0  # until then it may be taken for live
            frozen = [one for one in actor.silences if one.frozen and one.start + told < start - 1 and one.end > end]
            # An inbox that was evicted, or expired with the clock, and the probe in it looks like one that was read.
            losses = [*self.stage.evictions, *(while_ for _, while_ in self.stage.set_clocks)]
            lost = any(one.start < end + 1 and one.end > start - 1 for one in losses)
            if frozen and not actor.drop_in and client.process in live and not lost:
                live.remove(client.process)
                self.violations.append(
                    f"run {report['run_id']} took {actor.name} for live, which had been frozen for "
                    f"{start - frozen[0].start:.1f} s, and was for {frozen[0].end - end:.1f} s afterwards; evictions "
                    f"{[(one.start - start, one.end - start) for one in self.stage.evictions]}; it says that it "
                    f"{_evidence(report, client.process)}"
                )

    async def _undo(self) -> None:
        """A stock worker that was silent for too long cannot put its members back: that is what `--undo` is for.

        Whose socket has ended since is put back too, and cleaned up after as the log of ends says.
        """
        undone = bool(self._to_undo)
        while self._to_undo:
            run_id = self._to_undo.pop()
            self.undone += await self._run("reap_stale", "--undo", run_id)
            self._undone.append(run_id)
        if undone:
            await self._run("replay_disconnects", "--cleanup")
        for actor in self.stage.actors:
            actor.waits_for_undo = False

    async def _run(self, *words: str) -> bool:
        """Once no other run is at work. What it should undo is gone where Redis lost its data."""
        code, deadline = OTHER_RUN, time.monotonic() + SETTLE_WITHIN_SECONDS
        while code == OTHER_RUN and time.monotonic() < deadline:
            _, err, code = await self.reapers.command(self.stage.reaper_proxies[0], *words)
        if code != 0 and not self.stage.data_lost:
            self.violations.append(f"{' '.join(words)} ended with {code}: {err}")
        return code == 0

    def _read_receipts(self) -> dict[str, list[Removed]]:
        """For each run, what it says that it removed."""
        found: dict[str, list[Removed]] = defaultdict(list)
        prefix = KEYSPACE.journal("")
        for shard in self.stage.shards:
            with redis.Redis.from_url(shard.url) as client:
                for key in client.scan_iter(prefix + b"*"):
                    for raw in client.lrange(key, 0, -1):
                        groups, scores = msgpack.unpackb(raw, raw=True)
                        names = [
                            (KEYSPACE.group_name(group), channel.decode())
                            for group, channels in groups
                            for channel in channels
                        ]
                        run_id = key[len(prefix) :].decode()
                        found[run_id] += [Removed(*name, score) for name, score in zip(names, scores, strict=True)]
        return found

    async def _check_broadcast(self) -> None:
        """Each open socket gets a last message to each of its groups, once."""
        said = {group: await self._say_something(group) for group in GROUPS}
        wanted = [
            (client, said[group])
            for client in self._clients()
            for group in client.groups & set(GROUPS) - client.doubtful
            if said[group] is not None
        ]
        await self._until(lambda: all(text in client.socket.texts for client, text in wanted if client.socket.is_open))
        await asyncio.sleep(TWICE_WITHIN_SECONDS)  # for what should not come
        for client, text in wanted:
            got = sum(message.get("text") == text for message in client.socket.received)
            if got != 1 and client.socket.is_open:
                self.violations.append(f"{client.socket.channel} of {client.actor.name} got {text!r} {got} times")

    async def _say_something(self, group: str) -> str | None:
        """A text that a member of some group has sent to this one, for certain."""
        self.broadcasts += 1
        text = f"{self.broadcasts} to {group}"
        # Not from a host whose clock is wrong: its messages count as expired, or make others expire.
        speaker = self.stage.random.choice([client for client in self._clients() if not client.actor.role.skew_seconds])
        with contextlib.suppress(Exception):
            await speaker.socket.send({"say": text, "group": group})
        if await self._was_said(speaker, text):
            return text
        self.violations.append(f"{speaker.socket.channel} of {speaker.actor.name} cannot send to {group}")
        return None

    async def _was_said(self, speaker: Client, text: str) -> bool:
        received = speaker.socket.received
        failures = sum(message["type"] == "failed" for message in received)
        done = {"type": "said", "said": text}
        await self._until(lambda: done in received or sum(m["type"] == "failed" for m in received) > failures)
        return done in received

    async def _until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + ANSWER_WITHIN_SECONDS
        while time.monotonic() < deadline and not condition():  # noqa: ASYNC110  # of any kind
            await asyncio.sleep(0.05)


def _evidence(report: dict[str, Any], process: str) -> str:
    """The evidence that the run reported about the process, if it was not killed before."""
    told = [seen["evidence"] for seen in report.get("processes", ()) if seen["process"] == process]
    return "; ".join(told[0]) if told else "(the run did not tell)"
