"""Whose turn it is: users who wait share the backends, whatever each has sent, by their weights."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from plans import plan, recorded
from samples import new_job
from sqlalchemy import text

from app.domain.errors import NodeFailed
from app.domain.fair_tags import charge, cost_us
from app.domain.job_cost import LEAST_S, MOST_S
from app.domain.limits import Limits
from app.storage.attempts import AttemptStore, Claim
from app.storage.fair_tags import TagsUnderWay
from app.storage.idempotency import Once
from app.storage.job_views import JobViews
from app.storage.schema import JobRow
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.domain.job import Job, NewJob
    from app.settings import Settings
    from app.storage.database import Database

_OWN = ("id", "user_id", "available_at", "fair_tag")
_TAGS = text("SELECT id, user_id, priority, fair_tag FROM generation_jobs ORDER BY id")
_TIMES = count()


@pytest.fixture(autouse=True)
def _each_claim_sets_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.storage.attempts.TICK_S", 0.0)


@pytest.fixture
def store(database: Database) -> AttemptStore:
    return AttemptStore(database)


def some(user_id: str, number: int = 1, cost_s: float = 10.0, **changes: Any) -> list[NewJob]:
    """Return so many jobs of a user."""
    return [new_job(user_id=user_id, cost_s=cost_s, **changes) for _ in range(number)]


async def taken(store: AttemptStore, most: int) -> list[Job]:
    """Take up to so many jobs, one after the other."""
    return [job for _ in range(most) if (job := await store.claim("w", "b", f"p{next(_TIMES)}", 60)) is not None]


async def users_of(store: AttemptStore, most: int) -> list[str]:
    """Take up to so many jobs, and return whose they are."""
    return [job.user_id for job in await taken(store, most)]


async def set_weight(database: Database, tenant: str, weight: float) -> None:
    async with database.transaction() as session:
        await session.execute(
            text("INSERT INTO tenants (tenant, weight) VALUES (:tenant, :weight)"), {"tenant": tenant, "weight": weight}
        )


async def tags(database: Database) -> dict[int, int | None]:
    async with database.transaction() as session:
        return {row.id: row.fair_tag for row in await session.execute(_TAGS)}


async def test_the_first_jobs_of_a_user_do_not_wait_for_anothers_flood(store):
    await store.create_all(some("flood", 60))
    assert await users_of(store, 5) == ["flood"] * 5
    await store.create_all(some("ann", 3))
    order = await users_of(store, 60)
    assert order[:6].count("ann") == 3
    assert order.count("flood") == 55


async def test_the_tags_are_those_of_the_plain_functions(store, database):
    """Batches of any users, priorities and costs, sent and taken in any order."""
    draw = random.Random(4)
    weights = {"ann": 1.0, "ben": 0.25, "eve": 7.5, "o'brien; \\": 100.0, "ü" * 255: 0.01}
    for user, weight in weights.items():
        await set_weight(database, user, weight)
    clock: dict[int, int] = defaultdict(int)
    waiting: dict[int, tuple[int, int, str]] = {}
    costs = (LEAST_S, 0.2, 3.3, 10.0, 1234.5, MOST_S, MOST_S * 9)
    for _ in range(30):
        asked = [
            new_job(user_id=user, cost_s=draw.choice(costs), priority=draw.choice((-3, 0, 0, 0, 100)))
            for user in draw.choices(list(weights), k=draw.randint(1, 9))
        ]
        made = await store.create_all(asked)
        given = await tags(database)
        for job in made:
            lane = job.user_id, job.priority
            lasting = max((tag for tag, *own in waiting.values() if tuple(own) == lane), default=0)
            expected = charge(lasting, clock[job.priority], job.cost_s, weights[job.user_id])
            # Columns of single precision, and sums that are rounded once and not at each job.
            assert given[job.job_id] == pytest.approx(expected, rel=1e-6, abs=len(asked))
            waiting[job.job_id] = given[job.job_id], job.user_id, job.priority
        for job in await taken(store, draw.randint(0, 8)):
            tag, _, priority = waiting.pop(job.job_id)
            due = [(-each[2], each[0], job_id) for job_id, each in waiting.items()]
            assert (-priority, tag, job.job_id) < min(due, default=(101, 0, 0))
            clock[priority] = max(clock[priority], tag)


async def test_users_share_by_their_weights_while_all_wait(store, database):
    await set_weight(database, "double", 2)
    await store.create_all(some("many", 100) + some("few", 40) + some("double", 60))
    shares = Counter(await users_of(store, 100))
    assert shares == {"many": 25, "few": 25, "double": 50}


async def test_a_job_that_costs_more_takes_a_larger_part_of_its_users_share(store):
    await store.create_all(some("long", 20, cost_s=40.0) + some("short", 40, cost_s=10.0))
    order = await users_of(store, 25)
    assert Counter(order) == {"long": 5, "short": 20}


async def test_what_a_user_had_while_alone_is_not_held_against_it(store):
    await store.create_all(some("early", 50))
    await taken(store, 30)
    await store.create_all(some("late", 50))
    assert Counter(await users_of(store, 20)) == {"early": 10, "late": 10}


async def test_who_cancels_its_last_jobs_gets_their_cost_back(store, database):
    await store.create_all(some("other", 5))
    first = await store.create_all(some("ann", 1))
    dropped = await store.create_all(some("ann", 50))
    for job in dropped:
        await store.cancel(job.job_id, None, "ann")
    (again,) = await store.create_all(some("ann", 1))
    given = await tags(database)
    assert given[again.job_id] == given[first[0].job_id] + cost_us(10.0)


@pytest.mark.parametrize("once", [False, True])
async def test_what_is_accepted_at_the_same_time_does_not_share_places(store, database, once):
    """A statement does not see what another one inserts meanwhile: without more care each place is given twice."""
    await store.create_all(some("ann", 3))

    async def send(number: int) -> None:
        if once:
            await store.create(new_job(user_id="ann", cost_s=1.0), Once("ann", f"k{number}", "f", str), Limits())
        else:
            await store.create_all(some("ann", 10, cost_s=1.0))

    await asyncio.gather(*(send(number) for number in range(12)))
    given = list((await tags(database)).values())
    assert len(set(given)) == len(given)


_HELD = """
    CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.prompt LIKE 'held %' THEN
            PERFORM pg_advisory_xact_lock_shared(split_part(NEW.prompt, ' ', 2)::int);
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER hold BEFORE INSERT ON generation_jobs FOR EACH ROW EXECUTE FUNCTION hold()"""
_WAIT = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


async def test_statements_under_way_at_once_do_not_share_places(store, database, settings):
    """Each of them has its snapshot, and its places, before the others are committed."""
    other = await asyncpg.connect(settings.database_url.get_secret_value())

    async def waits(number: int) -> bool:
        return await other.fetchval(_WAIT) == number

    try:
        await other.execute(_HELD)
        await other.execute("SELECT pg_advisory_lock(1), pg_advisory_lock(2)")
        # Where the first one comes to stand only the database knows: the others wait for it.
        first = asyncio.create_task(store.create_all(some("ann", 2, prompt="held 1")))
        await eventually(partial(waits, 1))
        others = [asyncio.create_task(store.create_all(some("ann", 3, prompt="held 2"))) for _ in range(3)]
        await other.execute("SELECT pg_advisory_unlock(1)")
        await eventually(partial(waits, 3))
        await other.execute("SELECT pg_advisory_unlock(2)")
        await asyncio.gather(first, *others)
    finally:
        await other.execute("SELECT pg_advisory_unlock_all(); DROP TRIGGER hold ON generation_jobs; DROP FUNCTION hold")
        await other.close()
    assert sorted((await tags(database)).values()) == [cost_us(10.0) * place for place in range(1, 12)]


async def test_a_priority_goes_first_and_has_a_clock_of_its_own(store):
    await store.create_all(some("low", 20) + some("high", 20, priority=1))
    await store.create_all(some("newcomer", 2, priority=1))
    assert (await users_of(store, 22))[:4].count("newcomer") == 2
    # What was taken above has not set the clock here: who comes now does not wait for all that came before.
    await store.create_all(some("newcomer", 2))
    assert (await users_of(store, 5)).count("newcomer") == 2


async def test_a_retry_keeps_its_place_and_one_by_hand_comes_last(store):
    jobs = await store.create_all(some("ann", 3))
    (first,) = await taken(store, 1)
    await store.requeue(Claim(first.job_id, 1, "w"), NodeFailed("It broke.", node_id="1", node_type="X"), 0, avoid=[])
    assert [job.job_id for job in await taken(store, 1)] == [first.job_id]
    await store.fail(Claim(first.job_id, 2, "w"), NodeFailed("It broke.", node_id="1", node_type="X"))
    await store.retry(first.job_id, None, "ann")
    assert [job.job_id for job in await taken(store, 3)] == [jobs[1].job_id, jobs[2].job_id, first.job_id]


async def test_what_becomes_due_comes_as_if_it_was_sent_then(store, database):
    soon = datetime.now(UTC) + timedelta(hours=1)
    held = await store.create_all(some("flood", 10, not_before=soon))
    assert set((await tags(database)).values()) == {None}
    await store.create_all(some("ann", 4))
    assert await users_of(store, 2) == ["ann"] * 2
    async with database.transaction() as session:
        await session.execute(text("UPDATE generation_jobs SET available_at = now() WHERE fair_tag IS NULL"))
    assert await store.any_due()
    assert await store.promote()
    assert not await store.promote()
    given = await tags(database)
    assert [given[job.job_id] for job in held] == sorted(given[job.job_id] for job in held)
    assert Counter(await users_of(store, 4)) == {"ann": 2, "flood": 2}


async def test_without_fairness_jobs_go_in_the_order_in_which_they_came(database):
    store = AttemptStore(database, shares=False)
    sent = await store.create_all(some("flood", 30))
    await taken(store, 4)
    sent += await store.create_all(some("ann", 3) + some("flood", 3))
    assert [job.job_id for job in await taken(store, 99)] == [job.job_id for job in sent[4:]]


async def test_the_place_that_a_job_would_have_is_the_one_that_it_gets(store, database):
    views = JobViews(database)
    await store.create_all(some("flood", 20))
    await taken(store, 2)
    for job in (*some("ann", 1), *some("flood", 1), *some("ann", 1, priority=1)):
        before = await views.waiting_before(job, shares=True)
        made = await store.create(job)
        assert (await views.view(made.job_id)).position == before + 1
    later = new_job(user_id="ann", not_before=datetime.now(UTC) + timedelta(hours=1))
    assert await views.waiting_before(later, shares=True) == 21


async def test_nothing_is_kept_of_jobs_that_were_accepted_or_not(database):
    under_way = TagsUnderWay(shares=True)
    async with under_way.places(some("ann") + some("ben")):
        waiting = asyncio.create_task(_place(under_way, "ann"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert len(under_way) == 2
    with pytest.raises(ValueError, match="no"):
        async with under_way.places(some("ann")):
            raise ValueError("no")
    assert len(under_way) == 0


async def _place(under_way: TagsUnderWay, user: str) -> None:
    async with under_way.places(some(user)):
        pass


_WAITING = 40_000
_COPIED = ", ".join(column.name for column in JobRow.__table__.columns if column.name not in _OWN)
_MANY = f"""
    INSERT INTO generation_jobs ({_COPIED}, {", ".join(_OWN[1:])})
    SELECT {_COPIED}, own.* FROM (SELECT {_COPIED} FROM generation_jobs LIMIT 1) AS one
    CROSS JOIN LATERAL (
        SELECT CASE WHEN number % 2 = 0 THEN 'flood' ELSE 'u' || number % 1000 END, now(), 1000000 * number::bigint
        FROM generate_series(1, {_WAITING}) AS number
        UNION ALL SELECT 'patient', now() + interval '1 day', NULL FROM generate_series(1, {_WAITING})
    ) AS own (user_id, available_at, fair_tag)"""  # noqa: S608


@pytest.fixture
async def plain(settings: Settings, database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A connection that explains; many jobs wait, of one user and of 500 others, and as many are held back."""
    await AttemptStore(database).create(new_job(user_id="x"))
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    try:
        await connection.execute(_MANY)
        await connection.execute("ANALYZE generation_jobs")
        yield connection
    finally:
        await connection.close()


async def test_neither_sending_nor_taking_reads_what_waits(plain, database):
    store, failure = AttemptStore(database), NodeFailed("It broke.", node_id="1", node_type="X")
    async with recorded(database) as seen:
        await store.create_all(some("flood", 3) + some("new", 3))
        (failed,) = await taken(store, 1)
        assert not await store.promote()
        await store.fail(Claim(failed.job_id, 1, "w"), failure)
        await store.retry(failed.job_id, None, "x")
        assert await store.any_due()
    statements = [each for each in seen if "fair_tag" in each[0]]
    assert len(statements) >= 5
    for each in statements:
        told = await plan(plain, each, "(ANALYZE, BUFFERS, TIMING OFF, SUMMARY OFF)")
        assert "Seq Scan on generation_jobs" not in told, told
        read = max(int(each.partition("hit=")[2].partition(" ")[0]) for each in told.splitlines() if "hit=" in each)
        assert read < 500, told
