"""Events for those who see only their own jobs: theirs, in order, and bounded whatever comes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from app.domain.errors import DatabaseUnavailable
from app.messaging import own_events
from app.messaging.own_events import OwnEvents

if TYPE_CHECKING:
    from collections.abc import Sequence

HELLO = b"hello"


class Watching:
    """A watcher that keeps what it is sent."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def offer_event(self, message: bytes) -> None:
        self.heard.append(message)


class Owners:
    """Whose the jobs are: those of odd numbers are ann's, and ben's the others, as far as there are any."""

    def __init__(self, most: int = 10**9) -> None:
        self._most = most
        self.asked: list[list[int]] = []
        self.answers = asyncio.Event()
        self.answers.set()
        self.faults: list[Exception] = []

    async def read(self, job_ids: Sequence[int]) -> dict[int, str]:
        self.asked.append(list(job_ids))
        await self.answers.wait()
        if self.faults:
            raise self.faults.pop()
        return {job_id: "ann" if job_id % 2 else "ben" for job_id in job_ids if job_id <= self._most}


async def settled(own: OwnEvents[Watching]) -> None:
    """Wait until no message waits any more."""
    async with asyncio.timeout(30):
        while own.waiting or own._asking is None or not own._asking.done():  # noqa: SLF001 - nothing else tells
            await asyncio.sleep(0)


@pytest.fixture
def owners() -> Owners:
    return Owners()


@pytest.fixture
def own(owners: Owners) -> OwnEvents[Watching]:
    return OwnEvents(owners.read, HELLO)


async def test_each_gets_what_happens_to_its_own_jobs_and_nothing_else(own, owners):
    ann, ben, other = Watching(), Watching(), Watching()
    own.watch(ann, "ann")
    own.watch(ben, "ben")
    own.watch(other, "cid")
    for job_id in (1, 2, 3):
        own.forward(job_id, b"%d" % job_id)
    await settled(own)
    assert (ann.heard, ben.heard, other.heard) == ([b"1", b"3"], [b"2"], [])
    assert owners.asked == [[1, 2, 3]]
    # It is known now, and told at once.
    own.forward(1, b"again")
    assert ann.heard == [b"1", b"3", b"again"]
    assert len(owners.asked) == 1


async def test_what_happens_to_a_job_comes_in_its_order_also_while_it_is_asked_whose_it_is(own, owners):
    ann = Watching()
    own.watch(ann, "ann")
    owners.answers.clear()
    own.forward(1, b"1")
    await asyncio.sleep(0)
    own.forward(1, b"2")
    own.forward(3, b"of another")
    own.forward(1, b"3", "ann")
    owners.answers.set()
    own.forward(1, b"4")
    await settled(own)
    assert [each for each in ann.heard if each != b"of another"] == [b"1", b"2", b"3", b"4"]
    assert owners.asked == [[1], [3]]


async def test_jobs_that_are_not_there_are_nobodys():
    owners, ann = Owners(most=10), Watching()
    own = OwnEvents(owners.read, HELLO)
    own.watch(ann, "ann")
    own.forward(11, b"gone")
    await settled(own)
    assert (ann.heard, own.waiting, own.known) == ([], 0, 0)
    # Who deleted it said whose it was.
    own.forward(11, b"deleted", "ann")
    assert ann.heard == [b"deleted"]


async def test_a_flood_is_dropped_and_then_everything_is_read_anew(own, owners, monkeypatch):
    monkeypatch.setattr(own_events, "MOST_WAITING", 10)
    ann = Watching()
    own.watch(ann, "ann")
    owners.answers.clear()
    for number in range(1000):
        own.forward(2 * number + 1, b"x")
        assert own.waiting <= 10
    owners.answers.set()
    await settled(own)
    assert HELLO in ann.heard
    assert len(ann.heard) < 20
    assert sum(map(len, owners.asked)) < 20
    own.forward(1, b"after")
    await settled(own)
    assert ann.heard[-1] == b"after"


async def test_only_so_many_owners_are_remembered(own, owners, monkeypatch):
    monkeypatch.setattr(own_events, "MOST_KNOWN", 5)
    ann = Watching()
    own.watch(ann, "ann")
    for job_id in range(1, 31, 2):
        own.forward(job_id, b"x")
    await settled(own)
    assert own.known == 5
    assert len(ann.heard) == 15


async def test_while_the_database_is_away_messages_wait(own, owners, monkeypatch):
    monkeypatch.setattr(own_events, "RETRY_S", 0.0)
    ann = Watching()
    own.watch(ann, "ann")
    owners.faults = [DatabaseUnavailable("away"), DatabaseUnavailable("away")]
    own.forward(1, b"1")
    await settled(own)
    assert ann.heard == [b"1"]
    assert len(owners.asked) == 3


async def test_after_another_error_everything_is_read_anew(own, owners):
    ann = Watching()
    own.watch(ann, "ann")
    owners.faults = [ValueError("oh")]
    own.forward(1, b"1")
    await settled(own)
    assert ann.heard == [HELLO]


async def test_nothing_waits_for_nobody(own, owners):
    ann = Watching()
    own.watch(ann, "ann")
    owners.answers.clear()
    own.forward(1, b"1")
    own.unwatch(ann)
    assert (bool(own), own.waiting) == (False, 0)
    owners.answers.set()
    await settled(own)
    assert ann.heard == []


async def test_it_is_asked_no_more_after_the_end(own, owners):
    own.watch(Watching(), "ann")
    owners.answers.clear()
    own.forward(1, b"1")
    await asyncio.sleep(0)
    await own.close()
    assert own._asking is not None  # noqa: SLF001
    assert own._asking.cancelled()  # noqa: SLF001
