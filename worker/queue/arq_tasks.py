"""What arq runs: turns on one queue, periodic tasks on another, so that busy slots never delay periodic tasks."""

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
from app.domain.scheduling.choice import SOONEST_LOOK_S
from app.messaging.queue import TURN_FUNCTION
from app.messaging.redis_connection import EXPIRES_MS, deserialize, serialize
from app.storage.periodic_tasks import PeriodicRun, Plan
from worker.queue.turn_worker import HeldBack

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from arq.cron import CronJob
    from arq.worker import Function

    from worker.attempts.runner import Runner

log = logging.getLogger(__name__)

MOST_TRIES: Final = 1_000_000
"""arq's limit of tries, without effect: arq also counts restarts and full backends. PostgreSQL limits the attempts."""
MOST_WAIT_S: Final = 5.0
"""Maximum seconds until a turn without a slot or job is tried again."""
MOST_S: Final = 60
"""Maximum seconds of a periodic task's run; the next run continues the work."""


async def take_turn(ctx: dict[str, Any], job_id: int) -> None:
    """Run the next job; `job_id` is the job for which the turn was enqueued, and another one may be next."""
    runner: Runner = ctx["runner"]
    again = await runner.take_turn(job_id)
    if again is None:
        return
    if again.rest_s:
        # It keeps its place in the queue: what ends the worker's rest may make way for a job at any moment.
        raise HeldBack(again.rest_s, again.left_to)
    if again.left_to and ctx["job_try"] == 1:
        # Those are told once of each turn, or workers that all find nothing would tell each other for ever.
        raise HeldBack(SOONEST_LOOK_S, again.left_to)
    # The delay grows: a thousand jobs for a backend that is unavailable must not keep Redis busy.
    raise Retry(defer=min(again.after_s * ctx["job_try"], MOST_WAIT_S))


async def reconcile(ctx: dict[str, Any]) -> str:
    """Resolve differences between PostgreSQL, Redis and the backends."""
    return await run_and_note(ctx, "reconcile", _schedule(ctx, "reconcile"), ctx["reconciler"].run)


async def sweep(ctx: dict[str, Any]) -> str:
    """Delete expired data and unused files."""
    return await run_and_note(ctx, "sweep", _schedule(ctx, "sweep"), ctx["sweeper"].sweep)


async def record_statistics(ctx: dict[str, Any]) -> str:
    """Add ended jobs, and the numbers of waiting and running jobs, to the statistics."""
    name, recorder = "record_statistics", ctx["statistics_recorder"]
    return await run_and_note(ctx, name, _schedule(ctx, name), recorder.run)


async def announce(ctx: dict[str, Any]) -> None:
    """Store when each periodic task runs next, so that a task which has not run yet is listed as well."""
    now = datetime.now(UTC)
    tasks = ctx["clockwork"].items()
    plans = [Plan(name=name, schedule=_schedule(ctx, name), next_run=_following(task, now)) for name, task in tasks]
    await ctx["runs"].announce(plans)


def _schedule(ctx: dict[str, Any], name: str) -> str:
    """Return the schedule of a periodic task in words; must match `periodic_tasks`."""
    words = {
        "reconcile": f"every {ctx['reconcile_seconds']} s",
        "sweep": "every hour",
        "record_statistics": "every minute",
    }
    return words[name]


async def run_and_note(ctx: dict[str, Any], name: str, schedule: str, work: Callable[[], Awaitable[str]]) -> str:
    """Run a periodic task and store its result, also when it failed."""
    began, now, failed = time.monotonic(), datetime.now(UTC), True
    try:
        async with asyncio.timeout(MOST_S):
            result = await work()
        failed = False
    except GenonautError as error:
        log.warning("periodic task %s failed: %s", name, error)
        result = str(error)
    except TimeoutError:
        log.warning("periodic task %s took longer than %s s and was cancelled", name, MOST_S)
        result = f"It took longer than {MOST_S} s and was cancelled."
    except Exception:
        log.exception("unexpected error in the periodic task %s", name)
        result = "An unexpected error occurred in the worker; see its log."
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
        log.warning("the result of the periodic task %s cannot be stored: %s", name, error)
    return result


def _following(task: CronJob, now: datetime) -> datetime:
    """Return when the task runs next by its schedule."""
    hand = {unit: getattr(task, unit) for unit in ("month", "day", "weekday", "hour", "minute", "second")}
    return next_cron(now, **hand, microsecond=task.microsecond)


class WorkerSettings:
    """arq's settings for the queue of turns; the queue's name and the connection come from our settings."""

    functions: ClassVar[list[Function]] = [
        # No effective arq timeout: the attempt has its own, which stops the prompt and waits for the confirmation.
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
    # If an outage makes it fail, the worker starts arq again: worker.upkeep.loops.
    on_startup = staticmethod(announce)
    # Longer than the tasks' own limit, whose result is stored.
    job_timeout = MOST_S + 10
    timezone = UTC


def periodic_tasks(reconcile_seconds: int) -> list[CronJob]:
    """Return the periodic tasks; `reconcile_seconds` must divide 60, because arq's cron uses calendar seconds."""
    seconds = set(range(0, 60, reconcile_seconds))
    return [
        cron(reconcile, name="reconcile", second=seconds, run_at_startup=True, max_tries=1, keep_result=0),
        cron(sweep, name="sweep", minute=7, second=0, max_tries=1, keep_result=0),
        cron(record_statistics, name="record_statistics", second=20, run_at_startup=True, max_tries=1, keep_result=0),
    ]
