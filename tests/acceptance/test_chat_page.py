"""The demo's page and the JavaScript client, in a real browser."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import redis

from ops.model.heartbeats.client_pings import HEARTBEAT_TIMEOUT
from project.front import Front
from project.sockets import SocketFleet
from project.workers import Kind, Worker
from tests.acceptance.browser import Page, find_browser, open_browser
from tests.acceptance.test_heartbeat_mixin import disconnects, start_beating
from tests.acceptance.two_layers import DROP_IN_LAYER
from tests.conftest import RunCommand, StartRedis, StartWorker
from tests.waiting import until

pytestmark = pytest.mark.xdist_group("the browser")  # which takes a while to start
ROOM = "kitchen"
DROP_IN_ENV = {"CHANNEL_BACKEND": DROP_IN_LAYER, "CHANNEL_LAYER_OPTIONS": json.dumps({"lease_seconds": 2})}
OPEN = (
    "return document.getElementById('state').dataset.state === 'open' && document.getElementById('worker').dataset.pid"
)

# A page's script that keeps what the client reports in `log`, with waits that a test can bear.
CONNECT = """
const done = arguments[arguments.length - 1];
window.log = [];
window.listeners = 0;
for (const target of [window, document]) {
  const { addEventListener: add, removeEventListener: remove } = target;
  target.addEventListener = (...event) => { listeners += 1; add.apply(target, event); };
  target.removeEventListener = (...event) => { listeners -= 1; remove.apply(target, event); };
}
const options = {
  minDelayMs: 20, maxDelayMs: 100, lastedMs: 50, ...arguments[1],
  onstate: (state, detail) => log.push({ state, ...detail }),
  onmessage: (event) => log.push({ message: event.data }),
  onping: (ping) => log.push({ ping: ping.id }),
};
import("/static/ops/heartbeat-socket.js").then(({ HeartbeatSocket }) => {
  window.socket = new HeartbeatSocket(arguments[0], options);
  done();
});
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with open_browser() as page:
        yield page


@pytest_asyncio.fixture
async def page(browser: Page) -> AsyncIterator[Page]:
    yield browser
    await browser.go("about:blank")


async def connect(page: Page, front: Front, path: str = "/ws/beat/async/", **options: Any) -> None:
    await page.go(f"{front.http_url}/static/project/chat.css")
    await asyncio.to_thread(page.driver.execute_async_script, CONNECT, path, options)


async def states(page: Page) -> list[str]:
    return [entry["state"] for entry in await page.run("return log") if "state" in entry]


async def pinged(page: Page, times: int) -> None:
    """Wait until the page has answered that many pings more."""
    count = "return log.filter((entry) => entry.ping).length"
    await page.until(f"{count} >= arguments[0]", await page.run(count) + times)


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_a_machine_without_a_browser_says_what_to_install_and_passes_only_where_somebody_watches(
    ci: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(outcome, match="apt-get install chromium chromium-driver"):
        find_browser()


async def test_a_person_joins_chats_is_reached_by_heartbeats_and_survives_the_loss_of_a_worker(
    start_worker: StartWorker, sockets: SocketFleet, page: Page, run_command: RunCommand, redis_client: redis.Redis
) -> None:
    kinds: tuple[Kind, ...] = ("uvicorn", "daphne")
    workers = [start_worker(kind, wait=False, **DROP_IN_ENV) for kind in kinds]
    for worker in workers:
        worker.wait_ready()
    async with Front(workers) as front:
        await page.go(front.http_url)
        await page.until(OPEN)
        await page.fill_in("#room", ROOM)
        await page.until("return document.getElementById('chat-title').textContent === arguments[0]", f"Room {ROOM}")
        served_by = await page.until(OPEN)
        await everybody_is_heard(page, sockets, workers, "<b>before</b>")
        await presence_is_shown(page, served_by)
        await reached_by_a_heartbeat(page, run_command)

        [lost] = [worker for worker in workers if worker.pid == int(served_by)]
        lost.kill()
        now_served_by = await page.until(f"const pid = {OPEN[7:]}; return pid !== arguments[0] && pid", served_by)
        assert int(now_served_by) in {worker.pid for worker in workers if worker is not lost}
        assert any("connection lost" in note for note in await page.texts("#log .note.bad"))
        await everybody_is_heard(page, sockets, [w for w in workers if w is not lost], "after")
        await reached_by_a_heartbeat(page, run_command)
        assert page.errors() == []

        # Who leaves the page leaves the room.
        channel = (await page.text("#channel")).encode()
        await page.go("about:blank")
        await until(lambda: channel not in redis_client.zrange(f"asgi:group:room.{ROOM}", 0, -1))


async def everybody_is_heard(page: Page, sockets: SocketFleet, workers: list[Worker], text: str) -> None:
    [other] = await sockets.open(workers[0], ROOM)
    await page.fill_in("#text", f"{text} from the page")
    assert await sockets.await_received(f"{text} from the page", among=[other]) == [other]
    await other.send({"text": f"{text} from elsewhere"})
    shown = "return [...document.querySelectorAll('#log .said .text')].some((e) => e.textContent === arguments[0])"
    await page.until(shown, f"{text} from the page")
    await page.until(shown, f"{text} from elsewhere")
    assert await page.texts("#log b") == [], "what people write is shown, not obeyed"
    await other.connection.close()


async def presence_is_shown(page: Page, served_by: str) -> None:
    """The page's own channel is shown at its worker, which is named by its lease."""
    await page.until(
        "return [...document.querySelectorAll('#who li')].some((one) => one.textContent.includes(arguments[0])"
        " && one.querySelector('.me') && one.dataset.state === 'live')",
        f"pid {served_by} ",
    )
    await page.until(
        "return document.querySelector('#rooms [aria-current]')?.textContent.startsWith(arguments[0])", ROOM
    )


async def reached_by_a_heartbeat(page: Page, run_command: RunCommand) -> None:
    before = int(await page.text("#beat-count"))
    argv = ("send_heartbeat", f"room.{ROOM}", "--depth", "client", "--format", "json")
    done = await asyncio.to_thread(run_command, *argv)
    [group] = json.loads(done.out)["groups"]
    assert group["answered"] == 1, done
    assert await page.text("#channel") not in group["silent"]
    await page.until("return Number(document.getElementById('beat-count').textContent) > arguments[0]", before)


async def test_who_is_there_is_asked_of_redis_and_it_is_said_where_that_does_not_answer(
    start_redis: StartRedis, start_worker: StartWorker, sockets: SocketFleet, page: Page
) -> None:
    server = start_redis()
    worker = start_worker("uvicorn", redis=server, **DROP_IN_ENV)
    await sockets.open(worker, "lobby", 3)
    await page.go(worker.http_url)
    await page.until("return document.getElementById('who-count').textContent === '4'")
    assert not await page.text("#stale")
    server.kill()
    await page.until("return document.getElementById('stale').textContent.startsWith('Redis does not answer')")
    assert await page.text("#who-count") == "4"
    server.start()
    await page.until("return document.getElementById('stale').hidden && document.querySelector('#who .me')")
    assert await page.text("#state-text") == "connected"


@pytest.mark.parametrize(
    ("path", "status"),
    [("ops/heartbeat-socket.js", 200), ("ops", 404), ("nothing.js", 404), ("%2e%2e/settings.py", 400)],
)
def test_nothing_but_static_files_is_served_as_such(path: str, status: int, client: Any) -> None:
    assert client.get(f"/static/{path}").status_code == status


async def test_the_client_notices_a_connection_that_went_silent_and_connects_again(
    start_worker: StartWorker, page: Page, redis_client: redis.Redis
) -> None:
    async with Front([start_beating(start_worker, "uvicorn")]) as front:
        await connect(page, front)
        await pinged(page, 2)
        front.fall_silent()
        waiting = await page.until("return log.find((entry) => entry.state === 'waiting')")
        assert waiting["reason"] == "no ping in time"
        await page.until("return socket.state === 'open'")
        await pinged(page, 2)
        await until(lambda: [HEARTBEAT_TIMEOUT] in disconnects(redis_client).values())


async def test_the_client_stays_away_once_it_was_closed_on_purpose(
    start_worker: StartWorker, page: Page, redis_client: redis.Redis
) -> None:
    async with Front([start_beating(start_worker, "uvicorn")]) as front:
        await connect(page, front)
        await pinged(page, 1)
        assert await page.run("return listeners") > 0
        await page.run("socket.close(4321, 'enough')")
        assert await page.run("return listeners") == 0
        await until(lambda: list(disconnects(redis_client).values()) == [[4321]])
        assert await page.run("return socket.send('nobody hears this')") is False
        # What makes others connect at once leaves it alone.
        await page.run("for (const event of ['online', 'pageshow', 'pagehide']) dispatchEvent(new Event(event))")
        await page.run("document.dispatchEvent(new Event('visibilitychange'))")
        assert await states(page) == ["connecting", "open", "closed"]


async def test_the_client_waits_twice_as_long_each_time_up_to_its_limit_and_less_by_chance(
    start_worker: StartWorker, page: Page
) -> None:
    worker = start_beating(start_worker, "uvicorn")
    async with Front([worker]) as front:
        await connect(page, front, lastedMs=600_000)
        await page.run(
            "window.drawn = []; const draw = Math.random;"
            "Math.random = () => { drawn.push(draw()); return drawn.at(-1); }"
        )
        await page.until("return socket.state === 'open'")
        worker.kill()
        await page.until("return log.filter((entry) => entry.state === 'waiting').length >= 5")
        waits = await page.run("return log.filter((entry) => entry.state === 'waiting').map((entry) => entry.delayMs)")
        drawn = await page.run("return drawn")
        limits = [20, 40, 80, 100, 100]
        expected = [share * limit for share, limit in zip(drawn, limits, strict=False)]
        assert waits[:5] == pytest.approx(expected[:5], abs=0.51)
        await page.run("socket.close()")


async def test_a_hook_says_whether_to_come_back(start_worker: StartWorker, page: Page) -> None:
    async with Front([start_beating(start_worker, "uvicorn")]) as front:
        await connect(page, front)
        await page.run("socket.options.reconnect = ({ code }) => code !== 4001")
        await page.until("return socket.state === 'open'")
        await page.run("socket.send('close')")
        await page.until("return socket.state === 'closed'")
        assert (await page.run("return log.at(-1)"))["code"] == 4001


async def test_answers_need_no_timer_which_browsers_hold_back_in_hidden_pages(
    start_worker: StartWorker, page: Page, redis_client: redis.Redis
) -> None:
    async with Front([start_beating(start_worker, "uvicorn")]) as front:
        await connect(page, front)
        await page.run("window.setTimeout = window.setInterval = () => 0")
        await pinged(page, 4)
        assert not disconnects(redis_client)


async def test_a_frozen_page_is_given_up_and_comes_back_when_it_wakes(
    start_worker: StartWorker, page: Page, redis_client: redis.Redis
) -> None:
    async with Front([start_beating(start_worker, "uvicorn")]) as front:
        await connect(page, front)
        await pinged(page, 1)
        await asyncio.to_thread(page.freeze)
        await until(lambda: list(disconnects(redis_client).values()) == [[HEARTBEAT_TIMEOUT]])
        await asyncio.to_thread(page.thaw)
        await page.until("return log.filter((entry) => entry.state === 'open').length === 2")
        await pinged(page, 2)
