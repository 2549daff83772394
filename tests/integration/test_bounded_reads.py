"""No answer grows with what one client sent: pages end early, histories are paged, names are counted up to a bound."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest
from integration.monitor_fixtures import Life, read
from samples import new_job
from sqlalchemy import text

from app.domain.errors import JobNotFound, NodeFailed
from app.domain.histogram import PLACES
from app.monitor.stats_pages import MOST_NAMES
from app.storage.attempts import AttemptStore, Claim
from app.storage.ended_jobs import SPANS_S
from app.storage.fleet_figures import PROMPT_CHARACTERS, FleetFigures
from app.storage.job_lists import PAGE_BYTES, JobFilter
from app.storage.job_views import MOST_MODELS, MOST_STEPS, JobViews
from app.storage.whole_jobs import MOST_ATTEMPTS, MOST_DETAILED

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient

    from app.storage.database import Database

BASE: Final = "/api/v1/generation-jobs"
_RANDOM: Final = "".join(random.Random(1).choices([chr(code) for code in range(0x0E, 0x20)], k=1700))
"""Which PostgreSQL does not compress, and JSON writes with six bytes each."""
LONG: Final = {
    "params": {"params": {"text": "x" * 20_000}},
    "numbers that PostgreSQL writes out": {"params": {"numbers": [1e300] * 70}},
    "prompts": {"prompt": "p" * 10_000, "negative_prompt": "n" * 10_000},
    "characters that JSON writes out": {"prompt": "\x01" * 3500},
    "the same, not compressed": {"prompt": _RANDOM, "negative_prompt": _RANDOM[::-1]},
    "metadata": {"metadata": {str(number): "m" * 2000 for number in range(10)}},
}
"""What makes a job of about 20,000 bytes."""


async def answered(client: TestClient[Any, Any], path: str, **query: Any) -> dict[str, Any]:
    answer = await client.get(path, params=query)
    assert answer.status == 200, await answer.text()
    return dict(await answer.json())


async def pages(views: JobViews, limit: int, *, by: str = "cursor", **chosen: Any) -> list[list[int]]:
    """Read a list to its end, the oldest first, and return the jobs of each page."""
    found: list[list[int]] = []
    cursor: str | None = None
    while cursor is not None or not found:
        skip = sum(map(len, found)) if by == "skip" else 0
        after = None if by == "skip" else cursor
        page = await views.page(JobFilter(**chosen), "created_at", limit, cursor=after, skip=skip)
        assert page.items or chosen, "no page is empty while the list goes on"
        found.append([view.job.job_id for view in page.items])
        cursor = page.next_cursor
    return found


@pytest.mark.parametrize("by", ["cursor", "skip"])
@pytest.mark.parametrize("kind", LONG)
async def test_a_page_of_long_jobs_ends_early_and_leads_on(database: Database, kind: str, by: str) -> None:
    store, views = AttemptStore(database), JobViews(database, page_bytes=60_000)
    made = [(await store.create(new_job(**LONG[kind]))).job_id for _ in range(7)]  # type: ignore[union-attr]
    found = await pages(views, 100, by=by)
    assert [job_id for page in found for job_id in page] == made
    assert {len(page) for page in found[:-1]} == {3}
    assert len(await views.several(made)) == 3


async def test_a_job_that_is_longer_than_a_page_comes_alone(database: Database) -> None:
    store, views = AttemptStore(database), JobViews(database, page_bytes=1000)
    made = [(await store.create(new_job(params={"text": "x" * 5000}))).job_id for _ in range(3)]  # type: ignore[union-attr]
    assert await pages(views, 100) == [[job_id] for job_id in made]
    assert await pages(views, 100, q="quiet") == [[job_id] for job_id in made]


async def test_many_outputs_and_attempts_count_as_well(database: Database) -> None:
    store, views = AttemptStore(database), JobViews(database, page_bytes=65_000)
    made = [(await store.create(new_job())).job_id for _ in range(6)]  # type: ignore[union-attr]
    async with database.transaction() as session:
        await session.execute(text("INSERT INTO contents (id, job_id) OVERRIDING SYSTEM VALUE SELECT id, id "
            "FROM generation_jobs WHERE id <= 3"))  # fmt: skip
        await session.execute(text("UPDATE generation_jobs SET content_id = id WHERE id <= 3"))
        await session.execute(text("UPDATE generation_jobs SET attempt = 40 WHERE id > 3"))
        await session.execute(text("INSERT INTO outputs (content_id, index, node_id, kind, content_type, size_bytes, "
            "sha256, path) SELECT id, n, '9', 'file', 'x/y', 1, repeat('0', 64), n::text "
            "FROM contents, generate_series(0, 39) AS n"))  # fmt: skip
        await session.execute(text("INSERT INTO job_attempts (job_id, number, worker_id, backend_name, prompt_id, "
            "claimed_at, error_message) SELECT id, n, 'w', 'b', 'p', now(), 'fault' "
            "FROM generation_jobs, generate_series(1, 40) AS n WHERE id > 3"))  # fmt: skip
    assert await pages(views, 100) == [made[:3], made[3:]]


async def test_a_list_of_jobs_of_the_greatest_params_has_about_four_megabytes(
    client: TestClient[Any, Any], database: Database
) -> None:
    store, asked = AttemptStore(database), new_job(params={"text": "x" * 65_000})
    await store.create_all([asked] * 100)
    first = await client.get(f"{BASE}/", params={"limit": 1000})
    body, page = await first.read(), await first.json()
    assert PAGE_BYTES * 0.9 < len(body) < PAGE_BYTES * 1.1
    assert page["total"] == 100
    rest = await answered(client, f"{BASE}/", limit=1000, cursor=page["next_cursor"])
    assert rest["next_cursor"] is None
    assert [job["job_id"] for job in page["items"] + rest["items"]] == list(range(100, 0, -1))
    shown = await read(client, "/monitor/?size=100")
    (older,) = shown.all("a", rel="next")
    assert [*shown.jobs, *(await read(client, older["href"])).jobs] == list(range(100, 0, -1))


# One job that was retried again and again.


@pytest.fixture
async def often_retried(database: Database) -> int:
    """The number of a job that has had more attempts than come with it, each of them failed."""
    store = AttemptStore(database)
    job = await store.create(new_job(max_attempts=1))
    assert job is not None
    for number in range(1, MOST_ATTEMPTS + 4):
        if number > 1:
            await store.retry(job.job_id, None, "someone")
        await store.claim("w", "b", str(uuid4()), 60)
        await store.fail(Claim(job.job_id, number, "w"), NodeFailed("It broke.", node_id="7", node_type="X"))
    return job.job_id


async def test_the_last_attempts_come_with_a_job_and_all_by_their_own_route(
    client: TestClient[Any, Any], often_retried: int
) -> None:
    job = await answered(client, f"{BASE}/{often_retried}")
    last = MOST_ATTEMPTS + 3
    assert [attempt["number"] for attempt in job["attempts"]] == list(range(4, last + 1))
    (listed,) = (await answered(client, f"{BASE}/"))["items"]
    assert listed["attempts"] == job["attempts"]
    whole = await answered(client, f"{BASE}/{often_retried}/attempts")
    assert [attempt["number"] for attempt in whole["items"]] == list(range(1, last + 1))
    assert whole["next_after"] is None


@pytest.mark.parametrize(("history", "number"), [("attempts", "number"), ("events", "seq")])
async def test_a_history_is_paged(client: TestClient[Any, Any], often_retried: int, history: str, number: str) -> None:
    path, whole, after = f"{BASE}/{often_retried}/{history}", list[int](), 0
    every = [each[number] for each in (await answered(client, path))["items"]]
    for _ in range(100):
        page = await answered(client, path, limit=20, after=after)
        whole += [each[number] for each in page["items"]]
        if page["next_after"] is None:
            break
        assert len(page["items"]) == 20
        after = page["next_after"]
    assert whole == every == list(range(1, len(every) + 1))
    assert (await answered(client, path, after=len(every))) == {"items": [], "next_after": None}
    for wrong in ({"limit": "1001"}, {"limit": "0"}, {"after": "-1"}, {"after": "x"}, {"more": "1"}):
        assert (await client.get(path, params=wrong)).status == 422


async def test_a_history_without_a_limit_has_one(database: Database, often_retried: int) -> None:
    views = JobViews(database)
    async with database.transaction() as session:
        many = """INSERT INTO job_events (job_id, seq, event, phase, attempt, actor, data)
            SELECT :job_id, 1000 + n, 'turn_renewed', 'queued', 1, 'x', '{}' FROM generate_series(1, :count) AS n"""
        await session.execute(text(many), {"job_id": often_retried, "count": MOST_STEPS})
    assert len(await views.events(often_retried)) == MOST_STEPS
    assert (await views.last_events(often_retried, 2))[-1].seq == 1000 + MOST_STEPS
    for gone in (views.events, views.attempts):
        with pytest.raises(JobNotFound):
            await gone(99)


async def test_the_page_of_a_job_shows_its_last_attempts_and_says_where_the_others_are(
    client: TestClient[Any, Any], often_retried: int
) -> None:
    page = await read(client, f"/monitor/jobs/{often_retried}")
    last = MOST_ATTEMPTS + 3
    shown = [found["id"] for _, found in page.elements if found.get("id", "").startswith("attempt-")]
    assert shown == [f"attempt-{number}" for number in range(last, last - MOST_DETAILED, -1)]
    assert f"{BASE}/{often_retried}/attempts" in page.addresses


# Names that clients give.


async def test_of_the_models_that_jobs_wait_for_the_most_frequent_are_told(
    client: TestClient[Any, Any], database: Database
) -> None:
    store = AttemptStore(database)
    asked = [new_job(checkpoint_model=f"model {number:03}", priority=number % 5) for number in range(MOST_MODELS + 50)]
    await store.create_all([*asked, asked[-1]])
    told = await answered(client, f"{BASE}/queue/stats")
    assert told["pending_jobs"] == len(asked) + 1
    assert sum(told["by_priority"].values()) == len(asked) + 1
    assert len(told["by_model"]) == MOST_MODELS
    assert next(iter(told["by_model"].items())) == (f"model {MOST_MODELS + 49:03}", 2)


async def test_the_models_of_the_statistics_that_one_may_choose_are_the_most_frequent(
    client: TestClient[Any, Any], database: Database
) -> None:
    many = """INSERT INTO job_statistics (span_s, scope, bucket, status, backend_name, checkpoint_model, error_code,
            node_type, count, waits, runs)
        SELECT span_s, 'model', date_bin(make_interval(secs => span_s), now(), timestamptz 'epoch'), 'completed', '',
            'model ' || n, '', '', n, none, none
        FROM unnest(CAST(:spans AS int[])) AS span_s, array_fill(0, ARRAY[CAST(:places AS int)]) AS none,
            generate_series(1, :count) AS n"""
    async with database.transaction() as session:
        values = {"spans": list(SPANS_S), "places": PLACES, "count": MOST_NAMES + 50}
        await session.execute(text(many), values)
    page = await client.get("/monitor/stats?model=model%201")
    offered = set(re.findall(r"<option[^>]*>(model \d+)</option>", await page.text()))
    assert offered == {"model 1", *(f"model {number}" for number in range(51, MOST_NAMES + 51))}


async def test_of_what_runs_no_more_of_a_prompt_is_read_than_is_shown(life: Life, database: Database) -> None:
    await life.execute(prompt="long " * 1900)
    (run,) = await FleetFigures(database).running()
    assert len(run.prompt or "") == PROMPT_CHARACTERS
