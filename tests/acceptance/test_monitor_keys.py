"""The page of keys in a browser: with and without JavaScript, for everybody, and the key nowhere but on its page."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from acceptance.browsers import IN_CHROMIUM, live, sign_in
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from app import keys
from app.domain.access import Role
from app.domain.errors import WrongKey
from harness import eventually

if TYPE_CHECKING:
    from acceptance.browsers import Guarded

    from app.storage.keys import KeyStore

pytestmark = IN_CHROMIUM

PAGE = "/monitor/keys"


@pytest.fixture
async def boss(client: Any) -> str:
    """An admin's key."""
    return str(await client.app[keys.KEYS].add("boss", Role.ADMIN))


def forget(browser: Guarded, status: str) -> None:
    """Leave out what Chromium writes down of answers with this status, which the test asked for."""
    browser.faults = [fault for fault in browser.faults if status not in fault]


async def make(page: Page, name: str, **fields: str) -> str:
    """Fill in the form, send it, and return the key that the answer shows."""
    await page.get_by_text("Make a key").click()
    await page.get_by_label("Name").fill(name)
    for label, text in fields.items():
        # Each key has a field of this name too.
        await page.get_by_label(label.capitalize(), exact=True).fill(text)
    await page.get_by_role("button", name="Make key").click()
    secret = await page.locator("#secret").inner_text()
    assert re.fullmatch(r"gno_\w{49}", secret)
    return secret


async def test_a_key_is_made_revoked_and_restored(browser: Guarded, boss: str, client: Any) -> None:
    store = client.app[keys.KEYS]
    async with browser.page("/monitor/") as page:
        await sign_in(page, boss)
        await page.get_by_role("link", name="Keys").click()
        await live(page)
        secret = await make(page, "ann", owner="bob", limits="running=2")
        assert page.url.endswith(PAGE)
        assert secret not in str(await page.context.cookies()) + str(await page.context.storage_state())
        await page.get_by_role("link", name="To the keys").click()
        await live(page)
        card = page.locator(".card", has_text="ann")
        await expect(card).to_contain_text("running=2")
        await expect(card).to_contain_text("never")
        await card.get_by_role("button", name="Revoke").click()
        await expect(page.locator(".flash")).to_contain_text("opens nothing any more")
        await expect(card.locator(".state-word")).to_have_text("revoked")
        with pytest.raises(WrongKey):
            await store.sign_in(secret)
        await page.get_by_role("button", name="Undo: restore it").click()
        await expect(card.locator(".state-word")).to_have_text("active")
        await store.sign_in(secret, "10.1.2.3")
        await page.reload()
        await expect(card).to_contain_text("from 10.1.2.3")
        await page.go_back()
        assert secret not in await page.content()


async def test_limits_are_changed_and_what_is_typed_stays_while_the_page_is_read_anew(
    browser: Guarded, boss: str, client: Any
) -> None:
    store = client.app[keys.KEYS]
    await store.add("ann", Role.USER, limits={"running": 2})
    async with browser.page(PAGE) as page:
        await sign_in(page, boss)
        card = page.locator(".card", has_text="ann")
        await live(page)
        await card.get_by_text("Change limits").click()
        await card.get_by_label("Limits of ann").fill("running=7")
        # Something else changes on the page meanwhile, and is shown.
        await page.locator(".card", has_text="boss").get_by_role("button", name="Revoke").click()
        await expect(page.locator(".flash")).to_contain_text("it is the last one of an admin")
        await card.get_by_role("button", name="Set limits").click()
        await expect(card).to_contain_text("running=7")
        await live(page)
        await page.get_by_role("button", name="Undo: the limits of before").click()
        # The card may say so before: in the form stands what was set when it was opened.
        await eventually(partial(_has_limits, store, "ann", {"running": 2}))
        await expect(card).to_contain_text("running=2")


async def _has_limits(store: KeyStore, name: str, limits: dict[str, Any]) -> bool:
    return (await store.named(name)).limits == limits


async def test_it_all_works_without_javascript(browser: Guarded, boss: str) -> None:
    async with browser.page("/monitor/", java_script_enabled=False) as page:
        await sign_in(page, boss)
        await page.get_by_role("link", name="Keys").click()
        await make(page, "ann", expires="30")
        await page.get_by_role("link", name="To the keys").click()
        card = page.locator(".card", has_text="ann")
        await card.get_by_role("button", name="Revoke").click()
        await expect(card.locator(".state-word")).to_have_text("revoked")
        await page.get_by_role("button", name="Undo: restore it").click()
        await expect(card.locator(".state-word")).to_have_text("active")
        await card.get_by_text("Change limits").click()
        await card.get_by_label("Limits of ann").fill("speed=7")
        await card.get_by_role("button", name="Set limits").click()
        await expect(card.locator(".bad")).to_contain_text("speed")
        await card.get_by_label("Limits of ann").fill("running=7")
        await card.get_by_role("button", name="Set limits").click()
        await expect(card).to_contain_text("running=7")
        await page.get_by_role("button", name="Undo: the limits of before").click()
        await expect(card).to_contain_text("the defaults")
        await page.locator(".card", has_text="boss").get_by_role("button", name="Revoke").click()
        await expect(page.locator(".flash")).to_contain_text("it is the last one of an admin")
        # What is wrong stays filled in.
        await page.get_by_text("Make a key").click()
        await page.get_by_label("Name").fill("bob")
        await page.get_by_label("Expires").fill("soon")
        await page.get_by_role("button", name="Make key").click()
        await expect(page.locator("#expires-fault")).to_be_visible()
        await expect(page.get_by_label("Name")).to_have_value("bob")
    forget(browser, "422")


async def test_the_first_key_closes_the_page_that_made_it(browser: Guarded) -> None:
    async with browser.page(PAGE) as page:
        await page.get_by_label("Name").fill("boss")
        await page.get_by_label("Role").select_option("admin")
        await page.get_by_role("button", name="Make key").click()
        secret = await page.locator("#secret").inner_text()
        await page.get_by_role("link", name="To the keys").click()
        await sign_in(page, secret)
        await expect(page.locator(".card")).to_contain_text("boss")
    # While the answer is awaited, what is live on the page may be refused already.
    forget(browser, "401")


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 1280), ("light", 320)])
async def test_axe_finds_nothing_serious_and_nothing_is_too_wide(
    browser: Guarded, boss: str, client: Any, theme: Any, width: int
) -> None:
    await client.app[keys.KEYS].add("w" * 200, Role.USER, owner="o" * 200, limits={"running": 2})
    await client.app[keys.KEYS].revoke("w" * 200)
    size = {"width": width, "height": 900}
    found: list[str] = []

    async def look(page: Page) -> None:
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        for fault in (await Axe().run(page, options={"resultTypes": ["violations"]})).response["violations"]:
            if fault["impact"] in ("serious", "critical"):
                found.extend(f"{page.url} {fault['id']} {node['target']}" for node in fault["nodes"])

    async with browser.page(PAGE, color_scheme=theme, viewport=size, bypass_csp=True) as page:
        await sign_in(page, boss)
        await expect(page.locator(".card")).to_have_count(2)
        await page.get_by_text("Change limits").first.click()
        await page.get_by_text("Make a key").click()
        await page.get_by_label("Name").fill("ann")
        await page.get_by_label("Expires").fill("soon")
        await look(page)
        await page.get_by_role("button", name="Make key").click()
        await expect(page.locator("#expires-fault")).to_be_visible()
        await look(page)
        await page.get_by_label("Expires").fill("30")
        await page.get_by_role("button", name="Make key").click()
        await expect(page.locator("#secret")).to_be_visible()
        await look(page)
    assert found == []
    forget(browser, "422")
