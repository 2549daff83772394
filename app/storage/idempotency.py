"""Idempotency keys: which request was answered how, kept in the very transaction that accepted its job."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from app.domain.errors import IdempotencyKeyReused
from app.storage.schema import IdempotencyRow

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sqlalchemy.ext.asyncio import AsyncSession

    from app.domain.job import Job

KEPT_FOR: Final = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Once:
    """A request that is to be carried out once, however often it comes."""

    user_id: str
    key: str
    fingerprint: str
    """Digest of the request's body: the same key with another body is a client's mistake."""
    answer: Callable[[Job], str]
    """Makes the answer that a repetition gets again."""


async def replay(session: AsyncSession, once: Once) -> str | None:
    """Return the answer that the first request of this key got; None when there was none within a day.

    Raises
    ------
    IdempotencyKeyReused
        The first one had another body.
    """
    found = select(IdempotencyRow).where(
        IdempotencyRow.user_id == once.user_id,
        IdempotencyRow.key == once.key,
        IdempotencyRow.created_at > func.now() - KEPT_FOR,
    )
    row = await session.scalar(found)
    if row is None:
        return None
    if row.fingerprint != once.fingerprint:
        raise IdempotencyKeyReused("This Idempotency-Key was used with another body; a new request takes a new key.")
    return row.answer


async def reserve(session: AsyncSession, once: Once) -> bool:
    """Take the key within this transaction; False when another request has it.

    One that has taken it and not committed yet is waited for, so that of two at once one is first.
    """
    old = delete(IdempotencyRow).where(
        IdempotencyRow.user_id == once.user_id,
        IdempotencyRow.key == once.key,
        IdempotencyRow.created_at <= func.now() - KEPT_FOR,
    )
    await session.execute(old)
    taken = insert(IdempotencyRow).values(
        user_id=once.user_id, key=once.key, fingerprint=once.fingerprint, job_id=0, answer=""
    )
    reserved = await session.scalar(taken.on_conflict_do_nothing().returning(IdempotencyRow.key))
    return reserved is not None


async def keep(session: AsyncSession, once: Once, job: Job) -> None:
    """Keep the answer of a reserved key."""
    this = (IdempotencyRow.user_id == once.user_id, IdempotencyRow.key == once.key)
    await session.execute(update(IdempotencyRow).where(*this).values(job_id=job.job_id, answer=once.answer(job)))


async def forget(session: AsyncSession, job_ids: Collection[int]) -> None:
    """Forget the keys of jobs that were not accepted after all."""
    await session.execute(delete(IdempotencyRow).where(IdempotencyRow.job_id.in_(job_ids)))


async def prune(session: AsyncSession) -> int:
    """Delete keys that have had their day, and return how many there were."""
    old = delete(IdempotencyRow).where(IdempotencyRow.created_at <= func.now() - KEPT_FOR)
    return len((await session.scalars(old.returning(IdempotencyRow.key))).all())
