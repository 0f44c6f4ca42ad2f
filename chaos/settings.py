"""The demo project, with host entries as the documentation has them for each of the two layers."""

import os

from project.settings import *  # noqa: F403
from project.settings import CHANNEL_LAYERS

# The demo switches socket time-outs off, as the stock layer needs it. The drop-in layer chooses its own.
if os.environ.get("CHANNEL_BACKEND") == "ops.layers.RedisChannelLayer":
    CHANNEL_LAYERS["default"]["CONFIG"]["hosts"] = os.environ["REDIS_URL"].split()
