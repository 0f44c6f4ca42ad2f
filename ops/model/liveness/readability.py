"""Whether the processes of a layer can be expected to read a probe. One that cannot loses the consumer that takes it.

A process can tell in its lease what it reads. Of others it is not known: their serializer and their keys are settings
of their own. They are sent no probe if the settings here leave a doubt, or if a message shows that others are in use.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ops.model.liveness.evidence import ProbeWithheld, SeveralKeys, UnreadableMessages

IN_FLIGHT_SECONDS = 3600.0
FROM_THE_FUTURE_SECONDS = 50.0  # Fernet refuses tokens that are more than 60 s ahead


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A message to a process that the settings here cannot read. ``why``: the type of the error, never the message.

    ``packs_only``: whatever the settings, since it has keys that msgpack packs and does not unpack.
    """

    process: str
    in_flight: bool
    why: str
    packs_only: bool = False

    @property
    def words(self) -> str:
        where = "in flight to" if self.in_flight else "in the inbox of"
        if self.packs_only:
            return f"a message {where} process {self.process} can be packed and not unpacked: it {self.why}"
        return f"a message {where} process {self.process} cannot be read with the settings here: {self.why}"


@dataclass(frozen=True, slots=True)
class SentBetween:
    """The times of sending, unix seconds, of the messages that tell which settings are in use now."""

    oldest: float
    newest: float


def telling_messages(*, now: float, expiry_seconds: float, encrypts: bool, in_flight: bool) -> SentBetween:
    """Which messages tell anything, by when they were sent. ``now``: by the clock of this host, as decryption reads it.

    An encrypted message cannot be read once it is older than the layer's expiry, nor one from the future, whatever the
    key is. A key of messages in flight never expires: what lies there for long is from a process that is gone.
    Messages below 0 are probes.
    """
    if encrypts:
        return SentBetween(max(0.0, now - expiry_seconds), now + FROM_THE_FUTURE_SECONDS)
    return SentBetween(max(0.0, now - IN_FLIGHT_SECONDS) if in_flight else 0.0, float("inf"))


def can_read(reads: Sequence[str], ours: Sequence[str]) -> bool | None:
    """Whether a process with these settings can read what is sent with ``ours``; None if its settings are not known.

    Both begin with a serializer. A hash of each encryption key follows, the first of which encrypts.
    """
    if not reads or not ours:
        return None
    same_serializer = reads[0] == ours[0]
    return same_serializer and (ours[1] in reads[1:] if len(ours) > 1 else len(reads) == 1)


KEY_THAT_IS_NO_TEXT = "has a key that is no text, such as a number"
_NOT_A_KEY = "is not allowed for map key"


def packs_only(said: str) -> bool:
    """Whether that is what msgpack says of a message that it packs and does not unpack."""
    return _NOT_A_KEY in said


def why_withheld(*, several_keys: bool, unreadable: Sequence[Unreadable]) -> ProbeWithheld | None:
    """Why nothing may be put into any inbox now; None if nothing speaks against it."""
    if unreadable and unreadable[0].packs_only:
        return UnreadableMessages(f"{unreadable[0].words}; what a process would do with a probe is not known")
    if unreadable:
        return UnreadableMessages(
            f"{unreadable[0].words}; another serializer or encryption key is in use, and a process that cannot read a "
            f"probe would lose a consumer"
        )
    return SeveralKeys() if several_keys else None
