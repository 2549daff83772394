"""Operators pause and resume, admins weigh users, and who waits moves its own jobs: by REST."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from integration.monitor_fixtures import entries
from sqlalchemy import text
from yarl import URL

from app.domain.access import Role
from app.keys import ACCESS, DATABASE, KEYS, SUBMITTING, VIEWS
from app.services.access import Shown
from harness import SMALL_BODY, Service, eventually

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient

JOBS = "/api/v1/generation-jobs"
QUEUE = "/api/v1/queue"
ODD = ["ann", "a/b", "..%2F", 'Ünal "o\'b" \\;', "x" * 255, "%", "a b+c", "?#&="]


def user(name: str, action: str = "") -> URL:
    """Return the address of a user, as it goes over the wire."""
    return URL(f"/api/v1/users/{quote(name, safe='')}{action}", encoded=True)


async def send(client: TestClient[Any, Any], user_id: str = "ann", **changes: Any) -> int:
    answer = await client.post(JOBS, json=SMALL_BODY | {"user_id": user_id} | changes)
    assert answer.status == 201, await answer.text()
    return int((await answer.json())["job_id"])


async def told(client: TestClient[Any, Any], method: str, path: Any, status: int = 200, **more: Any) -> dict[str, Any]:
    answer = await client.request(method, path, **more)
    assert answer.status == status, await answer.text()
    return dict(await answer.json())


async def test_a_paused_queue_says_so_and_goes_on_when_it_is_resumed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With each claim, and not after two seconds.
    monkeypatch.setattr("app.storage.attempts.LIMITS_S", -1.0)
    client = service.client
    said = await told(client, "POST", f"{QUEUE}/pause", json={"reason": "New models are copied."})
    assert (said["paused"]["by"], said["paused"]["reason"]) == ("api", "New models are copied.")
    assert (await told(client, "GET", f"{JOBS}/queue/stats"))["paused"] == said["paused"]
    job_id = await send(client)
    job = await service.job(job_id)
    assert (job["status"], job["eta_seconds"]) == ("pending", None)
    assert job["waits_because"] == "The queue is paused: New models are copied."
    checked = await told(client, "POST", f"{JOBS}/check", json=SMALL_BODY)
    assert (checked["waits_because"], checked["wait_seconds"]) == (job["waits_because"], None)
    assert (await told(client, "POST", f"{QUEUE}/resume"))["paused"] is None
    done = await service.finished(job_id)
    assert (done["status"], done["waits_because"]) == ("completed", None)
    assert (await told(client, "GET", f"{JOBS}/queue/stats"))["paused"] is None


@pytest.mark.parametrize("name", ODD)
async def test_a_user_of_any_name_is_paused_and_weighed(client: TestClient[Any, Any], name: str) -> None:
    none = await told(client, "GET", user(name))
    assert none == {"user_id": name, "weight": 1.0, "paused": None, "waiting": 0, "running": 0}
    job_id, other = await send(client, name), await send(client, "other")
    paused = await told(client, "POST", user(name, "/pause"))
    assert (paused["waiting"], paused["paused"]["reason"]) == (1, None)
    job = await told(client, "GET", f"{JOBS}/{job_id}")
    assert job["waits_because"] == "The jobs of this user are paused."
    assert (await told(client, "GET", f"{JOBS}/{other}"))["waits_because"] is None
    weighed = await told(client, "PUT", user(name, "/weight"), json={"weight": 2})
    assert (weighed["user_id"], weighed["weight"]) == (name, 2.0)
    assert (await told(client, "GET", "/api/v1/users"))["items"] == [weighed]
    await told(client, "POST", user(name, "/resume"))
    await told(client, "PUT", user(name, "/weight"), json={"weight": 1})
    assert (await told(client, "GET", "/api/v1/users"))["items"] == []
    noted = [(action, target, outcome) for _, action, target, outcome in await entries(client.app[DATABASE])]
    expected = ["pause", "weight_set", "resume", "weight_set"]
    assert noted == [(action, f"user {name}", "done") for action in expected]


@pytest.mark.parametrize("weight", [0, -1, 1e9, 0.0099, "2", None, True, [2]])
async def test_what_is_no_weight_is_a_fault(client: TestClient[Any, Any], weight: Any) -> None:
    problem = await told(client, "PUT", user("ann", "/weight"), 422, json={"weight": weight})
    assert [fault["pointer"] for fault in problem["errors"]] == ["/weight"]


@pytest.mark.parametrize(
    ("body", "status"), [("{}", 422), ('{"weight": NaN}', 400), ('{"weight": 1e999}', 422), ('{"wait": 2}', 422)]
)
async def test_nor_is_what_is_no_number(client: TestClient[Any, Any], body: str, status: int) -> None:
    headers = {"Content-Type": "application/json"}
    await told(client, "PUT", user("ann", "/weight"), status, data=body, headers=headers)


async def test_what_can_be_no_user_is_not_there(client: TestClient[Any, Any]) -> None:
    for name in ("x" * 256, "a\0b"):
        for method, action in (("GET", ""), ("POST", "/pause"), ("POST", "/resume"), ("PUT", "/weight")):
            more = {"json": {"weight": 2}} if method == "PUT" else {}
            assert (await told(client, method, user(name, action), 404, **more))["code"] == "not_found"


async def test_a_reason_is_short_and_a_text(client: TestClient[Any, Any]) -> None:
    for reason in ("x" * 201, "", 5, "\0"):
        problem = await told(client, "POST", f"{QUEUE}/pause", 422, json={"reason": reason})
        assert [fault["pointer"] for fault in problem["errors"]] == ["/reason"]
    assert (await told(client, "GET", f"{JOBS}/queue/stats"))["paused"] is None


async def test_users_are_listed_page_by_page(client: TestClient[Any, Any]) -> None:
    for name in ("ben", "ann", "eve"):
        await told(client, "PUT", user(name, "/weight"), json={"weight": 3})
    await told(client, "POST", user("dan", "/pause"))
    await told(client, "POST", f"{QUEUE}/pause")
    seen, after = [], ""
    while after is not None:
        page = await told(client, "GET", "/api/v1/users", params={"limit": "3", "after": after})
        seen += [each["user_id"] for each in page["items"]]
        after = page["next_after"]
    assert seen == ["ann", "ben", "dan", "eve"]


async def test_a_job_comes_to_the_front_and_gets_another_priority(client: TestClient[Any, Any]) -> None:
    first, second = await send(client), await send(client)
    job = await told(client, "POST", f"{JOBS}/{second}/front")
    assert (job["queue_position"], job["seq"]) == (1, 2_000_000)
    assert (await told(client, "GET", f"{JOBS}/{first}"))["queue_position"] == 2
    job = await told(client, "PATCH", f"{JOBS}/{first}", json={"priority": 7})
    assert (job["queue_position"], job["priority"], job["seq"]) == (1, 7, 2_000_000)
    await told(client, "POST", f"{JOBS}/{second}/front")
    noted = [entry[1:] for entry in await entries(client.app[DATABASE]) if entry[1] in ("to_front", "priority_set")]
    assert noted == [
        ("to_front", f"job {second}", "moved"),
        ("priority_set", f"job {first}", "moved"),
        ("to_front", f"job {second}", "unchanged"),
    ]


@pytest.mark.parametrize("body", [{"priority": 101}, {"priority": "5"}, {"priority": None}, {}, {"priority": 1.5}])
async def test_what_is_no_priority_is_a_fault(client: TestClient[Any, Any], body: Any) -> None:
    job_id = await send(client)
    problem = await told(client, "PATCH", f"{JOBS}/{job_id}", 422, json=body)
    assert [fault["pointer"] for fault in problem["errors"]] == ["/priority"]


async def test_only_a_job_that_waits_is_moved(client: TestClient[Any, Any]) -> None:
    job_id = await send(client)
    async with client.app[DATABASE].transaction() as session:
        await session.execute(text("UPDATE generation_jobs SET status = 'running', phase = 'assigned'"))
    for method, path, more in (("POST", "/front", {}), ("PATCH", "", {"json": {"priority": 7}})):
        problem = await told(client, method, f"{JOBS}/{job_id}{path}", 409, **more)
        assert problem["code"] == "job_not_waiting"
        assert (await told(client, method, f"{JOBS}/999{path}", 404, **more))["code"] == "job_not_found"
    (noted,) = {entry[3] for entry in await entries(client.app[DATABASE]) if entry[1] in ("to_front", "priority_set")}
    assert noted == "job_not_waiting"


async def test_a_job_that_is_not_to_begin_yet_has_no_place(client: TestClient[Any, Any]) -> None:
    job_id = await send(client, not_before="2100-01-01T00:00:00Z")
    assert (await told(client, "POST", f"{JOBS}/{job_id}/front", 409))["code"] == "job_not_movable"
    assert (await told(client, "PATCH", f"{JOBS}/{job_id}", json={"priority": 7}))["priority"] == 7


async def test_who_watches_a_job_learns_that_it_was_moved(client: TestClient[Any, Any]) -> None:
    await send(client)
    job_id = await send(client)
    async with client.ws_connect(f"/ws/jobs/{job_id}") as ws:
        assert (await ws.receive_json())["seq"] == 1_000_000
        await told(client, "POST", f"{JOBS}/{job_id}/front")
        frame = await ws.receive_json()
        assert (frame["status"], frame["seq"]) == ("pending", 2_000_000)
    events = (await told(client, "GET", f"{JOBS}/{job_id}/events"))["items"]
    assert [(each["event"], each["actor"]) for each in events][1:] == [("moved_to_front", "api")]


async def test_a_page_that_watches_is_told_of_a_pause(client: TestClient[Any, Any]) -> None:
    async with client.ws_connect("/ws/events") as ws:
        kinds: set[str] = set()

        async def heard() -> bool:
            await client.post(f"{QUEUE}/pause")
            kinds.add((await ws.receive_json())["type"])
            return "queue" in kinds

        await eventually(heard)


async def test_no_priority_is_higher_than_the_keys_limit(client: TestClient[Any, Any]) -> None:
    kept = client.app[KEYS]
    await kept.add("boss", Role.ADMIN)
    headers = {"X-API-Key": await kept.add("ann", Role.USER, limits={"priority": 5})}
    body = {name: value for name, value in SMALL_BODY.items() if name != "user_id"}
    for path in (JOBS, f"{JOBS}/check"):
        problem = await told(client, "POST", path, 422, json=body | {"priority": 6}, headers=headers)
        assert [(fault["pointer"], fault["code"]) for fault in problem["errors"]] == [("/priority", "above_limit")]
    job_id = (await told(client, "POST", JOBS, 201, json=body | {"priority": 5}, headers=headers))["job_id"]
    address = f"{JOBS}/{job_id}"
    assert (await told(client, "PATCH", address, 422, json={"priority": 6}, headers=headers))["errors"]
    assert (await told(client, "PATCH", address, json={"priority": -100}, headers=headers))["priority"] == -100
    operator = {"X-API-Key": await kept.add("ops", Role.OPERATOR, limits={"priority": 0})}
    assert (await told(client, "PATCH", address, json={"priority": 9}, headers=operator))["priority"] == 9
    submitting, whole = client.app[SUBMITTING], await client.app[VIEWS].whole(job_id)
    again, _ = await submitting.again(whole, sender=await client.app[ACCESS].caller(shown(headers["X-API-Key"])))
    assert again.priority == 5
    assert (await told(client, "GET", "/api/v1/me", headers=headers))["limits"]["priority"] == 5


def shown(key: str) -> Shown:
    return Shown(key, None, "127.0.0.1", is_local=False)
