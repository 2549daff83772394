"""What is measured in production: the figures of a server process, and those that all workers of the fleet add up."""

from __future__ import annotations

import time
from bisect import bisect_left
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric
_INF: Final = float("inf")
_REQUEST_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, _INF)
_LAG_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, _INF)
_WAIT_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, _INF)
_RUN_S: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600, 1800, _INF)
_GAP_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, _INF)
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Family:
    """A metric that every process adds to, kept in Redis: a histogram, or without buckets a counter."""

    name: str
    help: str
    label: str | None = None
    buckets: tuple[float, ...] = ()
    """Upper bounds, infinity the last."""


QUEUE_WAIT: Final = Family(
    "genonaut_queue_wait_seconds",
    "From when a job could be taken (sent, its time had come, or retried) to its first claim by a worker since.",
    buckets=_WAIT_S,
)
PICK_UP: Final = Family(
    "genonaut_pick_up_seconds", "From the moment an attempt was due to its claim by a worker.", buckets=_WAIT_S
)
EXECUTION: Final = Family(
    "genonaut_execution_seconds", "From a run's first frame to its last one, by backend.", "backend", _RUN_S
)
SAVING: Final = Family(
    "genonaut_saving_seconds", "From a run's end to the moment its outputs are durable.", "backend", _RUN_S
)
IDLE_GAP: Final = Family(
    "genonaut_backend_idle_gap_seconds",
    "From a run's end to the next one's start on the same backend, when that one was due already.",
    "backend",
    _GAP_S,
)
TAKEOVERS: Final = Family("genonaut_lease_takeovers_total", "Attempts taken over from a worker that had fallen silent.")
JOBS_FINISHED: Final = Family(
    "genonaut_jobs_finished_total",
    "Jobs that have come to an end, those cancelled while they waited among them.",
    "status",
)
DEVICE_ERRORS: Final = Family(
    "genonaut_backend_device_errors_total", "Attempts that met an error of the backend's device (CUDA …).", "backend"
)
INPUT_FILES: Final = Family(
    "genonaut_input_files_total",
    "Input files that runs needed, by how the backend came to have them: sent, found (asked for), or known.",
    "how",
)
INPUT_BYTES: Final = Family("genonaut_input_bytes_total", "Bytes of input files sent to a backend.", "backend")
MODEL_LOADS: Final = Family(
    "genonaut_model_load_seconds", "How long runs loaded models, of those that had to, by backend.", "backend", _RUN_S
)
CHOICES: Final = Family(
    "genonaut_choices_total",
    "Jobs that a backend took, by why: due, warm, load, or ahead (queued behind a running one).",
    "reason",
)
OVERTAKINGS: Final = Family(
    "genonaut_overtakings_total", "How often a waiting job was passed over by one that was due later."
)
LOST_RACES: Final = Family(
    "genonaut_lost_races_total", "How often a chosen job was gone, or changed, when it was to be taken."
)
FLEET: Final = (
    QUEUE_WAIT,
    PICK_UP,
    EXECUTION,
    SAVING,
    IDLE_GAP,
    TAKEOVERS,
    JOBS_FINISHED,
    DEVICE_ERRORS,
    INPUT_FILES,
    INPUT_BYTES,
    MODEL_LOADS,
    CHOICES,
    OVERTAKINGS,
    LOST_RACES,
)
FLEET_NOTE: Final = " Of the whole fleet: every server shows the same."


class Tally:
    """What this process has to add to the fleet's figures, until it is handed over.

    A field is `family|label|le=bound`, not cumulative, or `family|label|sum`, or `family|label|total` of a counter.
    """

    def __init__(self) -> None:
        self._added: dict[str, float] = {}

    def observe(self, family: Family, seconds: float, label: str = "") -> None:
        """Add a value to a histogram; one below zero, which clocks that differ can give, counts as zero."""
        seconds = max(0.0, seconds)
        bound = family.buckets[bisect_left(family.buckets, seconds)]
        self._add(f"{family.name}|{label}|le={_written(bound)}", 1)
        self._add(f"{family.name}|{label}|sum", seconds)

    def count(self, family: Family, label: str = "", by: int = 1) -> None:
        """Add to a counter."""
        self._add(f"{family.name}|{label}|total", by)

    def take(self) -> dict[str, float]:
        """Return what there is to hand over, and begin anew."""
        added, self._added = self._added, {}
        return added

    def put_back(self, added: Mapping[str, float]) -> None:
        """Keep what could not be handed over."""
        for field, value in added.items():
            self._add(field, value)

    def _add(self, field: str, value: float) -> None:
        self._added[field] = self._added.get(field, 0.0) + value


def fleet_families(found: Mapping[str, float]) -> Iterator[Metric]:
    """Yield the fleet's figures from the fields that all processes have added to."""
    labels: dict[str, set[str]] = {}
    for field in found:
        name, label, _ = field.split("|", 2)
        labels.setdefault(name, set()).add(label)
    for family in FLEET:
        help_text, names = family.help + FLEET_NOTE, [family.label] if family.label else []
        # Without a label there is something to show from the beginning: nothing, so far.
        shown = sorted(labels.get(family.name, set() if family.label else {""}))
        if not family.buckets:
            counter = CounterMetricFamily(family.name.removesuffix("_total"), help_text, labels=names)
            for label in shown:
                counter.add_metric([label] * len(names), found.get(f"{family.name}|{label}|total", 0.0))
            yield counter
            continue
        histogram = HistogramMetricFamily(family.name, help_text, labels=names)
        for label in shown:
            upto, buckets = 0.0, []
            for bound in map(_written, family.buckets):
                upto += found.get(f"{family.name}|{label}|le={bound}", 0.0)
                buckets.append((bound, upto))
            histogram.add_metric([label] * len(names), buckets, found.get(f"{family.name}|{label}|sum", 0.0))
        yield histogram


def _written(bound: float) -> str:
    return "+Inf" if bound == _INF else str(float(bound))


class ServerMetrics:
    """The figures of one server process, in a registry of its own."""

    def __init__(self) -> None:
        # When a series began is of no use here, and doubles the answer.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "genonaut_http_requests_total",
            "Requests answered by this server; 101 is a WebSocket.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._durations = Histogram(
            "genonaut_http_request_duration_seconds",
            "How long requests took; WebSockets are left out.",
            ("method", "route"),
            registry=self.registry,
            buckets=_REQUEST_S,
        )
        self._lag = Histogram(
            "genonaut_event_lag_seconds",
            "From an event's timestamp to its being handed to the watchers of this server.",
            registry=self.registry,
            buckets=_LAG_S,
        )
        self._sockets = Gauge("genonaut_websockets_open", "WebSockets open at this server.", registry=self.registry)
        self._dropped = Counter(
            "genonaut_frames_dropped_total",
            "Frames that found a client's outbox full at this server.",
            registry=self.registry,
        )
        self._too_slow = Counter(
            "genonaut_websockets_too_slow_total",
            "WebSockets closed by this server because the client did not keep up.",
            registry=self.registry,
        )
        self._connections = Gauge(
            "genonaut_connections_open", "Connections open at this server.", registry=self.registry
        )
        self._refused = Counter(
            "genonaut_connections_refused_total",
            "Connections that this server closed before a request: too many of an address, in total, or a large head.",
            ("reason",),
            registry=self.registry,
        )
        self._slow = Counter(
            "genonaut_slow_clients_total",
            "Connections that this server cut off, by what was too slow: a head, reading, or the close.",
            ("what",),
            registry=self.registry,
        )
        for reason in ("address", "total", "large_head"):
            self._refused.labels(reason)
        for what in ("head", "unread", "close"):
            self._slow.labels(what)
        self._limited = Counter(
            "genonaut_requests_limited_total",
            "Requests refused by this server because of a key's limit, by the code of the refusal.",
            ("limit",),
            registry=self.registry,
        )
        # To look up a child by its labels takes longer than to count.
        self._counted: dict[tuple[str, str, int], Counter] = {}
        self._timed: dict[tuple[str, str], Histogram] = {}

    def answered(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """Count a request; `seconds` is None for a WebSocket, which lasts as long as its client likes."""
        method = method if method in _METHODS else "other"
        counter = self._counted.get((method, route, status))
        if counter is None:
            counter = self._counted[method, route, status] = self._requests.labels(method, route, str(status))
        counter.inc()
        if seconds is not None:
            histogram = self._timed.get((method, route))
            if histogram is None:
                histogram = self._timed[method, route] = self._durations.labels(method, route)
            histogram.observe(seconds)

    def limited(self, limit: str) -> None:
        """Count a request that was refused because of a limit."""
        self._limited.labels(limit).inc()

    def forwarded(self, timestamp: str | None) -> None:
        """Record how long an event took to reach its watchers; `timestamp` is in ISO 8601, and None is ignored."""
        if timestamp is not None:
            self._lag.observe(max(0.0, time.time() - datetime.fromisoformat(timestamp).timestamp()))

    def connections_open(self, count: int) -> None:
        """So many connections are open."""
        self._connections.set(count)

    def connection_refused(self, reason: str) -> None:
        """A connection was closed before a request of it was read."""
        self._refused.labels(reason).inc()

    def slow_client(self, what: str) -> None:
        """A connection was cut off because the client was too slow with this."""
        self._slow.labels(what).inc()

    def socket_opened(self) -> None:
        """A WebSocket was opened."""
        self._sockets.inc()

    def socket_closed(self, dropped: int, *, too_slow: bool) -> None:
        """A WebSocket has ended; so many frames found its outbox full."""
        self._sockets.dec()
        if too_slow:
            self._too_slow.inc()
            self._dropped.inc(dropped)


class Found:
    """A collector of what was found for one scrape."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> list[Metric]:
        """Return it."""
        return self._families
