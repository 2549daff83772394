"""Bulk cancel and retry: a result for each job, and nothing but the jobs that were meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from harness import SMALL_BODY

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient

Client = Any
PATH = "/api/v1/generation-jobs"


async def submit(client: TestClient[Any, Any], **changes: Any) -> int:
    """Submit a job that waits, because there is no worker."""
    answer = await client.post(PATH, json=SMALL_BODY | changes)
    return int((await answer.json())["job_id"])


async def act(client: TestClient[Any, Any], action: str, **body: Any) -> dict[str, Any]:
    """Carry out a bulk action."""
    answer = await client.post(f"{PATH}/{action}", json=body)
    assert answer.status == 200, await answer.text()
    return dict(await answer.json())


async def statuses(client: TestClient[Any, Any]) -> dict[int, str]:
    """Return each job's status."""
    listed = await (await client.get(PATH)).json()
    return {job["job_id"]: job["status"] for job in listed["items"]}


async def test_named_jobs_are_cancelled_and_each_gets_its_result(client: Client) -> None:
    first, second, third = [await submit(client) for _ in range(3)]
    done = await act(client, "cancel", job_ids=[first, third, first, 999], reason="no need")
    assert done["matched"] == 4
    assert [(each["job_id"], each["ok"], each["code"]) for each in done["results"]] == [
        (first, True, None),
        (third, True, None),
        (999, False, "job_not_found"),
    ]
    assert await statuses(client) == {first: "cancelled", second: "pending", third: "cancelled"}


async def test_a_filter_acts_on_exactly_what_it_matches(client: Client) -> None:
    ann = [await submit(client, user_id="ann") for _ in range(2)]
    bob = await submit(client, user_id="bob")
    done = await act(client, "cancel", filter={"user_id": "ann", "status": ["pending"]})
    assert (done["matched"], done["matched_exact"]) == (2, True)
    assert [each["job_id"] for each in done["results"]] == ann
    assert await statuses(client) == {ann[0]: "cancelled", ann[1]: "cancelled", bob: "pending"}


async def test_cancelled_jobs_are_retried_and_others_said_why_not(client: Client) -> None:
    cancelled, waiting = await submit(client), await submit(client)
    await act(client, "cancel", job_ids=[cancelled])
    done = await act(client, "retry", job_ids=[cancelled, waiting], seed="new")
    assert [(each["ok"], each["status"], each["code"]) for each in done["results"]] == [
        (True, "pending", None),
        (False, None, "job_not_retryable"),
    ]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"filter": {}},
        {"job_ids": []},
        {"job_ids": ["1"]},
        {"job_ids": [1], "filter": {"user_id": "ann"}},
        {"filter": {"colour": "red"}},
        {"job_ids": list(range(1001))},
    ],
)
async def test_a_body_that_does_not_say_which_jobs_is_refused(client: Client, body: dict[str, Any]) -> None:
    job = await submit(client)
    answer = await client.post(f"{PATH}/cancel", json=body)
    assert (answer.status, (await answer.json())["code"]) == (422, "invalid_request")
    assert await statuses(client) == {job: "pending"}
