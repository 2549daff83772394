"""What owners use: jobs that wait and run, jobs of the day, bytes of uploads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.storage.fair_tags import DEFERRED, waiting_owners
from app.storage.quotas import TODAY, today_of, waiting_of
from app.storage.statements import Statement
from app.storage.uploads import uploaded_by

if TYPE_CHECKING:
    from app.storage.database import Database

MOST_COUNTED: Final = 10_000
"""Of the waiting jobs of one owner no more are counted."""
_MOST_LISTED: Final = 1_000
"""The same where many owners are listed."""
_RUNNING: Final = "(SELECT count(*) FROM generation_jobs WHERE status = 'running' AND user_id = {owner})"


def _use_of(owner: str, most: int) -> str:
    """Return the columns of `Use`, as SQL; `owner` is SQL too."""
    named = {
        "waiting": waiting_of(owner, str(most)),
        "running": _RUNNING.format(owner=owner),
        "jobs_today": today_of(owner),
        "upload_bytes": uploaded_by(owner),
    }
    return ", ".join(f"{sql} AS {name}" for name, sql in named.items())


_OF_ONE: Final = Statement(f"SELECT {_use_of(':owner::text', MOST_COUNTED)}")
_OF_ALL: Final = Statement(f"""
    WITH RECURSIVE {waiting_owners()}, owners AS (
        (SELECT user_id FROM waiting WHERE user_id IS NOT NULL LIMIT :most::int)
        UNION (SELECT user_id FROM generation_jobs WHERE {DEFERRED} ORDER BY user_id LIMIT :most::int)
        UNION SELECT user_id FROM generation_jobs WHERE status = 'running'
        UNION (SELECT user_id FROM owner_days WHERE day = {TODAY} ORDER BY jobs DESC LIMIT :most::int)
    )
    SELECT owners.user_id, {_use_of("owners.user_id", _MOST_LISTED)} FROM owners""")  # noqa: S608  # of our own words only


@dataclass(frozen=True, slots=True)
class Use:
    """What an owner uses now."""

    waiting: int
    running: int
    jobs_today: int
    """Accepted since midnight by UTC; 0 while that is not limited, because it is not counted then."""
    upload_bytes: int


class OwnerUse:
    """Methods raise `DatabaseUnavailable` while PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of(self, owner: str) -> Use:
        """Return what one owner uses."""
        async with self._database.driver() as connection:
            row = await _OF_ONE.row(connection, owner=owner)
        assert row is not None  # noqa: S101 - it always returns one
        return Use(**row)

    async def of_all(self, most: int) -> dict[str, Use]:
        """Return what those owners use who have jobs that wait or run, or sent some today; about `most` of each."""
        async with self._database.driver() as connection:
            rows = await _OF_ALL.rows(connection, most=most)
        return {row["user_id"]: Use(**{name: row[name] for name in Use.__dataclass_fields__}) for row in rows}
