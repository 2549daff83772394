"""The page of a user: live for its own jobs, and still when something happens to those of others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from acceptance.browsers import IN_CHROMIUM, live
from playwright.async_api import expect

from app import keys
from app.domain.access import Role

if TYPE_CHECKING:
    from acceptance.browsers import Guarded
    from integration.monitor_fixtures import Life

pytestmark = IN_CHROMIUM


async def test_the_page_of_a_user_follows_its_own_jobs_alone(browser: Guarded, client: Any, life: Life) -> None:
    key = await client.app[keys.KEYS].add("ann", Role.USER)
    heard: list[dict[str, Any]] = []
    async with browser.page("/monitor/sign-in") as page:
        page.on("websocket", lambda ws: ws.on("framereceived", lambda frame: heard.append(json.loads(frame))))
        await page.fill("input[name=key]", key)
        await page.click("button")
        await live(page)
        others = await life.execute(user_id="ben")
        await life.progress(others, 50)
        mine = await life.execute(user_id="ann")
        row = page.locator(f"#job-{mine.job_id}")
        await expect(row.locator(".word")).to_have_text("running")
        for percent in (30, 70):
            await life.progress(mine, percent)
            await expect(row.locator("progress")).to_have_attribute("value", str(percent))
        await life.complete(others)
        await life.complete(mine)
        await expect(row.locator(".word")).to_have_text("completed")
        # The page's own pictures come by its session.
        await expect(row.locator("img")).to_have_js_property("naturalWidth", 64)
        await expect(page.locator("#rows > .row")).to_have_count(1)
    told = {event.get("job_id") for event in heard} - {None}
    assert told == {mine.job_id}
    assert {event["type"] for event in heard if "job_id" not in event} <= {"hello", "pong"}
