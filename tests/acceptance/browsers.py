"""A real browser for the tests of the page, which notices what must not happen."""

from __future__ import annotations

import os
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from playwright.async_api import expect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser, Page, Request

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
IN_CHROMIUM = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None and "CI" not in os.environ,
        reason="There is no Chromium: install the package chromium, or set CHROMIUM to a browser's path.",
    ),
]
"""Marks of modules whose tests drive a browser."""


class Guarded:
    """A browser whose pages may log no error, break no policy, and ask nobody but our server for anything."""

    def __init__(self, browser: Browser, base: str) -> None:
        self._browser = browser
        self.base = base
        self.faults: list[str] = []

    @asynccontextmanager
    async def page(self, path: str, *, script: str = "", **options: Any) -> AsyncIterator[Page]:
        """Open a page in a context of its own; `script` runs in each page of it before the page's own."""
        context = await self._browser.new_context(base_url=self.base, **options)
        await context.add_init_script(script)
        # Of all windows that the test opens in this context.
        context.on("page", self._watch)
        page = await context.new_page()
        page.set_default_timeout(10_000)
        await page.goto(path)
        yield page
        await context.close()

    def _watch(self, page: Page) -> None:
        page.on("console", lambda said: self.faults.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda asked: self._check(asked.url))
        page.on("requestfailed", self._check_failure)
        page.on("websocket", lambda socket: self._check(socket.url.replace("ws", "http", 1)))

    def _check_failure(self, asked: Request) -> None:
        # Who turns to another page aborts what the one before still asked for.
        if asked.failure != "net::ERR_ABORTED":
            self.faults.append(f"failed request: {asked.url} {asked.failure}")

    def _check(self, url: str) -> None:
        if not url.startswith((self.base, "data:", "blob:")):
            self.faults.append(f"foreign request: {url}")


async def live(page: Page) -> None:
    """Wait until the page says that it is live."""
    await expect(page.locator("#connection-word")).to_have_text("live")


async def sign_in(page: Page, secret: str) -> None:
    """Sign in with a key on the page that asks for one, and return when it has led on."""
    await page.get_by_label("Your key").fill(secret)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("button", name="Sign out")).to_be_visible()
