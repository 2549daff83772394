"""Whether another backend can run a job that one backend has refused, judged by what the others offer now."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from app.domain.errors import QueueUnavailable
from app.domain.replacements import check_as_executed
from app.domain.stale_lists import classes_in_doubt
from app.domain.workflow import graph_of
from app.services.graph_faults import CHECKPOINTS
from app.services.offer_refresh import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.catalog import Catalog
    from app.domain.job import Job
    from app.services.offer_refresh import OfferRefresh
    from worker.comfyui.backend import Backend
    from worker.comfyui.pool import BackendPool


class OtherBackends:
    """What the other backends offer, whichever worker drives them."""

    def __init__(self, pool: BackendPool, offer_refresh: OfferRefresh) -> None:
        self._pool = pool
        self._offer_refresh = offer_refresh

    async def offered(self, job: Job, avoid: Sequence[str]) -> bool:
        """Whether a live backend outside `avoid` can run the job; what the backends lack is read again before a no."""
        try:
            doubts = await self._doubts(job, avoid)
            if doubts is None:
                return True
            async for _ in self._offer_refresh.read(doubts, time.monotonic() + WAIT_S):
                pass
            return await self._doubts(job, avoid) is None
        except QueueUnavailable:
            return False

    async def described_otherwise(self, job: Job, backend: Backend, avoid: Sequence[str]) -> bool:
        """Whether a backend outside `avoid` describes a node class of the job differently from `backend`."""
        graph = graph_of(job, backend.catalog)
        classes = {node["class_type"] for node in (graph or {}).values()}
        ours = backend.catalog.nodes
        try:
            others = (await self._pool.others(avoid)).values()
        except QueueUnavailable:
            return False
        return any(other.nodes.get(name) != ours.get(name) for other in others for name in classes)

    async def _doubts(self, job: Job, avoid: Sequence[str]) -> dict[str, frozenset[str]] | None:
        """Return backend → the node classes to read again; None when a backend can run the job as known."""
        doubts = {}
        for name, catalog in (await self._pool.others(avoid)).items():
            classes = _missing(job, catalog)
            if classes is None:
                return None
            doubts[name] = classes
        return doubts


def _missing(job: Job, catalog: Catalog) -> frozenset[str] | None:
    """Return the node classes to read again; None when the catalog has no faults for the job."""
    graph = graph_of(job, catalog)
    if graph is None:
        return frozenset({CHECKPOINTS})
    faults = check_as_executed(graph, catalog).faults
    return classes_in_doubt(graph, catalog, faults) if faults else None
