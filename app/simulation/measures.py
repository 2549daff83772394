"""What comes out of a play: loads, waits, shares, and how far jobs were passed over."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds from a job's arrival until its models were loaded and it ran."""

    p50: float
    p95: float
    longest: float


class Measures:
    """The figures of one play, as they come."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self.done = 0
        self.left = 0
        """Jobs that came and have not ended."""
        self.loads = 0
        self.run_s = 0.0
        self.load_s = 0.0
        self.lost_runs = 0
        """Runs that ended with their backend."""
        self.last_end = 0.0
        self.decisions = 0
        self.most_overtaken = 0
        self.most_put_off = 0.0
        """In load times of the job that was put off."""
        self._waits: dict[str, array[float]] = {}
        self._shared_s: dict[str, float] = {}
        """GPU seconds given to each tenant while all of them had jobs waiting."""

    def ran(self, tenant: str, wait_s: float, load_s: float, run_s: float) -> None:
        """A run has ended well."""
        self.done += 1
        self.left -= 1
        self.run_s += run_s
        self.load_s += load_s
        self.loads += load_s > 0
        waits = self._waits.get(tenant)
        if waits is None:
            waits = self._waits[tenant] = array("d")
        waits.append(wait_s)

    def joined(self, tenant: str) -> None:
        """A tenant's first job has come: only from now on can all of them have jobs waiting."""
        self._shared_s = dict.fromkeys([*self._shared_s, tenant], 0.0)

    def given(self, tenant: str, gpu_s: float) -> None:
        """A tenant was given a backend while all tenants had jobs waiting."""
        self._shared_s[tenant] += gpu_s

    @property
    def tenants(self) -> list[str]:
        """All who had a job done."""
        return sorted(self._waits)

    def waits(self, tenant: str | None = None) -> Waits:
        """Return how long a tenant's jobs waited, or all jobs."""
        found = [tenant] if tenant is not None else self.tenants
        ordered = sorted(each for name in found for each in self._waits.get(name, ()))
        return Waits(_at(ordered, 0.5), _at(ordered, 0.95), _at(ordered, 1.0))

    def shares(self) -> dict[str, float]:
        """Return each tenant's part of the GPU time divided by its part of the weights, while all waited."""
        whole = sum(self._shared_s.values())
        weights = sum(self._weights.get(name, 1.0) for name in self._shared_s)
        due = {name: whole * self._weights.get(name, 1.0) / weights for name in sorted(self._shared_s)}
        return {name: self._shared_s[name] / due[name] for name in due} if whole else {}

    def jain(self) -> float | None:
        """Return Jain's index of those shares, 1 being exact; None if there was no time when all waited."""
        shares = list(self.shares().values())
        return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares)) if shares else None


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
