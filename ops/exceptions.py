"""What can go wrong, as one tree. A message is one line that says what is wrong and what to do, and holds no secret.

::

    OpsError                      could not run
    ├── LayerError                the layer cannot be used
    ├── ShardError                a shard did not answer, or refused
    │   └── PermissionMissing     … because of its ACL
    ├── RunNotFound               no such run to undo
    ├── SourceUnreadable          a log file cannot be read
    ├── NoDisconnectLog           nothing has been recorded yet
    ├── OutputLost                standard output cannot be written
    ├── TargetNotAble             nobody there to take the message, or somebody could die of it
    ├── InvalidArguments          bad usage
    └── AnotherRunHoldsTheLock    another run is at work
"""


class OpsError(Exception):
    """Could not run."""


class LayerError(OpsError):
    """The channel layer does not exist, cannot be made, or is of a kind that this command cannot work on."""


class ShardError(OpsError):
    """A shard of the layer did not answer in time, or refused a command.

    ``code``: Redis' own word for the refusal, such as ``MOVED`` or ``OOM``; empty if the shard gave none.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class PermissionMissing(ShardError):
    """The Redis user may not do what is needed; the message names the ACL rule to add."""


class RunNotFound(OpsError):
    """The journal has no run of that id."""


class SourceUnreadable(OpsError):
    """A log file does not exist, may not be read, or is damaged."""


class NoDisconnectLog(OpsError):
    """The layer has no disconnect log: no process with the middleware has recorded an end yet."""


class OutputLost(OpsError):
    """Standard output takes no more: the disk under it is full, for example."""


class TargetNotAble(OpsError):
    """The layer cannot send to the target, or a member of it is not known to handle the message."""


class InvalidArguments(OpsError):
    """The arguments do not go together, or one has a value that cannot be used."""


class AnotherRunHoldsTheLock(OpsError):
    """Another run is at work on this layer; it is safe to come again later."""
