"""Lists by keyset, snapshots and figures: the same as plain SQL says, whatever the order and the ties."""

from __future__ import annotations

import base64
import itertools
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import new_job, output
from sqlalchemy import text

from app.domain.errors import InvalidRequest, JobNotFound, NodeFailed
from app.domain.job import JobStatus, Phase
from app.domain.run_times import RunTime
from app.monitor.listing import ListAddress, read_listing
from app.storage import job_lists
from app.storage.attempts import AttemptStore, Claim
from app.storage.job_lists import STRETCHES, JobFilter, Sort
from app.storage.job_views import JobViews
from app.storage.run_times import RunTimes

if TYPE_CHECKING:
    from app.storage.database import Database

SORTS: tuple[Sort, ...] = get_args(Sort)


async def sql(database: Database, statement: str, **values: Any) -> list[Any]:
    async with database.transaction() as session:
        found = await session.execute(text(statement), values)
        return list(found) if found.returns_rows else []


@pytest.fixture
async def filled(database: Database) -> Database:
    """30 jobs, three users, all statuses, and only four different times of creation and of change among them."""
    store = AttemptStore(database)
    for number in range(30):
        name = f"user{number % 3}"
        prompt = f"100%_done {number}" if number % 2 else None
        await store.create(new_job(user_id=name, prompt=prompt, checkpoint_model=f"m{number % 4}.x"))
    for number in range(12):
        worker = f"w{number % 4}"
        job = await store.claim(worker, f"b{number % 2}", "p", 60)
        assert job is not None
        claim = Claim(job.job_id, 1, worker)
        match number % 3:
            case 0:
                await store.fail(claim, NodeFailed("It broke.", node_id="7", node_type=f"Node{number % 2}"))
            case 1:
                await store.saving(claim)
                await store.complete(claim, [output(0), output(1)])
    await sql(
        database,
        "UPDATE generation_jobs SET updated_at = '2026-01-01'::timestamptz + make_interval(secs => (id * 7) % 4), "
        "created_at = '2026-01-01'::timestamptz + make_interval(secs => id / 10), "
        "queued_at = '2026-01-01'::timestamptz + make_interval(secs => id / 10), "
        "started_at = '2026-01-01 00:00:05'::timestamptz + make_interval(secs => id) "
        "WHERE started_at IS NOT NULL OR status = 'pending'",
    )
    await sql(
        database,
        "UPDATE generation_jobs SET started_at = CASE WHEN status <> 'pending' THEN started_at END, "
        "completed_at = CASE WHEN completed_at IS NOT NULL THEN started_at + make_interval(secs => id % 5) END",
    )
    return database


async def walk(views: JobViews, chosen: JobFilter, sort: Sort, limit: int) -> list[int]:
    """Return the ids of all pages, one after the other."""
    found, cursor = [], None
    while True:
        page = await views.page(chosen, sort, limit, cursor=cursor, skip=0)
        assert len(page.items) <= limit
        found += [view.job.job_id for view in page.items]
        if page.next_cursor is None:
            return found
        cursor = page.next_cursor


ORDERS = {
    "-created_at": "created_at DESC, id DESC",
    "created_at": "created_at, id",
    "-updated_at": "updated_at DESC, id DESC",
    "updated_at": "updated_at, id",
}
ENDED = datetime(2026, 1, 1, 0, 0, 12, tzinfo=UTC)
WAITED = "coalesce(started_at, completed_at, now()) - queued_at"
RAN = "coalesce(completed_at, now()) - started_at"
FILTERS: list[tuple[JobFilter, str]] = [
    (JobFilter(), "true"),
    (JobFilter(user_id="user1"), "user_id = 'user1'"),
    (JobFilter(status=[JobStatus.FAILED, JobStatus.COMPLETED]), "status IN ('failed', 'completed')"),
    (JobFilter(backend="b1", user_id="user0"), "backend_name = 'b1' AND user_id = 'user0'"),
    (JobFilter(checkpoint_model="m2.x"), "checkpoint_model = 'm2.x'"),
    (JobFilter(q="100%_DONE 1"), r"prompt ILIKE '%100\%\_done 1%'"),
    (JobFilter(q="_"), r"prompt LIKE '%\_%'"),
    (JobFilter(job_type="video"), "false"),
    (JobFilter(worker="w1"), "id IN (SELECT job_id FROM job_attempts WHERE worker_id = 'w1')"),
    (JobFilter(error_code="node_failed"), "error_code = 'node_failed'"),
    (JobFilter(node_type="Node1"), "id IN (SELECT job_id FROM job_attempts WHERE node_type = 'Node1')"),
    (JobFilter(error_code="node_failed", node_type="NodeX"), "false"),
    (JobFilter(ended_after=ENDED), "completed_at >= '2026-01-01 00:00:12Z'"),
    (JobFilter(ended_before=ENDED, user_id="user0"), "completed_at < '2026-01-01 00:00:12Z' AND user_id = 'user0'"),
    (JobFilter(until_id=11), "id <= 11"),
    (JobFilter(waited_over_s=9), f"{WAITED} > '9 s'"),
    (JobFilter(waited_over_s=9, status=[JobStatus.COMPLETED]), f"{WAITED} > '9 s' AND status = 'completed'"),
    (JobFilter(ran_over_s=2), f"{RAN} > '2 s'"),
    (JobFilter(ran_over_s=2, waited_over_s=6, q="done"), f"{RAN} > '2 s' AND {WAITED} > '6 s' AND prompt ~ 'done'"),
]


@pytest.mark.slow
async def test_pages_together_are_the_whole_list_in_its_order(filled: Database) -> None:
    views = JobViews(filled)
    for sort in SORTS:
        for chosen, condition in FILTERS:
            statement = f"SELECT id FROM generation_jobs WHERE {condition} ORDER BY {ORDERS[sort]}"  # noqa: S608
            wanted = [row[0] for row in await sql(filled, statement)]
            for limit in (1, 7, 30, 1000) if chosen == JobFilter() else (4,):
                assert await walk(views, chosen, sort, limit) == wanted, (sort, condition, limit)


async def test_the_total_counts_what_the_filter_leaves_and_skip_skips(filled: Database) -> None:
    views = JobViews(filled)
    page = await views.page(JobFilter(user_id="user1"), "-created_at", 3, cursor=None, skip=8)
    assert (page.total, page.total_exact, len(page.items), page.next_cursor) == (10, True, 2, None)
    assert (await views.page(JobFilter(), "created_at", 5, cursor=None, skip=100)).items == []


async def test_every_filter_leaves_some_and_takes_some(filled: Database) -> None:
    """Or the comparison with plain SQL would say nothing."""
    for chosen, condition in FILTERS[1:]:
        (found,) = (await sql(filled, f"SELECT count(*) FROM generation_jobs WHERE {condition}"))[0]  # noqa: S608
        assert (0 < found < 30) is (condition != "false"), condition
        assert (await JobViews(filled).page(chosen, "created_at", 1, cursor=None, skip=0)).total == found, condition


@pytest.mark.parametrize("counted", [1000, 3])
async def test_tabs_count_each_status_under_the_other_filters(filled: Database, counted: int) -> None:
    views = JobViews(filled, counted=counted)
    for chosen, condition in FILTERS:
        rest = "true" if condition.startswith("status IN") else condition.removesuffix(" AND status = 'completed'")
        statement = f"SELECT status, count(*) FROM generation_jobs WHERE {rest} GROUP BY status"  # noqa: S608
        wanted: dict[str, int] = {row[0]: row[1] for row in await sql(filled, statement)}
        found = await views.counts(chosen)
        assert found.keys() == set(JobStatus)
        if counted == 1000:
            assert {status: count.value for status, count in found.items() if count.value} == wanted, condition
            assert all(count.exact for count in found.values())
        elif not chosen.searching:
            told = {status: (count.value, count.exact) for status, count in found.items()}
            assert told == {each: (min(wanted.get(each, 0), 3), wanted.get(each, 0) <= 3) for each in JobStatus}


async def test_what_comes_before_a_job_is_counted(filled: Database) -> None:
    for (chosen, condition), sort in itertools.product(FILTERS, SORTS):
        page = await JobViews(filled).page(chosen, sort, 4, cursor=None, skip=3)
        if not page.items or chosen.searching:
            continue
        count = await JobViews(filled).before(chosen, sort, page.items[0].job)
        assert (count.value, count.exact) == (3, True), (condition, sort)
        count = await JobViews(filled, counted=2).before(chosen, sort, page.items[0].job)
        assert (count.value, count.exact) == (2, False), (condition, sort)


async def test_those_that_failed_alike_are_counted(filled: Database) -> None:
    counts = await JobViews(filled).alike([("node_failed", "Node0"), ("node_failed", None), ("none", None)], 3)
    assert [(count.value, count.exact) for count in counts] == [(2, True), (3, False), (0, True)]
    assert await JobViews(filled).alike([], 3) == []


@pytest.mark.parametrize(("counted", "told"), [(9, (9, False)), (10, (10, True)), (11, (10, True))])
async def test_a_list_is_counted_up_to_a_bound(filled: Database, counted: int, told: tuple[int, bool]) -> None:
    views = JobViews(filled, counted=counted)
    page = await views.page(JobFilter(user_id="user1"), "-created_at", 3, cursor=None, skip=0)
    assert (page.total, page.total_exact) == told


@pytest.mark.parametrize(("counted", "told"), [(9, (9, False)), (10, (10, True))])
async def test_what_a_bulk_action_is_for_is_counted_up_to_a_bound(
    filled: Database, counted: int, told: tuple[int, bool]
) -> None:
    wanted = await sql(filled, "SELECT id FROM generation_jobs WHERE user_id = 'user1' ORDER BY created_at, id")
    chosen = JobFilter(user_id="user1")
    found = await JobViews(filled, counted=counted).matching(chosen, 4)
    assert (found.job_ids, (found.matched, found.exact)) == ([row[0] for row in wanted[:4]], told)
    rest = await JobViews(filled, counted=counted).matching(chosen, 1000, found.next_cursor)
    assert (rest.job_ids, rest.next_cursor) == ([row[0] for row in wanted[4:]], None)
    # Never fewer than are acted on.
    found = await JobViews(filled, counted=2).matching(chosen, 4)
    assert (found.matched, found.exact) == (4, False)


@pytest.mark.parametrize("searched", [1, 2, 3, 7, 8, 30])
@pytest.mark.parametrize("limit", [1, 2, 1000])
async def test_a_bulk_action_searches_so_far_and_leads_on_to_the_rest(
    filled: Database, searched: int, limit: int
) -> None:
    statement = f"SELECT id FROM generation_jobs WHERE prompt ILIKE '%done 2%' ORDER BY {ORDERS['created_at']}"  # noqa: S608
    wanted = [row[0] for row in await sql(filled, statement)]
    assert len(wanted) > 3
    views, most = JobViews(filled, counted=3, searched=searched), min(limit, searched * STRETCHES)
    found, parts, cursor = list[int](), 0, None
    while parts == 0 or cursor is not None:
        part = await views.matching(JobFilter(q="DONE 2"), limit, cursor)
        assert len(part.job_ids) <= most
        found, cursor, parts = found + part.job_ids, part.next_cursor, parts + 1
    assert found == wanted
    assert parts >= len(wanted) / most


@pytest.mark.slow
async def test_a_search_finds_everything_a_stretch_at_a_time(filled: Database) -> None:
    for sort in SORTS:
        for condition, chosen in (
            ("prompt ILIKE '%DONE 1%'", JobFilter(q="DONE 1")),
            ("prompt LIKE '%done 7%' AND user_id = 'user1'", JobFilter(q="done 7", user_id="user1")),
            ("false", JobFilter(q="nowhere")),
        ):
            statement = f"SELECT id FROM generation_jobs WHERE {condition} ORDER BY {ORDERS[sort]}"  # noqa: S608
            wanted = [row[0] for row in await sql(filled, statement)]
            for searched in (1, 7, 10, 29, 30, 31):
                views = JobViews(filled, searched=searched)
                assert await walk(views, chosen, sort, 2) == wanted, (sort, condition, searched)


async def test_a_search_ends_with_its_stretch_and_says_that_it_leads_on(filled: Database) -> None:
    chosen = JobFilter(q="100%_done 1")  # of the jobs 1 to 30 those with the prompts 1, 11, 13, 15, 17 and 19
    page = await JobViews(filled, searched=15, counted=15).page(chosen, "created_at", 5, cursor=None, skip=0)
    assert [view.job.prompt for view in page.items] == ["100%_done 1", "100%_done 11", "100%_done 13"]
    assert page.next_cursor is not None
    assert page.total_exact is False
    rest = await JobViews(filled, searched=15).page(chosen, "created_at", 5, cursor=page.next_cursor, skip=0)
    assert [view.job.prompt for view in rest.items] == ["100%_done 15", "100%_done 17", "100%_done 19"]
    assert (rest.next_cursor, rest.total, rest.total_exact) == (None, 6, True)


async def test_a_search_never_tells_fewer_jobs_than_it_shows(filled: Database) -> None:
    page = await JobViews(filled, counted=2).page(JobFilter(q="done"), "-created_at", 10, cursor=None, skip=0)
    assert (len(page.items), page.total, page.total_exact) == (10, 10, False)


async def test_a_list_and_its_count_are_of_the_same_moment(filled: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = job_lists.count_matching

    async def after_another_job_came(*arguments: Any) -> tuple[int, bool]:
        await AttemptStore(filled).create(new_job())
        return await counted(*arguments)

    monkeypatch.setattr(job_lists, "count_matching", after_another_job_came)
    views = JobViews(filled)
    for there in (30, 31):
        page = await views.page(JobFilter(), "-created_at", 100, cursor=None, skip=0)
        assert (len(page.items), page.total) == (there, there)
    found = await views.matching(JobFilter(), 100)
    assert len(found.job_ids) == found.matched


async def test_the_page_of_jobs_says_that_there_are_more_than_were_counted(filled: Database) -> None:
    counted = await read_listing(JobViews(filled), ListAddress())
    more = await read_listing(JobViews(filled, counted=20), ListAddress())
    assert counted is not None
    assert more is not None
    assert (counted.total, more.total) == ("30", "30+")


async def test_the_page_of_jobs_leads_through_a_search_and_back(filled: Database) -> None:
    views = JobViews(filled, searched=15)
    first = await read_listing(views, ListAddress(q="done 1"))
    assert first is not None
    assert first.after is not None
    older = ListAddress.model_validate(dict(parse_qsl(urlsplit(first.after).query)))
    second = await read_listing(views, older)
    assert second is not None
    assert second.after is None
    prompts = [view.job.prompt for listing in (first, second) for view in listing.items]
    assert prompts == [f"100%_done {number}" for number in (19, 17, 15, 13, 11, 1)]
    none = await read_listing(views, ListAddress(q="nowhere"))
    assert none is not None
    assert (none.items, none.after is None) == ([], False)


async def test_created_after_is_inclusive_and_before_exclusive(filled: Database) -> None:
    views = JobViews(filled)
    at = (await sql(filled, "SELECT created_at FROM generation_jobs ORDER BY id OFFSET 10 LIMIT 1"))[0][0]
    after = await walk(views, JobFilter(created_after=at), "created_at", 100)
    before = await walk(views, JobFilter(created_before=at), "created_at", 100)
    assert (len(before), len(after)) == (9, 21)  # it shares its time with one before it and eight after it


async def test_jobs_that_come_while_pages_are_turned_shift_nothing(filled: Database) -> None:
    views, store = JobViews(filled), AttemptStore(filled)
    first = await views.page(JobFilter(), "-created_at", 10, cursor=None, skip=0)
    for _ in range(3):
        await store.create(new_job())
    second = await views.page(JobFilter(), "-created_at", 10, cursor=first.next_cursor, skip=0)
    ids = [view.job.job_id for page in (first, second) for view in page.items]
    assert ids == sorted(ids, reverse=True)
    assert len(set(ids)) == 20


async def test_a_page_has_each_jobs_own_attempts_and_outputs(filled: Database) -> None:
    views = JobViews(filled)
    for view in (await views.page(JobFilter(), "created_at", 100, cursor=None, skip=0)).items:
        alone = await views.view(view.job.job_id)
        assert (view.job, view.attempts, view.outputs) == (alone.job, alone.attempts, alone.outputs)
        assert len(view.outputs) == (2 if view.job.phase is Phase.COMPLETED else 0)


async def test_a_cursor_of_a_job_leads_on_from_it_and_with_the_opposite_sort_back(filled: Database) -> None:
    views = JobViews(filled)
    for sort in ("created_at", "updated_at"):
        ids = await walk(views, JobFilter(), sort, 100)
        job = (await views.view(ids[10])).job
        on = await views.page(JobFilter(), sort, 100, cursor=views.cursor_at(sort, job), skip=0)
        back: Sort = f"-{sort}"  # type: ignore[assignment]
        before = await views.page(JobFilter(), back, 100, cursor=views.cursor_at(back, job), skip=0)
        assert [view.job.job_id for view in on.items] == ids[11:]
        assert [view.job.job_id for view in before.items] == ids[9::-1]


def cursor_of(*parts: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(list(parts)).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "nonsense",
        "日本",
        "=" * 5,
        cursor_of(),
        cursor_of("created_at", 5, 5),
        cursor_of("-created_at", "2026-01-01T00:00:00+00:00", -1),
        cursor_of("-created_at", "2026-01-01T00:00:00+00:00", 2**63),
        cursor_of("-created_at", 2**70, 2**70),
        cursor_of("-created_at", -1, -1),
        cursor_of("-created_at", float("inf"), 5),
        cursor_of("-created_at", float("nan"), 5),
        cursor_of("-created_at", None, None),
        cursor_of("-updated_at", "2026-01-01T00:00:00+00:00", 5),
        cursor_of("-created_at", 5, 5),
        base64.urlsafe_b64encode(b"[" * 100_000).decode(),
    ],
)
async def test_a_cursor_that_nobody_gave_out_is_bad_input(database: Database, cursor: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await JobViews(database).page(JobFilter(), "-created_at", 10, cursor=cursor, skip=0)
    assert [(fault.pointer, fault.code) for fault in refused.value.faults] == [("cursor", "invalid_cursor")]


TIMES = st.datetimes().map(lambda at: at.isoformat()) | st.sampled_from(
    ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-01-01T00:00:00", "2026-01-01", "20260101T00Z"]
)
JSON = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | TIMES


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.tuples(st.sampled_from(SORTS) | JSON, JSON, JSON), sort=st.sampled_from(SORTS))
async def test_no_cursor_is_a_crash(database: Database, parts: Any, sort: Sort) -> None:
    try:
        page = await JobViews(database).page(JobFilter(), sort, 10, cursor=cursor_of(*parts), skip=0)
    except InvalidRequest:
        return
    assert page.items == []


# Snapshots, positions, figures.


async def test_snapshots_are_of_the_jobs_that_exist_with_their_paths_in_order(filled: Database) -> None:
    views = JobViews(filled)
    done = [row[0] for row in await sql(filled, "SELECT id FROM generation_jobs WHERE status = 'completed'")]
    found = await views.snapshots([*done, 1, 10**9])
    assert set(found) == {*done, 1}
    assert found[done[0]].output_paths == [output(0).path, output(1).path]
    assert (found[done[0]].phase, found[done[0]].finished) == (Phase.COMPLETED, True)
    assert await views.snapshots([]) == {}


async def test_the_position_counts_who_comes_before(database: Database) -> None:
    store, views = AttemptStore(database), JobViews(database)
    made = [(await store.create(new_job(priority=priority))).job_id for priority in (0, 5, 0)]
    assert [(await views.view(job_id)).position for job_id in made] == [2, 1, 3]
    job = await store.claim("w", "b", "p", 60)
    assert job is not None
    assert [(await views.view(job_id)).position for job_id in made] == [1, None, 2]


async def test_figures_of_the_queue(database: Database) -> None:
    store, views = AttemptStore(database), JobViews(database)
    run_times = RunTimes(database)
    assert await run_times.lately() is None
    assert (await views.stats()).oldest_wait_s is None
    for priority, model in ((0, "a"), (0, None), (7, "a"), (9, "a")):
        await store.create(new_job(priority=priority, checkpoint_model=model))
    job = await store.claim("w", "b", "p", 60)
    assert job is not None
    await sql(database, "UPDATE generation_jobs SET available_at = now() - interval '1 hour' WHERE priority = 7")
    stats = await views.stats()
    assert (stats.by_status, stats.by_priority, stats.by_model) == (
        {"pending": 3, "running": 1},
        {0: 2, 7: 1},
        {"a": 2, "": 1},
    )
    assert stats.oldest_wait_s == pytest.approx(3600, abs=60)
    claim = Claim(job.job_id, 1, "w")
    await store.submitting(claim, "p", {})
    await store.executing(claim)
    await store.saving(claim)
    await store.complete(claim, [output()])
    await sql(database, "UPDATE job_attempts SET executed_at = executing_at + interval '12 seconds'")
    assert await run_times.lately() == RunTime(*[pytest.approx(12)] * 3, count=1)
    # It is read once for all that ask within a few seconds.
    await sql(database, "DELETE FROM job_attempts")
    assert await run_times.lately() == RunTime(*[pytest.approx(12)] * 3, count=1)
    assert await RunTimes(database).lately() is None
    assert await views.finished_since(datetime.now(UTC) - timedelta(hours=1)) == {"completed": 1}
    assert await views.finished_since(datetime.now(UTC) + timedelta(hours=1)) == {}


async def test_contents_and_graphs_that_are_not_there(database: Database) -> None:
    store, views = AttemptStore(database), JobViews(database)
    assert await views.content(1) is None
    assert await views.output(1, 0) is None
    job = await store.create(new_job())
    assert await views.sent_graph(job.job_id) is None
    for read in (views.sent_graph, views.detailed, views.whole, views.view, views.events, views.attempts):
        with pytest.raises(JobNotFound):
            await read(99)
