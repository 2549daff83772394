"""What runs have shown: how long models take to load, and how fast a backend is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_LOAD_S: Final = 5.0
"""Of a model set of which nothing has been seen, while nothing has been seen at all."""
MOST_LOAD_S: Final = 600.0
MOST_FILES: Final = 2_000
"""Of which load times are kept; the one seen least recently is forgotten first."""
SLOWEST: Final = 0.1
FASTEST: Final = 10.0
_NEWEST: Final = 0.3
"""The share of what was seen last in what is expected next."""
_MOST_SETS: Final = 4_000
"""Of which the sum is kept, as it is asked for again and again."""


@dataclass(frozen=True, slots=True)
class Loads:
    """Seconds to load models into memory, by file."""

    by_file: Mapping[str, float] = field(default_factory=dict)
    """The one that was seen last comes last."""
    of_a_set: float = DEFAULT_LOAD_S
    """Of an average set, for one that has an unknown file."""
    _sums: dict[frozenset[str], float] = field(default_factory=dict, repr=False, compare=False)

    def of(self, models: frozenset[str]) -> float:
        """Return how many seconds these files will probably take to load; 0 for none."""
        found = self._sums.get(models)
        if found is None:
            if len(self._sums) >= _MOST_SETS:
                self._sums.clear()
            found = self._sums[models] = self._sum(models)
        return found

    def learned(self, loaded: frozenset[str], seconds: float) -> Loads:
        """Return what is known after these files were loaded together in so many seconds."""
        if not loaded or not math.isfinite(seconds):
            return self
        seconds = min(max(seconds, 0.0), MOST_LOAD_S)
        # Each file's part of what was seen is as large as its part of what was expected.
        expected = {name: self.by_file.get(name, seconds / len(loaded)) for name in sorted(loaded)}
        whole = sum(expected.values())
        kept = {name: value for name, value in self.by_file.items() if name not in loaded}
        for name, before in expected.items():
            seen = seconds * before / whole if whole else seconds / len(loaded)
            kept[name] = before + _NEWEST * (seen - before)
        for name in list(kept)[: max(0, len(kept) - MOST_FILES)]:
            del kept[name]
        return Loads(kept, self.of_a_set + _NEWEST * (seconds - self.of_a_set))

    def _sum(self, models: frozenset[str]) -> float:
        known = [self.by_file[name] for name in models if name in self.by_file]
        unknown = len(known) < len(models)
        return min(MOST_LOAD_S, max(sum(known), self.of_a_set) if unknown else sum(known))


@dataclass(slots=True)
class Runs:
    """Seconds that runs take lately, by what they load: for jobs of which nothing was known when they were accepted."""

    by_key: dict[str, float] = field(default_factory=dict)
    of_all: float | None = None

    def of(self, model_key: str | None) -> float | None:
        """Return how long a run of this kind will probably take; None if none of any kind has been seen."""
        return self.by_key.get(model_key or "", self.of_all)

    def learn(self, model_key: str | None, seconds: float) -> None:
        """Take a run without its loads, at the average speed of a backend."""
        if not 0 <= seconds < math.inf:
            return
        self.of_all = seconds if self.of_all is None else self.of_all + _NEWEST * (seconds - self.of_all)
        before = self.by_key.pop(model_key or "", seconds)
        self.by_key[model_key or ""] = before + _NEWEST * (seconds - before)
        while len(self.by_key) > MOST_FILES:
            del self.by_key[next(iter(self.by_key))]


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a backend runs, compared with what its runs were expected to take."""

    factor: float = 1.0

    def learned(self, expected_s: float, measured_s: float) -> Speed:
        """Return what is known after a run without its load; one that says nothing changes nothing."""
        if not (0 < expected_s < math.inf and 0 < measured_s < math.inf):
            return self
        seen = min(max(expected_s / measured_s, SLOWEST), FASTEST)
        # Of a ratio the mean is that of its logarithms: twice and half as fast are one.
        return Speed(math.exp(math.log(self.factor) * (1 - _NEWEST) + math.log(seen) * _NEWEST))
