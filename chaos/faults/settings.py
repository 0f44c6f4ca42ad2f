"""Settings that differ for a while: between a worker and the reapers, and between a reaper and all workers."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping

import redis

from chaos.actors import Actor, Client, Role
from chaos.faults.ground import KEYSPACE, SHORT_SECONDS, Ground, OfAWorker
from chaos.reapers import ARRANGEMENTS
from chaos.stage import CONFIRM_SECONDS
from project.polling import came_true

ENDS_WITHIN_SECONDS = 10.0
SOCKETS = 6
LEASE_WITHIN_SECONDS = 10.0
HEARD_WITHIN_SECONDS = 10.0
OTHER_HOSTS = "a reaper with other hosts"
OTHER_HOSTS_SECONDS = CONFIRM_SECONDS * 1.5
FROZEN_SECONDS = CONFIRM_SECONDS * 1.75  # for its lease to lapse, and for whoever can be probed to be removed
PLAYED_FOR_SECONDS = FROZEN_SECONDS + 10.0
OTHER_SETTINGS: dict[str, dict[str, object]] = {
    "encryption key": {"symmetric_encryption_keys": ["another key"]},
    "serializer": {"serializer_format": "json"},
}


class SettingsFaults:
    """`of_workers` and `of_reapers`: by name."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.of_workers = {
            f"a worker with another {what}": OfAWorker(
                functools.partial(self._read_otherwise, options), _tells, seconds=PLAYED_FOR_SECONDS
            )
            for what, options in OTHER_SETTINGS.items()
        }
        self.of_reapers: dict[str, Callable[[], Awaitable[None]]] = {OTHER_HOSTS: self._other_hosts}

    def may_play(self) -> bool:
        """Redis keeps the leases, which have to tell."""
        return self._ground.has_time_for(OTHER_HOSTS_SECONDS) and not self._ground.one_shard_at_a_time.locked()

    async def _read_otherwise(self, options: Mapping[str, object], actor: Actor) -> None:
        """Put in its place one that cannot read what the reapers send. It is frozen until its lease has lapsed."""
        stage = self._ground.stage
        other = await self._exchange(actor, options)
        with other.in_trouble():
            opened = await stage.open_clients_on(other, SOCKETS)
            has_lease = await asyncio.to_thread(came_true, lambda: self._has_lease(opened), LEASE_WITHIN_SECONDS)
            if has_lease:
                async with self._ground.frozen(other):
                    await asyncio.sleep(FROZEN_SECONDS)
            await self._ground.wait(SHORT_SECONDS)
            await self._check_that_they_hear(other)
        await self._exchange(other, None)

    def _has_lease(self, clients: list[Client]) -> bool:
        """Whether their process has one on every shard. Before, nothing tells what it reads."""
        for shard in self._ground.stage.shards:
            with redis.Redis.from_url(shard.url) as connection:
                if not clients or not connection.exists(KEYSPACE.lease(clients[0].process)):
                    return False
        return True

    async def _exchange(self, actor: Actor, options: Mapping[str, object] | None) -> Actor:
        with actor.in_trouble():
            await self._ground.stage.let_clients_finish()
            await asyncio.to_thread(actor.end_in_order, ENDS_WITHIN_SECONDS)
            return await self._ground.stage.replace(actor, options)

    async def _check_that_they_hear(self, actor: Actor) -> None:
        """That none was closed is checked for all sockets."""
        clients = self._ground.stage.clients_of(actor)
        if not clients or actor.lost:
            return
        group = actor.groups[0]
        joined = await asyncio.gather(*(self._ground.stage.change_groups(client, "join", group) for client in clients))
        text = f"to all of {actor.name}"
        await clients[0].socket.send({"say": text, "group": group})
        await self._ground.stage.fleet.await_received(
            text, HEARD_WITHIN_SECONDS, among=[client.socket for client in clients]
        )
        for client, was_joined in zip(clients, joined, strict=True):
            if was_joined and text not in client.socket.texts and client.socket.is_open and not actor.lost:
                self._ground.stage.unexpected.append(f"{client.socket.channel} of {actor.name} hears nothing any more")

    async def _other_hosts(self) -> None:
        ground, reapers = self._ground, self._ground.reapers
        host = ground.random.randrange(len(ground.stage.reaper_proxies))
        before = reapers.runs_with_other_hosts
        async with ground.one_shard_at_a_time, reapers.with_other_hosts(host, ground.random.choice([*ARRANGEMENTS])):
            await asyncio.sleep(OTHER_HOSTS_SECONDS)
        if reapers.runs_with_other_hosts == before:  # None came to its end.
            ground.counts[OTHER_HOSTS] -= 1


def _tells(role: Role) -> bool:
    """Without a lease, nothing tells what it reads. With another clock, encryption is another matter."""
    return role.has_lease and not role.skew_seconds
