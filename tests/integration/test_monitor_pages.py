"""What the pages of the monitor show: the list, one job, and what they say when something is away."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from integration.monitor_fixtures import WORKER, Document, Life, read
from pydantic import SecretStr
from sqlalchemy import event, text

from app import keys
from app.domain.errors import NodeFailed
from app.main import create_app, create_monitor_app
from app.monitor import shared_fragments
from app.storage.attempts import Claim

if TYPE_CHECKING:
    from app.settings import Settings

NOWHERE = "127.0.0.1:1"


async def test_an_empty_list_says_what_to_do(client):
    page = await read(client, "/monitor/")
    assert "No jobs yet" in page.text
    assert "curl -X POST http://localhost:8099/api/v1/generation-jobs/" in page.text
    assert '"prompt": "a beautiful sunset over mountains"' in page.text


async def test_a_row_shows_what_is_known_of_its_job(client, life):
    done = await life.execute(prompt="a lighthouse at dusk", user_id="ann", checkpoint_model="sdxl.safetensors")
    await life.complete(done, "image", "image", "image")
    running = await life.execute()
    await life.progress(running, 42)
    page = await read(client, "/monitor/")
    assert page.jobs == [running.job_id, done.job_id]
    assert page.phases == {running.job_id: "executing", done.job_id: "completed"}
    for shown in ("a lighthouse at dusk", "ann", "sdxl", "gpu-a", "completed", "running", "42 %", "+2"):
        assert shown in page.text
    assert [bar["value"] for bar in page.all("progress")] == ["42"]
    (picture,) = page.all("img")
    answer = await client.get(picture["src"])
    assert (answer.status, answer.content_type) == (200, "image/webp")


async def test_the_tiles_count_what_waits_runs_and_ended(client, life):
    await life.complete(await life.execute())
    await life.fail(await life.execute())
    await life.execute()
    await life.submit()
    page = await read(client, "/monitor/")
    words = " ".join(page.text.split())
    assert "(1 running, 1 waiting) Jobs" in words
    assert "Waiting 1" in words
    assert "Done in 1 h 1" in words
    assert "Failed in 1 h 1 50.0 %" in words
    assert "Wait p95 in 1 h 0." in words


async def test_filters_combine_and_stay_in_the_address(client, life):
    fox = await life.submit(prompt="a Red Fox 100% red", user_id="ann")
    await life.submit(prompt="a red fox", user_id="bob")
    await life.submit(prompt="a bridge", user_id="ann")
    page = await read(client, "/monitor/?q=red+fox&user=ann&status=pending&model=&backend=")
    assert page.jobs == [fox]
    assert page.all("input", name="q")[0]["value"] == "red fox"
    assert page.all("input", type="hidden", name="status")[0]["value"] == "pending"
    assert page.all("a", href="/monitor/?status=failed&q=red+fox&user=ann")
    assert (await read(client, "/monitor/?q=100%25")).jobs == [fox]
    nothing = await read(client, "/monitor/?q=red+fox&user=ann&status=failed")
    assert nothing.jobs == []
    assert "No job fits" in nothing.text


@pytest.mark.parametrize(
    "query",
    ["status=nonsense", "q=%00", "after=nonsense", "before=%FF", "sort=priority", "user=a&user=b", f"q={'x' * 1001}"],
)
async def test_an_address_that_makes_no_sense_is_answered_with_a_page(client, query):
    page = await read(client, f"/monitor/?{query}", status=422)
    assert "That did not work" in page.text


async def test_paging_shows_each_old_job_once_while_new_ones_arrive(client, life):
    old = [await life.submit() for _ in range(120)]
    seen: list[int] = []
    page = await read(client, "/monitor/")
    while True:
        seen += page.jobs
        await life.submit()
        links = page.all("a", rel="next")
        if not links:
            break
        page = await read(client, links[0]["href"])
    assert seen == old[::-1]
    back = [page.jobs]
    while links := page.all("a", rel="prev"):
        page = await read(client, links[0]["href"])
        back.append(page.jobs)
    together = [job_id for each in reversed(back) for job_id in each]
    assert together[0] == old[-1] + 3  # the top holds the jobs that came meanwhile
    assert set(old) <= set(together)


async def test_a_job_is_shown_whole(client, life):
    seed = 2**64 - 1
    claim = await life.execute(
        prompt="first line\nsecond line",
        sampler_params={"seed": seed},
        lora_models=[{"name": "ink.safetensors"}],
        metadata={"project": "posters"},
    )
    await life.complete(claim, "image", "video", "audio", "text", "file")
    page = await read(client, f"/monitor/jobs/{claim.job_id}")
    for shown in (str(seed), "first line\nsecond line", "ink.safetensors", "posters", "words & <words>", WORKER):
        assert shown in page.text
    for step in ("submitted", "claimed", "executing", "saving", "completed"):
        assert step in page.text
    assert [len(page.all(tag)) for tag in ("img", "video", "audio")] == [1, 1, 1]
    for address in page.addresses:
        assert (await client.get(address)).status == 200, address


async def test_a_failed_job_shows_its_error_and_every_attempt(client, life):
    first = await life.execute()
    await life.fail(first, "VAEDecode: out of <memory>")
    await life.store.retry(first.job_id, None, "test")
    job = await life.store.claim(WORKER, "gpu-b", "0" * 36, 60)
    await life.fail(Claim(job.job_id, job.attempt, WORKER), "again")
    page = await read(client, f"/monitor/jobs/{first.job_id}")
    assert page.all("details", id="attempt-1")
    assert page.all("details", id="attempt-2")
    for shown in ("node_failed", "VAEDecode: out of <memory>", "again", "gpu-a", "gpu-b"):
        assert shown in page.text


async def test_from_the_second_attempt_on_it_is_said_which_of_how_many_this_is(client, life):
    claim = await life.execute(max_attempts=2)
    for path in ("/monitor/", f"/monitor/jobs/{claim.job_id}"):
        assert "1/2" not in (await read(client, path)).text
    await life.store.requeue(claim, NodeFailed("It fell.", node_id="7", node_type="VAEDecode"), 0)
    for path in ("/monitor/", f"/monitor/jobs/{claim.job_id}"):
        assert "retrying attempt 2/2" in " ".join((await read(client, path)).text.split()), path
    job = await life.store.claim(WORKER, "gpu-b", "0" * 36, 60)
    await life.fail(Claim(job.job_id, job.attempt, WORKER), "again")
    await life.store.retry(claim.job_id, None, "test")
    # It may be tried as often again.
    assert "pending attempt 3/4" in " ".join((await read(client, "/monitor/")).text.split())


@pytest.mark.parametrize("path", ["jobs/1", f"jobs/{2**63}", f"jobs/{'9' * 5000}", "jobs/٣", "jobs/x", "nowhere"])
async def test_what_is_not_there_is_a_friendly_page(client, path):
    page = await read(client, f"/monitor/{path}", status=404)
    assert "Not here" in page.text
    assert page.all("a", href="/monitor/")


async def test_a_fragment_is_the_page_without_what_is_around_it(client, life):
    await life.submit(prompt="a bridge")
    whole, part = await read(client, "/monitor/"), await read(client, "/monitor/", **{"X-Fragment": "1"})
    assert part.jobs == whole.jobs
    assert part.all("main")[0].keys() == whole.all("main")[0].keys()
    assert not part.all("script")
    assert not part.all("link")


async def test_without_redis_the_page_works_and_says_that_workers_are_unknown(settings, database, aiohttp_client):
    away = settings.model_copy(update={"redis_url": SecretStr(f"redis://{NOWHERE}")})
    client = await aiohttp_client(create_app(away))
    life = Life(client, database)
    claim = await life.execute()
    page = await read(client, "/monitor/")
    assert page.jobs == [claim.job_id]
    assert "Redis away" in page.text
    assert page.all("ul", id="health")[0]["data-events"] == "off"
    assert "Unknown" in (await read(client, "/monitor/workers")).text
    assert page.all("form", action=f"/monitor/jobs/{claim.job_id}/cancel")


async def test_without_postgresql_the_answer_is_503_in_clear_words(settings, aiohttp_client):
    url = SecretStr(f"postgresql://nobody@{NOWHERE}/none")
    client = await aiohttp_client(create_app(settings.model_copy(update={"database_url": url})))
    for path in ("/monitor/", "/monitor/jobs/1"):
        answer = await client.get(path)
        page = Document(await answer.text())
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert "The database cannot be reached" in page.text
        assert "PostgreSQL away" in page.text
        assert page.all("main")[0]["data-poll"] == "5"


async def test_history_outlives_a_flush_of_redis(client, life, redis):
    done = await life.complete(await life.execute())
    failed = await life.fail(await life.execute())
    paths = ("/monitor/", f"/monitor/jobs/{done.job_id}", f"/monitor/jobs/{failed.job_id}")
    before = [(page.phases, page.all("img"), page.all("tr")) for page in [await read(client, path) for path in paths]]
    await redis.flushdb()
    after = [(page.phases, page.all("img"), page.all("tr")) for page in [await read(client, path) for path in paths]]
    assert before == after


async def test_the_page_serves_alone(settings: Settings, database, aiohttp_client):
    client = await aiohttp_client(create_monitor_app(settings))
    life = Life(client, database)
    job = await life.complete(await life.execute())
    assert (await client.get("/")).url.path == "/monitor/"
    page = await read(client, f"/monitor/jobs/{job.job_id}")
    for address in page.addresses:
        assert (await client.get(address)).status == 200, address


async def test_a_broken_page_tells_no_secrets(client, life, database):
    job_id = await life.submit()
    async with database.transaction() as session:
        await session.execute(text("DROP TABLE job_events"))
    page = await read(client, f"/monitor/jobs/{job_id}", status=500)
    assert "Our fault" in page.text
    assert "job_events" not in page.text


PAGES = ("", "backends", "workers", "stats", "schedule", "audit", "jobs/1")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
async def test_a_fragment_is_made_once_for_all_who_ask_together_each_with_a_token_of_its_own(
    client, life, page, monkeypatch
):
    # However slowly the machine lets the twenty ask, they ask together: the next one is not made before.
    monkeypatch.setattr(shared_fragments, "APART_S", 1.5)
    assert await life.submit() == 1
    statements = 0

    def count(*_: Any) -> None:
        nonlocal statements
        statements += 1

    event.listen(client.app[keys.DATABASE].engine.sync_engine, "before_cursor_execute", count)

    async def fragment(browser: str) -> str:
        cookie = f"monitor_csrf={browser * 43}"
        async with client.get(f"/monitor/{page}", headers={"X-Fragment": "1", "Cookie": cookie}) as answer:
            assert answer.status == 200
            return await answer.text()

    await fragment("x")
    of_one, statements = statements, 0
    assert of_one
    browsers = "abcdefghijklmnopqrst"
    texts = await asyncio.gather(*map(fragment, browsers))
    assert statements <= 2 * of_one
    for browser, text_ in zip(browsers, texts, strict=True):
        tokens = {field["value"] for field in Document(text_).all("input", name="csrf")}
        assert tokens <= {browser * 43}
