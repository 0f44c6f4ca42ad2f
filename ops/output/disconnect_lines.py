"""Lines for the logger ``ops.disconnects``, for files and journald."""

import logging

from ops.model.disconnects.record import Disconnect, to_json


class JsonFormatter(logging.Formatter):
    """A record of the disconnect log as one line of JSON; any other record as usual."""

    def format(self, record: logging.LogRecord) -> str:
        disconnect = getattr(record, "disconnect", None)
        return to_json(disconnect) if isinstance(disconnect, Disconnect) else super().format(record)
