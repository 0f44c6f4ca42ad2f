"""The demo's settings with the consumers of `emit_application` behind them, for a `runworker` process."""

from project.settings import *

ASGI_APPLICATION = "tests.integration.emit_application.application"
