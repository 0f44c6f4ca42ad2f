"""Every key and channel name: built here, parsed here, nowhere else.

================================  ======  ==================================================================
key                               type    what
================================  ======  ==================================================================
``{prefix}:group:{group}``        zset    a group: member = channel name, score = when it joined (host's clock)
``{prefix}{inbox}``               zset    an inbox; ``inbox`` ends in ``!``, e.g. ``specific.{client_prefix}!``
``{prefix}{inbox}$inflight``      zset    messages of that inbox that were popped and not yet acknowledged; markers
``{prefix}{channel}``             zset    a general channel
``{prefix}:ops:suspects``         hash    process -> the suspicion of an earlier reap run
``{prefix}:ops:looks``            hash    what the latest look of each host knows of clocks and idle receivers
``{prefix}:ops:seen``             hash    process -> when a reap run last saw it live
``{prefix}:ops:lease:{process}``  hash    the lease of a process with the drop-in layer or OpsMiddleware, on every shard
``{prefix}:ops:leases``           zset    process -> when it renewed its lease on this shard
``{prefix}:ops:index:{p}:{n}``    list    what process ``p`` has on this shard, INDEXED_CHANNELS of its channels in each
``{prefix}:ops:taken_out:{p}``    list    whom other processes took out of groups, until process ``p`` has read it
``{prefix}:ops:runs``             zset    run id -> when it started
``{prefix}:ops:run:{id}``         hash    what that run did
``{prefix}:ops:journal:{id}``     list    receipts of that run, on the shard of the groups they speak of
``{prefix}:ops:aside:{id}:{key}`` zset    an inbox or in-flight key that the run set aside, until it expires
``{prefix}:ops:kept``             zset    run, journal or aside key without an expiry -> when its time is over
``{prefix}:ops:lock``             string  held while a run removes or restores
``{prefix}:ops:disconnects``      stream  the disconnect log: a record for each websocket that ended, capped
``{prefix}:ops:cleaned``          string  the entry of that log up to which the recorded ends have been cleaned up
``{prefix}:ops:tracking``         zset    process -> when it last said that it registers its websockets
``{prefix}:ops:connections:{p}``  hash    the open websockets of process ``p``: channel -> what is known of it
``{prefix}:ops:control:{p}``      list    requests to process ``p`` to close websockets
``{prefix}:ops:ack:{run}``        list    acknowledgements of heartbeats, while somebody waits for them
================================  ======  ==================================================================

The first four are those of channels_redis (``RedisChannelLayer``), the others are the toolkit's own. Leases are on
every shard; indexes, ``taken_out``, receipts and what was set aside on the shard of what they speak of, the keys
without an expiry in ``kept`` on their own shard; all else on the first shard.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from ops.model.text import visible

INFLIGHT_SUFFIX = b"$inflight"
MESSAGES_FROM, MESSAGES_BELOW = "0", "(+inf"
"""The scores of real messages. Probes have lower ones, and markers have +inf."""

DEFAULT_INBOX_PREFIX = "specific"
_SHORT_IN_INDEX = re.compile(DEFAULT_INBOX_PREFIX + r"\.[0-9a-f]{32}!(?P<uuid>[0-9a-f]{32})")

# A channel of a process: "{inbox prefix}.{client_prefix}!{local part}", where client_prefix is uuid4().hex
# (channels_redis.core.RedisChannelLayer.new_channel). The part up to and with the first "!" is the inbox.
_INBOX = re.compile(r"(?P<prefix>[^!]*)\.(?P<process>[0-9a-f]{32})!", re.DOTALL)
INDEXED_CHANNELS = 128
LOCAL_PART = 32  # new_channel() puts uuid4().hex behind the "!"
GROUP_INFIX = ":group:"
ANY_GROUP_PATTERN = "*:group:*"
"""A SCAN pattern for the groups of every layer."""

PUBSUB_GROUP_INFIX = "__group__"
_GLOB_SPECIAL = re.compile(rb"([*?\[\]\\])")


def decode_name(raw: bytes) -> str:
    """A name from Redis as text, without loss: bytes that are not UTF-8 become lone surrogates."""
    return raw.decode("utf-8", "surrogateescape")


def encode_name(name: str) -> bytes:
    """The bytes that ``decode_name`` read ``name`` from."""
    return name.encode("utf-8", "surrogateescape")


def index_entry(group: str, channel: str) -> bytes:
    """A membership as its process's index keeps it: short, since there is one for each."""
    short = _SHORT_IN_INDEX.fullmatch(channel)
    if short is not None:
        return b"u" + bytes.fromhex(short["uuid"]) + encode_name(group)
    return b"n" + encode_name(channel) + b"\0" + encode_name(group)


def parse_index_entry(process: str, raw: bytes) -> tuple[bytes, bytes] | None:
    """The group and the channel that ``raw`` stands for in the index of ``process``; None where it stands for none."""
    if raw[:1] == b"u" and len(raw) > 17:
        return raw[17:], encode_name(f"{DEFAULT_INBOX_PREFIX}.{process}!{raw[1:17].hex()}")
    if raw[:1] == b"n":
        channel, mark, group = raw[1:].partition(b"\0")
        inbox = inbox_of(decode_name(channel))
        if mark and inbox is not None and inbox.process == process:
            return group, channel
    return None


def escape_glob(raw: bytes) -> bytes:
    """``raw`` as a Redis glob pattern that matches only itself."""
    return _GLOB_SPECIAL.sub(rb"\\\1", raw)


@dataclass(frozen=True, slots=True)
class Inbox:
    """The inbox of one process: its name (``prefix.process!``), its ``new_channel`` prefix, and the process."""

    name: str
    prefix: str
    process: str


@lru_cache(maxsize=1024)  # A process asks about its own inbox again and again.
def parse_inbox(name: str) -> Inbox | None:
    """The inbox that ``name`` (a name up to and with its first ``!``) stands for, or None when it is none."""
    match = _INBOX.fullmatch(name)
    return Inbox(name, match["prefix"], match["process"]) if match else None


def inbox_of(channel: str) -> Inbox | None:
    """The inbox that messages to ``channel`` go to; None for a general channel or a name that cannot be parsed."""
    head, mark, _ = channel.partition("!")
    return parse_inbox(head + mark) if mark else None


def inbox_part(channel: bytes) -> bytes:
    """``channel`` up to and with its first ``!``; empty for a general channel."""
    return channel[: channel.find(b"!") + 1]


def inbox_parts(channels: Iterable[bytes]) -> list[bytes]:
    """The same for many: a call for each would double the time."""
    return [channel[: channel.find(b"!") + 1] for channel in channels]


def without_local_parts(channels: Iterable[bytes]) -> list[bytes]:
    """Each channel without its last LOCAL_PART bytes: its inbox, if ``new_channel()`` made the name."""
    return [channel[:-LOCAL_PART] for channel in channels]


def split_group_key(key: bytes) -> tuple[str, str]:
    """The prefix of a layer and the group that ``key`` would be of, if it is a group's; an empty group if not."""
    prefix, _, group = decode_name(key).partition(GROUP_INFIX)
    return prefix, group


@dataclass(frozen=True, slots=True)
class Keyspace:
    """The keys of one layer, under its ``prefix``."""

    prefix: str

    def group(self, group: str) -> bytes:
        return self.group_prefix + encode_name(group)

    @property
    def group_prefix(self) -> bytes:
        return encode_name(self.prefix + GROUP_INFIX)

    def group_name(self, key: bytes) -> str:
        """The group whose key is ``key``."""
        return decode_name(key[len(self.group_prefix) :])

    def is_group(self, key: bytes) -> bool:
        """Whether ``key`` is a group's, and not one of a layer whose prefix begins like ours, such as ``asgi:group``.

        To take its members for ours would be to probe them where they do not listen, and to remove them alive.
        """
        prefix = self.group_prefix
        return key.startswith(prefix) and key.find(GROUP_INFIX.encode(), len(prefix) - 1) < 0

    def inbox(self, inbox: str) -> bytes:
        return encode_name(self.prefix + inbox)

    def inflight(self, inbox: str) -> bytes:
        return self.inbox(inbox) + INFLIGHT_SUFFIX

    def inbox_in_key(self, key: bytes) -> Inbox | None:
        """The inbox whose messages ``key`` holds (the inbox itself or what is in flight); None for any other key."""
        if key.startswith(self._ops("")):
            return None
        name = key.removesuffix(INFLIGHT_SUFFIX)[len(encode_name(self.prefix)) :]
        return parse_inbox(decode_name(name))

    def groups_pattern(self, glob: str | None = None) -> bytes:
        """A SCAN pattern for group keys, all of them or those whose name matches the Redis glob ``glob``."""
        return escape_glob(self.group_prefix) + (b"*" if glob is None else encode_name(glob))

    @property
    def everything_pattern(self) -> bytes:
        """A SCAN pattern for every key of the layer (and for those of a layer whose prefix begins with this one's)."""
        return escape_glob(encode_name(self.prefix)) + b"*"

    @property
    def everything_rule(self) -> str:
        """The rule of a Redis ACL that lets a user have every key of the layer."""
        return visible("~" + decode_name(self.everything_pattern))

    def rule_for(self, channel: str) -> str:
        """The rule of a Redis ACL that lets a user have the key of that channel."""
        return visible("~" + decode_name(escape_glob(self.inbox(channel))))

    @property
    def pubsub_group_prefix(self) -> bytes:
        """What the channels begin with that ``RedisPubSubChannelLayer`` publishes a group's messages on."""
        return encode_name(self.prefix + PUBSUB_GROUP_INFIX)

    def _ops(self, name: str) -> bytes:
        return encode_name(f"{self.prefix}:ops:{name}")

    @property
    def suspects(self) -> bytes:
        return self._ops("suspects")

    @property
    def looks(self) -> bytes:
        return self._ops("looks")

    @property
    def seen(self) -> bytes:
        return self._ops("seen")

    def lease(self, process: str) -> bytes:
        return self._ops(f"lease:{process}")

    def taken_out(self, process: str) -> bytes:
        return self._ops(f"taken_out:{process}")

    @property
    def leases(self) -> bytes:
        return self._ops("leases")

    def index(self, process: str, number: int) -> bytes:
        return self._ops(f"index:{process}:{number}")

    def index_in_parts(self, process: str, parts: range, at_once: int) -> Iterator[list[bytes]]:
        """The keys of ``parts`` of the index of ``process``, some at a time: there may be thousands."""
        for start in parts[::at_once]:
            yield [self.index(process, number) for number in range(start, min(start + at_once, parts.stop))]

    @property
    def runs(self) -> bytes:
        return self._ops("runs")

    def run(self, run_id: str) -> bytes:
        return self._ops(f"run:{run_id}")

    def journal(self, run_id: str) -> bytes:
        return self._ops(f"journal:{run_id}")

    def aside(self, run_id: str, key: bytes) -> bytes:
        return self._ops(f"aside:{run_id}:") + key

    def aside_pattern(self, run_id: str) -> bytes:
        return escape_glob(self._ops(f"aside:{run_id}:")) + b"*"

    @property
    def kept(self) -> bytes:
        return self._ops("kept")

    def is_of_a_run(self, key: bytes) -> bool:
        """Whether ``key`` is the record of a run, its receipts, or what it set aside."""
        return key.startswith((self.run(""), self.journal(""), self.aside("", b"")[:-1]))

    def acknowledgements(self, run: str) -> bytes:
        return self._ops(f"ack:{run}")

    @property
    def tracking(self) -> bytes:
        return self._ops("tracking")

    def connections(self, process: str) -> bytes:
        return self._ops(f"connections:{process}")

    def control(self, process: str) -> bytes:
        return self._ops(f"control:{process}")

    @property
    def lock(self) -> bytes:
        return self._ops("lock")

    @property
    def disconnects(self) -> bytes:
        return self._ops("disconnects")

    @property
    def cleaned(self) -> bytes:
        return self._ops("cleaned")
