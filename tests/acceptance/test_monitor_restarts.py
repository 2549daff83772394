"""What the page shows outlives its servers: Redis of the tests' own, stopped, emptied and started again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from acceptance.browsers import IN_CHROMIUM, live
from integration.monitor_fixtures import Life
from playwright.async_api import Page, expect
from pydantic import SecretStr
from redis import Redis

from app import keys
from app.domain.errors import NodeFailed
from app.embedded.services import Wanted, start
from app.embedded.temporary import temporary_data_dir
from app.main import create_app
from app.storage.statistics_recorder import StatisticsRecorder
from harness import Service, eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from acceptance.browsers import Guarded

    from app.settings import Settings
    from app.storage.database import Database

pytestmark = IN_CHROMIUM

BROKEN = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
    "2": {"class_type": "RaiseError", "inputs": {"image": ["1", 0], "message": "It broke.", "kind": "ValueError"}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "broken"}},
}
UTC_TIMES = "try { localStorage.setItem('genonaut-zone', 'utc'); } catch { /* not yet a page of ours */ }"
"""Times that do not change while one looks."""
TEXT = "element => element.innerText.replace(/\\s+/g, ' ')"
PICTURES = """async () => {
  const images = [...document.querySelectorAll("main img")];
  for (const image of images) { image.loading = "eager"; await image.decode(); }
  return images.map((image) => [new URL(image.src).pathname, image.naturalWidth]);
}"""


class OwnRedis:
    """A Redis that a test may stop and start, always on the same port, and which keeps nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._services = start(Wanted(data_dir=folder, redis=True, redis_port=0, durable=False))
        self.url = self._services.running.redis_url or ""

    def start(self) -> None:
        """Start it again."""
        port = int(self.url.rpartition(":")[2])
        self._services = start(Wanted(data_dir=self._folder, redis=True, redis_port=port, durable=False))

    def stop(self) -> None:
        """Stop it."""
        self._services.stop()


@pytest.fixture
def own_redis() -> Iterator[OwnRedis]:
    with temporary_data_dir() as folder:
        redis = OwnRedis(folder)
        yield redis
        redis.stop()


@pytest.fixture
def settings(settings: Settings, own_redis: OwnRedis) -> Settings:
    """The test's settings, with the Redis that it may stop."""
    return settings.model_copy(update={"redis_url": SecretStr(own_redis.url)})


async def rows(page: Page) -> list[list[str]]:
    words = "rows => rows.map(row => [row.id, row.dataset.phase, row.querySelector('.word').textContent])"
    return await page.eval_on_selector_all("#rows > .row", words)


async def test_a_restart_of_redis_is_said_and_caught_up_with(
    browser: Guarded, client: Any, database: Database, own_redis: OwnRedis
) -> None:
    life = Life(client, database)
    claim, waiting = await life.execute(), await life.submit()
    async with browser.page("/monitor/") as page, browser.page("/monitor/?size=50") as other:
        await live(page)
        await asyncio.to_thread(own_redis.stop)
        await expect(page.locator("#health")).to_contain_text("Redis away", timeout=3000)
        await expect(page.locator("#connection-word")).to_have_text("polling")
        # What is done meanwhile is told to nobody: only PostgreSQL knows.
        await life.store.fail(claim, NodeFailed("It broke.", node_id="7", node_type="VAEDecode"))
        await life.store.cancel(waiting, None, "a test")
        await asyncio.to_thread(own_redis.start)
        await live(page)
        await expect(page.locator(f"#job-{waiting} .word")).to_have_text("cancelled")
        await expect(page.locator(f"#job-{claim.job_id} .word")).to_have_text("failed")
        await expect(page.locator("#health")).not_to_contain_text("Redis away")
        await other.reload()
        assert await rows(page) == await rows(other)
        new = await life.submit()
        await expect(page.locator(f"#job-{new} .word")).to_have_text("pending")


async def test_stopped_emptied_and_started_again_the_history_is_the_same(
    browser: Guarded,
    client: Any,
    database: Database,
    settings: Settings,
    start_standin: Any,
    start_worker: Callable[..., Awaitable[Any]],
    aiohttp_client: Any,
) -> None:
    standin = await start_standin()
    worker = await start_worker(f"standin={standin.url}")
    service = Service(client, standin, worker)
    await service.backend_online()
    done = await service.run(prompt="a lighthouse at dusk")
    failed = await service.run(job_type="workflow", workflow=BROKEN, max_attempts=1)
    assert (done["status"], failed["status"]) == ("completed", "failed")
    jobs = (done["job_id"], failed["job_id"])
    before = await history(browser, jobs)
    assert before["pictures"]
    worker.stop()

    async def left() -> bool:
        return not await client.app[keys.REGISTRY].workers()

    await eventually(left)
    await client.close()
    with Redis.from_url(settings.redis_url_with_db) as redis:
        redis.flushall()
    again = await aiohttp_client(create_app(settings))
    browser.base = str(again.make_url("/")).rstrip("/")
    await start_worker(f"standin={standin.url}")
    await StatisticsRecorder(database).record()
    assert await history(browser, jobs) == before


async def history(browser: Guarded, jobs: tuple[int, ...]) -> dict[str, Any]:
    """Return what list, job pages, pictures and charts tell of what has been."""
    found: dict[str, Any] = {}
    async with browser.page("/monitor/", script=UTC_TIMES) as page:
        await live(page)
        found["list"] = await page.locator("#rows").evaluate(TEXT)
        found["pictures"] = await page.evaluate(PICTURES)
        for job in jobs:
            await page.goto(f"/monitor/jobs/{job}")
            await live(page)
            found[f"job {job}"] = await page.locator("#job-page").evaluate(TEXT)
            found["pictures"] += await page.evaluate(PICTURES)
        await page.goto("/monitor/stats")
        await live(page)
        # Not of which minutes: the clock goes on.
        found["sums"] = await page.locator("#sums b").all_inner_texts()
        found["charts"] = await page.locator(".chart-keys").all_inner_texts()
    return found
