"""A browser, and the whole service at a pace that one can watch."""

from __future__ import annotations

import fcntl
from typing import TYPE_CHECKING, Any

import pytest
from acceptance.browsers import ARGUMENTS, CHROMIUM, Guarded
from playwright.async_api import async_playwright

from harness import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator


@pytest.fixture
def only_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One browser at a time in all parallel runs: its tests look at the clock, and a second one takes its processor."""
    # pytest-xdist gives each run a folder of its own below a common one.
    with (tmp_path_factory.getbasetemp().parent / "browser.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
async def browser(only_browser: None, client: Any) -> AsyncIterator[Guarded]:
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
