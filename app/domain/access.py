"""Who may do what: roles, what each may do, and whose jobs it sees (manual, keys.md)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from app.domain.limits import UNLIMITED, Limits

if TYPE_CHECKING:
    from collections.abc import Mapping


class Role(StrEnum):
    """What a key lets its holder do. Each includes the ones before, but for a user, who sees nothing of others."""

    USER = "user"
    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class Ability(StrEnum):
    """What routes let their callers do."""

    SEE = "see"
    """Jobs, contents, uploads, and what there is to make jobs of."""
    SEE_HEALTH = "see_health"
    """How the service fares. With `METRICS_OPEN` that takes no key."""
    SEND = "send"
    CANCEL = "cancel"
    RETRY = "retry"
    MOVE = "move"
    """Change the place of a job that waits."""
    DELETE = "delete"
    SEE_FLEET = "see_fleet"
    """Backends, workers, and figures of all jobs."""
    SEND_FOR_OTHERS = "send_for_others"
    STEER_WORKER = "steer_worker"
    STEER_BACKEND = "steer_backend"
    PAUSE = "pause"
    """Have no jobs taken, of one user or of anybody."""
    SET_WEIGHT = "set_weight"
    """Say how large a user's share of the backends is."""
    RUN_TASK = "run_task"
    SEE_TRACEBACK = "see_traceback"
    SEE_AUDIT = "see_audit"
    MANAGE_KEYS = "manage_keys"


_ALL: Final = frozenset(Role)
_SENDERS: Final = _ALL - {Role.VIEWER}
_OF_ALL_JOBS: Final = _ALL - {Role.USER}
_OPERATORS: Final = frozenset({Role.OPERATOR, Role.ADMIN})
_ADMINS: Final = frozenset({Role.ADMIN})

ROLES: Final[Mapping[Ability, frozenset[Role]]] = {
    Ability.SEE: _ALL,
    Ability.SEE_HEALTH: _ALL,
    Ability.SEND: _SENDERS,
    Ability.CANCEL: _SENDERS,
    Ability.RETRY: _SENDERS,
    Ability.MOVE: _SENDERS,
    Ability.DELETE: _SENDERS,
    Ability.SEE_FLEET: _OF_ALL_JOBS,
    Ability.SEND_FOR_OTHERS: _OPERATORS,
    Ability.STEER_WORKER: _OPERATORS,
    Ability.STEER_BACKEND: _OPERATORS,
    Ability.PAUSE: _OPERATORS,
    Ability.SET_WEIGHT: _ADMINS,
    Ability.RUN_TASK: _OPERATORS,
    # It shows a server's paths.
    Ability.SEE_TRACEBACK: _OPERATORS,
    Ability.SEE_AUDIT: _ADMINS,
    Ability.MANAGE_KEYS: _ADMINS,
}
"""The roles that have each ability."""
READING: Final = frozenset(
    {Ability.SEE, Ability.SEE_HEALTH, Ability.SEE_FLEET, Ability.SEE_TRACEBACK, Ability.SEE_AUDIT}
)
"""What changes nothing, and so is allowed on a page that is read-only."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request."""

    name: str
    """The key's name."""
    role: Role
    owner: str | None
    """The `user_id` of the jobs that it sends; None while there are no keys, when each job names its own."""
    key_id: int | None = None
    """None while there are no keys."""
    limits: Limits = UNLIMITED
    """What it may use: the limits of its role, and the key's own in their place."""

    @property
    def signed_in(self) -> bool:
        """Whether it has shown a key."""
        return self.key_id is not None

    @property
    def scope(self) -> str | None:
        """The only `user_id` whose jobs it sees; None if it sees all."""
        return self.owner if self.role is Role.USER else None

    def limits_for(self, user_id: str | None) -> Limits:
        """Return what limits it when it sends something of this user: of another's nothing is counted."""
        return self.limits if user_id == self.owner else UNLIMITED

    def may(self, ability: Ability) -> bool:
        """Whether its role has this ability."""
        return self.role in ROLES[ability]


LINKED: Final = Caller("link", Role.VIEWER, owner=None)
"""Who shows a link to an output: the link says which, and it was made for those who may see that."""
ANYBODY: Final = Caller("monitor", Role.ADMIN, owner=None)
"""The caller while no key has ever been made: any user of this machine."""
