"""How many more jobs an owner may have: asked for in the very statement that accepts them, and for each retry."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import TooManyToday, TooManyWaiting
from app.storage.fair_tags import DEFERRED, QUEUED
from app.storage.statements import Statement

if TYPE_CHECKING:
    from app.domain.errors import TooMany
    from app.domain.limits import Limits

TODAY: Final = "(now() AT TIME ZONE 'UTC')::date"
"""The day, as SQL: by UTC, whatever the time zone of the connection is."""
_SECONDS_TO_WAIT: Final = 10.0
"""When a job of the owner's is taken nobody knows; so soon it may be tried again."""


def waiting_of(owner: str, most: str) -> str:
    """Return the SQL that counts the waiting jobs of an owner, up to `most` of those that are due; both are SQL too."""
    some = f"SELECT FROM generation_jobs WHERE user_id = {owner} AND"  # of our own words only
    kinds = (f"(SELECT count(*) FROM ({some} {kind} LIMIT {most}) AS counted)" for kind in (QUEUED, DEFERRED))  # noqa: S608
    return f"({' + '.join(kinds)})"


def today_of(owner: str) -> str:
    """Return the SQL that tells how many jobs of an owner were accepted today."""
    return f"COALESCE((SELECT jobs FROM owner_days WHERE user_id = {owner} AND day = {TODAY}), 0)"  # noqa: S608


ONE_MORE: Final = """ON CONFLICT (user_id, day) DO UPDATE SET jobs = owner_days.jobs + EXCLUDED.jobs"""
LIMITS_TYPED: Final = "most_waiting bigint, most_today bigint"
"""The columns of `about` in which a job that is asked for brings its limits."""
ADMITTED: Final = f"""
    used AS MATERIALIZED (
        SELECT user_id, {waiting_of("owner.user_id", "owner.most_waiting")} AS waiting,
            {today_of("owner.user_id")} AS today
        FROM (
            SELECT user_id, COALESCE(max(most_waiting), 0) AS most_waiting FROM about
            WHERE most_waiting IS NOT NULL OR most_today IS NOT NULL GROUP BY user_id
        ) AS owner
    ), numbered AS (
        SELECT ordinality, user_id, most_waiting, most_today, waiting, today,
            row_number() OVER (PARTITION BY user_id ORDER BY ordinality) AS nth
        FROM about LEFT JOIN used USING (user_id)
    ), admitted AS (
        SELECT ordinality, user_id, most_today FROM numbered
        WHERE (most_waiting IS NULL OR waiting + nth <= most_waiting)
            AND (most_today IS NULL OR today + nth <= most_today)
    ), counted AS (
        INSERT INTO owner_days (user_id, day, jobs)
        SELECT user_id, {TODAY}, count(*) FROM admitted WHERE most_today IS NOT NULL GROUP BY user_id ORDER BY user_id
        {ONE_MORE}
    )"""  # noqa: S608  # of our own words only
"""The CTEs that admit as many of the jobs in `about` of each owner as it may have.

What others accept in this very moment is not seen: so each of the statements that are under way at once may accept as
many."""

_OF_JOB: Final = Statement(f"""
    SELECT {waiting_of("job.user_id", ":most_waiting::bigint")} AS waiting, {today_of("job.user_id")} AS today
    FROM generation_jobs AS job WHERE id = :job_id AND user_id = :owner::text""")  # noqa: S608
_COUNT: Final = Statement(f"INSERT INTO owner_days (user_id, day, jobs) VALUES (:owner, {TODAY}, 1) {ONE_MORE}")  # noqa: S608
_PRUNE: Final = Statement(f"DELETE FROM owner_days WHERE day < {TODAY} - 1 RETURNING day")  # noqa: S608


async def admit_again(connection: Any, job_id: int, owner: str | None, limits: Limits) -> None:
    """Count a job that is to wait once more, if it is the owner's; raises `TooManyWaiting`, `TooManyToday`."""
    if not limits.of_jobs or owner is None:
        return
    row = await _OF_JOB.row(connection, job_id=job_id, owner=owner, most_waiting=limits.waiting or 0)
    if row is None:
        return
    if (error := refusal(limits, row["waiting"] + 1, row["today"] + 1)) is not None:
        raise error
    if limits.jobs_per_day is not None:
        await _COUNT.rows(connection, owner=owner)


async def prune_days(connection: Any) -> int:
    """Forget days that are over, and return how many entries that were."""
    return len(await _PRUNE.rows(connection))


def refusal(limits: Limits, waiting: int, today: int) -> TooMany | None:
    """Return why a job is not accepted with which so many would wait, and would have been accepted today."""
    if limits.waiting is not None and waiting > limits.waiting:
        return TooManyWaiting(
            f"Of this key's owner {limits.waiting} jobs may wait. Try again when some have begun, or cancel some.",
            _SECONDS_TO_WAIT,
        )
    if limits.jobs_per_day is not None and today > limits.jobs_per_day:
        now = datetime.now(UTC)
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        return TooManyToday(
            f"Of this key's owner {limits.jobs_per_day} jobs are accepted a day; the next day begins at 00:00 UTC.",
            (midnight - now).total_seconds(),
        )
    return None
