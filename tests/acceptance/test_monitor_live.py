"""How fast the page follows, measured by its own clock, and that its addresses bring the same back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from acceptance.browsers import NEEDS_CHROMIUM, live
from integration.monitor_fixtures import WORKER, Life
from playwright.async_api import Page, expect

from app import keys
from app.monitor.words import WORDS
from app.storage.attempts import Claim
from app.storage.job_views import snapshot_of
from app.web.requests import JobRequest
from harness import SMALL_BODY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from acceptance.browsers import Guarded

    from app.domain.job import Job
    from app.storage.database import Database

pytestmark = NEEDS_CHROMIUM

JOBS = 10
SEEN = """() => {
  window.seen = {};
  const look = () => {
    for (const row of document.querySelectorAll("#rows > .row")) {
      seen[`${row.dataset.job} ${row.querySelector(".word").textContent}`] ??= Date.now();
    }
  };
  look();
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""
"""Keeps when each row first showed each word, in ms of the page's clock."""


FRAGMENT = """async () => {
  const began = performance.now();
  await (await fetch("/monitor/?size=25", { headers: { "X-Fragment": "1" }, cache: "no-store" })).text();
  return performance.now() - began;
}"""
"""How long the browser waits for the list, in ms: of another length, so that it is made for this request alone."""
TRIES = 3
SHOWN_WITHIN_MS = 300
FRAGMENT_WITHIN_MS = 100
"""A machine that takes longer for the list alone is overloaded; ours takes half of that."""


async def order(page: Page) -> list[str]:
    return await page.eval_on_selector_all("#rows > .row", "rows => rows.map(row => row.dataset.job)")


async def test_a_change_of_state_is_on_the_screen_soon_after_its_commit(
    browser: Guarded, client: Any, database: Database, record_property: Callable[[str, Any], None]
) -> None:
    life = Life(client, database)
    async with browser.page("/monitor/") as page:
        await live(page)
        await page.evaluate(SEEN)
        # A page that is slow is so each time; a machine that has stumbled is not.
        for _ in range(TRIES):
            late_ms, fragment_ms = await follow_jobs(page, life)
            p50, p95 = late_ms[len(late_ms) // 2], late_ms[int(0.95 * len(late_ms))]
            told = f"{len(late_ms)} changes: p50 {p50:.0f} ms, p95 {p95:.0f} ms, at most {late_ms[-1]:.0f} ms"
            told += f"; a fragment takes {fragment_ms:.0f} ms"
            print(told)
            assert len(late_ms) == 5 * JOBS == 50
            # A change may have to wait for a fragment that is under way, and is then shown by one of its own. What each
            # of the two takes beyond what it should is the machine's, which has more to do than this test.
            within_ms = SHOWN_WITHIN_MS + 2 * max(0.0, fragment_ms - FRAGMENT_WITHIN_MS)
            if p95 <= within_ms:
                break
    record_property("commit_to_text", told)
    assert 0 <= p95 <= within_ms


async def follow_jobs(page: Page, life: Life) -> tuple[list[float], float]:
    """Return in how many ms each change was on the screen, in ascending order, and how many a fragment takes."""
    late_ms: list[float] = []
    fragment_ms: list[float] = []
    for _ in range(JOBS):
        async for job in life_of_a_job(life):
            await life.client.app[keys.EVENTS].publish(snapshot_of(job))
            shown = f"{job.job_id} {WORDS[job.phase]}"
            seen = await page.wait_for_function("shown => seen[shown]", arg=shown, polling=20)
            # The time in the row is taken before the commit: what is measured is rather too long than too short.
            late_ms.append(await seen.json_value() - job.updated_at.timestamp() * 1000)
        fragment_ms.append(await page.evaluate(FRAGMENT))
    return sorted(late_ms), sorted(fragment_ms)[len(fragment_ms) // 2]


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
    yield await life.store.complete(claim, [await life._output(claim, 0, "image")])


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
