"""A browser, and the whole service at a pace that one can watch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from acceptance.browsers import ARGUMENTS, CHROMIUM, Guarded
from playwright.async_api import async_playwright

from harness import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


@pytest.fixture
async def browser(client: Any) -> AsyncIterator[Guarded]:
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        guarded = Guarded(chromium, str(client.make_url("/")).rstrip("/"))
        yield guarded
        await chromium.close()
    assert guarded.faults == []


@pytest.fixture
async def slow_service(client: Any, start_standin: Any, start_worker: Callable[..., Awaitable[Any]]) -> Service:
    """The whole service with a stand-in that takes its time for each step."""
    standin = await start_standin(step_seconds=0.25)
    found = Service(client, standin, await start_worker(f"standin={standin.url}"))
    await found.backend_online()
    return found
