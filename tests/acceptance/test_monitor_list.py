"""The list in a real browser: what the reader holds stays, and what is pressed acts once, on what its button said."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from acceptance.browsers import IN_CHROMIUM, live
from PIL import Image
from playwright.async_api import Page, expect
from sqlalchemy import text

from app import keys
from app.domain.message import snapshot_of

if TYPE_CHECKING:
    from acceptance.browsers import Guarded
    from integration.monitor_fixtures import Life

    from app.storage.database import Database

pytestmark = IN_CHROMIUM

TEXT = "element => element.innerText"


async def order(page: Page) -> list[str]:
    return await page.eval_on_selector_all("#rows > .row", "rows => rows.map(row => row.dataset.job)")


def row(page: Page, job_id: int) -> Any:
    return page.locator(f"#rows > #job-{job_id}")


async def tick(page: Page, *job_ids: int) -> None:
    for job_id in job_ids:
        await row(page, job_id).get_by_role("checkbox").check()


async def test_ticked_rows_keep_their_places_while_jobs_end_and_arrive(browser: Guarded, life: Life) -> None:
    running = await life.execute(prompt="held")
    waiting = [await life.submit() for _ in range(3)]
    async with browser.page("/monitor/?status=active") as page:
        await live(page)
        before = await order(page)
        await tick(page, waiting[0], waiting[2])
        box = await row(page, running.job_id).bounding_box()
        await life.complete(running)
        new = await life.submit(prompt="newer")
        # It has left the tab, and says so where it stood.
        await expect(row(page, running.job_id).locator(".word")).to_have_text("completed")
        await expect(page.locator("#held")).to_contain_text("1 new (held)")
        assert await order(page) == before
        assert await row(page, running.job_id).bounding_box() == box
        assert await row(page, waiting[0]).get_by_role("checkbox").is_checked()
        await page.get_by_role("button", name="Show").click()
        await expect(row(page, new)).to_be_visible()
        await expect(row(page, running.job_id)).to_have_count(0)
        assert await row(page, waiting[2]).get_by_role("checkbox").is_checked()
        await expect(page.locator("#held")).to_be_hidden()
        await life.submit()
        await expect(page.locator("#held")).to_contain_text("1 new (held)")
        await page.locator("#tick-all").check()
        await page.locator("#tick-all").uncheck()
        await expect(page.locator("#rows > .row")).to_have_count(5)


async def test_paused_the_list_stands_and_goes_on_when_told(browser: Guarded, life: Life) -> None:
    running = await life.execute()
    async with browser.page("/monitor/") as page:
        await live(page)
        await page.get_by_role("button", name="Pause", exact=True).click()
        await expect(page.locator("#connection-word")).to_have_text("paused")
        assert (await page.title()).startswith("paused · (1 running")
        shown = await page.locator("#rows").evaluate(TEXT)
        await life.progress(running, 50)
        new = await life.submit()
        await life.complete(running)
        # That it is held is told of fragments which were made after all of that.
        await expect(page.locator("#held")).to_contain_text("1 new")
        await life.submit()
        await expect(page.locator("#held")).to_contain_text("2 new")
        assert await page.locator("#rows").evaluate(TEXT) == shown
        await expect(page.locator("#health")).to_contain_text("Running 1")
        assert (await page.title()).startswith("paused · (1 running")
        await page.get_by_role("button", name="Show").click()
        await expect(row(page, new)).to_be_visible()
        await expect(row(page, running.job_id).locator(".word")).to_have_text("completed")
        await expect(page.locator("#connection-word")).to_have_text("paused")
        newest = await life.submit()
        await expect(page.locator("#held")).to_contain_text("1 new")
        await page.get_by_role("button", name="Go on").click()
        await expect(row(page, newest)).to_be_visible()
        await live(page)


async def test_paused_a_page_without_a_list_stands_too(browser: Guarded, life: Life) -> None:
    running = await life.execute()
    path = f"/monitor/jobs/{running.job_id}"
    async with browser.page(path) as page, browser.page(path) as other:
        await page.clock.install()
        await page.reload()
        await live(page)
        await live(other)
        await life.progress(running, 27)
        await expect(page.locator("header.job .percent")).to_have_text("27 %")
        await page.keyboard.press("p")
        await expect(page.locator("#connection-word")).to_have_text("paused")
        shown = await page.locator("#job-page").evaluate(TEXT)
        health = await page.locator("#health").evaluate(TEXT)
        await life.progress(running, 56)
        await expect(other.locator("header.job .percent")).to_have_text("56 %")
        await life.complete(running)
        await life.submit()
        await expect(other.locator("header.job .word")).to_have_text("completed")
        # Whatever the page does by the clock, it has had occasion to.
        async with page.expect_response(lambda answer: answer.url.endswith(path)) as polled:
            await page.clock.fast_forward(20_000)
        await (await polled.value).finished()
        await page.clock.run_for(100)
        assert await page.locator("#job-page").evaluate(TEXT) == shown
        assert await page.locator("#health").evaluate(TEXT) == health
        await page.get_by_role("button", name="Go on").click()
        await expect(page.locator("header.job .word")).to_have_text("completed")
        await live(page)


async def test_a_bulk_action_does_what_its_button_says_without_leaving(browser: Guarded, life: Life) -> None:
    failed = await life.fail(await life.execute())
    jobs = [await life.submit() for _ in range(4)]
    async with browser.page("/monitor/") as page:
        await live(page)
        await tick(page, failed.job_id, jobs[0], jobs[1])
        await expect(page.locator("#ticked")).to_have_text("3 selected")
        retry = page.get_by_role("button", name="Retry 1 selected")
        await expect(retry).to_be_visible()
        await page.get_by_role("button", name="Cancel 2 selected").click()
        await expect(page.locator(".flash")).to_contain_text("Of 2 jobs: 2 cancelled")
        await expect(row(page, jobs[0]).locator(".word")).to_have_text("cancelled")
        await expect(row(page, jobs[2]).locator(".word")).to_have_text("pending")
        await expect(row(page, failed.job_id).locator(".word")).to_have_text("failed")
        await expect(page.locator("#ticked")).to_have_text("Select")
        await row(page, jobs[3]).get_by_role("checkbox").click()
        await row(page, jobs[1]).get_by_role("checkbox").click(modifiers=["Shift"])
        await expect(page.locator("#ticked")).to_have_text("3 selected")
        await expect(page.get_by_role("button", name="Cancel 2 selected")).to_be_visible()
        await expect(page.get_by_role("button", name="Retry 1 selected")).to_be_visible()
        await page.get_by_role("button", name="Delete 1 selected").click()
        await expect(page.get_by_role("heading", name="Delete 1 job?")).to_be_visible()
        await page.get_by_role("button", name="Delete 1 job").click()
        await expect(page.locator(".flash")).to_contain_text("Of 1 jobs: 1 deleted")
        await expect(row(page, jobs[1])).to_have_count(0)
        assert await page.evaluate("performance.getEntriesByType('navigation').length") == 1


async def test_many_are_acted_on_without_javascript(browser: Guarded, life: Life) -> None:
    jobs = [await life.submit(user_id="ann") for _ in range(3)]
    other = await life.submit(user_id="bob")
    async with browser.page("/monitor/?size=25", java_script_enabled=False) as page:
        await tick(page, jobs[0])
        await page.get_by_role("button", name="Cancel selected").click()
        await expect(page.locator(".flash")).to_contain_text("Of 1 jobs: 1 cancelled")
        await page.get_by_text("Filters").click()
        await page.get_by_label("User").fill("ann")
        await page.get_by_role("button", name="Filter", exact=True).click()
        await page.get_by_role("link", name="Cancel all 2 that match").click()
        await page.get_by_role("button", name="Cancel 2 jobs").click()
        await expect(page.locator(".flash")).to_contain_text("Of 2 jobs: 2 cancelled")
        await expect(page.get_by_role("link", name="Cancel all")).to_have_count(0)
        await page.get_by_role("link", name="remove this filter").click()
        await expect(row(page, other).locator(".word")).to_have_text("pending")


async def test_an_empty_field_does_not_stand_in_the_address(browser: Guarded, life: Life) -> None:
    await life.submit(prompt="a fox")
    async with browser.page("/monitor/") as page:
        await live(page)
        await page.get_by_placeholder("Text in the prompt").fill("fox")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/monitor/?q=fox")
        await expect(page.locator(".row")).to_have_count(1)


async def test_a_double_click_acts_once(browser: Guarded, life: Life, database: Database) -> None:
    failed = await life.fail(await life.execute())
    async with browser.page("/monitor/") as page:
        await live(page)
        sent: list[str] = []
        page.on("request", lambda asked: sent.append(asked.method) if asked.method == "POST" else None)
        await row(page, failed.job_id).get_by_role("button", name="Retry").dblclick()
        await expect(row(page, failed.job_id).locator(".word")).to_have_text("pending")
        await expect(page.locator(".flash")).to_contain_text("another attempt")
        assert sent == ["POST"]
        async with database.transaction() as session:
            retried = "SELECT count(*) FROM job_events WHERE event = 'retried'"
            assert await session.scalar(text(retried)) == 1


async def test_what_is_refused_is_said_where_one_is(browser: Guarded, life: Life, database: Database) -> None:
    failed = await life.fail(await life.execute())
    async with browser.page("/monitor/") as page:
        await live(page)
        # At once: what the page fetches anew puts the right token back.
        forge = "button => { button.form.elements.csrf.value = 'A'; button.click(); }"
        await row(page, failed.job_id).get_by_role("button", name="Retry").evaluate(forge)
        await expect(page.locator(".flash.bad")).to_contain_text("Not allowed: The form is not from this page")
        await expect(row(page, failed.job_id).locator(".word")).to_have_text("failed")
    browser.faults = [fault for fault in browser.faults if "403" not in fault]


async def test_keys_move_tick_and_act(browser: Guarded, life: Life) -> None:
    failed = await life.fail(await life.execute())
    waiting = await life.submit()
    async with browser.page("/monitor/") as page:
        await live(page)
        await page.keyboard.press("j")
        await expect(row(page, waiting).locator(".title")).to_be_focused()
        await page.keyboard.press("x")
        await expect(row(page, waiting).get_by_role("checkbox")).to_be_checked()
        await page.keyboard.press("x")
        await page.keyboard.press("j")
        await page.keyboard.press("k")
        await page.keyboard.press("c")
        await expect(row(page, waiting).locator(".word")).to_have_text("cancelled")
        await row(page, failed.job_id).locator(".title").focus()
        await page.keyboard.press("r")
        await expect(row(page, failed.job_id).locator(".word")).to_have_text("pending")
        await page.keyboard.press("/")
        search = page.get_by_placeholder("Text in the prompt")
        await expect(search).to_be_focused()
        await page.keyboard.type("jkxcr?")
        await expect(search).to_have_value("jkxcr?")
        await search.blur()
        await page.keyboard.press("?")
        await expect(page.get_by_role("dialog", name="Shortcuts")).to_be_visible()


async def test_keys_can_be_switched_off_for_who_talks_to_the_browser(browser: Guarded, life: Life) -> None:
    waiting = await life.submit()
    async with browser.page("/monitor/") as page:
        await live(page)
        await page.locator("#view summary").click()
        await page.get_by_label("Keys").select_option("Off")
        await page.reload()
        await live(page)
        await row(page, waiting).locator(".title").focus()
        for key in "cxj?":
            await page.keyboard.press(key)
        await expect(row(page, waiting).locator(".title")).to_be_focused()
        await expect(row(page, waiting).get_by_role("checkbox")).not_to_be_checked()
        await expect(page.get_by_role("dialog")).to_have_count(0)
        await expect(row(page, waiting).locator(".word")).to_have_text("pending")
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("dialog")).to_have_count(0)


async def test_theme_and_times_are_as_the_reader_chose_them_from_the_first_picture(
    browser: Guarded, life: Life
) -> None:
    await life.submit()
    ground = "getComputedStyle(document.body).backgroundColor"
    async with browser.page("/monitor/", color_scheme="light", timezone_id="Asia/Tokyo") as page:
        light = await page.evaluate(ground)
        await page.get_by_text("View", exact=True).click()
        await page.get_by_label("Theme").select_option("dark")
        dark = await page.evaluate(ground)
        assert dark != light
        await expect(page.locator(".row time[data-ago]")).to_contain_text("ago")
        await page.get_by_label("Times").select_option("utc")
        utc = await page.locator(".row time[data-ago]").inner_text()
        assert utc == (await page.locator(".row time[data-ago]").get_attribute("title") or "").removesuffix(" UTC")
        await page.get_by_label("Times").select_option("local")
        assert await page.locator(".row time[data-ago]").inner_text() != utc
        await expect(page.locator("#zone-word")).to_have_text("Times are of Asia/Tokyo.")
        # Nothing but the small file in the head has run when the body is first drawn.
        await page.route("**/monitor.js*", lambda route: route.abort())
        await page.reload()
        assert await page.evaluate(ground) == dark
    browser.faults = [fault for fault in browser.faults if "ERR_FAILED" not in fault]


async def test_steps_are_told_as_they_happen(browser: Guarded, life: Life) -> None:
    claim = await life.execute()
    async with browser.page("/monitor/") as page:
        await live(page)
        now = snapshot_of(await life.store.get(claim.job_id))
        for step in (1, 7):
            node = {"id": "3", "type": "KSampler", "value": step, "max": 20}
            await life.client.app[keys.EVENTS].publish(replace(now, tick=step, progress=step, node=node))
            await expect(row(page, claim.job_id).locator(".step")).to_have_text(f"KSampler {step}/20")


async def test_pictures_come_up_in_their_row_the_newest_one_last(browser: Guarded, life: Life) -> None:
    claim = await life.execute()
    previews = life.client.app[keys.PREVIEWS]
    async with browser.page("/monitor/") as page:
        await live(page)
        picture = row(page, claim.job_id).locator("img.preview")
        for number in (1, 2, 3):
            await previews.put(claim.job_id, 1, number, _picture(number))
        await expect(picture).to_have_attribute("src", f"/monitor/jobs/{claim.job_id}/preview?n=3")
        await expect(picture).to_have_js_property("naturalWidth", 64)
        await life.submit()
        await expect(page.locator(".row")).to_have_count(2)
        await expect(picture).to_have_attribute("src", f"/monitor/jobs/{claim.job_id}/preview?n=3")
        await life.complete(claim)
        await expect(picture).to_have_count(0)
        await expect(row(page, claim.job_id).locator("img")).to_be_visible()


async def test_offline_says_for_how_long_in_the_title_too(browser: Guarded, life: Life) -> None:
    async with browser.page("/monitor/") as page:
        await live(page)
        await page.context.set_offline(True)
        await expect(page.locator("#connection-word")).to_have_text(re.compile(r"offline 0:0[2-9]"))
        assert (await page.title()).startswith("offline · ")
        await page.context.set_offline(False)
        await live(page)
        assert (await page.title()).startswith("(0 running")
    browser.faults = [fault for fault in browser.faults if "ERR_INTERNET_DISCONNECTED" not in fault]


def _picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (40 * number, 90, 160)).save(buffer, "WEBP")
    return buffer.getvalue()
