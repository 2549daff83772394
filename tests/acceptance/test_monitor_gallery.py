"""The gallery in a real browser: it goes on by itself, keeps one's place, holds what is new, and is for everybody."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import pytest
from acceptance.browsers import IN_CHROMIUM, live
from axe_playwright_python.async_playwright import Axe
from integration.monitor_fixtures import HOSTILE
from PIL import Image
from playwright.async_api import Page, expect

from app import keys
from harness import GUARD_S

if TYPE_CHECKING:
    from acceptance.browsers import Guarded
    from integration.monitor_fixtures import Life
    from playwright.async_api import Route

pytestmark = IN_CHROMIUM

GALLERY = "/monitor/?view=gallery"
SHOTS = "[...document.querySelectorAll('.shot')].map((shot) => shot.id)"
IN_SIGHT = "tile => { const { top, bottom } = tile.getBoundingClientRect(); return bottom > 0 && top < innerHeight; }"
TO_THE_END = "scrollTo(0, document.documentElement.scrollHeight)"


async def done(life: Life, *kinds: str, **changes: Any) -> int:
    return (await life.complete(await life.execute(**changes), *kinds)).job_id


async def many(life: Life, count: int) -> list[int]:
    """Jobs with a picture each, the newest first."""
    return [await done(life) for _ in range(count)][::-1]


def tile(page: Page, *place: int) -> Any:
    return page.locator(f"#shot-{'-'.join(map(str, place))}")


async def to_the_end(page: Page, tiles: int) -> None:
    """Scroll down until there are so many tiles."""
    await page.evaluate(TO_THE_END)
    await expect(page.locator(".shot")).to_have_count(tiles)
    await page.evaluate(TO_THE_END)


async def test_it_goes_on_by_itself_and_shows_each_job_once(browser: Guarded, life: Life) -> None:
    jobs = await many(life, 70)
    async with browser.page(f"{GALLERY}&size=25", viewport={"width": 1000, "height": 500}) as page:
        await live(page)
        await expect(page.locator(".shot")).to_have_count(25)
        first = await tile(page, jobs[0], 0).element_handle()
        await to_the_end(page, 50)
        await to_the_end(page, 70)
        await expect(page.get_by_role("link", name="Older")).to_have_count(0)
        assert await page.evaluate(SHOTS) == [f"shot-{job}-0" for job in jobs]
        assert await page.evaluate("() => document.querySelectorAll('[id]').length") == await page.evaluate(
            "() => new Set([...document.querySelectorAll('[id]')].map((each) => each.id)).size"
        )
        await expect(tile(page, jobs[-1], 0).locator("img")).to_have_js_property("naturalWidth", 64)
        # What was appended stays when the page is refreshed, and nothing was built anew.
        async with page.expect_response(lambda answer: "/monitor/?" in answer.url) as refreshed:
            await life.submit()
        await (await refreshed.value).finished()
        await page.wait_for_timeout(100)
        assert await page.evaluate(SHOTS) == [f"shot-{job}-0" for job in jobs]
        assert await page.evaluate("first => first.isConnected", first)
        await expect(page.locator("#position")).to_have_text("1–25 of 70 jobs, newest first")


async def test_the_address_keeps_the_place_for_a_reload_a_copy_and_the_way_back(browser: Guarded, life: Life) -> None:
    jobs = await many(life, 70)
    async with browser.page(f"{GALLERY}&size=25", viewport={"width": 1000, "height": 500}) as page:
        await live(page)
        await to_the_end(page, 50)
        await to_the_end(page, 70)
        await page.wait_for_url(re.compile(r"after=.*#shot-\d+-0"))
        last = tile(page, jobs[-1], 0)
        await last.click()
        await page.wait_for_url(f"**/monitor/jobs/{jobs[-1]}/outputs/0?size=25")
        await page.go_back()
        await expect(last).to_be_visible()
        await page.wait_for_function("() => scrollY > 0")
        assert await last.evaluate(IN_SIGHT)
        await page.reload()
        await live(page)
        await page.wait_for_function("() => scrollY > 0")
        assert await last.evaluate(IN_SIGHT)
        address = page.url
        await page.goto("about:blank")
        await page.goto(address)
        await page.wait_for_function("() => scrollY > 0")
        assert await last.evaluate(IN_SIGHT)
        # Upwards a link leads, as without JavaScript.
        await page.evaluate("scrollTo(0, 0)")
        await page.wait_for_url(lambda url: "#" not in url and "after=" in url)
        first = await page.locator(".shot").first.get_attribute("id")
        await page.get_by_role("link", name="Newer").click()
        place = [f"shot-{job}-0" for job in jobs].index(first or "")
        await expect(tile(page, jobs[place - 1], 0)).to_be_visible()
    async with browser.page(f"{GALLERY}&size=25", viewport={"width": 1000, "height": 500}) as page:
        await live(page)
        await to_the_end(page, 50)
        await page.wait_for_url(re.compile("#shot-"))
        await page.evaluate("scrollTo(0, 0)")
        await page.wait_for_url(f"**{GALLERY}&size=25")


async def test_from_a_number_of_tiles_on_only_the_link_leads_on(browser: Guarded, life: Life) -> None:
    jobs = await many(life, 70)

    async def lower(route: Route) -> None:
        answer = await route.fetch()
        text = await answer.text()
        assert "MAX_TILES = 1000;" in text
        await route.fulfill(response=answer, body=text.replace("MAX_TILES = 1000;", "MAX_TILES = 50;"))

    async with browser.page("about:blank", viewport={"width": 1000, "height": 500}) as page:
        await page.route("**/gallery.js", lower)
        await page.goto(f"{GALLERY}&size=25")
        await live(page)
        await to_the_end(page, 50)
        await page.wait_for_url(re.compile("after="))
        await page.wait_for_timeout(500)
        await expect(page.locator(".shot")).to_have_count(50)
        await page.get_by_role("link", name="Older").click()
        await expect(page.locator(".shot")).to_have_count(20)
        assert await page.evaluate(SHOTS) == [f"shot-{job}-0" for job in jobs[50:]]


async def test_a_lost_page_is_tried_again(browser: Guarded, life: Life) -> None:
    await many(life, 40)
    async with browser.page("about:blank", viewport={"width": 1000, "height": 500}) as page:
        lost: list[str] = []

        async def lose(route: Route) -> None:
            if lost:
                await route.continue_()
            else:
                lost.append(route.request.url)
                await route.abort("connectionfailed")

        await page.route("**/monitor/?*after=*", lose)
        await page.goto(f"{GALLERY}&size=25")
        await live(page)
        async with page.expect_event("requestfailed"):
            await page.evaluate(TO_THE_END)
        # Nothing else happens: the page asks again by itself.
        await expect(page.locator(".shot")).to_have_count(40, timeout=GUARD_S * 1000)
    browser.faults = [fault for fault in browser.faults if "ERR_CONNECTION_FAILED" not in fault]


async def test_outputs_appear_as_they_come_and_take_the_place_of_the_live_picture(browser: Guarded, life: Life) -> None:
    old = await done(life)
    claim = await life.execute(prompt="night market")
    async with browser.page(GALLERY) as page:
        await live(page)
        running = tile(page, claim.job_id)
        await expect(running).to_contain_text("running")
        buffer = io.BytesIO()
        Image.new("RGB", (64, 64), (90, 90, 160)).save(buffer, "WEBP")
        await life.client.app[keys.PREVIEWS].put(claim.job_id, 1, 1, buffer.getvalue())
        await expect(running.locator("img.preview")).to_have_js_property("naturalWidth", 64)
        await life.progress(claim, 61, {"id": "3", "type": "KSampler", "value": 13, "max": 20})
        await expect(running).to_contain_text("61 % KSampler 13/20")
        kept = await tile(page, old, 0).element_handle()
        await life.complete(claim, "image", "image")
        await expect(running).to_have_count(0)
        assert await page.evaluate(SHOTS) == [f"shot-{claim.job_id}-0", f"shot-{claim.job_id}-1", f"shot-{old}-0"]
        new = await done(life)
        await expect(tile(page, new, 0)).to_be_visible()
        assert (await page.evaluate(SHOTS))[0] == f"shot-{new}-0"
        assert await page.evaluate("kept => kept.isConnected", kept)
        await expect(page.locator("#held")).to_be_hidden()


async def test_what_is_new_waits_while_the_reader_is_further_down_or_the_page_is_paused(
    browser: Guarded, life: Life
) -> None:
    await many(life, 40)
    running = await life.execute()
    async with browser.page(f"{GALLERY}&size=25", viewport={"width": 1000, "height": 500}) as page:
        await live(page)
        await to_the_end(page, 41)
        # The address is that of a later page now, and what is new is told of all the same.
        await page.wait_for_url(re.compile("after="))
        before = await page.evaluate(SHOTS)
        new = await done(life)
        await expect(page.locator("#held")).to_contain_text("1 new (held)")
        assert await page.evaluate(SHOTS) == before
        assert await page.locator("#held").evaluate(IN_SIGHT)
        # What runs is told of wherever it stands.
        await life.fail(running)
        await expect(tile(page, running.job_id)).to_contain_text("failed")
        await page.get_by_role("button", name="Show").click()
        await expect(tile(page, new, 0)).to_be_visible()
        assert await tile(page, new, 0).evaluate(IN_SIGHT)
        await expect(tile(page, running.job_id)).to_have_count(0)
        await expect(page.locator("#held")).to_be_hidden()
    async with browser.page(GALLERY) as page:
        await live(page)
        await page.get_by_role("button", name="Pause", exact=True).click()
        paused = await done(life)
        await expect(page.locator("#held")).to_contain_text("1 new (held)")
        await page.get_by_role("button", name="Go on").click()
        await expect(tile(page, paused, 0)).to_be_visible()


async def test_the_keyboard_alone_goes_through_grid_and_outputs_and_back(browser: Guarded, life: Life) -> None:
    first = await done(life, user_id="ann")
    await done(life, user_id="bob")
    last = await done(life, "image", "video", user_id="ann")
    async with browser.page(f"{GALLERY}&user=ann") as page:
        await live(page)
        await page.keyboard.press("j")
        await expect(tile(page, last, 0)).to_be_focused()
        style = await tile(page, last, 0).evaluate("tile => getComputedStyle(tile).outlineStyle")
        assert style != "none"
        await page.keyboard.press("Tab")
        await expect(tile(page, last, 1)).to_be_focused()
        await page.keyboard.press("j")
        await expect(tile(page, first, 0)).to_be_focused()
        await page.keyboard.press("k")
        await page.keyboard.press("Enter")
        for key, path in (
            ("ArrowRight", f"{last}/outputs/1"),
            ("ArrowRight", f"{first}/outputs/0"),
            ("ArrowLeft", f"{last}/outputs/1"),
            ("ArrowLeft", f"{last}/outputs/0"),
        ):
            await expect(page.locator("main[data-page=output]")).to_be_visible()
            await page.keyboard.press(key)
            await page.wait_for_url(f"**/monitor/jobs/{path}?user=ann")
        await expect(page.get_by_role("link", name="Previous")).to_have_count(0)
        # There is none before, and it stays.
        await page.keyboard.press("ArrowLeft")
        # A key with a meaning for selectors has none here.
        await page.keyboard.press('"')
        await page.keyboard.press("ArrowRight")
        await page.wait_for_url(f"**/monitor/jobs/{last}/outputs/1?user=ann")
        # A player has a use of its own for them.
        await page.locator("video").focus()
        await page.keyboard.press("ArrowRight")
        await page.wait_for_timeout(300)
        assert page.url.endswith(f"/monitor/jobs/{last}/outputs/1?user=ann")
        await page.locator("video").evaluate("video => video.blur()")
        await page.keyboard.press("Escape")
        await page.wait_for_url(f"**{GALLERY}&user=ann#shot-{last}-1")
        await expect(page.locator(".shot")).to_have_count(3)


async def test_without_javascript_pages_outputs_and_the_way_back_are_links(browser: Guarded, life: Life) -> None:
    jobs = await many(life, 30)
    async with browser.page("/monitor/?size=25&user=your-user-id", java_script_enabled=False) as page:
        await page.get_by_role("link", name="Gallery", exact=True).click()
        await expect(page.locator(".shot")).to_have_count(25)
        await page.get_by_role("link", name="Older").click()
        await expect(page.locator(".shot")).to_have_count(5)
        await tile(page, jobs[27], 0).click()
        await expect(page.locator(".large img")).to_be_visible()
        await page.get_by_role("link", name="Next output").click()
        await page.wait_for_url(f"**/jobs/{jobs[28]}/outputs/0?user=your-user-id&size=25")
        await page.get_by_role("link", name="Previous output").click()
        await page.get_by_role("link", name="Gallery", exact=True).click()
        await expect(tile(page, jobs[27], 0)).to_be_visible()
        await page.get_by_role("link", name="Newer").click()
        await expect(tile(page, jobs[26], 0)).to_be_visible()
        await page.get_by_role("link", name="List", exact=True).click()
        await expect(page.locator(".row").first).to_be_visible()
        async with page.expect_download() as download:
            await page.goto(f"/monitor/jobs/{jobs[0]}/outputs/0")
            await page.get_by_role("link", name="Download").click()
        assert (await (await download.value).path()).read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_axe_finds_nothing_and_nothing_scrolls_sideways(browser: Guarded, life: Life, theme: Any) -> None:
    job = await done(life, "image", "video", "audio", "text", "file", prompt="a lighthouse at dusk " * 20)
    await done(life, "audio", prompt="z" * 500, user_id="y" * 255)
    waiting = await life.execute(prompt="night market")
    claim = await life.execute(prompt="paper boat")
    await life.progress(claim, 61, {"id": "3", "type": "KSampler" + "W" * 60, "value": 13, "max": 20})
    assert waiting.job_id < claim.job_id
    pages = [GALLERY, f"{GALLERY}&status=failed", *(f"/monitor/jobs/{job}/outputs/{index}" for index in range(5))]
    pages.append(f"/monitor/jobs/{job + 1}/outputs/0")
    found: list[str] = []
    async with browser.page(GALLERY, color_scheme=theme, bypass_csp=True) as page:
        for path in pages:
            for width in (320, 1280):
                await page.set_viewport_size({"width": width, "height": 800})
                await page.goto(path)
                await page.wait_for_load_state("load")
                if await page.evaluate("document.documentElement.scrollWidth") > width:
                    found.append(f"{path} is wider than {width}")
                for fault in (await Axe().run(page, options={"resultTypes": ["violations"]})).response["violations"]:
                    found += [f"{path} at {width}: {fault['id']} {node['target']}" for node in fault["nodes"]]
    assert found == []


async def test_a_hostile_prompt_is_read_and_not_obeyed(browser: Guarded, life: Life) -> None:
    attack = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>" + HOSTILE
    job = await done(life, "image", "audio", prompt=attack)
    async with browser.page(GALLERY) as page:
        await live(page)
        await expect(tile(page, job, 1)).to_contain_text("<img src=x")
        assert str(await tile(page, job, 0).locator("img").get_attribute("alt")).startswith("<img src=x onerror=")
        await tile(page, job, 0).click()
        await expect(page.locator(".prompt")).to_have_text(attack)
        await page.set_viewport_size({"width": 320, "height": 800})
        assert await page.evaluate("document.documentElement.scrollWidth") <= 320
        assert await page.evaluate("window.hacked") is None
