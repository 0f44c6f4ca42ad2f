"""Settings of the demo project. The environment says which Redis, which channel layer and which prefix."""

import json
import os
import secrets
from typing import Any

SECRET_KEY = secrets.token_hex()  # The demo signs nothing, so each process may have its own.
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
DEBUG = False

INSTALLED_APPS = ["channels", "django.contrib.staticfiles", "django_extensions", "ops", "project"]
MIDDLEWARE = ["django.middleware.security.SecurityMiddleware", "django.middleware.common.CommonMiddleware"]
ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
DATABASES: dict[str, Any] = {}
USE_TZ = True
STATIC_URL = "static/"


def channel_layer(backend: str, redis_urls: list[str], prefix: str | None) -> dict[str, Any]:
    """One entry of CHANNEL_LAYERS; several URLs are several shards."""
    # Since redis-py 8 a socket times out after 5 s by default, just when channels_redis has waited 5 s for a message:
    # without `socket_timeout: None` every idle websocket dies of it.
    config: dict[str, Any] = {"hosts": [{"address": url, "socket_timeout": None} for url in redis_urls]}
    if prefix:
        config["prefix"] = prefix
    return {"BACKEND": backend, "CONFIG": config}


CHANNEL_LAYERS = {
    "default": channel_layer(
        backend=os.environ.get("CHANNEL_BACKEND") or "channels_redis.core.RedisChannelLayer",
        # Separated by blanks.
        redis_urls=(os.environ.get("REDIS_URL") or "redis://127.0.0.1:6379").split(),
        prefix=os.environ.get("CHANNELS_PREFIX"),
    )
}
# What else that layer is to be told, as JSON: {"lease_seconds": 3}
CHANNEL_LAYERS["default"]["CONFIG"].update(json.loads(os.environ.get("CHANNEL_LAYER_OPTIONS") or "{}"))

CHANNELS_OPS: dict[str, Any] = {}
if confirm_after := os.environ.get("OPS_CONFIRM_AFTER_SECONDS"):
    CHANNELS_OPS["CONFIRM_AFTER_SECONDS"] = float(confirm_after)
