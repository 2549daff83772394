"""Sending a job in a real browser: with the keyboard alone, on a narrow screen, in both themes, without JavaScript."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

import pytest
from acceptance.browsers import IN_CHROMIUM
from axe_playwright_python.async_playwright import Axe
from integration.monitor_fixtures import HOSTILE
from integration.new_job_forms import NEW, picture
from integration.new_job_graphs import GRAPH
from integration.new_job_graphs import png as png_with
from playwright.async_api import Page, expect

if TYPE_CHECKING:
    from acceptance.browsers import Guarded
    from integration.monitor_fixtures import Life

    from harness import Service

pytestmark = IN_CHROMIUM

PNG = {"name": "a picture.png", "mimeType": "image/png"}
SENT = re.compile(r"/monitor/jobs/(\d+)$")


def png(**options: Any) -> Any:
    return PNG | {"buffer": picture(**options)}


async def findings(page: Page) -> list[str]:
    found = (await Axe().run(page, options={"resultTypes": ["violations"]})).response["violations"]
    return [f"{fault['id']} {node['target']}" for fault in found for node in fault["nodes"]]


async def fits(page: Page) -> bool:
    return bool(await page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


async def sent(page: Page) -> int:
    """Wait for the page of the new job, and return its number."""
    await page.wait_for_url(SENT)
    found = SENT.search(page.url)
    assert found
    return int(found[1])


@pytest.mark.parametrize("scripts", [True, False], ids=["", "no-script"])
async def test_a_job_with_a_picture_is_sent_and_a_fault_is_mended(
    browser: Guarded, service: Service, life: Life, scripts: bool
) -> None:
    async with browser.page("/monitor/", java_script_enabled=scripts) as page:
        await page.get_by_role("link", name="New job").click()
        await page.get_by_label("User").fill("ann")
        await page.get_by_label("Prompt", exact=True).fill("a red fox\nin snow")
        await page.get_by_label("Steps").fill("3")
        await page.get_by_label("Seed").fill("many")
        await page.get_by_label("Picture", exact=True).set_input_files(png())
        await page.get_by_role("button", name="Send job").click()
        faults = page.locator("#faults")
        await expect(faults).to_contain_text("1 thing to change")
        await expect(faults).to_be_focused()
        await faults.get_by_role("link").click()
        await expect(page.get_by_label("Prompt", exact=True)).to_have_value("a red fox\nin snow")
        await expect(page.locator(".new-job .thumb img")).to_have_js_property("naturalWidth", 96)
        await page.get_by_label("Seed").fill("7")
        await page.get_by_role("button", name="Send job").click()
        job = await life.store.whole(await sent(page))
        assert (job.prompt, job.sampler_params["seed"], job.width) == ("a red fox\nin snow", 7, 96)
        await page.get_by_role("link", name="Again…").click()
        await page.get_by_label("Remove image").check()
        await page.get_by_label("Own width").fill("64")
        await page.get_by_role("button", name="Send job").click()
        job = await life.store.whole(await sent(page))
        assert (job.prompt, job.image, job.width) == ("a red fox\nin snow", None, 64)
    browser.faults = [fault for fault in browser.faults if "422" not in fault]


async def test_a_job_is_sent_with_the_keyboard_alone(browser: Guarded, life: Life) -> None:
    async with browser.page(NEW) as page:
        for text in (None, "a fox", "rain", "ann"):
            for _ in range(40):
                await page.keyboard.press("Tab")
                focused = await page.evaluate("document.activeElement.matches('.new-job input, .new-job textarea')")
                if text is None or focused:
                    break
            if text is not None:
                await page.keyboard.type(text)
        await page.keyboard.press("Enter")
        job = await life.store.whole(await sent(page))
        assert (job.prompt, job.negative_prompt, job.user_id) == ("a fox", "rain", "ann")


@pytest.mark.parametrize("scripts", [True, False], ids=["", "no-script"])
async def test_a_workflow_is_read_from_a_picture_changed_and_sent(
    browser: Guarded, service: Service, life: Life, scripts: bool
) -> None:
    graph = {**GRAPH, "3": {"class_type": "LoadImage", "inputs": {"image": "none.png"}}}
    graph["4"] = {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}}
    file = PNG | {"buffer": png_with(prompt=graph)}
    async with browser.page(NEW, java_script_enabled=scripts) as page:
        await page.get_by_label("User").fill("ann")
        await page.get_by_role("link", name="Workflow").click()
        await page.get_by_label("A file: JSON").set_input_files(file)
        await page.get_by_role("button", name="Read workflow").click()
        await page.get_by_label("width").fill("72")
        await page.get_by_label("User").fill("ann")
        await page.get_by_label("Another file for image").set_input_files(png())
        await page.get_by_role("button", name="Send job").click()
        job = await life.store.whole(await sent(page))
        assert job.workflow is not None
        assert job.workflow["1"]["inputs"] == GRAPH["1"]["inputs"] | {"width": 72}
        assert job.workflow["3"]["inputs"]["image"].startswith("upload:")
        await page.get_by_role("link", name="Again…").click()
        await expect(page.get_by_label("width")).to_have_value("72")


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_the_fields_of_a_workflow_are_for_everybody(browser: Guarded, service: Service, theme: Any) -> None:
    hostile = {"class_type": HOSTILE, "inputs": {HOSTILE: HOSTILE, "on": True, "n": 1.5}, "_meta": {"title": HOSTILE}}
    sampler = {"class_type": "KSampler", "inputs": {"sampler_name": "euler", "scheduler": HOSTILE, "steps": 3}}
    loader = {"class_type": "LoadImage", "inputs": {"image": "upload:none"}}
    graph = {**GRAPH, HOSTILE: hostile, "s": sampler, "l": loader}
    size = {"width": 320, "height": 900}
    async with browser.page(f"{NEW}?kind=workflow", color_scheme=theme, viewport=size, bypass_csp=True) as page:
        assert await findings(page) == []
        assert await fits(page)
        await page.get_by_label("Or the JSON itself").fill("{")
        await page.get_by_role("button", name="Read workflow").click()
        await expect(page.locator("#faults")).to_be_focused()
        assert await findings(page) == []
        await page.get_by_label("Or the JSON itself").fill(json.dumps(graph))
        await page.get_by_role("button", name="Read workflow").click()
        await expect(page.get_by_label("filename_prefix")).to_have_value("square")
        assert await findings(page) == []
        assert await fits(page)
        await page.get_by_label("User").fill("ann")
        await page.get_by_role("button", name="Send job").click()
        await expect(page.locator("#faults")).to_be_focused()
        assert await findings(page) == []
        assert await fits(page)
        if "SHOTS" in os.environ:
            await page.screenshot(path=f"{os.environ['SHOTS']}/wf-{theme}-320.png", full_page=True)
            await page.set_viewport_size({"width": 1280, "height": 900})
            await page.screenshot(path=f"{os.environ['SHOTS']}/wf-{theme}.png", full_page=True)
    browser.faults = [fault for fault in browser.faults if "422" not in fault]


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_the_form_is_for_everybody(browser: Guarded, service: Service, life: Life, theme: Any) -> None:
    done = await life.complete(await life.execute(user_id=HOSTILE[:200]))
    size = {"width": 320, "height": 900}
    async with browser.page(NEW, color_scheme=theme, viewport=size, bypass_csp=True) as page:
        assert await findings(page) == []
        assert await fits(page)
        await page.goto(f"{NEW}?image=content:{done.content_id}:0")
        await page.get_by_label("Prompt", exact=True).fill(HOSTILE)
        await page.get_by_label("Seed").fill(HOSTILE[:20])
        await page.get_by_role("button", name="Send job").click()
        await expect(page.locator("#faults")).to_be_visible()
        assert await findings(page) == []
        assert await fits(page)
        await page.set_viewport_size({"width": 1280, "height": 900})
        assert await fits(page)
    browser.faults = [fault for fault in browser.faults if "422" not in fault]


async def test_faults_are_said_while_one_types_and_go_when_they_are_mended(browser: Guarded, service: Service) -> None:
    async with browser.page(NEW) as page:
        seed, foreseen = page.get_by_label("Seed"), page.locator("#foreseen")
        await page.get_by_label("Prompt", exact=True).fill("a red fox")
        await expect(foreseen).to_contain_text("It can run on standin.")
        await seed.fill("many")
        await expect(seed).to_have_attribute("aria-invalid", "true")
        await expect(page.locator("#seed-fault")).to_have_text("This is to be a whole number.")
        await expect(page.get_by_label("User")).not_to_have_attribute("aria-invalid", "true")
        await seed.fill("7")
        await expect(seed).not_to_have_attribute("aria-invalid", "true")
        await expect(page.locator("#seed-fault")).to_have_text("")
        await expect(seed).to_have_attribute("aria-describedby", "seed-hint")


DROP = """async ([where, bytes]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
    const event = (kind) => new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: data });
    const target = document.querySelector(where);
    return [target.dispatchEvent(event("dragover")), target.dispatchEvent(event("drop"))];
}"""


async def test_a_file_that_is_dropped_is_chosen_and_seen(browser: Guarded, service: Service, life: Life) -> None:
    async with browser.page(NEW) as page:
        # Where no field is, it is the first one's.
        assert await page.evaluate(DROP, ["h1", list(picture())]) == [False, False]
        await expect(page.get_by_role("img", name="96 × 64")).to_have_js_property("width", 96)
        await page.evaluate(DROP, ["#mask", list(picture(size=(320, 160)))])
        await expect(page.get_by_role("img", name="320 × 160")).to_have_js_property("width", 160)
        await page.get_by_label("Prompt", exact=True).fill("a red fox")
        await page.get_by_label("User").fill("ann")
        await page.get_by_role("button", name="Send job").click()
        job = await life.store.whole(await sent(page))
        assert job.image is not None
        assert job.mask is not None
        assert job.width == 96
