"""The list of jobs: filters, sorts, pages by cursor and by skip, and what it refuses."""

from __future__ import annotations

import base64
import itertools
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import update

from app.storage.schema import JobRow
from harness import SMALL_BODY
from tests.bench.filling import fill

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aiohttp.test_utils import TestClient

    from app.settings import Settings
    from app.storage.database import Database

BASE = "/api/v1/generation-jobs/"
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
FILTERS: dict[str, Sequence[str]] = {
    "user_id": ["ann", "bob"],
    "status": ["pending", "completed", "failed,cancelled"],
    "job_type": ["image", "workflow"],
    "checkpoint_model": ["a.safetensors"],
    "backend": ["gpu1"],
    "created_after": [(NOON + timedelta(minutes=11)).isoformat().replace("+00:00", "Z")],
    "created_before": [(NOON + timedelta(minutes=20)).isoformat().replace("+00:00", "Z")],
    "q": ["sunset", "100%"],
}


async def create(client: TestClient[Any, Any], **changes: Any) -> dict[str, Any]:
    """Create a waiting job."""
    answer = await client.post(BASE, json=SMALL_BODY | changes)
    assert answer.status == 201, await answer.text()
    return dict(await answer.json())


async def page(client: TestClient[Any, Any], **query: Any) -> dict[str, Any]:
    """Read a page."""
    answer = await client.get(BASE, params=query)
    assert answer.status == 200, await answer.text()
    return dict(await answer.json())


async def refused(client: TestClient[Any, Any], query: Any) -> dict[str, Any]:
    """Read a page that is refused, and return the one fault."""
    answer = await client.get(BASE, params=query)
    assert answer.status == 422, await answer.text()
    assert answer.content_type == "application/problem+json"
    (fault,) = (await answer.json())["errors"]
    return dict(fault)


def ids(jobs: Iterable[dict[str, Any]]) -> list[int]:
    """Return the jobs' ids in order."""
    return [job["job_id"] for job in jobs]


@pytest.fixture
async def jobs(client: TestClient[Any, Any], database: Database) -> list[dict[str, Any]]:
    """Thirty jobs of every kind, oldest first, as a plain list to filter."""
    statuses = itertools.cycle(["pending", "running", "completed", "failed", "cancelled"])
    phases = {"pending": "queued", "running": "executing"}
    made = []
    for number in range(30):
        workflow = {"1": {"class_type": "SaveImage", "inputs": {}}}
        made.append(
            {
                "user_id": ("ann", "bob", "cleo")[number % 3],
                "job_type": ("image", "workflow")[number % 2],
                "prompt": ("a Sunset at sea", "100% wool", "1000 wolves", "a_b")[number % 4],
                "checkpoint_model": ("a.safetensors", None)[number % 2],
                "workflow": workflow if number % 2 else None,
            }
        )
        made[-1]["job_id"] = (await create(client, **made[-1]))["job_id"]
        made[-1] |= {
            "status": next(statuses),
            "backend": ("gpu1", "gpu2", None)[number // 2 % 3],
            "created_at": NOON + timedelta(minutes=number),
            # The order of change is another than that of creation, and has ties.
            "updated_at": NOON + timedelta(minutes=number * 7 % 10),
        }
    async with database.transaction() as session:
        for job in made:
            values = {name: job[name] for name in ("status", "created_at", "updated_at")}
            values |= {"phase": phases.get(job["status"], job["status"]), "backend_name": job["backend"]}
            await session.execute(update(JobRow).where(JobRow.id == job["job_id"]).values(values))
    return made


def expected(jobs: list[dict[str, Any]], query: dict[str, str]) -> list[int]:
    """Return what the list should hold, newest first, by filtering the plain jobs."""

    def fits(job: dict[str, Any]) -> bool:
        for name, value in query.items():
            match name:
                case "status":
                    hit = job["status"] in value.split(",")
                case "created_after":
                    hit = job["created_at"] >= datetime.fromisoformat(value)
                case "created_before":
                    hit = job["created_at"] < datetime.fromisoformat(value)
                case "q":
                    hit = value.lower() in job["prompt"].lower()
                case _:
                    hit = job[name] == value
            if not hit:
                return False
        return True

    return [job["job_id"] for job in reversed(jobs) if fits(job)]


async def test_every_filter_alone_and_every_two_together_give_what_they_should(
    client: TestClient[Any, Any], jobs: list[dict[str, Any]]
) -> None:
    choices = [(name, value) for name, values in FILTERS.items() for value in values]
    queries = [dict([choice]) for choice in choices]
    queries += [dict(pair) for pair in itertools.combinations(choices, 2) if pair[0][0] != pair[1][0]]
    queries.append({name: values[0] for name, values in FILTERS.items()})
    hits = 0
    for query in queries:
        found = await page(client, **query)
        assert ids(found["items"]) == expected(jobs, query), query
        assert found["total"] == len(found["items"])
        hits += bool(found["items"])
    assert hits > len(queries) / 2


async def test_a_status_can_be_repeated(client: TestClient[Any, Any], jobs: list[dict[str, Any]]) -> None:
    answer = await client.get(f"{BASE}?status=failed&status=pending")
    assert ids((await answer.json())["items"]) == expected(jobs, {"status": "failed,pending"})


@pytest.mark.parametrize(
    ("asked", "matches"),
    [
        ("100%", ["100% wool"]),
        ("%", ["100% wool"]),
        ("a_b", ["a_b"]),
        ("_", ["a_b"]),
        ("\\", ["back\\slash"]),
        ("WOOL", ["100% wool"]),
        ("'", ["it's"]),
        ("/", ["a/b"]),
        ("", ["it's", "a/b", "back\\slash", "axb", "a_b", "1000", "100% wool"]),
    ],
)
async def test_q_is_taken_literally(client: TestClient[Any, Any], asked: str, matches: list[str]) -> None:
    for prompt in ("100% wool", "1000", "a_b", "axb", "back\\slash", "a/b", "it's"):
        await create(client, prompt=prompt)
    assert [job["prompt"] for job in (await page(client, q=asked))["items"]] == matches


@pytest.mark.parametrize("sort", ["created_at", "-created_at", "updated_at", "-updated_at"])
async def test_pages_by_cursor_together_are_the_whole_list_in_order(
    client: TestClient[Any, Any], jobs: list[dict[str, Any]], sort: str
) -> None:
    key = sort.lstrip("-")
    order = sorted(jobs, key=lambda job: (job[key], job["job_id"]), reverse=sort.startswith("-"))
    query: dict[str, Any] = {"sort": sort, "limit": 7}
    seen: list[int] = []
    for number in range(5):
        found = await page(client, **query)
        assert found["total"] == 30
        assert len(found["items"]) == (7 if number < 4 else 2)
        seen += ids(found["items"])
        query["cursor"] = found["next_cursor"]
    assert found["next_cursor"] is None
    assert seen == ids(order)


async def test_new_jobs_do_not_disturb_who_pages_by_cursor(client: TestClient[Any, Any]) -> None:
    old = ids([await create(client) for _ in range(12)])
    seen, query = [], {"limit": "5"}
    while True:
        found = await page(client, **query)
        seen += ids(found["items"])
        await create(client)
        if found["next_cursor"] is None:
            break
        query["cursor"] = found["next_cursor"]
    assert seen == old[::-1]


async def test_of_more_jobs_than_are_counted_it_is_said_that_there_are_more(
    client: TestClient[Any, Any], settings: Settings
) -> None:
    await fill(settings.database_url.get_secret_value(), 10_001)
    found = await page(client, limit=2)
    assert (found["total"], found["total_exact"], ids(found["items"])) == (10_000, False, [10_001, 10_000])
    few = await page(client, user_id="seldom", limit=2)
    assert (few["total"], few["total_exact"]) == (20, True)


async def test_a_page_that_is_exactly_full_has_no_cursor(client: TestClient[Any, Any]) -> None:
    for _ in range(3):
        await create(client)
    assert (await page(client, limit=3))["next_cursor"] is None
    assert (await page(client, limit=2))["next_cursor"] is not None
    empty = await page(client, user_id="nobody")
    assert (empty["items"], empty["total"], empty["next_cursor"]) == ([], 0, None)


async def test_a_filter_holds_on_every_page(client: TestClient[Any, Any], jobs: list[dict[str, Any]]) -> None:
    query: dict[str, Any] = {"user_id": "ann", "limit": 4}
    seen: list[int] = []
    while True:
        found = await page(client, **query)
        seen += ids(found["items"])
        assert found["total"] == 10
        if not (cursor := found["next_cursor"]):
            break
        query["cursor"] = cursor
    assert seen == expected(jobs, {"user_id": "ann"})


async def test_the_simple_skip_leaves_out_the_first_ones(
    client: TestClient[Any, Any], jobs: list[dict[str, Any]]
) -> None:
    found = await page(client, skip=10, limit=5)
    assert ids(found["items"]) == expected(jobs, {})[10:15]
    assert (found["skip"], found["limit"], found["total"]) == (10, 5, 30)
    beyond = await page(client, skip=1_000_000)
    assert (beyond["items"], beyond["total"], beyond["limit"]) == ([], 30, 100)


def _cursor(*parts: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


FORGED = [
    "",
    "garbage",
    "ä",
    "%00",
    "e30",
    _cursor("-created_at", 3),
    _cursor("-created_at", 3, 3),
    _cursor("-created_at", "2026-11-23T12:00:00+00:00", -3),
    _cursor("-created_at", "2026-11-23T12:00:00+00:00", 2**63),
    _cursor("-updated_at", "2026-11-23T12:00:00+00:00", 3),
    _cursor("-created_at", None, None),
    _cursor("-created_at", 2**63, 2**63),
    _cursor("-created_at", -1, -1),
    _cursor("-created_at", [1], [1]),
    _cursor("-created_at", "one", "one"),
    base64.urlsafe_b64encode(b'["-created_at",1e999,1]').decode(),
    base64.urlsafe_b64encode(b'["-created_at",NaN,NaN]').decode(),
    base64.urlsafe_b64encode(b"[" * 700).decode(),
    base64.urlsafe_b64encode(b"\xff\xfe\xff").decode(),
]


async def test_a_cursor_that_nobody_gave_out_is_refused(client: TestClient[Any, Any]) -> None:
    for cursor in FORGED:
        fault = await refused(client, {"cursor": cursor})
        assert (fault["pointer"], fault["code"]) == ("cursor", "invalid_cursor"), cursor


@pytest.mark.parametrize("value", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "soon"])
async def test_a_forged_time_in_a_cursor_is_refused(client: TestClient[Any, Any], value: str) -> None:
    fault = await refused(client, {"cursor": _cursor("-updated_at", value, 3), "sort": "-updated_at"})
    assert (fault["pointer"], fault["code"]) == ("cursor", "invalid_cursor")


async def test_a_cursor_of_another_sort_is_refused(client: TestClient[Any, Any]) -> None:
    for _ in range(2):
        await create(client)
    sorts = ["created_at", "-created_at", "updated_at", "-updated_at"]
    cursors = {sort: (await page(client, sort=sort, limit=1))["next_cursor"] for sort in sorts}
    for given, asked in itertools.permutations(sorts, 2):
        fault = await refused(client, {"sort": asked, "cursor": cursors[given]})
        assert fault["code"] == "invalid_cursor"


async def test_cursor_and_skip_exclude_each_other(client: TestClient[Any, Any]) -> None:
    for _ in range(2):
        await create(client)
    cursor = (await page(client, limit=1))["next_cursor"]
    answer = await client.get(BASE, params={"cursor": cursor, "skip": 1})
    assert (answer.status, (await answer.json())["code"]) == (422, "invalid_request")


@pytest.mark.parametrize("limit", ["1", "1000"])
async def test_the_limits_bounds_are_taken(client: TestClient[Any, Any], limit: str) -> None:
    assert (await page(client, limit=limit))["limit"] == int(limit)


WRONG = [
    *(("limit", value) for value in ("0", "1001", "-1", "x", "", "1e3", "9" * 30, "9" * 5000, "٣")),
    *(("skip", value) for value in ("-1", "1000001", "x", "")),
    *(("sort", value) for value in ("", "id", "--created_at", "created_at;drop table")),
    *(("created_after", value) for value in ("", "yesterday", "2026-11-23T12:00:00", "2026-13-01T00:00:00Z")),
    ("created_after", "0001-01-01T00:00:00+14:00"),
    ("created_before", "9999-12-31T23:59:59-14:00"),
    ("created_before", "9" * 30),
    ("created_before", "1700000000"),
    ("user_id", "x" * 256),
    ("q", "x" * 1001),
    ("nonsense", "1"),
    ("user_id", "a\0b"),
    ("q", "\0"),
    ("status", "a\0b"),
]


async def test_a_wrong_parameter_is_named(client: TestClient[Any, Any]) -> None:
    for name, value in WRONG:
        fault = await refused(client, {name: value})
        assert fault["pointer"].split("/")[0] == name, value
        assert fault["detail"]


async def test_a_wrong_status_is_named_with_those_that_exist(client: TestClient[Any, Any]) -> None:
    fault = await refused(client, {"status": "done"})
    assert fault["allowed"] == ["pending", "running", "completed", "failed", "cancelled"]


async def test_every_wrong_parameter_is_listed(client: TestClient[Any, Any]) -> None:
    answer = await client.get(BASE, params={"limit": "0", "skip": "-1", "sort": "x", "more": "y"})
    assert {fault["pointer"] for fault in (await answer.json())["errors"]} == {"limit", "skip", "sort", "more"}


async def test_a_parameter_given_twice_is_refused(client: TestClient[Any, Any]) -> None:
    fault = await refused(client, [("limit", "1"), ("limit", "2")])
    assert (fault["pointer"], fault["code"]) == ("limit", "repeated")
