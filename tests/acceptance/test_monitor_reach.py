"""The page for everybody: assistive tools, keyboards, narrow screens, browsers without JavaScript."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from acceptance.browsers import IN_CHROMIUM, live
from axe_playwright_python.async_playwright import Axe
from integration.monitor_fixtures import SPANS, Life, act, note
from playwright.async_api import Locator, Page, expect

from app import keys
from app.domain.access import Role
from app.storage.statistics_recorder import StatisticsRecorder

if TYPE_CHECKING:
    from acceptance.browsers import Guarded

    from app.storage.database import Database

pytestmark = IN_CHROMIUM

WIDTHS = (320, 1280)
CONTRAST = ["color-contrast"]
"""The one of axe's rules that depends on the colours; None below is all of them."""
NARROW_PAGES = ("jobs", "gallery", "job, failed", "backends")
"""Pages scanned at 320 pixels too: each kind of content that is laid out otherwise there."""
SERIOUS = ("serious", "critical")
TOO_WIDE = """width => [...document.querySelectorAll("body *")]
    .filter(each => each.getBoundingClientRect().right > width + 1 && !each.closest(".scroll, pre, .unseen"))
    .map(each => each.outerHTML.slice(0, 200))"""
"""What reaches past the right edge, but for what scrolls in a box of its own: to say whom it is."""


@dataclass(frozen=True)
class Lived:
    """A service in which something has happened, and its pages."""

    life: Life
    failed: int
    waiting: int
    pages: dict[str, str]


@pytest.fixture
async def lived(client: Any, database: Database) -> Lived:
    """Jobs in each state with long and short texts, backends and workers well and ill, pauses, statistics, an audit."""
    life = Life(client, database)
    done = await life.execute(prompt="a lighthouse at dusk " * 20, user_id="y" * 255)
    await life.complete(done, "image", "image", "text")
    await note(database, done, (0.5, 1, 9, 9.25), spans=SPANS)
    failed = await life.execute(prompt="z" * 500)
    await life.fail(failed, "w" * 500)
    await note(database, failed, spans=SPANS, traceback="Traceback\n" + "  line " * 60, node_type="VAEDecode")
    cancelled = await life.execute(prompt="old bridge")
    await act(client, f"/monitor/jobs/{cancelled.job_id}/cancel")
    await life.confirm_cancel(cancelled)
    running = await life.execute(prompt="night market")
    await life.progress(running, 40, {"id": "3", "type": "KSampler", "value": 8, "max": 20})
    waiting = await life.submit(prompt="paper boat")
    backends = {
        "gpu-a": {
            "healthy": True, "slots": 2, "used": 1, "current": [running.job_id],
            "warm": ["checkpoints/" + "m" * 80 + ".safetensors"],
            "queue_remaining": 3, "vram_total": 24 * 2**30, "vram_free": 6 * 2**30,
        },
        "gpu-b": {"healthy": False, "reason": "It refuses: " + "t" * 300},
        "u" * 64: {"healthy": True, "drained": True},
    }  # fmt: skip
    registry = client.app[keys.REGISTRY]
    await registry.beat("v" * 100, {"slots": 2, "state": "working", "backends": list(backends)}, backends)
    await registry.beat("host:7:quiet", {"slots": 1, "state": "quiet", "backends": []}, {})
    await StatisticsRecorder(database).record()
    await client.app[keys.QUEUE_CONTROL].pause(None, "New models are copied. " * 8, "boss")
    await client.app[keys.QUEUE_CONTROL].pause("y" * 255, None, "boss")
    pages = {
        "jobs": "/monitor/",
        "jobs, none": "/monitor/?q=nothing-like-it",
        "gallery": "/monitor/?view=gallery",
        "an output": f"/monitor/jobs/{done.job_id}/outputs/0",
        "job, completed": f"/monitor/jobs/{done.job_id}",
        "job, failed": f"/monitor/jobs/{failed.job_id}",
        "job, cancelled": f"/monitor/jobs/{cancelled.job_id}",
        "job, running": f"/monitor/jobs/{running.job_id}",
        "job, waiting": f"/monitor/jobs/{waiting}",
        "confirm bulk": "/monitor/bulk/cancel?until_id=1000",
        "confirm delete": f"/monitor/jobs/{done.job_id}/confirm-delete",
        "backends": "/monitor/backends",
        "workers": "/monitor/workers",
        "stats": "/monitor/stats",
        "schedule": "/monitor/schedule",
        "audit": "/monitor/audit",
        "keys": "/monitor/keys",
        "sign in": "/monitor/sign-in",
    }
    return Lived(life, failed.job_id, waiting, pages)


async def opened(page: Page) -> None:
    """Unfold all that is folded, once the page has read itself anew."""
    await page.evaluate("for (const each of document.querySelectorAll('main details')) each.open = true")


async def look(page: Page, where: str, found: dict[str, list[str]], rules: list[str] | None = None) -> None:
    """Add what axe finds by these rules, by default by all."""
    options = {"resultTypes": ["violations"]} | ({"runOnly": {"type": "rule", "values": rules}} if rules else {})
    for fault in (await Axe().run(page, options=options)).response["violations"]:
        told = [f"{fault['id']} {node['target']} {node['failureSummary']}" for node in fault["nodes"]]
        found.setdefault(f"{fault['impact']} in {where}", []).extend(told[:3])


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("theme", "width", "rules", "names"),
    [("light", 1280, None, None), ("light", 320, None, NARROW_PAGES), ("dark", 1280, CONTRAST, None)],
    ids=["all", "narrow", "dark"],
)
async def test_axe_finds_nothing_serious_on_any_page_and_each_has_its_landmarks(
    browser: Guarded, lived: Lived, theme: Any, width: int, rules: list[str] | None, names: tuple[str, ...] | None
) -> None:
    found: dict[str, list[str]] = {}
    size = {"width": width, "height": 900}
    # axe is put into the page from outside, which the page's own policy forbids to everybody else.
    async with browser.page("/monitor/", color_scheme=theme, viewport=size, bypass_csp=True) as page:
        for name in names or lived.pages:
            await page.goto(lived.pages[name])
            assert await page.locator("main").count() == 1, name
            assert await page.locator("h1").count() == 1, name
            assert await page.title(), name
            await opened(page)
            await look(page, f"{name} at {width}", found, rules)
    print({name: told for name, told in found.items() if not name.startswith(SERIOUS)})
    assert {name: told for name, told in found.items() if name.startswith(SERIOUS)} == {}


@pytest.mark.parametrize(("theme", "width", "rules"), [("light", 320, None), ("dark", 1280, CONTRAST)])
async def test_axe_finds_nothing_serious_in_what_opens_appears_or_is_not_there(
    browser: Guarded, lived: Lived, theme: Any, width: int, rules: list[str] | None
) -> None:
    found: dict[str, list[str]] = {}
    size = {"width": width, "height": 900}
    async with browser.page("/monitor/", color_scheme=theme, viewport=size, bypass_csp=True) as page:
        await live(page)
        await page.locator("#view summary").click()
        await expect(page.get_by_label("Theme")).to_be_visible()
        await look(page, "view", found, rules)
        await page.get_by_role("button", name="Shortcuts").click()
        await expect(page.get_by_role("dialog", name="Shortcuts")).to_be_visible()
        await look(page, "help", found, rules)
        await page.keyboard.press("Escape")
        for job in (lived.failed, lived.waiting):
            await page.locator(f"#job-{job}").get_by_role("checkbox").check()
        await lived.life.submit(prompt="comes while some are ticked")
        await expect(page.locator("#held")).to_be_visible()
        await look(page, "ticked", found, rules)
        await page.locator(f"#job-{lived.waiting}").get_by_role("button", name="Cancel").click()
        await expect(page.get_by_role("button", name="Undo")).to_be_visible()
        await look(page, "toast", found, rules)
        await page.get_by_role("button", name="Pause", exact=True).click()
        await look(page, "paused", found, rules)
        await page.goto("/monitor/jobs/999999")
        await expect(page.get_by_role("heading", level=1)).to_be_visible()
        await look(page, "404", found, rules)
    browser.faults = [fault for fault in browser.faults if "404" not in fault]
    print({name: told for name, told in found.items() if not name.startswith(SERIOUS)})
    assert {name: told for name, told in found.items() if name.startswith(SERIOUS)} == {}


async def test_no_page_scrolls_sideways(browser: Guarded, lived: Lived) -> None:
    too_wide = {}
    async with browser.page("/monitor/") as page:
        for name, path in lived.pages.items():
            await page.goto(path)
            await opened(page)
            for width in WIDTHS:
                await page.set_viewport_size({"width": width, "height": 800})
                if await page.evaluate("document.documentElement.scrollWidth") > width:
                    too_wide[name, width] = await page.evaluate(TOO_WIDE, width)
    assert too_wide == {}


async def test_a_button_is_reached_seen_and_pressed_with_the_keyboard_alone(browser: Guarded, lived: Lived) -> None:
    focused = "document.activeElement.outerHTML"
    async with browser.page("/monitor/") as page:
        await live(page)
        await page.keyboard.press("Tab")
        assert "Skip" in await page.evaluate("document.activeElement.textContent")
        await page.keyboard.press("Enter")
        button = page.locator(f"#job-{lived.failed} button", has_text="Retry")
        for _ in range(200):
            await page.keyboard.press("Tab")
            assert "<body" not in await page.evaluate(focused), "The button was passed over."
            if await button.evaluate("button => button === document.activeElement"):
                break
        await expect(button).to_be_focused()
        style = "({ outlineStyle, outlineWidth }) => [outlineStyle, parseFloat(outlineWidth)]"
        kind, width = await button.evaluate(f"button => ({style})(getComputedStyle(button))")
        assert kind != "none"
        assert width >= 2
        await page.keyboard.press("Enter")
        await expect(page.locator(f"#job-{lived.failed} .word")).to_have_text("pending")
        assert (await lived.life.store.get(lived.failed)).attempt == 2


async def tab_to(page: Page, wanted: Locator, key: str = "Tab") -> None:
    """Go there with the keyboard alone."""
    for _ in range(200):
        await page.keyboard.press(key)
        if await wanted.evaluate("element => element === document.activeElement"):
            return
    pytest.fail(f"{wanted} was passed over.")


async def test_the_list_is_worked_with_the_keyboard_alone(browser: Guarded, lived: Lived) -> None:
    async with browser.page("/monitor/") as page:
        await live(page)
        row = page.locator(f"#job-{lived.waiting}")
        word, tick, title = row.locator(".word"), row.get_by_role("checkbox"), row.locator(".title")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await tab_to(page, tick)
        await page.keyboard.press("Space")
        await expect(page.locator("#ticked")).to_have_text("1 selected")
        await page.keyboard.press("Space")
        await expect(page.locator("#ticked")).to_have_text("Select")
        await tab_to(page, row.get_by_role("button", name="Cancel"))
        await page.keyboard.press("Enter")
        await expect(word).to_have_text("cancelled")
        # The button is gone, the reader is where he was; and pressing on does not do the opposite.
        await expect(title).to_be_focused()
        await tab_to(page, page.get_by_role("button", name="Undo"), "Shift+Tab")
        await page.keyboard.press("Enter")
        await expect(word).to_have_text("pending")
        await page.keyboard.press("/")
        await page.keyboard.type("paper boat")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/monitor/?q=paper+boat")
        await live(page)
        await page.keyboard.press("j")
        await expect(title).to_be_focused()
        await page.keyboard.press("x")
        await expect(tick).to_be_checked()
        await tab_to(page, page.get_by_role("button", name="Cancel 1 selected"), "Shift+Tab")
        await page.keyboard.press("Enter")
        await expect(word).to_have_text("cancelled")
        await expect(page.locator(".flash")).to_contain_text("Of 1 jobs: 1 cancelled")
        await page.keyboard.press("?")
        help_ = page.get_by_role("dialog", name="Shortcuts")
        await expect(help_).to_be_visible()
        # Keys that act on jobs do nothing behind it.
        await page.keyboard.press("r")
        await page.keyboard.press("Escape")
        await expect(help_).to_be_hidden()
        await expect(word).to_have_text("cancelled")


async def test_without_javascript_one_signs_in_reads_narrows_turns_pages_and_acts(
    browser: Guarded, lived: Lived, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = lived.life
    foxes = [await life.submit(prompt="red fox") for _ in range(30)]
    # That the page is open may be remembered for a moment.
    monkeypatch.setattr("app.services.access.OPEN_S", -1.0)
    secret = await client.app[keys.KEYS].add("ann", Role.OPERATOR)
    async with browser.page("/monitor/?size=25", java_script_enabled=False) as page:
        await page.get_by_label("Your key").fill(secret)
        await page.get_by_role("button", name="Sign in").click()
        await page.wait_for_url("**/monitor/?size=25")
        await page.get_by_placeholder("Text in the prompt").fill("red fox")
        await page.get_by_role("button", name="Search").click()
        await expect(page.locator(".row")).to_have_count(25)
        await page.get_by_role("link", name="Older").click()
        await expect(page.locator(".row")).to_have_count(5)
        assert await page.locator(".row").first.get_attribute("data-job") == str(foxes[4])
        for job in foxes[:2]:
            await page.locator(f"#job-{job}").get_by_role("checkbox").check()
        await page.get_by_role("button", name="Cancel selected").click()
        await expect(page.locator(".flash")).to_contain_text("Of 2 jobs: 2 cancelled")
        await page.locator(f"#job-{foxes[0]}").get_by_role("button", name="Retry").click()
        await expect(page.locator(f"#job-{foxes[0]} .word")).to_have_text("pending")
        await page.get_by_role("link", name="Cancel all").click()
        await page.get_by_role("button", name="Cancel 29 jobs").click()
        await expect(page.locator(".flash")).to_contain_text("Of 29 jobs: 29 cancelled")
        await page.goto("/monitor/")
        await page.get_by_text("Filters", exact=True).click()
        await page.get_by_label("Error code").fill("node_failed")
        await page.get_by_role("button", name="Filter", exact=True).click()
        await expect(page.locator(".row")).to_have_count(1)
        await page.locator(f"#job-{lived.failed} .title").click()
        await expect(page.locator("#error")).to_contain_text("node_failed")
        await page.get_by_role("button", name="Sign out").click()
        await page.goto("/monitor/")
        await expect(page.get_by_label("Your key")).to_be_visible()


async def test_who_is_signed_out_meanwhile_is_told_so_and_comes_back_to_the_same_list(
    browser: Guarded, lived: Lived, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.access.OPEN_S", -1.0)
    secret = await client.app[keys.KEYS].add("ann", Role.OPERATOR)
    async with browser.page("/monitor/?status=failed") as page:
        await page.get_by_label("Your key").fill(secret)
        await page.get_by_role("button", name="Sign in").click()
        word = page.locator("#connection-word")
        await expect(word).to_have_text("live")
        await client.app[keys.KEYS].revoke("ann")
        await lived.life.submit()
        await expect(word).to_have_text("signed out")
        # What one was reading is still there.
        await expect(page.locator(f"#job-{lived.failed}")).to_be_visible()
        assert (await page.title()).startswith("signed out · ")
        again = await client.app[keys.KEYS].add("bob", Role.OPERATOR)
        await page.get_by_role("link", name="Sign in again").click()
        await page.get_by_label("Your key").fill(again)
        await page.get_by_role("button", name="Sign in").click()
        await page.wait_for_url("**/monitor/?status=failed")
        await expect(word).to_have_text("live")
    # The page's own request is refused, which Chromium writes down.
    browser.faults = [fault for fault in browser.faults if "401" not in fault]
