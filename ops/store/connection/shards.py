"""The Redis servers of a channel layer, reached with the connections that the layer itself would use.

Hosts are never parsed here: URL, dict, tuple, unix socket, TLS, password and Sentinel are all whatever
``layer.create_pool`` makes of them.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from channels.exceptions import InvalidChannelLayerError
from channels.layers import InMemoryChannelLayer, channel_layers
from redis import asyncio as aioredis
from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import NoPermissionError, RedisError

from ops import compat
from ops.exceptions import LayerError, PermissionMissing, ShardError
from ops.model.groups import ShardInfo
from ops.model.keys import Keyspace, encode_name
from ops.model.text import visible, without_secrets
from ops.store.connection.backends import Backend, backend_of, close_client
from ops.store.connection.failures import code_of
from ops.store.connection.permissions import RULES_OF_THE_LAYER, rule_that_is_missing
from ops.store.connection.waiting import within
from ops.store.connection.wire import Wire, open_wire

ANSWER_TIMEOUT_SECONDS = 5.0
SCAN_COUNT = 500
FAILURES = (RedisError, OSError, asyncio.TimeoutError, asyncio.IncompleteReadError)
_IN_PIPELINE = re.compile(r"^Command # \d+ \(.*?\) of pipeline caused error: (\(')?")  # redis-py's own words
CODES_WITHOUT_WORDS = ("MOVED", "ASK")  # what follows them is a slot and an address
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """Which run of which server answered. ``run_id`` changes at each restart; empty if INFO is not allowed.

    ``replication_id`` changes when a replica becomes the master. ``uptime_seconds``: how long it had been up then, 0 if
    that cannot be known. ``evicted_keys``: how many it had evicted.
    """

    run_id: str = ""
    uptime_seconds: float = 0.0
    replication_id: str = ""
    evicted_keys: int = 0


class Shard:
    """One Redis of the layer. Every failure becomes a ShardError that names the shard and holds no secret.

    ``twin_of``: the shard that is the same database of the same server, if an earlier entry of ``hosts`` has it too.
    """

    def __init__(self, index: int, client: "aioredis.Redis", keyspace: Keyspace) -> None:
        self.index = index
        self.client = client
        self._keyspace = keyspace
        self.address = address_of(client.connection_pool)
        self.identity = ServerIdentity()
        self.problem_code = ""
        self.twin_of: Shard | None = None
        self._problem: str | None = None

    @property
    def where(self) -> str:
        return f"shard {self.index} ({self.address})"

    @property
    def database(self) -> int:
        return int(compat.pool_options(self.client.connection_pool).get("db") or 0)

    @property
    def info(self) -> ShardInfo:
        return ShardInfo(self.index, self.address, self.problem)

    async def execute(self, *command: Any, timeout_seconds: float | None = None) -> Any:
        client: Any = self.client
        asked = " ".join(" ".join(word for word in command[:2] if isinstance(word, str)).split()[:2])
        with self.naming_failures(asked=asked):
            return await within(timeout_seconds or ANSWER_TIMEOUT_SECONDS, client.execute_command(*command))

    async def ask(self, question: Awaitable[T], timeout_seconds: float | None = None) -> T:
        with self.naming_failures():
            return await within(timeout_seconds or ANSWER_TIMEOUT_SECONDS, question)

    async def pipeline(self, commands: Sequence[Sequence[Any]], *, key_rule: str = "") -> list[Any]:
        """The replies to ``commands``, sent in one write; an error reply is returned, not raised.

        But for one that says that this user may not: that holds for everything, and must not pass for an absent key.
        """
        if not commands:
            return []
        pipe = self.client.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        replies = await self.ask(pipe.execute(raise_on_error=False))
        with self.naming_failures(key_rule=key_rule):
            for reply in replies:
                if isinstance(reply, NoPermissionError):
                    raise reply
        return replies

    async def scan(self, pattern: bytes, *conditions: str) -> AsyncIterator[list[bytes]]:
        """The keys that match, page by page; ``conditions``: further words of SCAN. A key may come twice."""
        cursor = b"0"
        while True:
            cursor, keys = await self.execute("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT, *conditions)
            yield keys
            if int(cursor) == 0:
                return
            await asyncio.sleep(0)

    async def drop_idle_connections(self) -> None:
        """Close the connections that are not in use. New ones are made when they are needed."""
        with contextlib.suppress(RedisError, OSError):
            await self.client.connection_pool.disconnect(inuse_connections=False)

    @asynccontextmanager
    async def wire(self) -> AsyncIterator[Wire]:
        with self.naming_failures():
            async with open_wire(self.client.connection_pool, ANSWER_TIMEOUT_SECONDS) as wire:
                yield wire

    async def now(self) -> float:
        """Unix seconds by the clock of this Redis, the one clock that all hosts share."""
        return _seconds(await self.execute("TIME"))

    async def identify(self) -> None:
        """Ask who is there; remembers the answer, or why there was none."""
        with self.noting_failure():
            await self.execute("PING")
            self.identity = await self._identity()

    @contextmanager
    def noting_failure(self) -> Iterator[None]:
        """End the block at a ShardError. From then on the shard does not count as answering, and no run as complete."""
        try:
            yield
        except ShardError as error:
            self.note_failure(error)

    def note_failure(self, error: ShardError) -> None:
        self._problem, self.problem_code = str(error), error.code

    def forget_failure(self) -> None:
        self._problem, self.problem_code = None, ""

    @property
    def problem(self) -> str | None:
        """Why it does not answer; None if it has answered everything so far."""
        return self._problem

    async def _identity(self) -> ServerIdentity:
        try:
            info = await within(ANSWER_TIMEOUT_SECONDS, self.client.info())
        except NoPermissionError:
            return ServerIdentity()
        except (RedisError, OSError, asyncio.TimeoutError) as error:
            raise self.failure(error) from None
        return ServerIdentity(
            run_id=str(info.get("run_id", "")),
            uptime_seconds=float(info.get("uptime_in_seconds", 0)),
            replication_id=str(info.get("master_replid", "")),
            evicted_keys=int(info.get("evicted_keys", 0)),
        )

    @contextmanager
    def naming_failures(self, *, asked: str = "", key_rule: str = "") -> Iterator[None]:
        """``asked`` and ``key_rule`` as ``failure`` takes them."""
        try:
            yield
        except FAILURES as error:
            raise self.failure(error, asked=asked, key_rule=key_rule) from None

    def failure(
        self, error: BaseException, *, in_script: str = RULES_OF_THE_LAYER, asked: str = "", key_rule: str = ""
    ) -> ShardError:
        """``error`` in one line that names this shard and, where this user may not, the rule that is missing.

        The others as ``rule_that_is_missing`` takes them; ``key_rule`` is for every key of the layer if not given.
        """
        rule = rule_that_is_missing(error, in_script, key_rule or self._keyspace.everything_rule, asked)
        if rule is not None:
            return PermissionMissing(
                f"{self.where} refused what this Redis user has no permission for; add to its ACL: {rule}", "NOPERM"
            )
        return ShardError(self._describe(error), code_of(error))

    def _describe(self, error: BaseException) -> str:
        where = self.where
        if isinstance(error, asyncio.TimeoutError):
            return f"{where} did not answer within {ANSWER_TIMEOUT_SECONDS:g} s; is it up, and reachable from here?"
        if isinstance(error, MasterNotFoundError):  # whose text goes on with the connections to each Sentinel
            return f"{where} cannot be used: {str(error).partition(' : ')[0]}; no Sentinel that answers knows it"
        said = _without_secrets(" ".join(str(error).split()), self.client.connection_pool)
        said = _IN_PIPELINE.sub("", said).removesuffix("',)")
        if said.startswith("HELLO must be called"):  # which redis-py begins with
            said = "Authentication required: put the password into the URL of this host in CHANNEL_LAYERS"
        if said.lower().startswith("unknown command"):
            return f"{where} does not have this command: {visible(said[:100])}"
        code = code_of(error)
        if code in CODES_WITHOUT_WORDS and not said.startswith(code):
            said = f"{code} {said}"
        return f"{where} cannot be used: {visible(said.rstrip('.')) or type(error).__name__}"


@contextmanager
def naming_redis_failures() -> Iterator[None]:
    """Turn what no shard has named into a ShardError."""
    try:
        yield
    except RedisError as error:
        raise ShardError(f"Redis: {type(error).__name__}; is every shard up and reachable?") from None


@contextmanager
def suppressing_outages() -> Iterator[None]:
    """Go on where a shard does not answer, but not where this Redis user may not: that would never be noticed."""
    try:
        yield
    except PermissionMissing:
        raise
    except ShardError:
        pass


def address_of(pool: Any) -> str:
    """Where ``pool`` connects to, as a URL without user name and password."""
    if (service := compat.sentinel_service(pool)) is not None:
        return f"sentinel://{service}"
    options = compat.pool_options(pool)
    database = options.get("db") or 0
    if "path" in options:
        return f"unix://{options['path']}?db={database}"
    scheme = "rediss" if "SSL" in pool.connection_class.__name__ else "redis"
    host = str(options.get("host", "localhost"))
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}:{options.get('port', 6379)}/{database}"


def _without_secrets(text: str, pool: Any) -> str:
    for name in ("password", "username"):
        secret = compat.pool_options(pool).get(name)
        if secret:
            text = text.replace(str(secret), "***")
    return without_secrets(text)


def _seconds(time_reply: Sequence[Any]) -> float:
    return int(time_reply[0]) + int(time_reply[1]) / 1e6


@dataclass(frozen=True, slots=True)
class OpenLayer:
    """A channel layer with its shards. ``layer`` is an instance of its own: nothing of the application is shared."""

    alias: str
    backend: Backend
    keyspace: Keyspace
    shards: tuple[Shard, ...]

    @property
    def layer(self) -> Any:
        return self.backend.layer

    @property
    def complete(self) -> bool:
        """Whether every shard has answered so far."""
        return all(shard.problem is None for shard in self.shards)

    @property
    def problems(self) -> list[str]:
        return [shard.problem for shard in self.shards if shard.problem is not None]

    @property
    def databases(self) -> tuple[Shard, ...]:
        """The shards, each database once."""
        return tuple(shard for shard in self.shards if shard.twin_of is None)

    @property
    def answering(self) -> tuple[Shard, ...]:
        """The databases that have answered so far."""
        return tuple(shard for shard in self.databases if shard.problem is None)

    def require_every_shard(self, otherwise: str) -> None:
        """Raise ShardError if a shard does not answer. ``otherwise``: what is then left undone."""
        if self.problems:
            raise ShardError(f"{self.problems[0]}; {otherwise}")

    @property
    def home(self) -> Shard:
        """The shard that keeps what concerns the whole layer: suspicions, runs, the lock."""
        return self.shards[0]

    @property
    def epoch(self) -> str:
        """Changes when any server of the layer restarts or fails over; empty if that cannot be known.

        A server that was the master before, and is again, has its old run id, and a new replication id.
        """
        identities = [shard.identity for shard in self.shards]
        if not all(identity.run_id for identity in identities):
            return ""
        return "+".join(f"{identity.run_id}/{identity.replication_id}" for identity in identities)

    @property
    def evicted_keys(self) -> int:
        """How many keys the servers had evicted when they were identified."""
        return sum(shard.identity.evicted_keys for shard in self.shards)

    def shard_of_group(self, group: str) -> Shard:
        return self._database_at(self.backend.shard_of_group(group))

    def shard_of_inbox(self, inbox: str) -> Shard:
        index: int = self.layer.consistent_hash(encode_name(inbox))
        return self._database_at(index)

    def _database_at(self, index: int) -> Shard:
        shard = self.shards[index]
        return shard.twin_of or shard

    def indexes_of(self, shard: Shard) -> tuple[int, ...]:
        """The places of this database in ``hosts``: one, unless it is there more than once."""
        return tuple(other.index for other in self.shards if other is shard or other.twin_of is shard)


def make_layer(alias: str) -> Any:
    """A new instance of the layer ``alias`` of ``CHANNEL_LAYERS``, which takes no lease: it is no application's."""
    known = ", ".join(map(repr, channel_layers.configs)) or "none"
    if alias not in channel_layers.configs:
        raise LayerError(f"there is no channel layer {alias!r} in CHANNEL_LAYERS; configured: {known}")
    try:
        layer = channel_layers.make_backend(alias)
    except InvalidChannelLayerError as error:
        raise LayerError(f"channel layer {alias!r} cannot be made: {error}") from None
    except (TypeError, ValueError, AttributeError, AssertionError, LookupError, ImportError) as error:
        # The message of a badly written URL can hold its password.
        raise LayerError(
            f"channel layer {alias!r} cannot be made from its CONFIG ({type(error).__name__}); look at its options"
        ) from None
    layer.holds_lease = False  # of the drop-in layer; nobody else has a use for it
    return layer


def class_path(alias: str) -> str:
    """The class of the layer, as the project's settings name it."""
    return str(channel_layers.configs[alias]["BACKEND"])


@asynccontextmanager
async def open_layer(alias: str) -> AsyncIterator[OpenLayer]:
    """Connect to every shard of the layer ``alias``. A shard that does not answer is there, with its ``problem``."""
    backend = backend_of(make_layer(alias))
    shards: tuple[Shard, ...] = ()
    try:
        shards = await _identified_shards(alias, backend)
        yield OpenLayer(alias, backend, backend.keyspace, shards)
    finally:
        await backend.close()
        for shard in shards:
            await close_client(shard.client)


async def _identified_shards(alias: str, backend: Backend) -> tuple[Shard, ...]:
    if not backend.has_redis:
        raise LayerError(_why_not(alias, backend))
    try:
        keyspace = backend.keyspace
        shards = tuple(Shard(index, client, keyspace) for index, client in enumerate(backend.clients()))
        await asyncio.gather(*(shard.identify() for shard in shards))
        _note_twins(shards)
        return shards
    except (TypeError, ValueError, AttributeError, LookupError):
        raise LayerError(
            f"a host of channel layer {alias!r} is not an address that redis-py accepts; look at its CONFIG['hosts']"
        ) from None


def _note_twins(shards: Sequence[Shard]) -> None:
    """Two names of one server are two hosts for the layer, and one database."""
    first: dict[tuple[str, int], Shard] = {}
    for shard in shards:
        if shard.identity.run_id:
            earlier = first.setdefault((shard.identity.run_id, shard.database), shard)
            shard.twin_of = None if earlier is shard else earlier


def _why_not(alias: str, backend: Backend) -> str:
    if isinstance(backend.layer, InMemoryChannelLayer):
        return (
            f"channel layer {alias!r} is an InMemoryChannelLayer: its groups live inside each process and cannot be "
            f"seen from here; use channels_redis.core.RedisChannelLayer"
        )
    return (
        f"channel layer {alias!r} is a {class_path(alias)}, which is not built on channels_redis; only "
        f"RedisChannelLayer, RedisPubSubChannelLayer and their subclasses are understood"
    )


async def close_layer(layer: Any) -> None:
    """Close the connections of a layer made by ``make_layer``."""
    await backend_of(layer).close()
