"""How the queue is steered: what is paused, and how large a share of the backends each user has."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from app.domain.errors import QueueUnavailable

if TYPE_CHECKING:
    from app.domain.pauses import Pause
    from app.messaging.events import Events
    from app.messaging.queue import JobQueue
    from app.storage.pauses import Pauses
    from app.storage.tenants import Tenants, TenantStanding

log = logging.getLogger(__name__)


class QueueControl:
    """The use cases that change whose jobs are taken, and how many. Methods raise `DatabaseUnavailable`."""

    def __init__(self, pauses: Pauses, tenants: Tenants, queue: JobQueue, events: Events) -> None:
        self._pauses = pauses
        self._tenants = tenants
        self._queue = queue
        self._events = events

    async def pause(self, user_id: str | None, reason: str | None, actor: str) -> Pause:
        """Have none of a user's waiting jobs taken, or of anybody's, until they are resumed; what runs goes on.

        Workers look for the first pause every two seconds (`app.storage.attempts.LIMITS_S`).
        """
        pause = await self._pauses.pause(user_id, reason, actor)
        log.info("%s is paused, says %s", _named(user_id), actor)
        await self._events.publish_event({"type": "queue"})
        return pause

    async def resume(self, user_id: str | None, actor: str) -> Pause | None:
        """Undo `pause`, wake the workers, and return what had held the jobs back; None when nothing had."""
        pause = await self._pauses.resume(user_id)
        if pause is None:
            return None
        log.info("%s is resumed, says %s", _named(user_id), actor)
        try:
            await self._queue.wake()
        except QueueUnavailable as error:
            log.warning("workers find by polling that %s is resumed: %s", _named(user_id), error)
        await self._events.publish_event({"type": "queue"})
        return pause

    async def pauses(self) -> list[Pause]:
        """Return what is paused, everybody first, and then users by name."""
        return await self._pauses.all()

    async def concerning(self, *user_ids: str) -> list[Pause]:
        """Return what holds back the jobs of these users, everybody's pause first."""
        return await self._pauses.concerning(*user_ids)

    async def user(self, user_id: str) -> TenantStanding:
        """Return what is set of a user, and what it has in the queue."""
        return await self._tenants.standing(user_id)

    async def present(self, most: int) -> list[TenantStanding]:
        """Return users of whom anything is set, and others who have jobs in the queue: the paused ones first."""
        return await self._tenants.present(most)

    async def users(self, after: str, most: int) -> list[TenantStanding]:
        """Return those of whom anything is set, by name from the one after `after` on."""
        return await self._tenants.steered(after, most)

    async def set_weight(self, user_id: str, weight: float, actor: str) -> float:
        """Set the weight of jobs that a user sends from now on, and return the one of before."""
        before = await self._tenants.set_weight(user_id, weight)
        log.info("the weight of %s is %g, says %s", _named(user_id), weight, actor)
        return before


def _named(user_id: str | None) -> str:
    return f"user {user_id!r}" if user_id is not None else "the queue"
