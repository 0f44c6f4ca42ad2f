"""The second promise: a run that is killed at any moment has removed nothing without its receipt.

Each write to Redis is tried as the moment of death, on a layer of two shards. The dead processes are names which nobody
answers to, the living one receives in this process: no servers are needed here, and so there is time for more than a
hundred deaths. They happen in lanes, side by side, since a run mostly waits.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import typing
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

import pytest
import redis
from channels_redis.core import RedisChannelLayer

from ops.layers import RedisChannelLayer as DropInLayer
from ops.model.keys import Keyspace
from ops.store.connection.scripts import script
from ops.store.liveness.leases import describe_process, renew_lease
from ops.store.removal.journal import parse_receipt
from ops.store.removal.locks import LOCK_SECONDS
from project.embedded_redis import EmbeddedRedis
from tests.acceptance.interrupted_command import Ended, Interrupt, Interruptible, When
from tests.conftest import StartRedis
from tests.waiting import until

LANES = 6
DONE_IN_A_ROW = 4  # who dies no more has come to the end; lanes differ by a write or two
DEAD_PROCESSES = 3
MEMBERS_OF_EACH = (150, 60, 3)
"""In the groups of one shard, of each dead process: enough for several calls of the script that removes them."""
CHANNELS_WITH_LEASE = 25
GENERAL = "a-general-channel"
SENT_AT = 9e9  # in the future, since an undo does not put back messages that have expired
LONG_AGO_SECONDS = 100  # longer than the confirm time, shorter than a suspicion is remembered
LOOKS = 3
REAP = ("reap_stale", "--format", "json", "--probe-timeout", "0.3")
PATIENT = ("--probe-timeout", "5")
SAFETY_STOP, LOCKED = 3, 75
RUN_ENDED, RUN_UNDONE = '{"removed"', "undone_at"
"""Words of the write that records it."""

Membership = tuple[str, str, float]
"""Group, channel and score."""

# All at one moment: what is in the groups, and what the receipts say.
SNAPSHOT = """
local groups, receipts = {}, {}
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. ':group:*')) do
    groups[#groups + 1] = {key, redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')}
end
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. ':ops:journal:*')) do
    for _, receipt in ipairs(redis.call('LRANGE', key, 0, -1)) do
        receipts[#receipts + 1] = {key, receipt}
    end
end
return {groups, receipts}
"""


class Lane:
    """One layer under a prefix of its own, with members of dead processes, of a living one, and of none."""

    def __init__(self, prefix: str, servers: list[EmbeddedRedis], commands: Interruptible) -> None:
        self.prefix = prefix
        self.commands = commands
        self._hosts = [{"address": server.url, "socket_timeout": None} for server in servers]
        self.layer = RedisChannelLayer(hosts=self._hosts, prefix=prefix)
        self._clients: list[Any] = [redis.Redis.from_url(server.url) for server in servers]
        self._saved: list[dict[bytes, bytes]] = []
        self.doomed: set[Membership] = set()
        self.others: set[Membership] = set()
        self.messages: dict[bytes, bytes] = {}
        self._lock_seen = False

    # What there is

    async def populate(self) -> None:
        """Fill the groups, let one run suspect the dead, and make that long ago."""
        self._receiving = asyncio.create_task(self._receive())
        processes = [uuid4().hex for _ in range(DEAD_PROCESSES)]
        for group, size in zip(self._groups(), itertools.cycle(MEMBERS_OF_EACH), strict=False):
            shard = self._clients[self.layer.consistent_hash(group)]
            dead = {f"specific.{process}!{uuid4().hex}": 1e9 + n / 7 for process in processes for n in range(size)}
            shard.zadd(f"{self.prefix}:group:{group}", {**dead, GENERAL: 5.5})
            self.doomed |= {(group, channel, score) for channel, score in dead.items()}
            await self.layer.group_add(group, await self.layer.new_channel())
        self.others = self.present() - self.doomed
        processes.append(await self._populate_with_lease())
        self.doomed = self.present() - self.others
        for process in processes:
            self._leave_messages(f"specific.{process}!")
        await self.reap()
        self._make_suspicions_old()
        self.save()

    async def _populate_with_lease(self) -> str:
        """One more dead process: it had the drop-in layer, and so it left an index and a lease that nobody renews."""
        layer = DropInLayer(hosts=self._hosts, prefix=self.prefix)
        for group in {group for group, _, _ in self.others}:
            for _ in range(CHANNELS_WITH_LEASE):
                await layer.group_add(group, await layer.new_channel())
        said = {**describe_process(layer, 0.001, ""), "index_parts": str(layer.memberships.index_parts)}
        for index in range(layer.ring_size):
            await renew_lease(layer.connection(index), Keyspace(self.prefix), layer.client_prefix, said, 86400)
        await layer.close_pools()
        return str(layer.client_prefix)

    async def _receive(self) -> None:
        channel = await self.layer.new_channel()
        while True:
            await self.layer.receive(channel)

    def _groups(self) -> Iterator[str]:
        """As many names on each shard as there are sizes, in an order in which the shards alternate."""
        for _ in MEMBERS_OF_EACH:
            for shard in range(len(self._clients)):
                yield next(
                    name
                    for name in (f"group-{uuid4().hex[:8]}" for _ in itertools.count())
                    if self.layer.consistent_hash(name) == shard
                )

    def _leave_messages(self, inbox: str) -> None:
        shard = self._clients[self.layer.consistent_hash(inbox)]
        for suffix in ("", "$inflight"):
            key = f"{self.prefix}{inbox}{suffix}".encode()
            message = self.layer.serialize({"type": "room.message", "__asgi_channel__": f"{inbox}{uuid4().hex}"})
            shard.zadd(key, {message: SENT_AT})
            self.messages[key] = message

    def _make_suspicions_old(self) -> None:
        """As if the dead had been found silent often and for long: the next look makes it certain."""
        key = f"{self.prefix}:ops:suspects"
        for process, raw in self._clients[0].hgetall(key).items():
            suspicion = json.loads(raw)
            for moment in ("since", "renewed_at"):
                suspicion[moment] -= LONG_AGO_SECONDS
                suspicion[f"{moment}_boot"][1] -= LONG_AGO_SECONDS
            suspicion["looks"] = LOOKS
            self._clients[0].hset(key, process, json.dumps(suspicion))
        for client in self._clients:  # and as if the leases had been renewed before that
            for lease in client.keys(f"{self.prefix}:ops:lease:*"):
                client.hset(lease, "renewed_at", f"{float(client.hget(lease, 'renewed_at')) - LONG_AGO_SECONDS:.6f}")
        # On a busy machine the living one may have been too slow to answer.
        self._clients[0].hdel(key, self.layer.client_prefix)

    def save(self) -> None:
        self._saved = [{key: client.dump(key) for key in self._keys(client)} for client in self._clients]

    def restore(self) -> None:
        """Everything as it was when it was saved."""
        for client, saved in zip(self._clients, self._saved, strict=True):
            if keys := self._keys(client):
                client.delete(*keys)
            for key, dumped in saved.items():
                client.restore(key, 0, dumped)

    def _keys(self, client: Any) -> list[bytes]:
        return list(client.scan_iter(f"{self.prefix}*", count=1000))

    def _snapshots(self) -> Iterator[tuple[set[Membership], list[tuple[str, Membership]]]]:
        for client in self._clients:
            groups, receipts = client.eval(SNAPSHOT, 0, self.prefix)
            present = {
                (self._group(key), channel.decode(), float(score))
                for key, flat in groups
                for channel, score in zip(flat[0::2], flat[1::2], strict=True)
            }
            yield (
                present,
                [
                    (key.decode().rpartition(":")[2], (self._group(group), channel.decode(), score))
                    for key, receipt in receipts
                    for group, channels, scores in parse_receipt(receipt)
                    for channel, score in zip(channels, scores, strict=True)
                ],
            )

    def _group(self, key: bytes) -> str:
        return key.decode().removeprefix(f"{self.prefix}:group:")

    def present(self) -> set[Membership]:
        return {membership for present, _ in self._snapshots() for membership in present}

    def receipts(self, run_id: str) -> set[Membership]:
        return {membership for _, receipts in self._snapshots() for run, membership in receipts if run == run_id}

    def runs_with_receipts(self) -> set[str]:
        return {run_id for _, receipts in self._snapshots() for run_id, _ in receipts}

    # What may be done

    async def reap(self) -> dict[str, Any]:
        """A run that nothing disturbs."""
        report = json.loads((await self._finished(*REAP)).out)
        assert report["complete"]
        assert report["stopped"] is None
        return dict(report)

    async def _finished(self, *argv: str, interrupt: Interrupt | None = None, broken: bool = False) -> Ended:
        """On a machine so busy that the reaper's own probe was late, it stops (3): again, with more patience."""
        for patience in ((), *[PATIENT] * 4):
            ended = await self.commands.run(*argv, *patience, interrupt=interrupt, broken=broken)
            if ended.returncode != SAFETY_STOP:
                break
        assert ended.returncode in (0, -signal.SIGKILL), ended
        return ended

    async def interrupted(self, *argv: str, interrupt: Interrupt, broken: bool = False) -> Ended:
        return await self._finished(*argv, interrupt=interrupt, broken=broken)

    async def history(self) -> dict[str, dict[str, Any]]:
        ended = await self._finished("reap_stale", "--history", "--format", "json")
        return {run["run_id"]: run for run in json.loads(ended.out)["runs"]}

    async def undo(self, run_id: str) -> dict[str, Any]:
        ended = await self._finished("reap_stale", "--undo", run_id, "--format", "json")
        return dict(json.loads(ended.out))

    async def unlock(self) -> None:
        """Take away the lock of who was killed. It would expire by itself, and until then it is respected."""
        key = f"{self.prefix}:ops:lock"
        if self._clients[0].exists(key):
            assert 0 < self._clients[0].ttl(key) <= LOCK_SECONDS
            if not self._lock_seen:
                self._lock_seen = True
                assert (await self.commands.run(*REAP)).returncode == LOCKED
            self._clients[0].delete(key)

    def another_host(self) -> Interruptible:
        """To run commands beside those of this one."""
        return Interruptible(**self.commands.settings)

    def is_locked(self) -> bool:
        return bool(self._clients[0].exists(f"{self.prefix}:ops:lock"))

    # What must hold

    def assert_nothing_is_lost(self) -> None:
        """Each doomed member is either still there or in exactly one receipt; all others are there."""
        for present, receipts in self._snapshots():
            removed = Counter(membership for _, membership in receipts)
            assert not [membership for membership in removed if membership in present]
            assert not [membership for membership, count in removed.items() if count != 1]
            assert set(removed) <= self.doomed
        gone = (self.doomed | self.others) - self.present()
        assert gone == {membership for _, receipts in self._snapshots() for _, membership in receipts}
        assert self.present() <= self.doomed | self.others
        self.assert_messages_are_kept()

    def assert_messages_are_kept(self) -> None:
        """Every message is where it was, or set aside."""
        keys = [(client, key) for client in self._clients for key in self._keys(client)]
        for name, message in self.messages.items():
            assert [key for client, key in keys if key.endswith(name) and client.zscore(key, message) is not None]

    def assert_all_reaped(self) -> None:
        assert self.present() == self.others
        self.assert_nothing_is_lost()

    def assert_back_where_they_were(self) -> None:
        assert self.present() == self.doomed | self.others
        for name, message in self.messages.items():
            assert [client for client in self._clients if client.zscore(name, message) is not None]

    async def close(self) -> None:
        self._receiving.cancel()
        with suppress(asyncio.CancelledError):
            await self._receiving
        await self.layer.close_pools()
        for client in self._clients:
            client.close()


@asynccontextmanager
async def open_lane(prefix: str, servers: list[EmbeddedRedis]) -> AsyncIterator[Lane]:
    urls = " ".join(server.url for server in servers)
    async with Interruptible(REDIS_URL=urls, CHANNELS_PREFIX=prefix) as commands:
        lane = Lane(prefix, servers, commands)
        try:
            await lane.populate()
            yield lane
        finally:
            await lane.close()


@pytest.fixture
def shards(start_redis: StartRedis) -> list[EmbeddedRedis]:
    return [start_redis(), start_redis()]


class Deaths:
    """Every moment to die; and how often it was in which command.

    Moments are counted from the start up to the write with the words `markers[0]`: how many writes there are until then
    differs a little from run to run, since the reaper looks for answers as often as it has time. From there on they are
    right before a write as well as right after it, and counted from each of the markers to the end of a run.
    """

    def __init__(self, *markers: str) -> None:
        self._markers = markers
        self._marker_reached = False
        self._done_in_a_row = 0
        self._moments = self._choose()
        self.at: Counter[tuple[str, str]] = Counter()
        self.halfway = 0

    def __iter__(self) -> Iterator[Interrupt]:
        return self._moments

    def _choose(self) -> Iterator[Interrupt]:
        for nth in itertools.count(1):
            if self._marker_reached:
                break
            yield Interrupt(nth=nth)
        for marker in self._markers:
            self._done_in_a_row = 0
            for nth, when in itertools.product(range(1, 1000), typing.get_args(When)):
                if self._done_in_a_row >= DONE_IN_A_ROW:
                    break
                yield Interrupt(nth=nth, since=marker, when=when)

    def note(self, interrupt: Interrupt, ended: Ended) -> bool:
        """Whether it died."""
        died = ended.returncode != 0
        self._marker_reached = self._marker_reached or self._markers[0] in ended.writes
        self._done_in_a_row = 0 if died else self._done_in_a_row + 1
        if died:
            self.at[ended.writes[-1], interrupt.when] += 1
        return died


async def test_a_run_killed_at_any_command_leaves_a_receipt_for_each_removal_and_the_next_run_completes(
    shards: list[EmbeddedRedis],
) -> None:
    deaths = Deaths("MULTI", RUN_ENDED)

    async def die_again_and_again(prefix: str) -> None:
        async with open_lane(prefix, shards) as lane:
            for interrupt in deaths:
                lane.restore()
                ended = await lane.interrupted(*REAP, interrupt=interrupt)
                if not deaths.note(interrupt, ended):
                    lane.assert_all_reaped()
                    continue
                lane.assert_nothing_is_lost()
                removed = len(lane.doomed | lane.others) - len(lane.present())
                deaths.halfway += 0 < removed < len(lane.doomed)
                await lane.unlock()
                report = await lane.reap()
                assert report["removed"] == len(lane.doomed) - removed
                lane.assert_all_reaped()
                await check_history(lane, report["run_id"], ended, interrupt)

    await asyncio.gather(*(die_again_and_again(f"lane-{n}-") for n in range(LANES)))
    for when in typing.get_args(When):
        # Suspicions and the run's entry, the scripts that remove and set aside, the run's end.
        assert {(command, when) for command in ("MULTI", "SCRIPT", "EVALSHA", "HSET")} <= set(deaths.at)
    assert deaths.halfway >= 2


async def check_history(lane: Lane, later_run: str, ended: Ended, interrupt: Interrupt) -> None:
    """The killed run is listed if it removed anything, as what it was, and can be undone."""
    runs = await lane.history()
    assert lane.runs_with_receipts() <= set(runs)
    runs.pop(later_run, None)
    removed_by_now = {run_id: lane.receipts(run_id) for run_id in runs}
    for run_id, run in runs.items():
        sent = ended.writes if interrupt.when == "after" else ended.writes[:-1]
        assert run["state"] == ("done" if "HSET" in sent else "interrupted")
        assert run["removed"] == len(removed_by_now[run_id])
        undone = await lane.undo(run_id)
        assert undone["restored"] == len(removed_by_now[run_id])
        assert lane.present() == lane.others | removed_by_now[run_id]
        lane.assert_messages_are_kept()


async def test_an_undo_killed_at_any_command_loses_nothing_and_can_be_done_again(shards: list[EmbeddedRedis]) -> None:
    deaths = Deaths("SET", RUN_UNDONE)
    async with open_lane("lane", shards) as lane:
        lane.restore()
        run_id = (await lane.reap())["run_id"]
        lane.assert_all_reaped()
        lane.save()
        for interrupt in deaths:
            lane.restore()
            ended = await lane.interrupted("reap_stale", "--undo", run_id, interrupt=interrupt)
            if deaths.note(interrupt, ended):
                assert lane.present() | lane.receipts(run_id) == lane.doomed | lane.others
                lane.assert_messages_are_kept()
                await lane.unlock()
                await lane.undo(run_id)
            lane.assert_back_where_they_were()
            assert (await lane.history())[run_id]["state"] == "undone"
    assert {command for command, _ in deaths.at} >= {"EVALSHA", "HSET"}


# A run that stands still in the middle of its removal


SCRIPT = script("purge_members").sha.decode()
HALFWAY = 9  # of some twenty writes: some calls of the script are through, one is held back, and others are to come


async def test_a_run_that_stood_still_while_it_was_undone_removes_nothing_more(shards: list[EmbeddedRedis]) -> None:
    async with open_lane("lane", shards) as lane, lane.another_host() as frozen:
        lane.restore()
        await frozen.run_until_stopped(*REAP, words=SCRIPT, nth=HALFWAY, questions=False)
        assert 0 < len(lane.others | lane.doomed) - len(lane.present()) < len(lane.doomed)
        await until(lambda: not lane.is_locked(), within_seconds=2 * LOCK_SECONDS)
        [run_id] = lane.runs_with_receipts()
        assert (await lane.undo(run_id))["restored"] > 0
        lane.assert_back_where_they_were()

        ended = await frozen.go_on()

        report = json.loads(ended.out)
        assert (ended.returncode, report["run_id"]) == (SAFETY_STOP, run_id)
        assert report["stopped"]
        assert lane.present() == lane.doomed | lane.others
        lane.assert_messages_are_kept()
        assert report["removed"] == len(lane.receipts(run_id))
        assert (await lane.history())[run_id]["state"] == "undone"


async def test_a_run_that_stood_still_for_a_moment_removes_every_dead_member(shards: list[EmbeddedRedis]) -> None:
    async with open_lane("lane", shards) as lane, lane.another_host() as frozen:
        lane.restore()
        await frozen.run_until_stopped(*REAP, words=SCRIPT, nth=HALFWAY, questions=False)
        report = json.loads((await frozen.go_on()).out)
        assert (report["stopped"], report["removed"]) == (None, len(lane.doomed))
        lane.assert_all_reaped()


async def test_a_receipt_that_were_written_after_the_removal_would_be_noticed(shards: list[EmbeddedRedis]) -> None:
    async with open_lane("lane", shards) as lane:
        interrupt = Interrupt(since="RPUSH")
        assert (await lane.interrupted(*REAP, interrupt=interrupt, broken=True)).returncode == -signal.SIGKILL
        with pytest.raises(AssertionError):
            lane.assert_nothing_is_lost()
