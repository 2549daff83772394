"""What arq runs: turns on one queue, periodic tasks on another, so that busy slots never hold up the clockwork."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final

from arq import cron, func
from arq.cron import next_cron
from arq.worker import Retry

from app.domain.errors import DatabaseUnavailable, GenonautError
from app.messaging.queue import TURN_FUNCTION
from app.messaging.redis_connection import EXPIRES_MS, deserialize, serialize
from app.storage.periodic_tasks import PeriodicRun, Plan

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from arq.cron import CronJob
    from arq.worker import Function

    from worker.attempts.runner import Runner

log = logging.getLogger(__name__)

MOST_TRIES: Final = 1_000_000
"""arq counts restarts and full backends as tries; how often a job is tried is PostgreSQL's to say."""
MOST_WAIT_S: Final = 5.0
MOST_S: Final = 60
"""A periodic task that takes longer is ended: the next run goes on where this one was."""


async def take_turn(ctx: dict[str, Any], job_id: int) -> None:
    """Run the job whose turn it is; `job_id` names the one that earned the turn."""
    runner: Runner = ctx["runner"]
    again_s = await runner.take_turn(job_id)
    if again_s is not None:
        # Ever more seldom: a thousand jobs for a backend that is away must not keep Redis busy.
        raise Retry(defer=min(again_s * ctx["job_try"], MOST_WAIT_S))


async def reconcile(ctx: dict[str, Any]) -> str:
    """Put right what fell between PostgreSQL, Redis and the backends."""
    return await _noted(ctx, "reconcile", _schedule(ctx, "reconcile"), ctx["reconciler"].run)


async def sweep(ctx: dict[str, Any]) -> str:
    """Delete what nobody needs any more."""
    return await _noted(ctx, "sweep", _schedule(ctx, "sweep"), ctx["reconciler"].sweep)


async def record_statistics(ctx: dict[str, Any]) -> str:
    """Count in the statistics what has ended, and how many jobs wait and run."""
    return await _noted(ctx, "record_statistics", _schedule(ctx, "record_statistics"), ctx["statistics_recorder"].run)


async def announce(ctx: dict[str, Any]) -> None:
    """Tell when each periodic task runs, so that one that has never run is seen to be waiting for its time."""
    now = datetime.now(UTC)
    tasks = ctx["clockwork"].items()
    plans = [Plan(name=name, schedule=_schedule(ctx, name), next_run=_following(task, now)) for name, task in tasks]
    await ctx["runs"].announce(plans)


def _schedule(ctx: dict[str, Any], name: str) -> str:
    """Return in words when a periodic task runs, as `periodic_tasks` has it for the clock."""
    words = {
        "reconcile": f"every {ctx['reconcile_seconds']} s",
        "sweep": "every hour",
        "record_statistics": "every minute",
    }
    return words[name]


async def _noted(ctx: dict[str, Any], name: str, schedule: str, work: Callable[[], Awaitable[str]]) -> str:
    """Do the work of a periodic task, and note how it went, also when it failed."""
    began, now, failed = time.monotonic(), datetime.now(UTC), True
    try:
        async with asyncio.timeout(MOST_S):
            result = await work()
        failed = False
    except GenonautError as error:
        log.warning("%s could not do its work: %s", name, error)
        result = str(error)
    except TimeoutError:
        log.warning("%s took longer than %s s, and was ended", name, MOST_S)
        result = f"It took longer than {MOST_S} s, and was ended."
    except Exception:
        log.exception("%s stumbled over a bug", name)
        result = "Something went wrong in the worker; its log says what."
    run = PeriodicRun(
        name=name,
        schedule=schedule,
        last_run=now,
        next_run=_following(ctx["clockwork"][name], now),
        duration_ms=round((time.monotonic() - began) * 1000),
        result=result,
        failed=failed,
        worker_id=ctx["worker_id"],
    )
    try:
        await ctx["runs"].note(run)
    except DatabaseUnavailable as error:
        log.warning("the run of %s cannot be noted: %s", name, error)
    return result


def _following(task: CronJob, now: datetime) -> datetime:
    """Return when the clock has the task run next, whatever made it run this time."""
    hand = {unit: getattr(task, unit) for unit in ("month", "day", "weekday", "hour", "minute", "second")}
    return next_cron(now, **hand, microsecond=task.microsecond)


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
    # An outage that keeps it from telling lets arq begin again: worker.main.
    on_startup = staticmethod(announce)
    # Not arq's time limit ends a task but its own, which is noted.
    job_timeout = MOST_S + 10
    timezone = UTC


def periodic_tasks(reconcile_seconds: int) -> list[CronJob]:
    """Return the periodic tasks: arq's cron counts in calendar seconds, so the period is one that divides a minute."""
    seconds = set(range(0, 60, reconcile_seconds))
    return [
        cron(reconcile, name="reconcile", second=seconds, run_at_startup=True, max_tries=1, keep_result=0),
        cron(sweep, name="sweep", minute=7, second=0, max_tries=1, keep_result=0),
        cron(record_statistics, name="record_statistics", second=20, run_at_startup=True, max_tries=1, keep_result=0),
    ]
