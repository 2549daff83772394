"""Times in a real browser: in the zone that the reader chose, all of them, and counted on between two answers."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from acceptance.browsers import IN_CHROMIUM, live
from integration.monitor_fixtures import Life, act, beat, note
from playwright.async_api import expect

from app.storage.periodic_tasks import PeriodicRun, PeriodicTasks
from app.storage.statistics_recorder import StatisticsRecorder

if TYPE_CHECKING:
    from acceptance.browsers import Guarded

    from app.storage.database import Database

pytestmark = IN_CHROMIUM

LOCAL = "try { localStorage.setItem('genonaut-zone', 'local'); } catch { /* not yet a page of ours */ }"
STAMPS = """() => {
  const walker = document.createTreeWalker(document.getElementById("main"), NodeFilter.SHOW_TEXT), found = [];
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    // What is shown as it was sent names its zone itself.
    if (text.parentElement.closest("pre")) continue;
    for (const [stamp] of text.data.matchAll(/[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}(:[0-9]{2})?/g)) {
      const at = text.parentElement.closest("time")?.dateTime;
      found.push([stamp, at && new Date(at).toLocaleString("sv-SE")]);
    }
  }
  return found;
}"""
"""Every point in time in the page's text, and what it is in the browser's zone; nothing of what is no time element."""
LEFT = """selector => {
  window.told = [];
  const look = () => {
    const said = document.querySelector(selector)?.textContent;
    if (said && said !== told.at(-1)) told.push(said);
  };
  look();
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""
"""Keeps every text that an element shows."""


async def test_every_time_of_every_page_is_of_the_readers_zone(
    browser: Guarded, life: Life, client: Any, database: Database
) -> None:
    now = datetime.now(UTC)
    done = await life.execute(not_before=(now - timedelta(hours=1)).isoformat())
    await life.complete(done)
    cancelled = await life.submit(not_before=(now + timedelta(hours=1)).isoformat())
    await act(client, f"/monitor/jobs/{cancelled}/cancel")
    await beat(client)
    run = PeriodicRun(
        name="sweep", schedule="every hour", last_run=now - timedelta(minutes=30), next_run=now + timedelta(minutes=30),
        duration_ms=5, result="deleted nothing", failed=False, worker_id="w",
    )  # fmt: skip
    await PeriodicTasks(database).note(run)
    least = {"": 2, "jobs/1": 6, "jobs/2": 3, "schedule": 2, "audit": 1, "workers": 1, "backends": 1}
    async with browser.page("/monitor/", script=LOCAL, timezone_id="Asia/Tokyo") as page:
        for path, count in least.items():
            await page.goto(f"/monitor/{path}")
            await live(page)
            found = await page.evaluate(STAMPS)
            assert len(found) >= count, path
            assert [(path, stamp) for stamp, right in found if stamp != right] == []
            await expect(page.locator("#zone-word")).to_have_text("Times are of Asia/Tokyo.")
            # What the page fetches anew is no way back.
            await page.get_by_role("button", name="Pause", exact=True).click()
            await page.get_by_role("button", name="Go on").click()
            await live(page)
            assert [(path, stamp) for stamp, right in await page.evaluate(STAMPS) if stamp != right] == []


async def test_charts_say_that_their_times_are_utc(browser: Guarded, life: Life, database: Database) -> None:
    await life.complete(await life.execute())
    await StatisticsRecorder(database).record()
    async with browser.page("/monitor/stats", script=LOCAL, timezone_id="Asia/Tokyo") as page:
        await live(page)
        charts = page.locator(".chart-plot")
        assert await charts.count() >= 3
        for chart in await charts.all():
            await expect(chart.get_by_text("UTC", exact=True)).to_be_visible()
        await expect(page.locator("thead").first).to_contain_text("Time, UTC")
        await expect(page.locator("#zone-word")).to_have_text("Times are of Asia/Tokyo. Charts are UTC.")


@pytest.mark.parametrize("where", ["list", "job"])
async def test_what_is_left_is_counted_down_between_two_answers(
    browser: Guarded, life: Life, database: Database, where: str
) -> None:
    before = await life.execute()
    await life.complete(before)
    await note(database, before, (0, 0, 8, 8), workflow_key="k" * 32)
    claim = await life.execute()
    await note(database, claim, workflow_key="k" * 32)
    path, selector = ("/monitor/", "#rows .eta") if where == "list" else (f"/monitor/jobs/{claim.job_id}", "#eta")
    async with browser.page(path) as page:
        await live(page)
        # Once the page has answered after it was told of the connection, it does not ask again for some seconds.
        await page.evaluate(LEFT, selector)
        await page.wait_for_function("() => told.at(-1) === 'any moment now'", timeout=60_000)
        told = await page.evaluate("told")
        ends = [int(re.findall(r"\d+", each)[-1]) for each in told[:-1]]
        assert len(ends) >= 2
        assert ends == sorted(ends, reverse=True)
        await life.complete(claim)
        await expect(page.locator(selector)).to_have_count(0)


async def test_what_does_not_run_yet_is_not_counted_down(browser: Guarded, life: Life, database: Database) -> None:
    before = await life.execute()
    await life.complete(before)
    await note(database, before, (0, 0, 30, 30), workflow_key="k" * 32)
    claim = await life.claim()
    await note(database, claim, workflow_key="k" * 32)
    async with browser.page("/monitor/") as page:
        await live(page)
        await expect(page.locator("[data-latest]")).to_have_count(0)
