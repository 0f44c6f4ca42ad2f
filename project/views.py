"""What the chat page asks the server for: who is connected to which worker, as Redis and the toolkit know it."""

from __future__ import annotations

import asyncio
import mimetypes
import time
from pathlib import Path
from typing import Any

from django.contrib.staticfiles import finders
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse

from ops.exceptions import OpsError
from ops.model.groups import Group, Inspection, Process
from ops.operations.inspect import InspectOptions, inspect
from ops.operations.observe import Look
from ops.store.connection.shards import open_layer

ROOMS = "room."
PROBE_TIMEOUT_SECONDS = 1.0
# However many pages ask, Redis is looked at no more often.
KEPT_SECONDS = 1.0
MOST_MEMBERS = 300


class Presence:
    """The members of all rooms, looked up as `manage.py channels_groups --members` does."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._taken_at = -KEPT_SECONDS
        self._inspection: Inspection
        self._groups: list[Group] = []

    async def document(self, room: str) -> dict[str, Any]:
        async with self._lock:
            if time.monotonic() - self._taken_at >= KEPT_SECONDS:
                self._inspection, self._groups = await self._look()
                self._taken_at = time.monotonic()
        here = next((group.channels for group in self._groups if group.group == ROOMS + room), ())
        return {
            "complete": self._inspection.complete,
            "rooms": [{"name": g.group.removeprefix(ROOMS), "members": g.counts.members} for g in self._groups],
            "processes": [_process(process) for process in self._inspection.processes],
            "members": [
                {"channel": member.channel, "process": member.process, "state": member.state}
                for member in here[:MOST_MEMBERS]
            ],
            "omitted": max(0, len(here) - MOST_MEMBERS),
        }

    async def _look(self) -> tuple[Inspection, list[Group]]:
        look = Look(glob=f"{ROOMS}*", probe_timeout_seconds=PROBE_TIMEOUT_SECONDS)
        async with open_layer("default") as opened:
            inspection, groups = await inspect(opened, InspectOptions(look, members=True))
            return inspection, sorted([group async for group in groups], key=lambda group: group.group)


def _process(process: Process) -> dict[str, Any]:
    lease = process.lease
    return {
        "process": process.process,
        "state": process.verdict.state.value,
        "evidence": process.verdict.words,
        "host": lease.host if lease else None,
        "pid": lease.pid if lease else None,
    }


presence = Presence()


async def who(request: HttpRequest) -> HttpResponse:
    """`?room=lobby`: the rooms, the processes and the members of that room; `complete`: all of Redis has answered."""
    try:
        return JsonResponse(await presence.document(request.GET.get("room", "")))
    except OpsError as error:
        return JsonResponse({"error": str(error)}, status=503)


def static_file(request: HttpRequest, path: str) -> HttpResponse:
    """A static file of an installed app. A real site has its web server do this."""
    found = finders.find(path)
    if not found or not Path(str(found)).is_file():
        raise Http404(path)
    kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
    return HttpResponse(Path(str(found)).read_bytes(), content_type=kind)
