"""Pauses: jobs that wait, of one user or of everybody, are not taken until they are resumed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

MOST_REASON_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class Pause:
    """That jobs are not taken, since when, and why."""

    user_id: str | None
    """Whose jobs; None is everybody's."""
    since: datetime
    by: str
    reason: str | None

    @property
    def words(self) -> str:
        """Why a job waits, as a sentence."""
        what = "The queue is paused" if self.user_id is None else "The jobs of this user are paused"
        return f"{what}: {self.reason}" if self.reason else f"{what}."
