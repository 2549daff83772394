"""Idempotency keys: a request that comes twice is carried out once, and answered the same."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, select, update

from app.storage.schema import IdempotencyRow, JobRow
from harness import SMALL_BODY

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient

    from app.storage.database import Database

Client = Any
PATH = "/api/v1/generation-jobs/"


async def post(client: TestClient[Any, Any], key: str, **changes: Any) -> tuple[int, str, bool]:
    """Submit a job under a key; returns status, body and whether it was a replay."""
    answer = await client.post(PATH, json=SMALL_BODY | changes, headers={"Idempotency-Key": key})
    return answer.status, await answer.text(), answer.headers.get("Idempotency-Replayed") == "true"


async def jobs(database: Database) -> int:
    """Count the jobs."""
    async with database.transaction() as session:
        return await session.scalar(select(func.count()).select_from(JobRow)) or 0


async def test_the_same_request_again_gets_the_first_answer(client: Client, database: Database) -> None:
    first, second = await post(client, "a"), await post(client, "a")
    assert first == (201, second[1], False)
    assert second == (201, first[1], True)
    assert await jobs(database) == 1


async def test_the_order_and_spacing_of_a_body_do_not_matter(client: Client, database: Database) -> None:
    await post(client, "a")
    turned = dict(reversed(SMALL_BODY.items()))
    answer = await client.post(PATH, json=turned, headers={"Idempotency-Key": "a"})
    assert answer.headers["Idempotency-Replayed"] == "true"
    assert await jobs(database) == 1


async def test_another_body_under_the_same_key_is_refused(client: Client, database: Database) -> None:
    await post(client, "a")
    status, text, _ = await post(client, "a", prompt="something else")
    assert status == 422
    assert "idempotency_key_reused" in text
    assert await jobs(database) == 1


async def test_keys_are_each_users_own(client: Client, database: Database) -> None:
    await post(client, "a")
    status, _, replayed = await post(client, "a", user_id="somebody-else")
    assert (status, replayed, await jobs(database)) == (201, False, 2)


async def test_of_many_at_once_one_is_carried_out(client: Client, database: Database) -> None:
    answers = await asyncio.gather(*(post(client, "a") for _ in range(8)))
    assert {status for status, _, _ in answers} == {201}
    assert len({text for _, text, _ in answers}) == 1
    assert sum(not replayed for _, _, replayed in answers) == 1
    assert await jobs(database) == 1


async def test_a_key_is_free_again_after_a_day(client: Client, database: Database) -> None:
    await post(client, "a")
    async with database.transaction() as session:
        await session.execute(update(IdempotencyRow).values(created_at=func.now() - func.make_interval(0, 0, 0, 1, 1)))
    status, _, replayed = await post(client, "a", prompt="something else")
    assert (status, replayed, await jobs(database)) == (201, False, 2)


async def test_a_refused_request_does_not_use_up_its_key(client: Client) -> None:
    status, _, _ = await post(client, "a", width=1)
    assert status == 422
    assert (await post(client, "a"))[0] == 201


@pytest.mark.parametrize("key", ["", "   ", "x" * 256])
async def test_a_key_that_is_none_is_refused(client: Client, key: str) -> None:
    status, text, _ = await post(client, key)
    assert (status, "Idempotency-Key" in text) == (400, True)
