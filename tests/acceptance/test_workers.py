"""The servers that are killed in the other tests, and what the stock servers do to memberships when they end."""

from __future__ import annotations

import signal
import urllib.request
from collections.abc import Iterator

import pytest
import redis

from project import workers
from project.embedded_redis import EmbeddedRedis
from project.sockets import SocketFleet
from project.workers import Kind, Worker, WorkerNotReady, start_together
from tests.conftest import SharedServers, StartWorker

ROOM = "asgi:group:room.lobby"
KINDS: tuple[Kind, ...] = ("daphne", "uvicorn")
BOTH = pytest.mark.parametrize("kind", KINDS)
USED = pytest.mark.xdist_group("standing workers")  # and not ended: one process starts them for all

Standing = dict[Kind, Worker]


@pytest.fixture(scope="module")
def standing(shared_servers: SharedServers) -> Iterator[Standing]:
    """A worker of each kind, on the Redis of `redis_server`, for tests that leave it as it was."""
    env = {"REDIS_URL": shared_servers.empty(None).url}
    workers = start_together(Worker(kind, env=env) for kind in KINDS)
    yield dict(zip(KINDS, workers, strict=True))
    for worker in workers:
        worker.close()


@USED
@BOTH
async def test_sockets_are_welcomed_by_name_and_hear_their_room(
    kind: Kind, standing: Standing, sockets: SocketFleet, redis_client: redis.Redis
) -> None:
    worker = standing[kind]
    here = await sockets.open(worker, "lobby", 5)
    elsewhere = await sockets.open(worker, "attic", 1)

    assert {socket.pid for socket in here} == {worker.pid}
    assert set(redis_client.zrange(ROOM, 0, -1)) == {socket.channel.encode() for socket in here}

    await sockets.broadcast("lobby", "hello")
    assert await sockets.await_received("hello", among=here) == here
    assert not elsewhere[0].received


@USED
@BOTH
async def test_one_channel_may_be_in_several_groups(
    kind: Kind, standing: Standing, sockets: SocketFleet, redis_client: redis.Redis
) -> None:
    [socket] = await sockets.open_urls([f"{standing[kind].ws_url}/ws/groups/?groups=a,b"])
    assert redis_client.zrange("asgi:group:a", 0, -1) == redis_client.zrange("asgi:group:b", 0, -1)
    assert redis_client.zrange("asgi:group:a", 0, -1) == [socket.channel.encode()]


@USED
@BOTH
def test_the_chat_page_is_served(kind: Kind, standing: Standing) -> None:
    with urllib.request.urlopen(standing[kind].http_url, timeout=10) as page:
        assert "<title>Channels demo chat</title>" in page.read().decode()


@USED
@BOTH
async def test_what_is_no_message_is_answered_and_closes_nothing(
    kind: Kind, standing: Standing, redis_server: EmbeddedRedis, sockets: SocketFleet
) -> None:
    [socket] = await sockets.open(standing[kind], "lobby")
    for text in ("not json", "[" * 100_000):
        await socket.connection.send(text)
    await socket.send({"text": 1})
    await socket.send({"text": "now properly"})
    assert await sockets.await_received("now properly") == [socket]
    assert [message["type"] for message in socket.received] == ["error", "error", "error", "message"]


@pytest.mark.parametrize(
    ("kind", "ending", "members_left"),
    [
        ("daphne", signal.SIGKILL, 5),
        ("daphne", signal.SIGTERM, 5),
        ("uvicorn", signal.SIGKILL, 5),
        ("uvicorn", signal.SIGTERM, 0),
    ],
    ids=["daphne-SIGKILL", "daphne-SIGTERM", "uvicorn-SIGKILL", "uvicorn-SIGTERM"],
)
async def test_which_memberships_a_stock_worker_leaves_behind(
    kind: Kind,
    ending: signal.Signals,
    members_left: int,
    start_worker: StartWorker,
    sockets: SocketFleet,
    redis_client: redis.Redis,
) -> None:
    worker = start_worker(kind)
    opened = await sockets.open(worker, "lobby", 5)
    if ending is signal.SIGKILL:
        assert worker.kill() == -signal.SIGKILL
    else:
        worker.terminate()
    assert await sockets.await_closed(opened) == opened
    assert {socket.close_code for socket in opened} <= {1006, 1012}
    assert redis_client.zcard(ROOM) == members_left


@pytest.mark.parametrize("kind", ["daphne", "uvicorn", "gunicorn", "granian"])
async def test_a_frozen_worker_keeps_its_sockets_and_answers_again_when_thawed(
    kind: Kind, start_worker: StartWorker, sockets: SocketFleet
) -> None:
    worker = start_worker(kind)
    opened = await sockets.open(worker, "lobby", 2)
    worker.freeze()
    await sockets.broadcast("lobby", "anybody?")
    assert await sockets.await_received("anybody?", timeout_seconds=0.3) == []
    worker.thaw()
    assert await sockets.await_received("anybody?", among=opened) == opened


@BOTH
def test_a_worker_starts_and_stops_without_a_warning(kind: Kind, start_worker: StartWorker) -> None:
    worker = start_worker(kind, PYTHONWARNINGS="default")
    worker.terminate()
    assert "Warning" not in worker.output()


def test_a_worker_that_cannot_start_is_reported_with_what_it_said(start_worker: StartWorker) -> None:
    with pytest.raises(WorkerNotReady, match="no_such_module"):
        start_worker("uvicorn", asgi="no_such_module:application")


@BOTH
def test_a_port_that_was_taken_meanwhile_is_exchanged_for_another(
    kind: Kind, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start_worker(kind)
    offered = iter([first.port])
    choose = workers.free_port
    monkeypatch.setattr(workers, "free_port", lambda: next(offered, None) or choose())
    second = start_worker(kind, wait=False)
    # Until the second has found out, it is the first that accepts connections there.
    second.process.wait(30)
    second.wait_ready()
    assert second.port != first.port


def test_closing_ends_even_a_frozen_worker_and_deletes_its_log(redis_server: EmbeddedRedis) -> None:
    with Worker("uvicorn", env={"REDIS_URL": redis_server.url}) as worker:
        log_path = worker.log_path
        assert log_path.exists()
        worker.freeze()
    assert worker.returncode == -signal.SIGKILL
    assert not log_path.exists()
