"""Who uses how much, and who is at a limit: for the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.domain.limits import UNLIMITED, most_generous

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.domain.access import Role
    from app.domain.limits import Limits
    from app.storage.keys import KeyStore
    from app.storage.owner_use import OwnerUse, Use

MOST_OWNERS: Final = 100
"""Of more owners those are told who are at a limit, and then those with the most jobs waiting."""
_LIMITED: Final = {
    "waiting": "waiting",
    "running": "running",
    "jobs_per_day": "jobs_today",
    "upload_bytes": "upload_bytes",
}
"""Limit → what of `Use` it is of."""


@dataclass(frozen=True, slots=True)
class OwnerStanding:
    """What an owner uses, and may use: what the most generous of its keys lets it."""

    owner: str
    use: Use
    limits: Limits
    at_limit: tuple[str, ...]
    """The names of the limits that are reached."""


class OwnersAtLimits:
    """Methods raise `DatabaseUnavailable` while PostgreSQL is away."""

    def __init__(self, keys: KeyStore, use: OwnerUse, of_roles: Mapping[Role, Limits]) -> None:
        self._keys = keys
        self._use = use
        self._of_roles = of_roles

    async def use_of_all(self) -> list[OwnerStanding]:
        """Return those who use something, who is at a limit first; nobody while there are no keys."""
        if not await self._keys.closed():
            return []
        limits: dict[str, list[Limits]] = {}
        for key in await self._keys.all():
            if key.revoked_at is None:
                limits.setdefault(key.owner, []).append(self._of_roles.get(key.role, UNLIMITED).over(key.limits))
        used = await self._use.of_all(MOST_OWNERS)
        standings = [_standing(owner, use, most_generous(limits.get(owner, []))) for owner, use in used.items()]
        standings.sort(key=lambda each: (not each.at_limit, -each.use.waiting, -each.use.running, each.owner))
        return standings[:MOST_OWNERS]


def _standing(owner: str, use: Use, limits: Limits) -> OwnerStanding:
    reached = [
        limit
        for limit, name in _LIMITED.items()
        if (most := getattr(limits, limit)) is not None and getattr(use, name) >= most
    ]
    return OwnerStanding(owner, use, limits, tuple(reached))
