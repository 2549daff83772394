"""Who may do what on the page: roles, and the least one that each ability takes (MONITOR, "Roles")."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class Role(StrEnum):
    """What a person may do; each role includes the ones before."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class Ability(StrEnum):
    """What the page lets people do."""

    SEE = "see"
    SEND = "send"
    CANCEL = "cancel"
    RETRY = "retry"
    DELETE = "delete"
    STEER_WORKER = "steer_worker"
    STEER_BACKEND = "steer_backend"
    RUN_TASK = "run_task"
    SEE_TRACEBACK = "see_traceback"
    SEE_AUDIT = "see_audit"


LEAST_ROLE: Final[Mapping[Ability, Role]] = {
    Ability.SEE: Role.VIEWER,
    Ability.SEND: Role.OPERATOR,
    Ability.CANCEL: Role.OPERATOR,
    Ability.RETRY: Role.OPERATOR,
    Ability.DELETE: Role.OPERATOR,
    Ability.STEER_WORKER: Role.OPERATOR,
    Ability.STEER_BACKEND: Role.OPERATOR,
    Ability.RUN_TASK: Role.OPERATOR,
    # It shows a server's paths.
    Ability.SEE_TRACEBACK: Role.OPERATOR,
    Ability.SEE_AUDIT: Role.ADMIN,
}
READING: Final = frozenset({Ability.SEE, Ability.SEE_TRACEBACK, Ability.SEE_AUDIT})
"""What changes nothing, and so is allowed on a page that is read-only."""
_RANK: Final = {role: rank for rank, role in enumerate(Role)}


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks at the page."""

    name: str
    role: Role
    signed_in: bool

    def may(self, ability: Ability) -> bool:
        """Whether the role is enough."""
        return _RANK[self.role] >= _RANK[LEAST_ROLE[ability]]


ANYBODY: Final = Viewer("monitor", Role.ADMIN, signed_in=False)
"""The viewer while no key has ever been made: any user of this machine."""
