"""What the service costs while nothing is asked of it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from tests.bench.report import Figure
from tests.bench.usage import usage

if TYPE_CHECKING:
    from tests.bench.service import Service
    from tests.bench.sizes import Sizes


async def idle(service: Service, sizes: Sizes) -> list[Figure]:
    """Measure app and worker as they are after the rows before; no figures on a system that does not tell."""
    await asyncio.sleep(min(2.0, sizes.idle_s))
    pids, began = [service.app.pid, service.worker.pid], time.perf_counter()
    before = usage(pids)
    await asyncio.sleep(sizes.idle_s)
    after = usage(pids)
    if before is None or after is None:
        return []
    percent = 100 * (after.cpu_s - before.cpu_s) / (time.perf_counter() - began)
    return [
        Figure("idle, app and worker: processor time", percent, "% of a core"),
        Figure("idle, app and worker: memory", after.resident_bytes / 1e6, "MB"),
    ]
