"""Pages of other sites must not use the service through a visitor's browser."""

from __future__ import annotations

from typing import Any

import pytest

from harness import SMALL_BODY

PATH = "/api/v1/generation-jobs/"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example", "garbage"])
@pytest.mark.parametrize("path", [PATH, f"{PATH}1/cancel", f"{PATH}1/retry", f"{PATH}cancel"])
async def test_a_foreign_page_can_change_nothing(client: Any, origin: str, path: str) -> None:
    answer = await client.post(path, json=SMALL_BODY, headers={"Origin": origin})
    assert (answer.status, (await answer.json())["code"]) == (403, "foreign_origin")
    assert (await (await client.get(PATH)).json())["total"] == 0


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1:5173", "http://[::1]"])
async def test_a_page_of_this_machine_is_welcome(client: Any, origin: str) -> None:
    answer = await client.post(PATH, json=SMALL_BODY, headers={"Origin": origin})
    assert answer.status == 201


async def test_a_foreign_page_reads_no_events(client: Any) -> None:
    answer = await client.get("/ws/events", headers={"Origin": "https://evil.example"})
    assert (answer.status, (await answer.json())["code"]) == (403, "foreign_origin")
