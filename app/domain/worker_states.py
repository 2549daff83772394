"""States of workers that operators can request, and the periodic tasks."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class WorkerState(StrEnum):
    """What a worker does with the turns that are due."""

    WORKING = "working"
    """It takes as many as its backends have slots for."""
    QUIET = "quiet"
    """It takes none, and finishes what it has."""
    STOPPING = "stopping"
    """It takes none, finishes what it has, and ends then."""


PERIODIC_TASKS: Final[Mapping[str, str]] = {
    "reconcile": "Gives waiting jobs back the turns that Redis has lost, moves jobs off lost backends, and ends those "
    "that have waited too long for a model.",
    "record_statistics": "Counts in the statistics what has ended, and how many jobs wait and run.",
    "sweep": "Deletes files that belong to no job, and idempotency keys and sessions that have had their day.",
}
"""Name of each periodic task → what it does."""
