"""The page of statistics: its figures are what plain SQL says, and each leads to as many jobs as it tells of."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from integration.counting import count_all, ended, within_a_step
from integration.monitor_fixtures import Life, read

from app.domain.errors import NodeFailed
from app.domain.histogram import histogram
from app.domain.statistics_report import Chosen
from app.monitor.listing import ListAddress
from app.monitor.stats_pages import RANGES
from app.storage.attempts import Claim
from app.storage.ended_jobs import FIVE_MINUTES_S
from app.storage.job_views import JobViews
from app.storage.statistics import Statistics
from app.storage.statistics_recorder import StatisticsRecorder
from app.web.checking import check

if TYPE_CHECKING:
    import asyncpg
    from aiohttp.test_utils import TestClient

    from app.storage.database import Database

NARROWED = ["", "&model=model0.safetensors", "&backend=gpu3", "&model=model0.safetensors&backend=gpu3"]


class Links(HTMLParser):
    """The links of a page with all texts in them, titles of marks too."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self._href: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a link."""
        if tag == "a":
            self._href = dict(attrs)["href"] or ""
            self.found.append((self._href, ""))

    def handle_endtag(self, tag: str) -> None:
        """End it."""
        self._href = None if tag == "a" else self._href

    def handle_data(self, data: str) -> None:
        """Keep its text."""
        if self._href is not None:
            self.found[-1] = (self._href, self.found[-1][1] + data)


async def links(client: TestClient[Any, Any], path: str) -> list[tuple[str, str]]:
    answer = await client.get(path)
    assert answer.status == 200
    return [(href, " ".join(told.split())) for href, told in Links(await answer.text()).found]


@pytest.mark.slow
@pytest.mark.parametrize("narrowed", NARROWED)
@pytest.mark.parametrize("chosen", ["1h", "24h", "30d"])
async def test_each_figure_leads_to_as_many_jobs(
    client: TestClient[Any, Any],
    full: Database,
    chosen: str,
    narrowed: str,
) -> None:
    await count_all(StatisticsRecorder(full, margin_s=0))
    views, known, seen = JobViews(full), {}, 0
    for href, told in await links(client, f"/monitor/stats?range={chosen}{narrowed}"):
        count = re.fullmatch(
            r"(?:Finished |Failed |.*: )?([\d,]+)(?: since.*| [\d.]+ %| (?:completed|failed|cancelled))?", told
        )
        if count is None or urlsplit(href).path != "/monitor/":
            continue
        if href not in known:
            address = check(ListAddress, dict(parse_qsl(urlsplit(href).query)), pointer="")
            page = await views.page(address.to_filter(), "-created_at", 1, cursor=None, skip=0)
            assert page.total_exact
            known[href] = page.total
        assert known[href] == int(count[1].replace(",", "")), (told, href)
        seen += 1
    assert seen > (3 if narrowed else 10)


async def test_the_slow_ones_are_a_twentieth_of_all(
    client: TestClient[Any, Any],
    full: Database,
    plain: asyncpg.Connection,
) -> None:
    """Whoever follows a p95 sees the jobs beyond it: by the histogram's exactness a twentieth of those counted."""
    await plain.execute("""
        UPDATE generation_jobs SET started_at = created_at + interval '1 s' * (5 + id % 100 * 0.07),
            completed_at = created_at + interval '1 s' * (20 + id % 100 * 0.07) WHERE completed_at IS NOT NULL""")
    found = dict(await links(client, "/monitor/stats?range=24h"))
    (slow,) = {href for href in found if "waited_over" in href and found[href].startswith("Wait p95")}
    address = check(ListAddress, dict(parse_qsl(urlsplit(slow).query)), pointer="")
    page = await JobViews(full).page(address.to_filter(), "-created_at", 1, cursor=None, skip=0)
    assert 0 < page.total < 0.12 * await ended(plain)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2, 3, 10])
@pytest.mark.parametrize("longest_s", [0.0004, 0.25, 36.0, 80.1234])
async def test_the_slow_end_of_few_jobs_is_no_slower_than_they_were_and_leads_to_the_slowest(
    client: TestClient[Any, Any],
    database: Database,
    plain: asyncpg.Connection,
    jobs: int,
    longest_s: float,
) -> None:
    """Also at a bound of the histogram, whose places reach beyond what they hold, and as an older version counted."""
    life, views = Life(client, database), JobViews(database)
    recorder, statistics = StatisticsRecorder(database, margin_s=0), Statistics(database)
    for _ in range(jobs):
        await life.complete(await life.execute(checkpoint_model="a.safetensors"))
    await plain.execute(f"""
        UPDATE generation_jobs SET started_at = completed_at - interval '{longest_s} s' * id / {jobs},
            queued_at = completed_at - interval '{longest_s} s' * id / {jobs} * 2""")  # noqa: S608
    for state in ("not counted", "counted", "counted by an older version"):
        if state == "counted":
            await count_all(recorder)
        elif state != "not counted":
            await plain.execute("UPDATE job_statistics SET longest_wait_s = 0, longest_run_s = 0")
        seen = state != "counted by an older version"
        whole = (await statistics.read(RANGES["1h"].length, FIVE_MINUTES_S, Chosen())).whole
        for found in (whole.wait_s(0.95), whole.run_s(0.95)):
            assert found is not None
            assert found <= longest_s
            assert not seen or found > 0
        led = 0
        for href, told in await links(client, "/monitor/stats?range=1h"):
            if "_over=" in href or told.startswith(("Wait p95", "Run p95")):
                address = check(ListAddress, dict(parse_qsl(urlsplit(href).query)), pointer="")
                page = await views.page(address.to_filter(), "-created_at", jobs, cursor=None, skip=0)
                assert jobs in [view.job.job_id for view in page.items], (href, told)
                led += 1
        # Two tiles, two points of charts, two rows of tables, and the model.
        assert led >= (7 if seen else 2)


async def test_a_wait_and_a_run_are_the_same_wherever_they_are_told(
    client: TestClient[Any, Any],
    database: Database,
    plain: asyncpg.Connection,
) -> None:
    """Rows, the job's page, the API, filters and statistics: from the queue to a worker, and from there to the end."""
    life = Life(client, database)
    job_id = (await life.complete(await life.execute())).job_id
    await plain.execute("""
        UPDATE generation_jobs SET created_at = completed_at - interval '7 days',
            queued_at = completed_at - interval '100 s', started_at = completed_at - interval '60 s';
        UPDATE job_attempts SET claimed_at = ended_at - interval '45 s', executing_at = ended_at - interval '20 s'""")
    for path in ("/monitor/", f"/monitor/jobs/{job_id}"):
        told = " ".join((await read(client, path)).text.split())
        assert "waited 40 s" in told, path
        assert "ran 60 s" in told, path
    answer = await (await client.get(f"/api/v1/generation-jobs/{job_id}")).json()
    assert answer["timings"]["queued_ms"] == 40_000
    for over, found in (("waited_over=39.9", [job_id]), ("waited_over=40", []), ("ran_over=59.9", [job_id])):
        assert (await read(client, f"/monitor/?{over}")).jobs == found, over
    assert (await read(client, "/monitor/?ran_over=60")).jobs == []
    report = await Statistics(database).read(RANGES["1h"].length, FIVE_MINUTES_S, Chosen())
    assert (report.whole.waits, report.whole.runs) == (histogram([40]), histogram([60]))


async def test_what_is_said_of_a_job_under_way_begins_with_the_worker_that_took_it(
    client: TestClient[Any, Any],
    database: Database,
    plain: asyncpg.Connection,
) -> None:
    """In ComfyUI's own queue, and between two attempts, it is under way; before its time has come it waits for none."""
    life = Life(client, database)
    claim = await life.claim()
    await plain.execute("""
        UPDATE generation_jobs SET queued_at = now() - interval '100 s', started_at = now() - interval '60 s'""")
    for _ in range(2):
        told = " ".join((await read(client, "/monitor/")).text.split())
        assert re.search(r"waited (39|40) s under way 6\d s", told), told
        if claim.attempt == 1:
            await life.store.requeue(claim, NodeFailed("It fell.", node_id="7", node_type="VAEDecode"), 60)
            claim = Claim(claim.job_id, 2, claim.worker_id)
    await plain.execute("DELETE FROM generation_jobs")
    await life.submit(not_before="2100-01-01T00:00:00Z")
    assert "waits" not in (await read(client, "/monitor/")).text
    await plain.execute("UPDATE generation_jobs SET queued_at = now() - interval '30 s'")
    assert re.search(r"waits 3\d s", " ".join((await read(client, "/monitor/")).text.split()))


@pytest.mark.parametrize("chosen", RANGES)
async def test_the_range_is_in_the_address_and_in_the_tables(
    client: TestClient[Any, Any],
    full: Database,
    chosen: str,
) -> None:
    over = RANGES[chosen]
    page = await read(client, f"/monitor/stats?range={chosen}&model=model0.safetensors")
    assert page.all("a", href=f"/monitor/stats?range={chosen}&model=model0.safetensors")[0]["aria-current"] == "true"
    assert page.all("a", href="/monitor/stats?range=7d&model=model0.safetensors")
    steps = over.length.total_seconds() / over.step_s + 1
    assert len([row for row in page.all("th", scope="row")]) >= 4 * steps
    assert page.all("details", id="table-queue")
    assert "model0.safetensors" in page.text


async def test_each_mark_has_a_title_and_its_table_the_same_figures(
    client: TestClient[Any, Any],
    full: Database,
) -> None:
    told = [each for _, each in await links(client, "/monitor/stats?range=24h")]
    titles = [each for each in told if re.search(r"\d\d:00–\d\d:00: ", each)]
    assert any(re.fullmatch(r"\d\d \w{3} \d\d:00–\d\d:00: 95 % waited up to .*", each) for each in titles)
    assert any(re.fullmatch(r"\d\d \w{3} \d\d:00–\d\d:00: half ran up to .*", each) for each in titles)
    counts = [each.split(": ")[1].split()[0] for each in titles if each.endswith((" completed", " failed"))]
    assert len(counts) >= 5
    assert not set(counts) - set(told)


async def test_the_page_works_without_any_job(client: TestClient[Any, Any]) -> None:
    page = await read(client, "/monitor/stats")
    assert "No job has ended in this time." in page.text
    assert "No job has failed in this time." in page.text
    assert page.all("main", **{"data-page": "stats"})


async def test_what_is_not_counted_yet_is_told(
    client: TestClient[Any, Any],
    full: Database,
    plain: asyncpg.Connection,
) -> None:
    await plain.execute("""
        INSERT INTO statistics_progress VALUES (1, now() - interval '40 days');
        INSERT INTO generation_jobs
        SELECT (jsonb_populate_record(job, jsonb_build_object('id', job.id + 1000000 * n))).*
        FROM generation_jobs AS job, generate_series(1, 6) AS n WHERE status = 'completed'""")
    page = await read(client, "/monitor/stats?range=30d")
    assert page.all("p", id="behind")
    await count_all(StatisticsRecorder(full, margin_s=0))
    page = await read(client, "/monitor/stats?range=30d")
    assert not page.all("p", id="behind")


async def test_a_wrong_address_is_answered_with_a_page(client: TestClient[Any, Any]) -> None:
    await read(client, "/monitor/stats?range=2h", 422)
    await read(client, f"/monitor/stats?model={'m' * 300}", 422)
    await read(client, "/monitor/stats?range=&model=&backend=")


async def test_names_are_hostile_texts(client: TestClient[Any, Any], database: Database) -> None:
    life = Life(client, database)
    await life.fail(await life.execute(checkpoint_model='"><script>alert(1)</script>.safetensors'))
    answer = await (await client.get("/monitor/stats?range=1h")).text()
    assert "<script>alert" not in answer
    assert "&lt;script&gt;alert(1)&lt;/script&gt;.safetensors" in answer
    assert "style=" not in answer
    hrefs = [href for href, told in await links(client, "/monitor/stats?range=1h") if "safetensors" in told]
    assert parse_qs(urlsplit(hrefs[0]).query)["model"] == ['"><script>alert(1)</script>.safetensors']


async def test_a_job_that_just_failed_is_there_at_once(client: TestClient[Any, Any], database: Database) -> None:
    await within_a_step(FIVE_MINUTES_S)
    life = Life(client, database)
    await life.complete(await life.execute(checkpoint_model="a.safetensors"))
    await life.fail(await life.execute(checkpoint_model="a.safetensors"))
    told = "".join((await read(client, "/monitor/stats?range=1h")).text.split())
    for figures in ("Finished2", "Failed150.0%", "node_failed1100.0%", "VAEDecode1100.0%", "a.safetensors2150.0%"):
        assert figures in told


async def test_it_says_what_loading_cost_and_what_users_got(
    client: TestClient[Any, Any], life: Life, plain: Any
) -> None:
    for _ in range(4):
        await life.complete(await life.execute())
    await plain.execute("UPDATE job_attempts SET load_s = CASE WHEN job_id % 2 = 0 THEN 3.0 ELSE 0 END")
    await plain.execute("""UPDATE job_attempts SET executing_at = ended_at - interval '5 s', executed_at = ended_at""")
    await plain.execute("UPDATE generation_jobs SET user_id = CASE WHEN id % 2 = 0 THEN 'ann' ELSE 'bob' END")
    await plain.execute("UPDATE generation_jobs SET queued_at = started_at - interval '1 minute'")
    await plain.execute("INSERT INTO tenants (tenant, weight) VALUES ('bob', 2)")
    said = " ".join((await read(client, "/monitor/stats?range=1h")).text.split())
    assert "Loads per 100 jobs: 50.0 . Time lost to loading: 6.0 s" in said.replace("50.0.", "50.0 .")
    for row in ("ann 1 2 10 s 2 min", "bob 2 2 10 s 2 min"):
        assert row.replace(" ", "") in said.replace(" ", "")
    # By weight bob got half of what ann did.
    assert "1 is exact): 0.90" in said
