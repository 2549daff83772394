"""What is pressed acts once, on what its button said, and can be taken back where one is told of it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from acceptance.browsers import IN_CHROMIUM, live
from playwright.async_api import Page, Request, Route, expect
from playwright.async_api import TimeoutError as PlaywrightTimeoutError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from acceptance.browsers import Guarded
    from integration.monitor_fixtures import Life


pytestmark = IN_CHROMIUM

AGAIN_WHEN_CHANGED = """([place, x, y]) => {
  window.again = new Promise((done) => {
    const look = () => {
      const button = document.elementFromPoint(x, y)?.closest(`${place} button`);
      if (!button?.textContent.includes("Retry")) return requestAnimationFrame(look);
      button.click();
      requestAnimationFrame(() => done(true));
    };
    look();
  });
}"""
"""Clicks a spot again as soon as another button has come to stand there."""


def row(page: Page, job_id: int) -> Any:
    return page.locator(f"#rows > #job-{job_id}")


def posts(page: Page) -> list[str]:
    """Return the list into which the addresses of all forms go that the page sends from now on."""
    sent: list[str] = []

    def note(asked: Request) -> None:
        if asked.method == "POST":
            sent.append(asked.url.rpartition("/")[2])

    page.on("request", note)
    return sent


async def held_back(page: Page, pattern: str) -> Callable[[], Awaitable[None]]:
    """Have requests to these addresses wait; return what lets them go."""
    go = asyncio.Event()

    async def wait(route: Route) -> None:
        await go.wait()
        await route.continue_()

    async def let_go() -> None:
        go.set()

    await page.route(pattern, wait)
    return let_go


async def press_until_sent(page: Page, button: Any, pattern: str) -> None:
    """Press a button until the page sends the request.

    A press is ignored, as it should be, while the refresh after an answer keeps the buttons of its place blocked; when
    the refresh comes depends on the machine.
    """
    for _ in range(10):
        with suppress(PlaywrightTimeoutError):
            async with page.expect_request(pattern, timeout=2_000):
                await button.click()
            return
    pytest.fail("The button was pressed ten times, and nothing was sent.")


async def middle(button: Any) -> tuple[float, float]:
    box = await button.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


async def test_what_was_done_is_undone_by_the_button_that_is_told_with_it(browser: Guarded, life: Life) -> None:
    waiting = await life.submit()
    async with browser.page("/monitor/") as page:
        await live(page)
        sent = posts(page)
        await row(page, waiting).get_by_role("button", name="Cancel").click()
        await expect(page.locator("#flash .flash")).to_have_text(f"Job {waiting} is cancelled.")
        await page.get_by_role("button", name="Undo").click()
        await expect(row(page, waiting).locator(".word")).to_have_text("pending")
        await expect(page.locator("#flash .flash")).to_contain_text("waits for another attempt")
        await expect(page.get_by_role("button", name="Undo: cancel it")).to_be_visible()
        assert sent == ["cancel", "retry"]
        assert await page.evaluate("performance.getEntriesByType('navigation').length") == 1


async def test_undo_is_there_after_a_page_was_loaded_and_for_the_keyboard(browser: Guarded, life: Life) -> None:
    jobs = [await life.submit(), await life.submit()]
    async with browser.page("/monitor/") as page:
        await live(page)
        await row(page, jobs[0]).locator(".title").focus()
        await page.keyboard.press("c")
        undo = page.get_by_role("button", name="Undo")
        await expect(undo).to_be_visible()
        await page.keyboard.press("u")
        await expect(row(page, jobs[0]).locator(".word")).to_have_text("pending")
        # As a form without this page's script leaves it: the next page that is loaded tells.
        await page.evaluate("job => document.querySelector(`#job-${job} form`).submit()", jobs[1])
        await expect(page.locator("#flash .flash")).to_have_text(f"Job {jobs[1]} is cancelled.")
        await live(page)
        for _ in range(50):
            await page.keyboard.press("Tab")
            if await undo.evaluate("button => button === document.activeElement"):
                break
        await expect(undo).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(row(page, jobs[1]).locator(".word")).to_have_text("pending")


async def test_what_is_told_goes_by_itself_but_not_from_under_the_hand(browser: Guarded, life: Life) -> None:
    running, waiting = await life.execute(), await life.submit()
    async with browser.page("/monitor/") as page:
        await page.clock.install()
        await page.reload()
        await live(page)
        toast = page.locator("#flash .flash")
        await row(page, running.job_id).get_by_role("button", name="Cancel").click()
        await expect(toast).to_contain_text("cancelling")
        await page.mouse.move(0, 0)
        await page.clock.fast_forward(11_000)
        await expect(toast).to_have_count(0)
        await row(page, waiting).get_by_role("button", name="Cancel").click()
        undo = page.get_by_role("button", name="Undo")
        await expect(undo).to_be_visible()
        await page.mouse.move(0, 0)
        await page.clock.fast_forward(11_000)
        await expect(undo).to_be_visible()
        await undo.hover()
        await page.clock.fast_forward(60_000)
        await expect(undo).to_be_visible()
        await undo.focus()
        await page.mouse.move(0, 0)
        await page.clock.fast_forward(60_000)
        await expect(undo).to_be_focused()
        await row(page, waiting).locator(".title").focus()
        await page.clock.fast_forward(3_000)
        await expect(undo).to_have_count(0)


async def test_a_second_click_does_not_hit_the_button_that_has_come_to_stand_there(
    browser: Guarded, life: Life
) -> None:
    waiting = await life.submit()
    async with browser.page("/monitor/") as page:
        await live(page)
        sent = posts(page)
        button = row(page, waiting).get_by_role("button", name="Cancel")
        x, y = await middle(button)
        await page.evaluate(AGAIN_WHEN_CHANGED, [f"#job-{waiting}", x, y])
        await page.mouse.click(x, y)
        assert await page.evaluate("again")
        # By hand, too, as fast as the machine can.
        await page.mouse.click(x, y)
        await expect(row(page, waiting).locator(".word")).to_have_text("cancelled")
        assert sent == ["cancel"]
        # It is no lock for ever: a press that is meant acts.
        await row(page, waiting).get_by_role("button", name="Retry").click()
        await expect(row(page, waiting).locator(".word")).to_have_text("pending")
        assert sent == ["cancel", "retry"]


async def test_the_second_click_of_a_double_one_presses_no_button_wherever_it_falls(
    browser: Guarded, life: Life
) -> None:
    jobs = [await life.submit() for _ in range(2)]
    async with browser.page("/monitor/") as page:
        await live(page)
        sent = posts(page)
        x, y = await middle(row(page, jobs[0]).get_by_role("button", name="Cancel"))
        await page.mouse.click(x, y, click_count=2)
        await expect(row(page, jobs[0]).locator(".word")).to_have_text("cancelled")
        assert sent == ["cancel"]
        second = "button => button.dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true, detail: 2}))"
        await row(page, jobs[1]).get_by_role("button", name="Cancel").evaluate(second)
        await row(page, jobs[1]).get_by_role("button", name="Cancel").click()
        await expect(row(page, jobs[1]).locator(".word")).to_have_text("cancelled")
        assert sent == ["cancel", "cancel"]


@pytest.mark.parametrize("where", ["list", "job"])
async def test_a_refresh_does_not_unlock_what_is_under_way(browser: Guarded, life: Life, where: str) -> None:
    job = await life.fail(await life.execute())
    async with browser.page("/monitor/" if where == "list" else f"/monitor/jobs/{job.job_id}") as page:
        await page.clock.install()
        await page.reload()
        await live(page)
        sent = posts(page)
        let_go = await held_back(page, "**/retry")
        place = page.locator(f"#job-{job.job_id}")
        button = place.get_by_role("button", name="Retry").first
        await button.click()
        await expect(button).to_be_disabled()
        async with page.expect_response(lambda answer: answer.request.method == "GET"):
            await life.client.post(f"/api/v1/generation-jobs/{job.job_id}/retry")
        await expect(place.locator(".word")).to_have_text("pending")
        # Long after the second click of a double one, the answer is still not there.
        await page.clock.fast_forward(5_000)
        cancel = place.get_by_role("button", name="Cancel")
        await expect(cancel).to_be_disabled()
        await cancel.evaluate("button => button.click()")
        assert sent == ["retry"]
        await let_go()
        await expect(page.locator("#flash .flash")).to_contain_text("was not retried")
        await press_until_sent(page, cancel, "**/cancel")
        await expect(place.locator(".word")).to_have_text("cancelled")
        assert sent == ["retry", "cancel"]


async def test_who_comes_back_finds_forms_unlocked(browser: Guarded, life: Life) -> None:
    waiting = await life.submit()
    async with browser.page("/monitor/") as page:
        await page.clock.install()
        await page.reload()
        await live(page)
        await held_back(page, "**/cancel")
        cancel = row(page, waiting).get_by_role("button", name="Cancel")
        await cancel.click()
        await page.clock.fast_forward(5_000)
        await expect(cancel).to_be_disabled()
        await page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
        await expect(cancel).to_be_enabled()


async def test_a_press_whose_answer_was_lost_is_sent_again_and_acts_once(browser: Guarded, life: Life) -> None:
    job = await life.complete(await life.execute())
    lost: list[int] = []

    async def lose(route: Route) -> None:
        if lost:
            await route.continue_()
            return
        answer = await route.fetch(max_redirects=0)
        lost.append(answer.status)
        await route.abort()

    async with browser.page("/monitor/") as page:
        await live(page)
        sent = posts(page)
        await page.route("**/again", lose)
        await row(page, job.job_id).get_by_role("button", name="Again").click()
        await expect(page.locator("#flash .flash")).to_contain_text("is sent again as job")
        await expect(page.locator("#rows > .row")).to_have_count(2)
        await live(page)
        assert (sent, lost) == (["again", "again"], [303])
    browser.faults = [fault for fault in browser.faults if "ERR_FAILED" not in fault]
