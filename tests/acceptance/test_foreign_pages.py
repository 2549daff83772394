"""Pages of other sites in a real browser: what they may do by a key, a ticket or a link, and what not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from acceptance.browsers import ARGUMENTS, CHROMIUM, IN_CHROMIUM
from aiohttp import web
from aiohttp.test_utils import TestServer
from integration.monitor_fixtures import Life
from playwright.async_api import async_playwright

from app import keys
from app.domain.access import Role
from app.main import SERVING, create_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp.test_utils import TestClient
    from playwright.async_api import Page

    from app.settings import Settings

pytestmark = IN_CHROMIUM

ASK = """async ({url, method, headers, body}) => {
    try {
        const answer = await fetch(url, {method, headers, body});
        return {status: answer.status, told: await answer.json(), location: answer.headers.get("Location")};
    } catch (error) {
        return {error: error.name};
    }
}"""
FOLLOW = """({url, protocols}) => new Promise(resolve => {
    const ws = new WebSocket(url, protocols);
    ws.onmessage = ({data}) => { resolve({protocol: ws.protocol, frame: JSON.parse(data)}); ws.close(); };
    ws.onclose = () => resolve({error: "closed"});
})"""
SHOW = """url => new Promise(resolve => {
    const image = new Image();
    image.onload = () => resolve(image.naturalWidth);
    image.onerror = () => resolve(0);
    image.src = url;
})"""
READ = """url => fetch(url).then(answer => answer.blob()).then(blob => blob.size, error => error.name)"""


@pytest.fixture
async def elsewhere(aiohttp_server: Any) -> int:
    """The port of a server of empty pages, under any name."""
    app = web.Application()

    async def empty(_: web.Request) -> web.Response:
        return web.Response(text="<!DOCTYPE html><link rel=icon href=data:,>", content_type="text/html")

    app.router.add_get("/", empty)
    port: int = (await aiohttp_server(app)).port
    return port


@pytest.fixture
async def client(settings: Settings, aiohttp_client: Any, elsewhere: int) -> TestClient[Any, Any]:
    """A server that lets the pages of app.example in."""
    allowed = {"allowed_origins": f"http://app.example:{elsewhere}"}
    server = TestServer(create_app(settings.model_copy(update=allowed)))
    await server.start_server(**SERVING)
    return await aiohttp_client(server)


@pytest.fixture
async def key(client: TestClient[Any, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("app.services.access.OPEN_S", -1.0)
    return await client.app[keys.KEYS].add("ann", Role.USER)


@pytest.fixture
async def pages(elsewhere: int) -> AsyncIterator[dict[str, Page]]:
    """A page of app.example, which is listed, and one of evil.example, which is not."""
    async with async_playwright() as playwright:
        arguments = [*ARGUMENTS, "--host-resolver-rules=MAP *.example 127.0.0.1"]
        chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        found = {}
        for name in ("app.example", "evil.example"):
            found[name] = await chromium.new_page()
            await found[name].goto(f"http://{name}:{elsewhere}/")
        yield found
        await chromium.close()


def ask(client: TestClient[Any, Any], path: str, method: str = "GET", **headers: str) -> dict[str, Any]:
    return {"url": str(client.make_url(path)), "method": method, "headers": headers}


async def test_a_listed_page_uses_the_api_with_a_key_and_another_one_cannot(client, key, pages) -> None:
    body = '{"job_type": "image", "prompt": "a sunset"}'
    send = ask(client, "/api/v1/generation-jobs/", "POST", **{"X-API-Key": key, "Content-Type": "application/json"})
    refused = await pages["evil.example"].evaluate(ASK, send | {"body": body})
    assert refused == {"error": "TypeError"}
    sent = await pages["app.example"].evaluate(ASK, send | {"body": body})
    assert (sent["status"], sent["location"]) == (201, f"/api/v1/generation-jobs/{sent['told']['job_id']}")
    read = ask(client, "/api/v1/generation-jobs/", Authorization=f"Bearer {key}")
    listed = await pages["app.example"].evaluate(ASK, read)
    assert (listed["status"], listed["told"]["total"]) == (200, 1)
    assert await pages["evil.example"].evaluate(ASK, read) == {"error": "TypeError"}
    # What it did wrong it can read, too.
    wrong = await pages["app.example"].evaluate(ASK, ask(client, "/api/v1/generation-jobs/"))
    assert (wrong["status"], wrong["told"]["code"]) == (401, "sign_in_needed")


@pytest.mark.parametrize("offered", [["genonaut", "genonaut.key.{}"], ["genonaut.key.{}"]])
async def test_a_listed_page_follows_a_job_with_a_key_as_a_subprotocol(client, key, pages, database, offered) -> None:
    job_id = await Life(client, database).submit(user_id="ann")
    protocols = [each.format(key) for each in offered]
    asked = {"url": str(client.make_url(f"/ws/jobs/{job_id}")).replace("http", "ws", 1), "protocols": protocols}
    followed = await pages["app.example"].evaluate(FOLLOW, asked)
    assert (followed["protocol"], followed["frame"]["job_id"]) == (protocols[0], job_id)
    assert await pages["evil.example"].evaluate(FOLLOW, asked) == {"error": "closed"}
    wrong = asked | {"protocols": ["genonaut", f"genonaut.key.{'x' * len(key)}"]}
    assert await pages["app.example"].evaluate(FOLLOW, wrong) == {"error": "closed"}


async def test_a_listed_page_follows_a_job_once_by_a_ticket(client, key, pages, database) -> None:
    job_id = await Life(client, database).submit(user_id="ann")
    answer = await client.post("/api/v1/ws-tickets", json={"job_ids": [job_id]}, headers={"X-API-Key": key})
    url = str(client.make_url("/")).replace("http", "ws", 1).rstrip("/") + (await answer.json())["url"]
    assert await pages["evil.example"].evaluate(FOLLOW, {"url": url, "protocols": []}) == {"error": "closed"}
    followed = await pages["app.example"].evaluate(FOLLOW, {"url": url, "protocols": []})
    assert followed["frame"]["job_id"] == job_id
    assert await pages["app.example"].evaluate(FOLLOW, {"url": url, "protocols": []}) == {"error": "closed"}


async def test_any_page_shows_a_picture_by_its_link_and_a_listed_one_reads_it(client, key, pages, database) -> None:
    life = Life(client, database)
    done = await life.complete(await life.execute(user_id="ann"))
    answer = await client.get(f"/api/v1/generation-jobs/{done.job_id}", headers={"X-API-Key": key})
    (output,) = (await answer.json())["outputs"]
    link, plain = (str(client.make_url("/")).rstrip("/") + output[name] for name in ("signed_url", "url"))
    for page in pages.values():
        assert await page.evaluate(SHOW, link) == 64
        assert await page.evaluate(SHOW, plain) == 0
    # After it was shown, and so stands in the browser's cache.
    assert await pages["app.example"].evaluate(READ, link) == output["size_bytes"]
    assert await pages["evil.example"].evaluate(READ, link) == "TypeError"
