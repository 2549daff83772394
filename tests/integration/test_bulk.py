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
        {"filter": None},
        {"filter": {"q": ""}},
        {"filter": {"q": " \n\u00a0"}},
        {"filter": {"q": None, "user_id": None, "status": [], "job_type": None, "backend": None}},
        {"filter": {"user_id": ""}},
        {"filter": {"backend": ""}},
        {"filter": {"checkpoint_model": "", "job_type": ""}},
        {"filter": {"status": []}},
        {"filter": {"status": ["pending", "running", "completed", "failed", "cancelled"]}},
        {"filter": {"status": ["pending", "running", "completed", "failed", "cancelled", "pending"], "q": " "}},
        {"all": False},
        {"all": None},
        {"all": "true"},
        {"all": 1},
        {"all": False, "filter": {"q": ""}},
        {"all": True, "filter": {"user_id": "ann"}},
        {"all": True, "job_ids": [1]},
        {"job_ids": [1], "cursor": "x"},
        {"filter": {"user_id": "ann"}, "cursor": "nonsense"},
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


async def test_a_filter_that_every_job_fits_says_which_word_is_meant(client: Client) -> None:
    answer = await client.post(f"{PATH}/cancel", json={"filter": {"q": ""}})
    (fault,) = (await answer.json())["errors"]
    assert fault["pointer"] == "/filter"
    assert '{"all": true}' in fault["detail"]


@pytest.mark.parametrize("body", [{"all": True}, {"all": True, "filter": {"q": ""}}, {"all": True, "filter": None}])
async def test_every_job_is_meant_when_that_is_said(client: Client, body: dict[str, Any]) -> None:
    jobs = [await submit(client, user_id=user) for user in ("ann", "bob")]
    done = await act(client, "cancel", **body)
    assert ([each["job_id"] for each in done["results"]], done["matched"]) == (jobs, 2)
    assert done["next_cursor"] is None
    assert set((await statuses(client)).values()) == {"cancelled"}


async def test_a_bulk_action_goes_on_where_it_ended(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.web.jobs.MAX_BULK", 2)
    jobs = [await submit(client, prompt=f"a fox {number}") for number in range(5)]
    acted, bodies = [], [{"filter": {"q": "fox"}}]
    while bodies:
        body = bodies.pop()
        done = await act(client, "cancel", **body)
        assert (done["matched"], done["matched_exact"]) == (5, True)
        acted.append([each["job_id"] for each in done["results"]])
        if done["next_cursor"]:
            bodies.append(body | {"cursor": done["next_cursor"]})
    assert acted == [jobs[:2], jobs[2:4], jobs[4:]]
