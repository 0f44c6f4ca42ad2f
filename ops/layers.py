"""A drop-in replacement for ``channels_redis.core.RedisChannelLayer`` that stops making orphans.

::

    CHANNEL_LAYERS = {"default": {"BACKEND": "ops.layers.RedisChannelLayer", "CONFIG": {…as before…}}}
"""

from ops.application.layer.channel_layer import RedisChannelLayer

__all__ = ["RedisChannelLayer"]
