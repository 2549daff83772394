"""What this worker tells of itself and of the backends that it drives: heartbeats, and news when they change."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from app.domain.message import timestamp
from app.settings import package_version

if TYPE_CHECKING:
    from app.messaging.events import Events
    from app.messaging.registry import Registry
    from worker.attempts.runner import Runner
    from worker.comfyui.backend import Backend
    from worker.comfyui.pool import BackendPool
    from worker.upkeep.operator_requests import OperatorRequests

log = logging.getLogger(__name__)

NEWS_S: Final = 0.5
"""News of the same worker and backends are so far apart: a reader sees no more, however fast jobs come and go."""
_OF_WORKER: Final = ("state", "backends", "slots", "used", "running")
_OF_BACKEND: Final = (
    "driver", "healthy", "reason", "drained", "slots", "used", "queue_remaining", "current", "warm", "freed",
)  # fmt: skip
"""What of a heartbeat is news when it is another than before."""


class Heartbeat:
    """Heartbeats with a number that only rises, `seq`, so that readers know the newer of two."""

    def __init__(
        self,
        worker_id: str,
        registry: Registry,
        events: Events,
        pool: BackendPool,
        runner: Runner,
        requests: OperatorRequests,
    ) -> None:
        self._worker_id = worker_id
        self._registry = registry
        self._events = events
        self._pool = pool
        self._runner = runner
        self._requests = requests
        self._started_at = datetime.now(UTC)
        self._changed = asyncio.Event()
        self._lock = asyncio.Lock()
        self._seq = 0
        self._told: dict[str, tuple[Any, ...]] = {}
        """The news last published, by the worker or backend that they are about."""
        self._told_at = float("-inf")
        self._untellable: set[str] = set()
        """Backends of which it was logged that their state cannot be told."""

    def change(self) -> None:
        """Something that is told may be another than before."""
        self._changed.set()

    async def run(self) -> None:
        """Tell of changes as soon as they happen, until cancelled; raises `QueueUnavailable`."""
        while True:
            await self._changed.wait()
            await self.beat()
            # What a change brings with it comes a little later, such as the job that has taken a slot.
            await asyncio.sleep(NEWS_S)
            if not self._is_told():
                self._changed.set()

    async def beat(self) -> None:
        """Write the heartbeats, and publish what has changed; raises `QueueUnavailable`."""
        async with self._lock:
            self._changed.clear()
            due = time.monotonic() - self._told_at >= NEWS_S
            # Of the clock, so that a backend's rises also from one driver to the next.
            self._seq = max(self._seq + 1, int(time.time() * 1000))
            worker, backends = self._worker(), self._backends()
            await self._registry.beat(self._worker_id, worker, backends)
            if due:
                await self._publish(worker, backends)
            elif not self._is_told():
                self._changed.set()

    async def leave(self) -> None:
        """Say goodbye; raises `QueueUnavailable`."""
        async with self._lock:
            await self._registry.leave(self._worker_id)
            gone = {"type": "worker", "worker": self._worker_id, "seq": self._seq + 1, "state": "gone"}
            await self._events.publish_event(gone)

    async def _publish(self, worker: dict[str, Any], backends: dict[str, dict[str, Any]]) -> None:
        before, self._told = self._told, _news(worker, backends)
        if before == self._told:
            return
        self._told_at = time.monotonic()
        if before.get("") != self._told[""]:
            about = {"type": "worker", "worker": self._worker_id, "seq": worker["seq"]}
            await self._events.publish_event(about | {name: worker[name] for name in _OF_WORKER})
        for name, state in backends.items():
            if before.get(name) != self._told[name]:
                shown = {key: state[key] for key in ("healthy", "drained", "used", "slots", "current")}
                await self._events.publish_event({"type": "backend", "backend": name, "seq": state["seq"]} | shown)
        for name in before.keys() - self._told.keys():
            # Given up; its next driver publishes more.
            await self._events.publish_event({"type": "backend", "backend": name, "seq": self._seq, "healthy": False})

    def _is_told(self) -> bool:
        return self._told == _news(self._worker(), self._backends())

    def _worker(self) -> dict[str, Any]:
        usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        driven = self._pool.driven
        return {
            "seq": self._seq,
            "state": self._requests.state,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": package_version(),
            "started_at": timestamp(self._started_at),
            "backends": [backend.name for backend in driven],
            "slots": sum(backend.slots for backend in driven),
            "used": sum(backend.used for backend in driven),
            "running": self._runner.running,
            "done": self._runner.done,
            "failed": self._runner.failed,
            # Kilobytes on Linux, bytes on macOS.
            "memory_bytes": usage if sys.platform == "darwin" else usage * 1024,
        }

    def _backends(self) -> dict[str, dict[str, Any]]:
        told = {}
        for backend in self._pool.driven:
            more = {"seq": self._seq, "current": self._runner.on(backend)}
            told[backend.name] = self._state(backend) | more
        return told

    def _state(self, backend: Backend) -> dict[str, Any]:
        """Return what a backend's heartbeat tells; a fault in it must not cost the others theirs."""
        try:
            state = backend.state(self._worker_id)
        except Exception:
            if backend.name not in self._untellable:
                self._untellable.add(backend.name)
                log.exception("backend %s: how it is cannot be told", backend.name)
            return dict.fromkeys(_OF_BACKEND) | {
                "driver": self._worker_id,
                "healthy": False,
                "reason": "an error in the worker; see its log",
                "drained": backend.drained,
                "slots": backend.slots,
                "used": backend.used,
            }
        self._untellable.discard(backend.name)
        return state


def _news(worker: dict[str, Any], backends: dict[str, dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """Return of the worker, under an empty name, and of each backend what makes news."""
    found = {"": tuple(worker[name] for name in _OF_WORKER)}
    return found | {name: tuple(state[key] for key in _OF_BACKEND) for name, state in backends.items()}
