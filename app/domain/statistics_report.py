"""What statistics of finished jobs say: how they ended, how long they had waited and run, step by step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.domain.histogram import BOUNDS, add, empty, quantile

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Chosen:
    """What statistics are narrowed to; None does not narrow."""

    model: str | None = None
    backend: str | None = None


@dataclass(slots=True)
class Ends:
    """How jobs ended, and how long they had waited and run."""

    counts: dict[str, int] = field(default_factory=dict)
    """Status → how many."""
    waits: list[int] = field(default_factory=empty)
    """Histogram of their waits (`Job.waited_s`)."""
    runs: list[int] = field(default_factory=empty)
    """Histogram of the runs (`Job.ran_s`) of completed jobs: others end sooner or later than the work takes."""
    longest_wait_s: float = 0.0
    """The longest wait that was seen, and below the longest run; 0 of what an older version counted."""
    longest_run_s: float = 0.0
    loads: int = 0
    """How many of their last attempts had to load models, and below for how many seconds they did."""
    load_s: float = 0.0

    def wait_s(self, share: float) -> float | None:
        """Return the seconds that this share (0 to 1) waited at most: no more than the longest did; None without any.

        Within a place of a histogram a quantile is interpolated: of few jobs it may be more than any of them took,
        and then no list has a job that took longer.
        """
        return _within(self.waits, share, self.longest_wait_s)

    def run_s(self, share: float) -> float | None:
        """Return the same of the runs."""
        return _within(self.runs, share, self.longest_run_s)

    def add_waits(self, waits: Sequence[int], longest_s: float) -> None:
        """Add the waits of jobs that are counted."""
        add(self.waits, waits)
        self.longest_wait_s = max(self.longest_wait_s, longest_s)

    def add_runs(self, runs: Sequence[int], longest_s: float) -> None:
        """Add the runs of jobs that are counted."""
        add(self.runs, runs)
        self.longest_run_s = max(self.longest_run_s, longest_s)

    def add_loads(self, loads: int, load_s: float) -> None:
        """Add what jobs that are counted loaded."""
        self.loads += loads
        self.load_s += load_s

    @property
    def total(self) -> int:
        """How many ended."""
        return sum(self.counts.values())

    @property
    def loads_per_100(self) -> float | None:
        """How many of a hundred jobs had to load models; None without any job."""
        return 100 * self.loads / self.total if self.total else None

    def of(self, status: str) -> int:
        """Return how many ended so."""
        return self.counts.get(status, 0)


@dataclass(frozen=True, slots=True)
class Step:
    """A stretch of time on a chart."""

    start: datetime
    end: datetime
    ends: Ends
    waiting: int | None
    """Maximum number seen waiting at once; None when no worker ran to record it."""
    running: int | None


@dataclass(frozen=True, slots=True)
class Failures:
    """Jobs that failed alike: by an error, in a class of node; "" when it was in none."""

    error_code: str
    node_type: str
    count: int


@dataclass(frozen=True, slots=True)
class TenantUse:
    """What a user's jobs got that ended."""

    tenant: str
    weight: float
    count: int
    gpu_s: float
    """Seconds for which they were executed, and below those for which they had waited, all together."""
    wait_s: float

    @property
    def wanted_more(self) -> bool:
        """Whether they waited for longer than they ran: only of such users can it be said that one got too little."""
        return self.wait_s > self.gpu_s > 0


def evenness(users: Iterable[TenantUse]) -> float | None:
    """Return Jain's index of the GPU time by weight of those who wanted more: 1 is exact; None of fewer than two."""
    shares = [each.gpu_s / each.weight for each in users if each.wanted_more]
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares)) if len(shares) > 1 else None


@dataclass(frozen=True, slots=True)
class Report:
    """Statistics from `start` to `now`. What has no model, or no backend, has "" as its name."""

    start: datetime
    now: datetime
    steps: Sequence[Step]
    failures: Sequence[Failures]
    """The most frequent first."""
    models: dict[str, Ends]
    """Each model's, also when only one is chosen."""
    backends: Sequence[str]
    """Names of all backends on which jobs ended."""
    counted_until: datetime | None
    """What ended later is missing; None: nothing is."""
    tenants: Sequence[TenantUse] = ()
    """The users whose jobs got the most, of all models and backends, whatever is chosen."""

    @property
    def whole(self) -> Ends:
        """All steps together."""
        return together(step.ends for step in self.steps)


@dataclass(frozen=True, slots=True)
class Tiles:
    """The last hour in short: a point for every five minutes, the last of which is not over yet."""

    finished: Sequence[int]
    failed: Sequence[int]
    waits_p95_s: Sequence[float | None]
    wait_p95_s: float | None
    """Of the whole hour."""
    waiting: Sequence[int | None]
    """The most that waited, and below the most that ran; None where it was not noted."""
    running: Sequence[int | None]


def together(several: Iterable[Ends]) -> Ends:
    """Return the sum of these."""
    ends = Ends()
    for each in several:
        for status, count in each.counts.items():
            ends.counts[status] = ends.of(status) + count
        ends.add_waits(each.waits, each.longest_wait_s)
        ends.add_runs(each.runs, each.longest_run_s)
        ends.add_loads(each.loads, each.load_s)
    return ends


def _within(counts: Sequence[int], share: float, longest_s: float) -> float | None:
    """Return a quantile, but no more than the longest: as it was seen, or at least as its place in the counts says."""
    found = quantile(counts, share)
    if found is None:
        return None
    last = max(place for place, count in enumerate(counts) if count)
    return min(found, max(longest_s, BOUNDS[last - 1] if last else 0.0))
