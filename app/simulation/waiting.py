"""Waiting jobs in the order in which they are due, of which a choice sees the first few."""

from __future__ import annotations

import heapq
from bisect import bisect

from app.domain.scheduling.choice import CANDIDATES
from app.domain.scheduling.jobs import Candidate

Key = tuple[int, int, int]
"""Priority, the highest as the lowest number; tag; job."""


class Waiting:
    """The first jobs sorted, and all others in a heap: adding and taking cost the logarithm of how many there are."""

    def __init__(self) -> None:
        self.first: list[Candidate] = []
        self._keys: list[Key] = []
        self._rest: list[tuple[Key, Candidate]] = []

    def __len__(self) -> int:
        return len(self.first) + len(self._rest)

    @property
    def due(self) -> Key:
        """The key of the first job; there must be one."""
        return self._keys[0]

    def add(self, key: Key, job: Candidate) -> bool:
        """Add a job; return whether it is among the first."""
        if len(self._keys) == CANDIDATES and key > self._keys[-1]:
            heapq.heappush(self._rest, (key, job))
            return False
        at = bisect(self._keys, key)
        self._keys.insert(at, key)
        self.first.insert(at, job)
        if len(self._keys) > CANDIDATES:
            heapq.heappush(self._rest, (self._keys.pop(), self.first.pop()))
        return True

    def take(self, rank: int, put_off_s: float) -> tuple[Key, Candidate]:
        """Take a job away past those before it, each of which is put off."""
        first = self.first
        for before in range(rank):
            job = first[before]
            first[before] = Candidate(
                job.job_id,
                job.tenant,
                job.models,
                job.cost_s,
                job.priority,
                job.overtaken + 1,
                job.overtaken_s + put_off_s,
                job.prefer,
            )
        taken = self._keys.pop(rank), first.pop(rank)
        if self._rest:
            key, job = heapq.heappop(self._rest)
            self._keys.append(key)
            first.append(job)
        return taken
