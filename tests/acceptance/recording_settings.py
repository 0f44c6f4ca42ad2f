"""The demo's settings with both sinks of the disconnect log and all personal data."""

from project.settings import *

CHANNELS_OPS = {"DISCONNECT_LOG_LOGGER": True, "DISCONNECT_LOG_PERSONAL": ["client", "user", "query"]}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "ops.output.disconnect_lines.JsonFormatter"}},
    "handlers": {"lines": {"class": "logging.StreamHandler", "formatter": "json"}},
    "loggers": {"ops.disconnects": {"handlers": ["lines"], "level": "INFO", "propagate": False}},
}
