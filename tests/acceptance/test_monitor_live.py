"""How fast the page follows, measured by its own clock, and that its addresses bring the same back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from acceptance.browsers import IN_CHROMIUM, live
from integration.monitor_fixtures import WORKER, Life
from playwright.async_api import Page, expect

from app import keys
from app.domain.message import snapshot_of
from app.monitor.words import WORDS
from app.storage.attempts import Claim
from app.web.requests import JobRequest
from harness import SMALL_BODY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from acceptance.browsers import Guarded

    from app.domain.job import Job
    from app.storage.database import Database

pytestmark = IN_CHROMIUM

JOBS = 3
SEEN = """() => {
  window.seen = {};
  const look = () => {
    for (const row of document.querySelectorAll("#rows > .row")) {
      seen[`${row.dataset.job} ${row.querySelector(".word").textContent}`] = true;
    }
  };
  look();
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""
"""Keeps which words each row has shown."""


async def order(page: Page) -> list[str]:
    return await page.eval_on_selector_all("#rows > .row", "rows => rows.map(row => row.dataset.job)")


async def test_each_change_of_state_comes_to_the_screen_without_a_reload(
    browser: Guarded, client: Any, database: Database
) -> None:
    life = Life(client, database)
    async with browser.page("/monitor/") as page:
        await live(page)
        await page.evaluate(SEEN)
        for _ in range(JOBS):
            async for job in life_of_a_job(life):
                await life.client.app[keys.EVENTS].publish(snapshot_of(job))
                await page.wait_for_function("shown => seen[shown]", arg=f"{job.job_id} {WORDS[job.phase]}", polling=20)


async def life_of_a_job(life: Life) -> AsyncIterator[Job]:
    """Lead a job from its sending to its end, and yield it after each commit."""
    yield await life.store.create(JobRequest.model_validate(SMALL_BODY).to_new_job())
    job = await life.store.claim(WORKER, life.backend, str(uuid4()), 60)
    assert job is not None
    yield job
    claim = Claim(job.job_id, job.attempt, WORKER)
    await life.store.submitting(claim, str(uuid4()), {"1": {"class_type": "EmptyImage", "inputs": {}}})
    yield await life.store.executing(claim)
    yield await life.store.saving(claim)
    yield await life.store.complete(claim, [await life.output(claim, 0, "image")])


async def test_an_address_brings_the_same_rows_again(browser: Guarded, client: Any, database: Database) -> None:
    life = Life(client, database)
    for number in range(60):
        await life.submit(user_id=f"user{number % 2}", prompt=f"a fox {number}")
    async with browser.page("/monitor/?status=active&q=fox&size=25&user=user0") as page:
        await live(page)
        first = await order(page)
        assert len(first) == 25
        await page.get_by_role("link", name="Older").click()
        await expect(page.locator("#position")).to_contain_text("5 of 30")
        await live(page)
        second = await order(page)
        assert len(second) == 5
        assert not set(first) & set(second)
        await page.reload()
        assert await order(page) == second
        window = await page.context.new_page()
        await window.goto(page.url)
        assert await order(window) == second
        await window.close()
        await page.go_back()
        await live(page)
        assert await order(page) == first
        await page.go_forward()
        await live(page)
        assert await order(page) == second


async def test_the_guard_of_the_tests_notices_what_must_not_happen(browser: Guarded, client: Any) -> None:
    async with browser.page("/monitor/") as page:
        await live(page)
        assert browser.faults == []
        tries = {
            "console.error('said')": "said",
            "setTimeout(() => { throw new Error('thrown'); })": "thrown",
            "document.body.append(Object.assign(document.createElement('style'), {textContent: 'a{}'}))": "Security",
            "fetch('/monitor/jobs/999')": "404",
            "void fetch('http://127.0.0.1:9/x').catch(() => 0)": "127.0.0.1:9",
        }
        for script, word in tries.items():
            async with page.expect_event("console" if "thrown" not in script else "pageerror"):
                await page.evaluate(f"() => {{ {script}; }}")
            assert any(word in fault for fault in browser.faults), script
    browser.faults = []
