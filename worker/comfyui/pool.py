"""The backends of `COMFYUI_URLS`, distributed among the workers by leases: those that this worker drives."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from app.domain.errors import BackendLost, Unavailable
from app.domain.message import timestamp
from app.domain.scheduling.backend_load import by_preference
from app.runtime.end_tasks import end_tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.catalog import Catalog
    from app.messaging.registry import Registry
    from worker.comfyui.backend import Backend

log = logging.getLogger(__name__)

_UNDRIVEN: Final = "No worker drives it at the moment."
_MOST_DELAY_S: Final = 5.0


class BackendPool:
    """All backends of `COMFYUI_URLS`; this worker drives those whose lease it holds."""

    def __init__(self, backends: list[Backend], registry: Registry, worker_id: str, lease_s: float) -> None:
        self.backends = {backend.name: backend for backend in backends}
        self._registry = registry
        self._worker_id = worker_id
        self._lease_s = lease_s
        self.quiet = False
        """This worker starts no new prompts, and releases each backend as soon as it is idle."""
        self.drained: frozenset[str] | None = None
        """Names of drained backends; None until they are read, and no backend is driven before that."""

    @property
    def driven(self) -> list[Backend]:
        """The backends that this worker drives now."""
        return [backend for backend in self.backends.values() if backend.driven]

    def free_slots(self) -> int:
        """Return how many prompts can be submitted now."""
        return 0 if self.quiet else sum(backend.load.free for backend in self.backends.values())

    def by_preference(self) -> list[Backend]:
        """Return the backends with a free slot, ordered by how soon a prompt would begin."""
        if self.quiet:
            return []
        return [self.backends[name] for name in by_preference(each.load for each in self.backends.values())]

    async def others(self, avoid: Sequence[str]) -> dict[str, Catalog]:
        """Return the catalogs of all live, healthy backends outside `avoid`, whichever worker drives them."""
        digests = {
            beat.name: beat.catalog
            for beat in await self._registry.backends()
            if beat.live and beat.name not in avoid and beat.healthy and beat.catalog
        }
        found = {digest: await self._registry.catalog(digest) for digest in set(digests.values())}
        return {name: catalog for name, digest in digests.items() if (catalog := found[digest]) is not None}

    async def healthy_others(self, name: str) -> int:
        """Return how many other backends are healthy, whichever worker drives them; raises `QueueUnavailable`."""
        beats = await self._registry.backends()
        return sum(beat.live and beat.name != name and bool(beat.healthy) for beat in beats)

    def set_drained(self, names: frozenset[str]) -> None:
        """Set which backends are drained and get no new prompts."""
        self.drained = names
        for backend in self.backends.values():
            backend.set_drained(backend.name in names)

    async def renew(self) -> None:
        """Acquire or renew the leases on backends; raises `QueueUnavailable`, and changes nothing more then.

        While the worker is quiet, it releases each idle backend to other workers.
        """
        for backend in self.backends.values():
            if self.drained is None or (self.quiet and not backend.driven):
                continue
            if self.quiet and not backend.used:
                await self._release(backend)
                continue
            held = await self._registry.drive(backend.name, self._worker_id, self._lease_s)
            if held != backend.driven:
                log.info("backend %s is %s driven by this worker", backend.name, "now" if held else "no longer")
            backend.driven = held

    async def release(self) -> None:
        """Release all leases, so that other workers can drive the backends at once."""
        for backend in self.driven:
            await self._release(backend)

    async def _release(self, backend: Backend) -> None:
        log.info("backend %s is released by this worker", backend.name)
        backend.driven = False
        undriven = {"driver": None, "healthy": False, "reason": _UNDRIVEN, "since": timestamp(datetime.now(UTC))}
        last = backend.state(self._worker_id) | undriven
        await self._registry.stop_driving(backend.name, self._worker_id, last)

    async def run(self) -> None:
        """Serve every backend until cancelled."""
        async with asyncio.TaskGroup() as group:
            for backend in self.backends.values():
                group.create_task(self._serve_for_ever(backend), name=f"backend-{backend.name}")

    async def _serve_for_ever(self, backend: Backend) -> None:
        delay_s = 0.2
        while True:
            if not backend.driven:
                await asyncio.sleep(0.2)
                continue
            serving = asyncio.create_task(backend.serve(self._registry), name=f"serve-{backend.name}")
            try:
                while not serving.done() and backend.driven:
                    await asyncio.wait({serving}, timeout=1)
                if serving.done():
                    await serving
            except (BackendLost, Unavailable) as error:
                delay_s = 0.2 if backend.healthy else min(delay_s * 2, _MOST_DELAY_S)
                backend.disconnected(str(error))
                await asyncio.sleep(delay_s)
            except Exception:
                log.exception("backend %s: unexpected error, connecting again", backend.name)
                backend.disconnected("an error in the worker; see its log")
                await asyncio.sleep(_MOST_DELAY_S)
            else:
                backend.disconnected("driven by another worker")
            finally:
                await end_tasks([serving])
