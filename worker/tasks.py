"""What arq runs: turns on one queue, periodic tasks on another, so that busy slots never hold up the clockwork."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final

from arq import cron, func
from arq.worker import Retry

from app.domain.errors import Unavailable
from app.domain.message import timestamp
from app.messaging.connection import EXPIRES_MS, deserialize, serialize
from app.messaging.queue import TURN_FUNCTION

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from arq.cron import CronJob
    from arq.worker import Function

    from app.messaging.registry import Registry
    from worker.runner import Runner

log = logging.getLogger(__name__)

MOST_TRIES: Final = 1_000_000
"""arq counts restarts and full backends as tries; how often a job is tried is PostgreSQL's to say."""
MOST_WAIT_S: Final = 5.0
SWEEP_EVERY: Final = timedelta(hours=1)


async def take_turn(ctx: dict[str, Any], job_id: int) -> None:
    """Run the job whose turn it is; `job_id` names the one that earned the turn."""
    runner: Runner = ctx["runner"]
    again_s = await runner.take_turn(job_id)
    if again_s is not None:
        # Ever more seldom: a thousand jobs for a backend that is away must not keep Redis busy.
        raise Retry(defer=min(again_s * ctx["job_try"], MOST_WAIT_S))


async def reconcile(ctx: dict[str, Any]) -> str:
    """Put right what fell between PostgreSQL, Redis and the backends."""
    every = timedelta(seconds=ctx["reconcile_seconds"])
    return await _noted(ctx, "reconcile", every, ctx["reconciler"].run)


async def sweep(ctx: dict[str, Any]) -> str:
    """Delete what nobody needs any more."""
    return await _noted(ctx, "sweep", SWEEP_EVERY, ctx["reconciler"].sweep)


async def _noted(ctx: dict[str, Any], name: str, every: timedelta, work: Callable[[], Awaitable[str]]) -> str:
    """Do the work of a periodic task, and note how it went."""
    registry: Registry = ctx["registry"]
    began, now = time.monotonic(), datetime.now(UTC)
    try:
        result = await work()
        run = {
            "schedule": f"every {every.total_seconds():.0f} s",
            "last_run": timestamp(now),
            "next_run": timestamp(now + every),
            "result": result,
            "duration_ms": round((time.monotonic() - began) * 1000),
        }
        await registry.note_cron(name, run)
    except Unavailable as error:
        log.warning("%s could not do its work: %s", name, error)
        return str(error)
    return result


class WorkerSettings:
    """arq's settings of the queue of turns; the queue's name and the connection come from ours."""

    functions: ClassVar[list[Function]] = [
        # No time limit of arq's: the attempt has its own, which ComfyUI's word ends, and not a cancellation.
        func(take_turn, name=TURN_FUNCTION, timeout=10**9, max_tries=MOST_TRIES, keep_result=0)
    ]
    job_serializer = staticmethod(serialize)
    job_deserializer = staticmethod(deserialize)
    expires_extra_ms = EXPIRES_MS
    keep_result = 0
    log_results = False
    retry_jobs = True
    allow_abort_jobs = False
    timezone = UTC


class MaintenanceSettings:
    """arq's settings of the queue of periodic tasks."""

    job_serializer = staticmethod(serialize)
    job_deserializer = staticmethod(deserialize)
    keep_result = 0
    log_results = False
    max_jobs = 4
    job_timeout = 60
    timezone = UTC


def periodic_tasks(reconcile_seconds: int) -> list[CronJob]:
    """Return the periodic tasks: arq's cron counts in calendar seconds, so the period is one that divides a minute."""
    seconds = set(range(0, 60, reconcile_seconds))
    return [
        cron(reconcile, name="reconcile", second=seconds, run_at_startup=True, max_tries=1, keep_result=0),
        cron(sweep, name="sweep", minute=7, second=0, max_tries=1, keep_result=0),
    ]
