"""Behind nginx, with TLS and under a prefix: everything is as it is without."""

from __future__ import annotations

import asyncio
import io
import re
import ssl
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from acceptance.browsers import ARGUMENTS, CHROMIUM, IN_CHROMIUM, Guarded, live
from acceptance.nginx import WITH_NGINX, nginx
from aiohttp import ClientSession, TCPConnector, WSServerHandshakeError
from integration.monitor_fixtures import Life
from playwright.async_api import async_playwright, expect

from app import keys
from app.domain.access import Role
from harness import SMALL_BODY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from app.settings import Settings
    from app.storage.database import Database

pytestmark = WITH_NGINX

PREFIX = "/images"
JOBS = f"{PREFIX}/api/v1/generation-jobs"
CLIENT = "127.0.0.2"
"""Where our client connects from; nginx itself connects from 127.0.0.1."""
HOST = "localhost"


@dataclass(frozen=True)
class Outside:
    """The service as a client on the other side of nginx has it."""

    session: ClientSession
    port: int
    secret: str

    @property
    def origin(self) -> str:
        return f"https://{HOST}:{self.port}"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"trusted_proxies": "127.0.0.1", "root_path": PREFIX})


@pytest.fixture
async def outside(client: Any, tmp_path: Path) -> AsyncIterator[Outside]:
    """A client with an admin's key."""
    secret = await client.app[keys.KEYS].add("ann", Role.ADMIN)
    unchecked = ssl.create_default_context()
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    connector = TCPConnector(ssl=unchecked, local_addr=(CLIENT, 0))
    headers = {"Authorization": f"Bearer {secret}"}
    async with (
        nginx(tmp_path, client.server.port) as port,
        ClientSession(f"https://{HOST}:{port}", connector=connector, headers=headers) as session,
    ):
        yield Outside(session, port, secret)


async def test_jobs_are_sent_read_and_cancelled(outside: Outside) -> None:
    session = outside.session
    async with session.post(f"{JOBS}/", json=SMALL_BODY) as created:
        assert (created.status, created.headers["X-Content-Type-Options"]) == (201, "nosniff")
    async with session.get(created.headers["Location"]) as answer:
        job = await answer.json()
    assert job["links"]["self"] == created.headers["Location"]
    async with session.post(job["links"]["cancel"]) as answer:
        assert (await answer.json())["status"] == "cancelled"
    async with session.get(f"{PREFIX}/nowhere") as answer:
        assert (answer.status, (await answer.json())["instance"]) == (404, f"{PREFIX}/nowhere")


async def test_sockets_follow_and_refuse(outside: Outside, client: Any, database: Database) -> None:
    life = Life(client, database)
    claim = await life.execute()
    async with outside.session.ws_connect(f"{PREFIX}/ws/jobs/{claim.job_id}") as socket:
        assert (await socket.receive_json())["status"] == "processing"
        await life.complete(claim)
        while (frame := await socket.receive_json())["status"] != "completed":
            pass
    async with outside.session.get(f"{PREFIX}/api/v1/contents/{frame['content_id']}/outputs/0") as answer:
        assert (answer.status, answer.content_type) == (200, "image/png")
    own, foreign = {"Origin": outside.origin}, {"Origin": "https://evil.example"}
    async with outside.session.ws_connect(f"{PREFIX}/ws/jobs/{claim.job_id}", headers=own) as socket:
        assert (await socket.receive_json())["status"] == "completed"
    with pytest.raises(WSServerHandshakeError) as refused:
        await outside.session.ws_connect(f"{PREFIX}/ws/jobs/{claim.job_id}", headers=foreign)
    assert refused.value.status == 403


async def test_a_file_of_64_mib_is_taken_and_given_back(outside: Outside, settings: Settings) -> None:
    size = settings.max_upload_bytes
    assert size == 64 * 2**20
    head = struct.pack("<4sI8sIHHIIHH", b"RIFF", size - 8, b"WAVEfmt ", 16, 1, 1, 8000, 8000, 1, 8)
    data = head + struct.pack("<4sI", b"data", size - 44) + bytes(size - 44)
    async with outside.session.post(
        f"{PREFIX}/api/v1/uploads", params={"user_id": "ann"}, data=io.BytesIO(data)
    ) as answer:
        upload = await answer.json()
    assert (answer.status, upload["size_bytes"]) == (201, size)
    async with outside.session.get(upload["url"]) as answer:
        # While nobody reads, nginx must not write the rest to its disk: it would warn of that.
        await asyncio.sleep(0.5)
        assert await answer.read() == data
    # A byte more is refused by us, with our words.
    async with outside.session.post(
        f"{PREFIX}/api/v1/uploads", params={"user_id": "ann"}, data=io.BytesIO(data + b"x")
    ) as answer:
        assert (answer.status, (await answer.json())["code"]) == (413, "body_too_large")


async def test_what_a_client_writes_into_the_headers_of_proxies_is_not_believed(outside: Outside, client: Any) -> None:
    lies = {
        "X-Forwarded-For": "127.0.0.1",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Prefix": "/evil",
    }
    async with outside.session.get(f"{PREFIX}/monitor/sign-in", headers=lies) as answer:
        token = answer.cookies["monitor_csrf"]
    assert (token["path"], token["secure"]) == (f"{PREFIX}/monitor", True)
    form = {"csrf": token.value, "key": outside.secret}
    headers = lies | {"Cookie": f"monitor_csrf={token.value}", "Origin": outside.origin}
    async with outside.session.post(
        f"{PREFIX}/monitor/sign-in", data=form, headers=headers, allow_redirects=False
    ) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, f"{PREFIX}/monitor/")
        assert all(cookie["secure"] for cookie in answer.cookies.values())
    page = await client.app[keys.AUDIT].page()
    assert [(entry.action, entry.target) for entry in page.entries] == [("sign_in", CLIENT)]


@IN_CHROMIUM[1]
async def test_the_page_works_below_the_prefix(outside: Outside, client: Any, database: Database) -> None:
    """`Guarded` fails for each request that leaves the prefix, the socket's too, and for each error in the console."""
    life = Life(client, database)
    done = await life.complete(await life.execute(prompt="a lighthouse"))
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        browser = Guarded(chromium, f"{outside.origin}{PREFIX}/")
        async with browser.page(f"monitor/jobs/{done.job_id}", ignore_https_errors=True) as page:
            await page.get_by_label("Your key").fill(outside.secret)
            await page.get_by_role("button", name="Sign in").click()
            await expect(page).to_have_url(f"{browser.base}monitor/jobs/{done.job_id}")
            await live(page)
            await page.get_by_role("link", name="Jobs", exact=True).first.click()
            await live(page)
            picture = page.locator(f"#job-{done.job_id} .thumb img")
            await expect(picture).to_have_js_property("naturalWidth", 64)
            claim = await life.execute(prompt="night market")
            await expect(page.locator(f"#job-{claim.job_id}")).to_contain_text("night market")
            waiting = await life.submit(prompt="old bridge")
            await page.get_by_role("button", name=f"Cancel job {waiting}").click()
            await expect(page.locator("#flash")).to_contain_text(f"Job {waiting} is cancelled.")
            await page.get_by_role("button", name="Undo: give it another attempt").click()
            await expect(page.locator("#flash")).to_contain_text(f"Job {waiting} waits for another attempt")
            for name in ("Gallery", "Backends", "Workers", "Stats", "Schedule", "Audit", "New job"):
                await page.get_by_role("link", name=name, exact=True).first.click()
                await expect(page).to_have_url(re.compile(f"^{re.escape(browser.base)}monitor/"))
                # A page that is left while it loads leaves a style sheet half in the browser's cache, for the next one.
                await page.wait_for_load_state()
            await page.get_by_label("Prompt", exact=True).fill("a mill by the river")
            await page.get_by_label("User").fill("ann")
            await page.get_by_role("button", name="Send job").click()
            await expect(page.locator("#flash")).to_contain_text("is sent.")
            await live(page)
            await page.get_by_role("button", name="Sign out").click()
            await expect(page).to_have_url(f"{browser.base}monitor/sign-in")
        await chromium.close()
    assert browser.faults == []
