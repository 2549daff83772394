"""What counts of a waiting job when a backend chooses, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Candidate:
    """A waiting job. Candidates are given in the order in which they are due."""

    job_id: int
    tenant: str
    models: frozenset[str]
    """Files that have to be in memory; empty for a graph that needs none."""
    cost_s: float
    """Seconds that it will probably run on an average backend, without loading."""
    priority: int = 0
    overtaken: int = 0
    """How often a job that was due later was taken before it, by a backend that could have taken it."""
    overtaken_s: float = 0.0
    """Seconds by which those have put it off: what they took, shared by the backends that could take it."""
    prefer: str | None = None
    """Backend that its owner would like: a hint."""
    only: str | None = None
    """Backend that alone may run it."""
    refused_by: frozenset[str] = frozenset()
    """Backends that failed it lately, and do not get it again yet."""
    fair_tag: int = 0
    """Its place among those of its priority."""
    model_key: str | None = None
    """Equal for jobs that load the same in the same way."""


class Reason(StrEnum):
    """Why a job was taken, or none."""

    DUE = "due"
    """Nothing was to be weighed: it is the first, and its models are loaded or it has none."""
    WARM = "warm"
    """Its models are loaded here; those of jobs that were due before it are not."""
    LOAD = "load"
    """Its models must be loaded, and nowhere would it be finished sooner."""
    AHEAD = "ahead"
    """It is queued behind the running one, which leaves its models loaded."""

    EMPTY = "empty"
    """No waiting job can run here."""
    ELSEWHERE = "elsewhere"
    """Each job that may be taken would be finished sooner by another backend."""
    BUSY = "busy"
    """A job runs here, and none is worth being queued behind it."""


CHOICE: Final = ("reason", "rank", "overtook", "load_s", "alternatives")
"""Fields of what is kept of a choice with the attempt and its event. What is taken at hand has no alternatives."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The job to take."""

    job_id: int
    reason: Reason
    rank: int
    """Its place among the jobs that can run here, from 0."""
    overtook: tuple[int, ...]
    """The jobs that were due before it and can run here."""
    put_off_s: float
    """To be added to the `overtaken_s` of each of those."""
    load_s: float
    """Seconds that it will probably load."""
    alternatives: int
    """How many other jobs could have been taken."""
    left_to: tuple[str, ...] = ()
    """Other backends that should look, unless they just have, as jobs were left to them."""
    due_tag: int = 0
    """The tag of the job that was due first: of this one, or of one that it overtook."""

    def told(self) -> dict[str, Any]:
        """Return it as it is kept with the attempt: why, and what it cost the others."""
        return {
            "reason": self.reason.value,
            "rank": self.rank,
            "overtook": len(self.overtook),
            "load_s": round(self.load_s, 1),
            "alternatives": self.alternatives,
        }


@dataclass(frozen=True, slots=True)
class Leave:
    """Take nothing now."""

    until_s: float
    """Look again after so many seconds at the latest, and whenever a job comes or another backend takes one."""
    reason: Reason
    left_to: tuple[str, ...] = ()
    """Other backends that should look, unless they just have, as jobs were left to them."""
