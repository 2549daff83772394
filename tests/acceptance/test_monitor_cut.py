"""A network that is cut without a word: how soon the page says so, and how soon it is right again."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from acceptance.browsers import IN_CHROMIUM, live
from integration.monitor_fixtures import Life
from integration.tcp_proxy import TcpProxy
from playwright.async_api import Page, expect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from acceptance.browsers import Guarded

    from app.storage.database import Database

pytestmark = IN_CHROMIUM

SAID_WITHIN_MS = 3000
RIGHT_WITHIN_MS = 2000
CUT_S = 5
SAID = """() => {
  window.said = [];
  const look = () => {
    const word = document.getElementById("connection-word").textContent;
    const rows = [...document.querySelectorAll("#rows > .row")];
    const states = rows.map((row) => `${row.dataset.job} ${row.querySelector(".word").textContent}`).join();
    if (word !== said.at(-1)?.word || states !== said.at(-1)?.states) said.push({ at: Date.now(), word, states });
  };
  look();
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""
"""Keeps when the word of the connection and the states of the rows changed, in ms of the page's clock."""


@pytest.fixture
async def proxy(browser: Guarded) -> AsyncIterator[TcpProxy]:
    """A proxy through which the browser's pages reach the service."""
    proxy, through = await TcpProxy.before(browser.base)
    browser.base = through.rstrip("/")
    yield proxy
    await proxy.cut()


async def states(page: Page) -> list[str]:
    words = "rows => rows.map(row => `${row.dataset.job} ${row.querySelector('.word').textContent}`)"
    return await page.eval_on_selector_all("#rows > .row", words)


async def test_a_silent_cut_is_said_within_three_seconds_and_made_up_for_within_two(
    browser: Guarded,
    client: Any,
    database: Database,
    proxy: TcpProxy,
    record_property: Callable[[str, Any], None],
) -> None:
    life = Life(client, database)
    claim, waiting = await life.execute(), await life.submit()
    async with browser.page("/monitor/") as page:
        await live(page)
        await page.evaluate(SAID)
        proxy.freeze()
        frozen_at = time.time()
        word = page.locator("#connection-word")
        await expect(word).to_contain_text("offline", timeout=10_000)
        offline = await page.evaluate("said.find(({ word }) => word.startsWith('offline'))")
        # It is counted from the last word that was heard, and not from when it was noticed.
        assert offline["word"] in ("offline 0:01", "offline 0:02")
        await life.complete(claim)
        await life.store.cancel(waiting, None, "a test")
        new = await life.submit()
        await expect(word).to_have_text(re.compile(rf"offline 0:(0[{CUT_S}-9]|1\d)"), timeout=10_000)
        assert (await states(page)) == [f"{waiting} pending", f"{claim.job_id} running"]
        proxy.thaw()
        thawed_at = time.time()
        wanted = [f"{new} pending", f"{waiting} cancelled", f"{claim.job_id} completed"]
        right = await page.wait_for_function(
            "wanted => said.find(({ states, word }) => states === wanted && !word.startsWith('offline'))",
            arg=",".join(wanted),
            polling=20,
        )
        right_at = (await right.json_value())["at"]
        await live(page)
        said_ms, right_ms = offline["at"] - frozen_at * 1000, right_at - thawed_at * 1000
        record_property("silent_cut", told := f"said after {said_ms:.0f} ms, right again after {right_ms:.0f} ms")
        print(told)
        assert 0 < said_ms <= SAID_WITHIN_MS
        assert 0 < right_ms <= RIGHT_WITHIN_MS
        async with browser.page("/monitor/") as fresh:
            assert await states(page) == await states(fresh) == wanted
        later = await life.submit()
        await expect(page.locator(f"#job-{later} .word")).to_have_text("pending")
    # What was tried in vain while there was no way.
    browser.faults = [fault for fault in browser.faults if "WebSocket is closed before" not in fault]


async def test_a_page_on_which_nothing_happens_asks_each_second_and_says_live_all_the_time(
    browser: Guarded, client: Any
) -> None:
    async with browser.page("/monitor/") as page:
        await live(page)
        async with page.expect_websocket() as opening:
            await page.reload()
        socket = await opening.value
        await live(page)
        await page.evaluate(SAID)
        for _ in range(3):
            assert "pong" in await socket.wait_for_event("framereceived", lambda frame: "pong" in frame, timeout=3000)
        assert {each["word"] for each in await page.evaluate("said")} == {"live"}
