"""What the chat page asks the server for: who is connected to which worker, as Redis and the toolkit know it."""

from __future__ import annotations

import asyncio
import mimetypes
import time
from pathlib import Path
from typing import Any

from django.contrib.staticfiles import finders
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse

from ops import api
from ops.exceptions import OpsError
from ops.model.groups import Inspection
from ops.output.columns import MEMBER_COLUMNS, record
from ops.output.documents import process_record

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

    async def document(self, room: str) -> dict[str, Any]:
        async with self._lock:
            if time.monotonic() - self._taken_at >= KEPT_SECONDS:
                self._inspection = await api.ainspect(
                    match=f"{ROOMS}*", members=True, probe=True, probe_timeout_seconds=PROBE_TIMEOUT_SECONDS
                )
                self._taken_at = time.monotonic()
        rooms = sorted(self._inspection.groups, key=lambda group: group.group)
        here = next((group.channels for group in rooms if group.group == ROOMS + room), ())
        return {
            "complete": self._inspection.complete,
            "rooms": [{"name": g.group.removeprefix(ROOMS), "members": g.counts.members} for g in rooms],
            "processes": list(map(process_record, self._inspection.processes)),
            "members": [record(MEMBER_COLUMNS, member) for member in here[:MOST_MEMBERS]],
            "omitted": max(0, len(here) - MOST_MEMBERS),
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
