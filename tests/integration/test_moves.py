"""A waiting job comes to the front of its user's jobs, or to another priority, at nobody else's cost."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest
from samples import new_job
from sqlalchemy import text

from app.domain.errors import JobNotFound, JobNotMovable, JobNotWaiting, StorageFailed
from app.storage.attempts import AttemptStore, Claim
from app.storage.job_views import JobViews

if TYPE_CHECKING:
    from app.storage.database import Database

_TAGS = text("SELECT id, user_id, fair_tag FROM generation_jobs WHERE status = 'pending' ORDER BY fair_tag, id")


@pytest.fixture
def store(database: Database) -> AttemptStore:
    return AttemptStore(database)


async def send(store: AttemptStore, *users: str, **changes: Any) -> list[int]:
    """Send a job of each of these users, one after the other, and return their ids."""
    return [job.job_id for job in await store.create_all([new_job(user_id=each, **changes) for each in users])]


async def claimed(store: AttemptStore, most: int = 99) -> list[int]:
    """Claim up to so many jobs, and return their ids."""
    found = [job for _ in range(most) if (job := await store.claim("w", "b", "p", 60)) is not None]
    return [job.job_id for job in found]


async def tags(database: Database) -> dict[str, list[int]]:
    """Return user → tags of its waiting jobs, in order."""
    found: dict[str, list[int]] = {}
    async with database.transaction() as session:
        for row in await session.execute(_TAGS):
            found.setdefault(row.user_id, []).append(row.fair_tag)
    return found


async def test_a_job_comes_before_those_of_its_user_which_keep_their_order(store, database):
    first, second, third, fourth = await send(store, *["ann"] * 4)
    bens = await send(store, "ben", "ben", "ben")
    before = await tags(database)
    moved = await store.to_front(third, "boss")
    assert (moved.changed, moved.job.seq) == (True, 2)
    assert await tags(database) == before, "the places are the same, of everybody"
    event = (await JobViews(database).events(third))[-1]
    assert (event.event, event.actor, event.seq, event.phase) == ("moved_to_front", "boss", 2, "queued")
    assert await claimed(store) == [third, bens[0], first, bens[1], second, bens[2], fourth]


async def test_who_is_the_first_already_stays_and_nothing_is_noted(store, database):
    first, *_ = await send(store, "ann", "ann")
    await send(store, "ann", priority=7)
    moved = await store.to_front(first, "boss")
    assert (moved.changed, moved.job.seq) == (False, 1)
    assert len(await JobViews(database).events(first)) == 1


async def test_moving_jobs_again_and_again_brings_a_user_nothing(store, database):
    """Any of ann's jobs any number of times: ben's jobs come when they would have come."""
    draw = random.Random(5)
    anns = await send(store, *["ann"] * 20)
    bens = await send(store, *["ben"] * 20)
    before = await tags(database)
    for _ in range(40):
        await store.to_front(draw.choice(anns), "ann", "ann")
        assert await tags(database) == before
    order = await claimed(store)
    assert [number for number, each in enumerate(order) if each in bens] == list(range(1, 40, 2))


async def test_of_very_many_before_it_the_last_that_makes_room_takes_its_place(store, monkeypatch, database):
    monkeypatch.setattr("app.storage.moves.MOST_SHIFTED", 2)
    one, two, three, four = await send(store, *["ann"] * 4)
    before = await tags(database)
    await store.to_front(four, "boss")
    assert await tags(database) == before
    assert await claimed(store) == [four, one, three, two]


async def test_moves_at_once_leave_each_place_to_one_job(store, database):
    anns = await send(store, *["ann"] * 12)
    before = await tags(database)
    await asyncio.gather(*(store.to_front(each, "boss") for each in anns[1:]))
    assert await tags(database) == before
    assert len(set(await claimed(store))) == 12


async def test_jobs_of_the_same_tag_as_the_first_one_go_behind_it(store, database):
    one, two, three = await send(store, *["ann"] * 3)
    async with database.transaction() as session:
        await session.execute(
            text("UPDATE generation_jobs SET fair_tag = 5 WHERE id IN (:a, :b)"), {"a": one, "b": two}
        )
    await store.to_front(three, "boss")
    assert await claimed(store) == [three, one, two]


async def test_what_came_without_fairness_has_no_place_to_exchange(database):
    store = AttemptStore(database, shares=False)
    _, second = await send(store, "ann", "ann")
    with pytest.raises(JobNotMovable, match="FAIRNESS"):
        await store.to_front(second, "boss")
    assert await tags(database) == {"ann": [0, 0]}


async def test_what_is_not_to_begin_yet_has_none_either(store, database):
    (job,) = await send(store, "ann")
    async with database.transaction() as session:
        await session.execute(text("UPDATE generation_jobs SET fair_tag = NULL"))
    with pytest.raises(JobNotMovable, match="before"):
        await store.to_front(job, "boss")
    assert (await store.set_priority(job, 5, "boss")).changed
    assert await tags(database) == {"ann": [None]}


async def test_another_priority_is_a_new_place_there(store, database):
    slow, _ = await send(store, "ann", "ann", cost_s=100.0)
    await send(store, "ben", "ben", "ann", cost_s=7.0, priority=5)
    moved = await store.set_priority(slow, 5, "boss")
    assert (moved.changed, moved.priority_before, moved.job.seq) == (True, 0, 2)
    event = (await JobViews(database).events(slow))[-1]
    assert (event.event, event.actor, event.data) == ("priority_set", "boss", {"from": 0, "to": 5})
    (new,) = [job for job in await store.create_all([new_job(user_id="eve", priority=5)]) if job]
    async with database.transaction() as session:
        rows = await session.execute(text("SELECT id, priority, fair_tag FROM generation_jobs WHERE priority = 5"))
        found = {row.id: row.fair_tag for row in rows}
    assert found[slow] == 7_000_000 + 100_000_000, "after its user's last one there, by what it costs"
    assert (await claimed(store, 1)) != [new.job_id]
    again = await store.set_priority(slow, 5, "boss")
    assert (again.changed, again.priority_before, again.job.seq) == (False, 5, 2)


async def test_only_what_waits_is_moved(store):
    running, ended, other = await send(store, *["ann"] * 3)
    assert await claimed(store, 2) == [running, ended]
    await store.fail(Claim(ended, 1, "w"), StorageFailed("The disk is full."))
    for job_id in (running, ended):
        with pytest.raises(JobNotWaiting):
            await store.to_front(job_id, "boss")
        with pytest.raises(JobNotWaiting):
            await store.set_priority(job_id, 5, "boss")
    for job_id, owner in ((other, "ben"), (999, None)):
        with pytest.raises(JobNotFound):
            await store.to_front(job_id, "boss", owner)
        with pytest.raises(JobNotFound):
            await store.set_priority(job_id, 5, "boss", owner)
    assert (await store.get(other)).seq == 1


async def test_a_retry_that_waits_can_be_moved(store):
    first, second = await send(store, "ann", "ann")
    assert await claimed(store, 2) == [first, second]
    for job_id in (first, second):
        await store.requeue(Claim(job_id, 1, "w"), StorageFailed("The disk is full."), 0)
    assert (await store.to_front(second, "boss", "ann")).job.phase == "retrying"
    assert await claimed(store) == [second, first]
