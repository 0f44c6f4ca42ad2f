"""A real browser: the system's Chromium, driven by its own driver. Nothing is ever downloaded."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service

COMES_ABOUT_WITHIN_SECONDS = 30.0
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # which root cannot have
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--no-proxy-server",
    "--window-size=1280,900",
)


def find_browser() -> tuple[str, str]:
    """Paths of the browser and its driver. A machine without may skip; one that nobody watches must not."""
    chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
    driver = shutil.which("chromedriver")
    if chromium and driver:
        return chromium, driver
    missing = "no Chromium with its driver: apt-get install chromium chromium-driver"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


@contextmanager
def open_browser() -> Iterator[Page]:
    chromium, driver_path = find_browser()
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ARGUMENTS:
        options.add_argument(argument)
    # A driver that is named is not looked for.
    driver = webdriver.Chrome(options=options, service=Service(driver_path))
    try:
        yield Page(driver)
    finally:
        driver.quit()


class Page:
    """What a person does with a page. Whatever blocks runs in a thread: the servers' front runs in the loop."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    async def go(self, url: str) -> None:
        await asyncio.to_thread(self.driver.get, url)

    async def run(self, script: str, *arguments: Any) -> Any:
        """What JavaScript returns, or the promise that it returns."""
        return await asyncio.to_thread(self.driver.execute_script, script, *arguments)

    async def text(self, selector: str) -> str:
        return str(await self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector))

    async def texts(self, selector: str) -> list[str]:
        return list(
            await self.run("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector)
        )

    async def fill_in(self, selector: str, text: str) -> None:
        """Type into a field and send its form."""
        field = await asyncio.to_thread(self.driver.find_element, "css selector", selector)
        await asyncio.to_thread(field.send_keys, text + "\n")

    async def until(self, script: str, *arguments: Any) -> Any:
        """Wait until JavaScript returns something true; return it."""
        deadline = time.monotonic() + COMES_ABOUT_WITHIN_SECONDS
        while not (found := await self.run(script, *arguments)):
            assert time.monotonic() < deadline, f"it does not come about: {script} {arguments}"
            await asyncio.sleep(0.02)
        return found

    def errors(self) -> list[str]:
        """What went wrong in scripts; a server that is gone is no such thing."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["source"] == "javascript"]

    def freeze(self) -> None:
        """As a phone does with a page that nobody sees."""
        self._set_state("frozen")

    def thaw(self) -> None:
        self._set_state("active")

    def _set_state(self, state: str) -> None:
        try:
            self.driver.execute_cdp_cmd("Page.setWebLifecycleState", {"state": state})
        except WebDriverException as problem:
            pytest.skip(f"this browser cannot freeze a page: {problem.msg}")
