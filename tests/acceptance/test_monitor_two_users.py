"""Two users at once, each in a browser of its own: neither sees or touches what is the other's."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urldefrag

import pytest
from acceptance.browsers import IN_CHROMIUM, sign_in
from integration.monitor_fixtures import Life
from playwright.async_api import Page, expect

from app import keys
from app.domain.access import Role

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from acceptance.browsers import Guarded

    from app.storage.database import Database

pytestmark = IN_CHROMIUM

ROWS = "#rows > li"


@dataclass(frozen=True)
class Theirs:
    """What belongs to one user."""

    done: int
    content: int
    failed: int
    waiting: int

    @property
    def jobs(self) -> set[int]:
        """All jobs."""
        return {self.done, self.failed, self.waiting}


@dataclass(frozen=True)
class Both:
    """The keys of everybody, and what ann and bob have."""

    keys: dict[str, str]
    ann: Theirs
    bob: Theirs
    life: Life


@pytest.fixture
async def both(client: Any, database: Database) -> Both:
    """Jobs of ann and of bob, and keys of each role."""
    life = Life(client, database)

    async def theirs(user: str, prompt: str) -> Theirs:
        done = await life.execute(user_id=user, prompt=prompt)
        job = await life.complete(done)
        assert job.content_id is not None
        failed = await life.execute(user_id=user, prompt=f"{prompt}, failed")
        await life.fail(failed, "The node fell over.")
        # Later than all others, which are taken in the order of their turns.
        waiting = await life.submit(user_id=user, prompt=f"{prompt}, waiting", priority=-1)
        return Theirs(done.job_id, job.content_id, failed.job_id, waiting)

    made = {}
    for name, role in (("ann", Role.USER), ("bob", Role.USER), ("op", Role.OPERATOR), ("eye", Role.VIEWER)):
        made[name] = await client.app[keys.KEYS].add(name, role)
    return Both(made, await theirs("ann", "a red fox"), await theirs("bob", "a blue whale"), life)


@asynccontextmanager
async def signed_in(browser: Guarded, both: Both, name: str, path: str = "/monitor/") -> AsyncIterator[Page]:
    """Open a page in a browser of its own, signed in as one of them."""
    async with browser.page(path) as page:
        await sign_in(page, both.keys[name])
        yield page


async def shown(page: Page) -> set[int]:
    """Return the jobs that the list or the gallery shows."""
    return {
        int(each) for each in await page.eval_on_selector_all("#rows [data-job]", "all => all.map(e => e.dataset.job)")
    }


def forget(browser: Guarded, *parts: str) -> None:
    """Leave out what Chromium writes down of answers that the test asked for."""
    browser.faults = [fault for fault in browser.faults if not any(part in fault for part in parts)]


async def test_each_sees_the_own_jobs_alone(browser: Guarded, both: Both) -> None:
    async with signed_in(browser, both, "ann") as ann, signed_in(browser, both, "bob") as bob:
        for page, own, other, word in ((ann, both.ann, both.bob, "whale"), (bob, both.bob, both.ann, "fox")):
            await expect(page.locator(ROWS)).to_have_count(3)
            assert await shown(page) == own.jobs
            tabs = await page.locator("nav[aria-label=Status] a").all_inner_texts()
            assert [" ".join(each.split()) for each in tabs][-1] == "All 3"
            await expect(page.locator("#health")).to_contain_text("Queue 1")
            await expect(page.locator("#tiles")).to_have_count(0)
            await page.get_by_role("link", name="Gallery").click()
            await expect(page.locator("#rows img")).to_have_count(1)
            assert await shown(page) == {own.done}
            await page.goto(f"/monitor/?q={word}")
            await expect(page.get_by_role("heading", name="No job fits")).to_be_visible()
            for job_id in other.jobs:
                answer = await page.goto(f"/monitor/jobs/{job_id}")
                assert answer is not None
                assert answer.status == 404
                await expect(page.locator("main")).not_to_contain_text(word)
            for path in (f"/monitor/jobs/{other.done}/outputs/0", f"/api/v1/contents/{other.content}/outputs/0"):
                assert (await page.request.get(path)).status == 404
            assert (await page.request.get(f"/api/v1/contents/{own.content}/outputs/0")).status == 200
            # Who narrows to the other's finds none either.
            await page.goto("/monitor/?user=bob" if page is ann else "/monitor/?user=ann")
            await expect(page.get_by_role("heading", name="No job fits")).to_be_visible()
    forget(browser, "404")


async def test_a_user_sends_for_itself_alone(browser: Guarded, both: Both) -> None:
    async with signed_in(browser, both, "ann", "/monitor/new") as ann, signed_in(browser, both, "bob") as bob:
        await expect(ann.get_by_label("User")).to_have_count(0)
        await expect(ann.locator("form.new-job")).to_contain_text("Sent by ann")
        await ann.get_by_label("Prompt", exact=True).fill("a paper boat")
        await ann.get_by_role("button", name="Send job").click()
        await ann.wait_for_url("**/monitor/jobs/*")
        job_id = int(ann.url.rpartition("/")[2])
        assert (await both.life.store.whole(job_id)).user_id == "ann"
        await bob.reload()
        await expect(bob.locator(ROWS)).to_have_count(3)
        # Also when the page is made to say otherwise.
        await ann.goto("/monitor/new")
        await ann.get_by_label("Prompt", exact=True).fill("for bob")
        await ann.evaluate("document.querySelector('[name=user_id]').value = 'bob'")
        await ann.get_by_role("button", name="Send job").click()
        await expect(ann.get_by_role("heading", name="Not allowed")).to_be_visible()
        await bob.reload()
        await expect(bob.locator(ROWS)).to_have_count(3)
    forget(browser, "403")


async def test_what_is_done_to_many_is_done_to_the_own_ones(browser: Guarded, both: Both) -> None:
    async with signed_in(browser, both, "ann") as ann:
        await ann.get_by_role("link", name="Cancel all 1").click()
        await ann.get_by_role("button", name="Cancel 1 job").click()
        await expect(ann.locator(".flash")).to_contain_text("Of 1 jobs: 1 cancelled")
        assert (await both.life.store.get(both.ann.waiting)).phase == "cancelled"
        assert (await both.life.store.get(both.bob.waiting)).phase == "queued"
        # Also when the page is made to name the other's.
        await ann.goto("/monitor/")
        # At once, or what is read anew meanwhile would name the own job again.
        named = (
            "(box, job) => { box.checked = true; box.value = job; document.querySelector('[data-bulk=retry]').click() }"
        )
        tick = ann.locator(f"#job-{both.ann.failed} input[type=checkbox]")
        await tick.evaluate(named, str(both.bob.failed))
        await expect(ann.locator(".flash")).to_contain_text("0 wait for another attempt, 1 could not be retried")
        assert (await both.life.store.get(both.bob.failed)).phase == "failed"


async def test_what_a_user_sees_leads_nowhere_where_it_may_not_go(browser: Guarded, both: Both) -> None:
    async with signed_in(browser, both, "ann") as page:
        assert await page.locator("nav[aria-label=Pages] a").all_inner_texts() == ["Jobs", "New job"]
        links: set[str] = set()
        own = [f"/monitor/jobs/{job_id}" for job_id in both.ann.jobs]
        for path in ("/monitor/", "/monitor/?view=gallery", "/monitor/new", f"{own[0]}/outputs/0", *own):
            await page.goto(path)
            found = await page.eval_on_selector_all("a[href]", "all => all.map(each => each.href)")
            links |= {urldefrag(each).url for each in found}
        assert len(links) > 20
        refused = {each: (await page.request.get(each)).status for each in links}
        assert {each: status for each, status in refused.items() if status >= 400} == {}
        for path in ("backends", "workers", "stats", "schedule", "audit", "keys"):
            answer = await page.goto(f"/monitor/{path}")
            assert answer is not None
            assert answer.status == 403
    forget(browser, "403", "404")


async def test_a_user_without_jobs_is_told_how_to_send_one(browser: Guarded, both: Both, client: Any) -> None:
    both.keys["new"] = await client.app[keys.KEYS].add("new", Role.USER, owner="newcomer")
    async with signed_in(browser, both, "new") as page:
        await expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
        await expect(page.locator("#empty pre")).to_contain_text('"user_id": "newcomer"')
        await expect(page.locator("#empty pre")).to_contain_text("Authorization: Bearer $KEY")
        await page.get_by_role("link", name="the form").click()
        await expect(page.get_by_role("heading", name="New job")).to_be_visible()


async def test_an_operator_sees_and_sends_for_both_and_a_viewer_has_no_buttons(browser: Guarded, both: Both) -> None:
    async with signed_in(browser, both, "op") as op, signed_in(browser, both, "eye") as eye:
        for page in (op, eye):
            await expect(page.locator(ROWS)).to_have_count(6)
            assert await shown(page) == both.ann.jobs | both.bob.jobs
            await expect(page.locator("#health")).to_contain_text("Queue 2")
        await expect(eye.locator("main form[method=post]")).to_have_count(0)
        await expect(eye.get_by_role("link", name="New job")).to_have_count(0)
        await eye.goto(f"/monitor/jobs/{both.ann.failed}")
        await expect(eye.locator("main form[method=post]")).to_have_count(0)
        await expect(eye.locator("main a.button")).to_have_count(0)
        await op.get_by_role("link", name="New job").click()
        await expect(op.get_by_label("User")).to_have_value("op")
        await op.get_by_label("User").fill("bob")
        await op.get_by_label("Prompt", exact=True).fill("for bob")
        await op.get_by_role("button", name="Send job").click()
        await op.wait_for_url("**/monitor/jobs/*")
        assert (await both.life.store.whole(int(op.url.rpartition("/")[2]))).user_id == "bob"
