"""What the service costs while nothing is asked of it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from app.runtime.malloc_trim import EVERY_S
from tests.bench.report import Figure
from tests.bench.usage import usage

if TYPE_CHECKING:
    from tests.bench.service import Service
    from tests.bench.sizes import Sizes

REST_S: Final = EVERY_S + 2


async def idle(service: Service, sizes: Sizes) -> list[Figure]:
    """Measure app and worker as they are after their start; no figures on a system that does not tell."""
    await asyncio.sleep(min(REST_S, sizes.idle_s))
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


async def tired(service: Service, sizes: Sizes) -> list[Figure]:
    """Measure what they keep of the memory that the rows before took, when there was time to give it back."""
    await asyncio.sleep(min(REST_S, sizes.idle_s))
    after = usage([service.app.pid, service.worker.pid])
    return [Figure("after all of this, app and worker: memory", after.resident_bytes / 1e6, "MB")] if after else []
