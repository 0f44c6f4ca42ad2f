"""The toolkit's own settings, and the one place of their defaults."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OpsSettings:
    """Every key of ``CHANNELS_OPS`` (upper case there) with its default. A command's option wins over its setting.

    ``confirm_after_seconds``: for how long a process must stay silent before its members may go.
    ``probe_timeout_seconds``: how long one round waits for probes to be taken.
    ``max_share``: the share (0 to 1) of the live fleet that may go silent at once without a safety stop.
    ``journal_seconds``: how long the receipts of a run are kept for ``--undo``, a minute at least.
    ``graceful_disconnect``: whether a send to a client that has left is not an error for some seconds.
    ``leave_groups``: whether the channels of websockets that have ended leave their groups.
    ``process_card``: whether a process with the stock layer holds a lease, which tells who it is.
    ``track_connections``: whether the open websockets are registered in Redis, and can be closed from outside.
    ``track_users``: whether with the primary key of their user.
    ``disconnect_log_stream``: whether the ends of websockets are recorded in Redis.
    ``disconnect_log_length``: about how many entries that stream keeps.
    ``disconnect_log_logger``: whether they go to the logger ``ops.disconnects`` as well.
    ``disconnect_log_personal``: which personal data they hold: of client, user and query.
    """

    confirm_after_seconds: float = 60.0
    probe_timeout_seconds: float = 10.0
    max_share: float = 0.5
    journal_seconds: float = 7 * 86400.0
    graceful_disconnect: bool = True
    leave_groups: bool = True
    process_card: bool = True
    track_connections: bool = False
    track_users: bool = False
    disconnect_log_stream: bool = True
    disconnect_log_length: int = 100_000
    disconnect_log_logger: bool = False
    disconnect_log_personal: tuple[str, ...] = ()


DEFAULTS = OpsSettings()
