"""Writes tests/data/logs/ anew, from real servers on a real Redis: `python -m tests.data.capture_logs`.

Each server serves the same ends: an ordinary close, one with a code, a killed tab, closes by the application, an
exception, a message without a handler, a rejected handshake, sockets that die of redis-py 8's time-out, sockets that
die with Redis, and one that is open when the server is told to end. Paths of this machine become `/srv/app`.
"""

import asyncio
import contextlib
import json
import os
import re
import socket
import sys
import tempfile
from pathlib import Path

from websockets.exceptions import InvalidHandshake

from project.embedded_redis import EmbeddedRedis
from project.sockets import SocketFleet
from project.workers import REPOSITORY, Kind, Worker

LOGS = Path(__file__).parent / "logs"
TIMED = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"timed": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "timed"}},
    "loggers": {"uvicorn": {"handlers": ["stderr"], "level": "INFO"}},
}


async def serve_ends(worker: Worker, server: EmbeddedRedis) -> None:
    async with SocketFleet() as sockets:
        names = ["normal", "coded", "killed-tab", "app-closed", "heartbeat", "raised", "no-handler", "waits"]
        urls = [f"{worker.ws_url}/ws/{name}/?token=abc" for name in names]
        opened = dict(zip(names, [(await sockets.open_urls([url]))[0] for url in urls], strict=True))
        await opened["normal"].connection.close()
        await opened["coded"].connection.close(code=3001)
        opened["killed-tab"].abort()
        await opened["app-closed"].send({"close": 4001})
        await opened["heartbeat"].send({"close": 4408})
        await opened["raised"].send({})
        await opened["no-handler"].send({"send": "no.such.type"})
        with contextlib.suppress(InvalidHandshake):
            await sockets.open_urls([f"{worker.ws_url}/ws/rejecting/"])
        # With what redis-py 8 does unless it is told otherwise, each of them dies after 5 s.
        waiting = await sockets.open_urls([f"{worker.ws_url}/ws/idle-{number}/" for number in range(3)])
        await sockets.await_closed([*waiting, opened["waits"]], 15)
        restarting = await sockets.open_urls([f"{worker.ws_url}/ws/restart-{number}/" for number in range(3)])
        server.kill()
        await sockets.await_closed(restarting)
        server.start()
        # Connections of the pool that broke meanwhile each cost one more handshake.
        while not sockets.open_sockets:
            with contextlib.suppress(InvalidHandshake):
                await sockets.open_urls([f"{worker.ws_url}/ws/stays/"])
        worker.terminate()


def neutral(text: str) -> str:
    text = text.replace(str(REPOSITORY), "/srv/app").replace(f'"host":"{socket.gethostname()}"', '"host":"web-1"')
    return re.sub(rf"{re.escape(sys.base_prefix)}/lib", "/usr/lib", text)


async def capture(kind: Kind, name: str, *arguments: str) -> None:
    with EmbeddedRedis() as server:
        env = {
            "CHANNEL_LAYER_OPTIONS": json.dumps({"hosts": [{"address": server.url}]}),
            "DJANGO_SETTINGS_MODULE": "tests.acceptance.recording_settings",
            "REDIS_URL": server.url,
        }
        asgi = "tests.acceptance.ending_application:application"
        with Worker(kind, env=env, asgi=asgi, arguments=arguments) as worker:
            await serve_ends(worker, server)
            lines = neutral(worker.output()).splitlines(keepends=True)
    ours = [line for line in lines if line.startswith('{"schema_version"')]
    (LOGS / f"{name}.log").write_text("".join(line for line in lines if line not in ours))
    (LOGS / f"{name}.jsonl").write_text("".join(ours))


async def main() -> None:
    LOGS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        access_log, config = Path(folder) / "access.log", Path(folder) / "logging.json"
        config.write_text(json.dumps(TIMED))
        await capture("daphne", "daphne")
        await capture("daphne", "daphne-split", "--access-log", str(access_log))
        (LOGS / "daphne-access.log").write_text(neutral(access_log.read_text()))
        await capture("uvicorn", "uvicorn")
        await capture("uvicorn", "uvicorn-timed", "--log-config", str(config))


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    asyncio.run(main())
