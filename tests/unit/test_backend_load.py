"""What a backend can take, as the scheduler sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from aiohttp import ClientSession

from worker.comfyui.backend import MOST_SAVING, Backend
from worker.comfyui.client import ComfyUI

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    """A backend that is driven and well."""
    async with ClientSession() as session:
        comfyui = ComfyUI(session, "http://127.0.0.1:1", timeout_s=1, max_message_bytes=1000)
        made = Backend("b1", "http://127.0.0.1:1", comfyui, slots=2)
        made.driven = made.healthy = True
        yield made


async def test_a_backend_whose_outputs_pile_up_is_given_no_more(backend: Backend) -> None:
    for _ in range(MOST_SAVING - 1):
        backend.begin_saving()
    assert backend.load.free == 2
    backend.begin_saving()
    assert backend.load.free == 0


async def test_when_an_output_is_saved_those_who_wait_for_a_slot_are_told(backend: Backend) -> None:
    told: list[int] = []
    backend.on_slot = lambda: told.append(backend.load.free)
    for _ in range(MOST_SAVING):
        backend.begin_saving()
    backend.end_saving()
    assert told == [2]
