"""Whose turn it is, in SQL: the tag that gives a waiting job its place among those of its priority.

Start-time fair queueing: `tag = max(clock, last tag of the tenant) + cost / weight`, in µs of virtual time, given once,
when the job begins to wait (`app.domain.fair_tags` is the same as plain functions). The clock of a priority is the
greatest tag of what was taken there. A tenant's last tag is that of its last waiting job: if none of its jobs waits,
all of them have been taken, and so the clock is past them. Hence no row is kept for each tenant, nobody waits for a
lock, and who cancels its last jobs gets their cost back.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.domain.fair_tags import cost_us
from app.storage.statements import Statement

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from app.domain.job import NewJob

TAG_TYPED: Final = "cost_us bigint, after bigint, shares boolean"
"""The columns of `about` in which a job that is asked for brings what its tag is made of."""
PROMOTED_AT_ONCE: Final = 1000
QUEUED: Final = "status = 'pending' AND fair_tag IS NOT NULL"
"""Jobs that wait and are not held back until some time: what the indexes of the queue have."""
DEFERRED: Final = "status = 'pending' AND fair_tag IS NULL"
"""Those that are held back. In a subquery both are of its own table, whatever tables are around it."""


def waiting_owners(condition: str = "true") -> str:
    """Return the CTE `waiting`: whose jobs wait, each once; of nobody unless the condition, SQL, is true.

    One after the other by the index of owners: the jobs of one may be a million. The last row is NULL. It is for a
    statement that begins with WITH RECURSIVE.
    """
    return f"""waiting AS (
            (SELECT user_id FROM generation_jobs WHERE {QUEUED} AND {condition} ORDER BY user_id LIMIT 1)
            UNION ALL
            SELECT (SELECT user_id FROM generation_jobs
                WHERE {QUEUED} AND user_id > waiting.user_id ORDER BY user_id LIMIT 1)
            FROM waiting WHERE waiting.user_id IS NOT NULL
        )"""  # noqa: S608


def clock_of(priority: str) -> str:
    """Return the SQL that tells the clock of a priority, which is SQL too."""
    return f"COALESCE((SELECT tag FROM queue_clocks WHERE queue_clocks.priority = {priority}), 0)"  # noqa: S608


def last_of(user_id: str, priority: str) -> str:
    """Return the SQL that tells the last tag of a tenant's waiting jobs; NULL if there are none.

    As a range, and in an order that only one index has, as in `claims`.
    """
    return f"""(SELECT waits.fair_tag FROM generation_jobs AS waits
            WHERE {QUEUED} AND waits.user_id >= {user_id} AND waits.user_id <= {user_id}
                AND waits.priority = {priority}
            ORDER BY waits.user_id DESC, waits.priority, waits.fair_tag DESC LIMIT 1)"""  # noqa: S608


def last_of_all(priority: str) -> str:
    """Return the SQL that tells the last tag of all waiting jobs of a priority; NULL if there are none."""
    return f"""(SELECT waits.fair_tag FROM generation_jobs AS waits
            WHERE {QUEUED} AND waits.priority >= {priority} AND waits.priority <= {priority}
            ORDER BY waits.priority, waits.fair_tag DESC LIMIT 1)"""  # noqa: S608


def weight_of(user_id: str) -> str:
    """Return the SQL that tells the weight of a tenant."""
    return f"COALESCE((SELECT weight FROM tenants WHERE tenant = {user_id}), 1)"  # noqa: S608


def base_of(user_id: str, priority: str, shares: str, after: str = "NULL::bigint") -> str:
    """Return the SQL that tells after which tag a tenant's next job comes; columns are to name their table.

    Where `shares` is false all jobs are as of one tenant, and so in the order in which they come. What is not NULL of
    `after` is taken for the tenant's last tag.
    """
    return f"""GREATEST({clock_of(priority)}, COALESCE({after},
            CASE WHEN {shares} THEN {last_of(user_id, priority)} ELSE {last_of_all(priority)} END))"""


def charged(row: str, weight: str) -> str:
    """Return the SQL that tells how far apart a waiting job and the next one of its tenant are; `row` is the job's."""
    return f"(1000000 * {row}.cost_s / {weight})"


def tag_of(row: str, shares: str) -> str:
    """Return the SQL that tells the tag of a job, of the row of this name, that begins to wait now."""
    user_id, priority = f"{row}.user_id", f"{row}.priority"
    return f"{base_of(user_id, priority, shares)} + {charged(row, weight_of(user_id))}::bigint"


def tagged(source: str) -> str:
    """Return the CTEs `lane` and `tagged`: each row of `about` that is in the source, its tag, and its lane's weight.

    A lane is what a tenant has waiting at one priority. What is not to begin yet has no tag: it gets one when it is
    due.
    """
    is_due = "available_at <= now()"
    return f"""lane AS MATERIALIZED (
        SELECT user_id, priority, {weight_of("about.user_id")} AS weight,
            {base_of("about.user_id", "about.priority", "bool_and(shares)", "max(after)")} AS base
        FROM about GROUP BY user_id, priority
    ), tagged AS MATERIALIZED (
        SELECT about.*, weight, CASE WHEN {is_due} THEN base + (sum(CASE WHEN {is_due} THEN cost_us / weight ELSE 0 END)
            OVER (PARTITION BY user_id, priority ORDER BY ordinality))::bigint END AS fair_tag
        FROM {source} JOIN lane USING (user_id, priority)
    )"""  # noqa: S608  # of our own words only


def clock_moved(tag: str = "fair_tag") -> str:
    """Return the CTE that sets the clock to a tag, SQL over the job that is taken.

    Not with every job: claims would wait for each other.
    """
    return f"""clock AS (
            INSERT INTO queue_clocks (priority, tag) SELECT priority, {tag} FROM moved WHERE :tick::bool
            ON CONFLICT (priority) DO UPDATE SET tag = EXCLUDED.tag WHERE queue_clocks.tag < EXCLUDED.tag
        )"""  # noqa: S608


PROMOTE: Final = Statement(f"""
    WITH due AS (
        SELECT id, user_id, priority, cost_s FROM generation_jobs
        WHERE {DEFERRED} AND available_at <= now()
        ORDER BY available_at, id LIMIT {PROMOTED_AT_ONCE} FOR UPDATE SKIP LOCKED
    ), lane AS MATERIALIZED (
        SELECT user_id, priority, {weight_of("due.user_id")} AS weight,
            {base_of("due.user_id", "due.priority", ":shares::bool")} AS base
        FROM due GROUP BY user_id, priority
    ), tagged AS (
        SELECT id, base + (sum({charged("due", "weight")})
            OVER (PARTITION BY user_id, priority ORDER BY id))::bigint AS fair_tag
        FROM due JOIN lane USING (user_id, priority)
    )
    UPDATE generation_jobs AS job SET fair_tag = tagged.fair_tag FROM tagged WHERE job.id = tagged.id
    RETURNING job.id""")  # noqa: S608  # of our own words only
"""Gives jobs that have become due their places: as if they had been sent now."""


class Places:
    """Where jobs that are being accepted come to stand."""

    def __init__(self, places: dict[tuple[str, int], _Place]) -> None:
        self._places = places
        """By tenant and priority; nothing where all tenants are as one."""

    def asked(self, job: NewJob) -> dict[str, Any]:
        """Return the values of `TAG_TYPED` for a job."""
        if not self._places:
            # All have the same tag, until others are taken: then the order of their ids counts.
            return {"cost_us": 0, "after": None, "shares": False}
        after = self._places[job.user_id, job.priority].after
        return {"cost_us": cost_us(job.cost_s), "after": after, "shares": True}

    def note(self, job: NewJob, row: Any) -> None:
        """Note the tag that a job was given."""
        if row["fair_tag"] is not None and self._places:
            place = self._places[job.user_id, job.priority]
            place.last, place.weight = row["fair_tag"], row["weight"]


class TagsUnderWay:
    """The tags of tenants' jobs that are being accepted here: a statement does not see what others insert.

    Without this two statements under way at once would give a tenant's jobs the same tags, and so twice its share.
    (Of several servers each does so by itself: what they accept in the very same moment may share tags.) Where `shares`
    is false all tenants are as one.
    """

    def __init__(self, *, shares: bool) -> None:
        self._shares = shares
        self._lanes: dict[tuple[str, int], _Lane] = {}

    @asynccontextmanager
    async def places(self, jobs: Sequence[NewJob]) -> AsyncIterator[Places]:
        """Have places for these jobs, until they are accepted and committed, or not accepted."""
        costs: dict[tuple[str, int], int] = {}
        for job in jobs if self._shares else ():
            lane = job.user_id, job.priority
            costs[lane] = costs.get(lane, 0) + cost_us(job.cost_s)
        places: dict[tuple[str, int], _Place] = {}
        try:
            # In one order, so that no two wait for each other.
            for lane in sorted(costs):
                places[lane] = await self._begin(lane, costs[lane])
            yield Places(places)
        finally:
            self._end(places)

    async def _begin(self, lane: tuple[str, int], cost: int) -> _Place:
        kept = self._lanes.setdefault(lane, _Lane())
        kept.users += 1
        try:
            return await kept.begin(cost)
        except BaseException:
            self._release(lane)
            raise

    def _end(self, places: Mapping[tuple[str, int], _Place]) -> None:
        for lane, place in places.items():
            self._lanes[lane].end(place)
            self._release(lane)

    def _release(self, lane: tuple[str, int]) -> None:
        self._lanes[lane].users -= 1
        if not self._lanes[lane].users:
            del self._lanes[lane]

    def __len__(self) -> int:
        return len(self._lanes)


@dataclass(slots=True)
class _Place:
    """Where the jobs of one statement come to stand among those of one tenant and priority."""

    after: int | None
    """The tag after which they come; None for after the last that the database has."""
    cost: int
    """What they cost, at a weight of 1."""
    end: int
    """What they and those before them cost since the first statement, by the tenant's weight."""
    last: int | None = None
    """The last tag that was given."""
    weight: float = 1.0


class _Lane:
    """The statements for one tenant and priority, as long as always one is under way or waits to begin."""

    __slots__ = ("_base", "_ended", "_flights", "_planned", "_weight", "users")

    def __init__(self) -> None:
        self.users = 0
        """Statements that are under way, or wait to begin."""
        self._flights = 0
        self._planned = 0
        """What the jobs cost of all statements since the first one."""
        self._base: int | None = None
        """After which tag the first one came; None until that is known."""
        self._weight = 1.0
        self._ended = asyncio.Event()

    async def begin(self, cost: int) -> _Place:
        while self._flights and self._base is None:
            # Where the first one comes to stand only the database knows.
            self._ended.clear()
            await self._ended.wait()
        if self._base is None:
            self._planned = 0
        after = self._base + self._planned if self._base is not None else None
        self._planned += round(cost / self._weight)
        self._flights += 1
        return _Place(after, cost, self._planned)

    def end(self, place: _Place) -> None:
        self._flights -= 1
        if place.last is not None:
            # The clock may have gone past what was planned.
            base, self._weight = place.last - place.end, place.weight
            if place.after is None:
                # The weight was not known when it began.
                self._planned = place.end = round(place.cost / place.weight)
                base = place.last - place.end
            self._base = base if self._base is None else max(self._base, base)
        self._ended.set()
