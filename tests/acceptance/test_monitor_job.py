"""The page of one job in a real browser: pictures, bars, hostile texts, and what a click does."""

from __future__ import annotations

from acceptance.browsers import IN_CHROMIUM
from integration.monitor_fixtures import HOSTILE, SPANS, Life, note
from playwright.async_api import expect

pytestmark = IN_CHROMIUM

SOON_MS = 4000
"""Less than the time after which a page looks by itself: it was told. On an idle machine it takes a tenth of that."""

PREVIEWING = """
  const Real = WebSocket;
  window.WebSocket = class extends Real {
    constructor(...rest) {
      super(...rest);
      this.addEventListener("message", ({ data }) => {
        if (JSON.parse(data).type === "preview") window.told ??= performance.now();
      });
    }
  };
  document.addEventListener("load", ({ target }) => {
    if (target.classList?.contains("preview") && target.naturalWidth > 0) window.drawn ??= performance.now();
  }, true);
"""
"""Keeps when the page was told of the first picture, and when one had been drawn."""

WORDS = """
  const look = () => {
    const word = document.querySelector("header.job .word")?.textContent;
    const words = JSON.parse(sessionStorage.words ?? "[]");
    if (word && word !== words.at(-1)) sessionStorage.words = JSON.stringify([...words, word]);
    if (document.getElementById("attempt-2")) sessionStorage.again ??= Date.now();
  };
  new MutationObserver(look).observe(document, { subtree: true, childList: true, characterData: true });
"""
"""Keeps every word that the job's head shows, over several pages, and when the second attempt was there."""

LANES = """() => [...document.querySelectorAll(".lane[data-seconds]")].map((lane) => ({
  lane: [...lane.classList].includes("stages") ? "stages" : "node",
  length: Number(lane.dataset.seconds),
  ...(({ left, width }) => ({ left, width }))(lane.getBoundingClientRect()),
  bars: [...lane.querySelectorAll("rect[data-seconds]")].map((bar) => {
    const { left, width } = bar.getBoundingClientRect();
    return { left, width, start: Number(bar.dataset.start), seconds: Number(bar.dataset.seconds) };
  }),
}))"""
"""Lanes and their bars as they are on the screen, in pixels."""


async def test_the_picture_comes_up_while_the_job_runs_and_its_results_follow(browser, slow_service):
    job = (await slow_service.submit(width=512, height=512, sampler_params={"steps": 30}))["job_id"]
    async with browser.page(f"/monitor/jobs/{job}", script=PREVIEWING) as page:
        await page.wait_for_function("() => window.told && window.drawn", timeout=20_000)
        assert await page.evaluate("drawn - told") < SOON_MS
        await expect(page.locator("header.job .word")).to_have_text("completed", timeout=20_000)
        await expect(page.locator("img.preview")).to_have_count(0)
        await page.wait_for_function("() => document.querySelector('.gallery img')?.naturalWidth > 0")
        load = "link => { const i = new Image(); i.src = link.href; return i.decode().then(() => i.naturalWidth); }"
        assert await page.locator(".gallery a").first.evaluate(load) == 512


async def test_the_bars_of_job_and_node_move_with_the_events(browser, client, database):
    life = Life(client, database)
    claim = await life.execute()
    await note(database, claim, graph={"3": {"class_type": "KSampler", "inputs": {}, "_meta": {"title": "First"}}})
    async with browser.page(f"/monitor/jobs/{claim.job_id}") as page:
        await expect(page.locator("#connection-word")).to_have_text("live")
        for percent, node, value in ((20, "3", 4), (45, "3", 9), (60, "4", 1)):
            await life.progress(claim, percent, {"id": node, "type": "KSampler", "value": value, "max": 20})
            await expect(page.locator("header.job .percent")).to_have_text(f"{percent} %")
            await expect(page.locator("header.job .step")).to_have_text(f"KSampler {value}/20")
            await expect(page.locator("#node-bar")).to_have_js_property("value", value)
            await expect(page.locator("#node-bar")).to_be_visible()
        await expect(page.locator("#node-title")).to_have_count(0)


async def test_bars_are_as_long_on_the_screen_as_what_they_stand_for(browser, client, database):
    life = Life(client, database)
    claim = await life.execute()
    await life.complete(claim)
    await note(database, claim, (0.5, 1, 9, 9.25), spans=SPANS)
    async with browser.page(f"/monitor/jobs/{claim.job_id}") as page:
        for width in (320, 1280):
            await page.set_viewport_size({"width": width, "height": 800})
            lanes = await page.evaluate(LANES)
            for lane in lanes:
                assert lane["width"] > 200
                for bar in lane["bars"]:
                    share = lane["width"] / lane["length"]
                    assert abs(bar["width"] - bar["seconds"] * share) < 2, (width, bar)
                    assert abs(bar["left"] - lane["left"] - bar["start"] * share) < 2, (width, bar)
            stages = [bar["seconds"] for lane in lanes if lane["lane"] == "stages" for bar in lane["bars"]]
            nodes = [bar["seconds"] for lane in lanes if lane["lane"] == "node" for bar in lane["bars"]]
            told = [(span["end_ms"] - span["start_ms"]) / 1000 for span in SPANS if "cached" not in span]
            assert (stages[1:], nodes) == ([0.5, 0.5, 8, 0.25], told)
        await page.get_by_text("As a table").click()
        await expect(page.locator("#table-1")).to_contain_text("cached")


async def test_hostile_texts_are_read_and_not_obeyed(browser, client, database):
    life = Life(client, database)
    attack = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>" + HOSTILE
    claim = await life.execute(prompt=attack, user_id=attack[:200])
    await life.fail(claim, attack)
    spans = [{"node": attack, "type": attack, "title": attack, "start_ms": 0, "end_ms": 5}]
    await note(database, claim, spans=spans, traceback=attack, node_type=attack)
    async with browser.page(f"/monitor/jobs/{claim.job_id}") as page:
        await expect(page.locator(".prompt")).to_have_text(attack)
        await expect(page.locator("#error .text")).to_have_text(attack)
        await expect(page.locator(".nodes bdi").first).to_have_text(attack)
        await page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
        for width in (320, 1280):
            await page.set_viewport_size({"width": width, "height": 800})
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
        assert await page.evaluate("window.hacked") is None


async def test_a_retry_shows_the_second_attempt_within_a_second_and_keeps_the_first(browser, client, database):
    life = Life(client, database)
    job = await life.fail(await life.execute())
    async with browser.page(f"/monitor/jobs/{job.job_id}", script=WORDS) as page:
        button = page.get_by_role("button", name="Retry, same seed")
        await button.evaluate("button => { sessionStorage.clicked = Date.now(); button.click(); }")
        await expect(page.locator("#attempt-2")).to_be_visible()
        assert await page.evaluate("sessionStorage.again - sessionStorage.clicked") < SOON_MS
        await expect(page.locator("#attempt-1")).to_contain_text("failed")
        await expect(page.locator("#attempt-1")).to_contain_text("node_failed")


async def test_a_cancelled_job_is_called_so_only_when_it_is(browser, client, database):
    life = Life(client, database)
    claim = await life.execute()
    async with browser.page(f"/monitor/jobs/{claim.job_id}", script=WORDS) as page:
        await page.get_by_role("button", name="Cancel").click()
        word = page.locator("header.job .word")
        await expect(word).to_have_text("cancelling")
        assert "cancelled" not in await page.evaluate("JSON.parse(sessionStorage.words)")
        await life.confirm_cancel(claim)
        await expect(word).to_have_text("cancelled")
        await expect(page.locator(".legend").first).to_contain_text("asked to cancel by")
        assert await page.evaluate("JSON.parse(sessionStorage.words)") == ["running", "cancelling", "cancelled"]
