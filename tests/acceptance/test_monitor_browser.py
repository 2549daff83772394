"""The page in a real browser, against the whole service: server, worker, stand-in, PostgreSQL and Redis."""

from __future__ import annotations

from acceptance.browsers import IN_CHROMIUM
from integration.monitor_fixtures import Life
from playwright.async_api import expect

from app import keys
from harness import eventually

SLOW = {"width": 512, "height": 512, "sampler_params": {"steps": 40}}

pytestmark = IN_CHROMIUM

WATCH = """job => {
  const row = document.querySelector(`.row[data-job="${job}"]`);
  row.dataset.kept = "yes";
  window.seen = { words: [], percents: [] };
  const look = () => {
    const now = document.querySelector(`.row[data-job="${job}"]`), bar = now?.querySelector("progress");
    const word = now?.querySelector(".word").textContent;
    if (word && word !== seen.words.at(-1)) seen.words.push(word);
    if (bar && bar.value !== seen.percents.at(-1)) seen.percents.push(bar.value);
    seen.same = row.isConnected && row === now;
  };
  look();
  const all = { subtree: true, childList: true, attributes: true, characterData: true };
  new MutationObserver(look).observe(document.body, all);
}"""
"""Keeps every word and every percentage that a row shows, and whether it stays the same element."""


async def test_a_job_appears_runs_and_ends_on_the_same_row_without_a_reload(browser, slow_service):
    async with browser.page("/monitor/") as page:
        await expect(page.locator("#connection-word")).to_have_text("live")
        await expect(page.get_by_text("No jobs yet")).to_be_visible()
        job = (await slow_service.submit(prompt="a lighthouse at dusk", **SLOW))["job_id"]
        row = page.locator(f"#job-{job}")
        await expect(row).to_contain_text("a lighthouse at dusk")
        await page.evaluate(WATCH, job)
        await expect(row.locator(".word")).to_have_text("completed", timeout=20_000)
        await expect(row.locator("img")).to_be_visible()
        await expect(row.locator("img")).not_to_have_js_property("naturalWidth", 0)
        seen = await page.evaluate("seen")
        assert seen["same"]
        assert seen["words"][-1] == "completed"
        assert "running" in seen["words"]
        assert len(seen["percents"]) >= 5
        assert seen["percents"] == sorted(seen["percents"])
        assert await page.title() == "(0 running, 0 waiting) Jobs · Genonaut"
        assert await page.evaluate("performance.getEntriesByType('navigation').length") == 1


async def test_a_click_cancels_a_running_job_and_another_retries_it(browser, slow_service):
    job = (await slow_service.submit(**SLOW | {"sampler_params": {"steps": 150}}))["job_id"]
    async with browser.page(f"/monitor/jobs/{job}") as page:
        head = page.locator(f"#job-{job}")
        await expect(head.locator(".word")).to_have_text("running")
        await head.get_by_role("button", name="Cancel").click()
        await expect(page.locator(".flash")).to_contain_text(f"Job {job}")
        await expect(head.locator(".word")).to_have_text("cancelled")
        assert (await slow_service.job(job))["status"] == "cancelled"
        await head.get_by_role("button", name="New seed").click()
        await expect(page.locator(".flash")).to_have_text(f"Job {job} waits for another attempt, with a new seed.")
        await expect(head).to_contain_text("attempt 2")
        await expect(page.locator("#attempt-2")).to_be_visible()
        await expect(page.locator("#attempt-1")).to_contain_text("cancelled")


async def test_a_cancel_that_is_not_confirmed_is_cancelling(browser, client, database):
    life = Life(client, database)
    claim = await life.execute()
    async with browser.page("/monitor/") as page:
        row = page.locator(f"#job-{claim.job_id}")
        await row.get_by_role("button", name="Cancel").click()
        await expect(page.locator(".flash")).to_contain_text("cancelling until ComfyUI confirms it")
        await expect(row.locator(".word")).to_have_text("cancelling")
        await expect(row.get_by_role("button", name="Cancel")).to_have_count(0)
        await expect(page.locator("#connection-word")).to_have_text("live")
        await life.confirm_cancel(claim)
        await expect(row.locator(".word")).to_have_text("cancelled")


async def test_progress_never_falls_whichever_way_it_comes(browser, client, database):
    life = Life(client, database)
    claim = await life.execute()
    async with browser.page("/monitor/") as page:
        await expect(page.locator("#connection-word")).to_have_text("live")
        await page.evaluate(WATCH, claim.job_id)
        for percent in range(5, 100, 5):
            await life.progress(claim, percent)
            # Each of these makes the page fetch itself anew while progress goes on.
            await life.submit()
        await expect(page.locator(f"#job-{claim.job_id} progress")).to_have_attribute("value", "95")
        percents = await page.evaluate("seen.percents")
        assert percents == sorted(percents)
        assert await page.evaluate("seen.same")


async def test_what_the_reader_holds_stays_in_place(browser, client, database):
    life = Life(client, database)
    claim = await life.execute(workflow={"1": {"class_type": "EmptyImage", "inputs": {}}}, prompt="held")
    async with browser.page("/monitor/") as page:
        await expect(page.locator("#connection-word")).to_have_text("live")
        button = page.locator(f"#job-{claim.job_id}").get_by_role("button", name="Cancel")
        await button.hover()
        place = await button.bounding_box()
        newer = await life.submit(prompt="newer")
        await expect(page.locator("#health")).to_contain_text("Queue 1")
        assert await button.bounding_box() == place
        await page.mouse.move(0, 0)
        await expect(page.locator(f"#job-{newer}")).to_be_visible()
        search = page.get_by_placeholder("Text in the prompt")
        await search.fill("half a wo")
        await life.submit(prompt="newest")
        await expect(page.locator("#health")).to_contain_text("Queue 2")
        await expect(search).to_be_focused()
        await expect(search).to_have_value("half a wo")
    async with browser.page(f"/monitor/jobs/{claim.job_id}") as page:
        await expect(page.locator("#connection-word")).to_have_text("live")
        await page.get_by_text("Workflow as it was sent").click()
        await life.fail(claim)
        await expect(page.locator("#error")).to_contain_text("node_failed")
        await expect(page.locator("#workflow pre")).to_be_visible()


async def test_the_connection_says_what_it_is_and_the_page_catches_up(browser, client, database):
    life = Life(client, database)
    claim = await life.execute()
    async with browser.page("/monitor/") as page:
        word = page.locator("#connection-word")
        await expect(word).to_have_text("live")
        await page.context.set_offline(True)
        await expect(word).to_contain_text("offline", timeout=3000)
        await life.complete(claim)
        await page.context.set_offline(False)
        await expect(page.locator(f"#job-{claim.job_id} .word")).to_have_text("completed", timeout=3000)
        await expect(word).to_have_text("live")
    browser.faults = [fault for fault in browser.faults if "ERR_INTERNET_DISCONNECTED" not in fault]


async def test_a_hidden_tab_holds_no_connection(browser, client):
    hub = client.app[keys.HUB]

    async def watched(count: int) -> None:
        async def reached() -> bool:
            return hub.viewers == count

        await eventually(reached)

    hide = """hidden => { Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange")); }"""
    async with browser.page("/monitor/") as page:
        await watched(1)
        await page.evaluate(hide, arg=True)
        await watched(0)
        await page.evaluate(hide, arg=False)
        await watched(1)
        await expect(page.locator("#connection-word")).to_have_text("live")


async def test_everything_works_without_javascript(browser, client, database):
    life = Life(client, database)
    failed = await life.fail(await life.execute(prompt="a red fox"))
    done = await life.complete(await life.execute(prompt="a bridge"))
    waiting = await life.submit(prompt="a castle")
    async with browser.page("/monitor/", java_script_enabled=False) as page:
        await expect(page.locator("#connection-word")).to_have_text("not live")
        await page.locator(f"#job-{waiting}").get_by_role("button", name="Cancel").click()
        await expect(page.locator(".flash")).to_have_text(f"Job {waiting} is cancelled.")
        await page.locator(f"#job-{failed.job_id}").get_by_role("button", name="Retry").click()
        await expect(page.locator(f"#job-{failed.job_id} .word")).to_have_text("pending")
        await page.get_by_placeholder("Text in the prompt").fill("bridge")
        await page.get_by_role("button", name="Search").click()
        await expect(page.locator(".row")).to_have_count(1)
        await page.locator(f"#job-{done.job_id} .title").click()
        await page.get_by_role("link", name="Delete").click()
        await page.get_by_role("button", name="Delete").click()
        await expect(page.locator(".flash")).to_have_text(f"Job {done.job_id} and its files are deleted.")
        await page.get_by_role("link", name="Workers").first.click()
        await expect(page.get_by_role("heading", name="Workers").first).to_be_visible()


async def test_nothing_needs_sideways_scrolling(browser, client, database):
    life = Life(client, database)
    claim = await life.execute(prompt="x" * 500, user_id="y" * 255)
    await life.complete(claim, "image", "text")
    await life.fail(await life.execute(prompt="z" * 500), "w" * 500)
    await client.app[keys.REGISTRY].beat("v" * 100, {"slots": 1}, {"u" * 64: {"reason": "t" * 300}})
    for path in ("/monitor/", f"/monitor/jobs/{claim.job_id}", "/monitor/workers"):
        async with browser.page(path) as page:
            for width in (320, 360, 700, 1100, 1400):
                await page.set_viewport_size({"width": width, "height": 800})
                assert await page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
