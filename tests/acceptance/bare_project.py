"""Somebody else's Django project: their settings, their consumers, stock channels_redis, the toolkit as one more app.

It is written to a folder and run there, so that nothing of the demo project takes part.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from project.sockets import FleetSocket
from project.workers import Kind, Worker
from tests.acceptance.crontab import run_as_cron
from tests.conftest import CommandResult, StartWorker

SETTINGS = """
SECRET_KEY = "not-a-secret"
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = ["channels", "ops", "office"]
ASGI_APPLICATION = "office.asgi.application"
ROOT_URLCONF = "office.urls"
USE_TZ = True
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        # With redis-py 8 an idle websocket lives for 5 s without "socket_timeout": None.
        "CONFIG": {"hosts": [{"address": url, "socket_timeout": None} for url in @URLS@], "prefix": "office"},
    }
}
CHANNELS_OPS = @OPS@
"""

ASGI = """
from django.core.asgi import get_asgi_application

django_application = get_asgi_application()

from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path
from office.consumers import Desk

application = ProtocolTypeRouter(
    {"http": django_application, "websocket": URLRouter([path("ws/", Desk.as_asgi())])}
)
"""

CONSUMERS = '''
import os
from pathlib import Path
from urllib.parse import parse_qs

from channels.generic.websocket import AsyncJsonWebsocketConsumer


class Desk(AsyncJsonWebsocketConsumer):
    """`/ws/?groups=a,b`. It does what the client says: join, leave, say, and hold up the whole process."""

    async def connect(self):
        self.joined = parse_qs(self.scope["query_string"].decode())["groups"][0].split(",")
        for name in self.joined:
            await self.channel_layer.group_add(name, self.channel_name)
        await self.accept()
        await self.send_json(
            {"type": "welcome", "channel": self.channel_name, "pid": os.getpid(), "groups": self.joined}
        )

    async def disconnect(self, code):
        for name in self.joined:
            await self.channel_layer.group_discard(name, self.channel_name)

    async def receive_json(self, content):
        await getattr(self, "do_" + content.pop("type"))(**content)

    async def do_join(self, group):
        await self.channel_layer.group_add(group, self.channel_name)
        await self.send_json({"type": "joined", "text": "joined " + group})

    async def do_leave(self, group):
        await self.channel_layer.group_discard(group, self.channel_name)
        await self.send_json({"type": "left", "text": "left " + group})

    async def do_say(self, group, text):
        await self.channel_layer.group_send(group, {"type": "room.message", "text": text})

    async def do_block(self, holding):
        # What must not be done in a coroutine, and is: nothing else in this process goes on meanwhile.
        Path(holding).read_bytes()

    async def room_message(self, event):
        await self.send_json({"type": "message", "text": event["text"]})
'''

MANAGE = """
import os
import sys

from django.core.management import execute_from_command_line

os.environ["DJANGO_SETTINGS_MODULE"] = "office.settings"
execute_from_command_line(sys.argv)
"""


@dataclass(frozen=True)
class BareProject:
    """The project in `folder`, run by `python`. `pythonpath`: where the toolkit is, if it is not installed there."""

    folder: Path
    python: str
    pythonpath: str | None
    workers: StartWorker = field(repr=False)

    def start_worker(self, kind: Kind, *, wait: bool = True) -> Worker:
        return self.workers(
            kind,
            wait=wait,
            asgi="office.asgi:application",
            cwd=self.folder,
            python=self.python,
            DJANGO_SETTINGS_MODULE="office.settings",
            PYTHONPATH=self.pythonpath or "",
        )

    def manage(self, *argv: str, python_options: Sequence[str] = ()) -> CommandResult:
        """`manage.py` as cron runs it. It blocks: where sockets must go on reading meanwhile, use a thread."""
        toolkit = f"PYTHONPATH={shlex.quote(self.pythonpath)} " if self.pythonpath else ""
        command = shlex.join([self.python, *python_options, "manage.py", *argv])
        return run_as_cron(f"cd {shlex.quote(str(self.folder))} && {toolkit}{command}")


WriteProject = Callable[..., BareProject]


def write_project(
    folder: Path,
    workers: StartWorker,
    *,
    redis_urls: Sequence[str],
    ops: dict[str, Any],
    python: str = sys.executable,
    pythonpath: str | None,
) -> BareProject:
    """Write it all to `folder`. `ops`: its CHANNELS_OPS."""
    files = {
        "manage.py": MANAGE,
        "office/__init__.py": "",
        "office/settings.py": SETTINGS.replace("@URLS@", repr(list(redis_urls))).replace("@OPS@", repr(ops)),
        "office/urls.py": "urlpatterns = []\n",
        "office/asgi.py": ASGI,
        "office/consumers.py": CONSUMERS,
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text.lstrip())
    return BareProject(folder, os.fspath(python), pythonpath, workers)


def desk_urls(worker: Worker, groups: str, count: int = 1) -> list[str]:
    """`groups`: names with commas between."""
    return [f"{worker.ws_url}/ws/?groups={groups}"] * count


async def say(speaker: FleetSocket, group: str, text: str) -> None:
    await speaker.send({"type": "say", "group": group, "text": text})
