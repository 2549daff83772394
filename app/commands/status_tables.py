"""Tables of workers, and of periodic tasks with their last and next runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from app.commands.redis_database import open_redis
from app.commands.terminal import duration, show, table
from app.environment import with_servers
from app.messaging.channels import Names
from app.messaging.registry import Registry
from app.storage.database import Database, make_engine
from app.storage.periodic_tasks import PeriodicTasks

if TYPE_CHECKING:
    from app.domain.heartbeats import WorkerBeat
    from app.settings import Settings
    from app.storage.periodic_tasks import PeriodicRun, Plan


async def workers(settings: Settings) -> int:
    """Show the workers of the last day, live and lost."""
    async with open_redis(settings) as (redis, complete):
        registry = Registry(redis, Names(complete.redis_namespace), complete.stale_seconds)
        beats = await registry.workers()
    if beats:
        header = ("WORKER", "STATE", "HOST:PID", "STARTED", "HEARTBEAT", "BACKENDS", "RUNNING")
        show(table(header, [_worker_row(beat) for beat in beats]))
    else:
        environment = settings.genonaut_env
        show(f"No worker of {environment} was seen within a day; make worker-{environment} starts one.")
    return 0


async def cron_status(settings: Settings) -> int:
    """Show the periodic tasks, which the workers run."""
    environment = settings.genonaut_env
    async with with_servers(settings, redis=False) as complete:
        database = Database(make_engine(complete))
        try:
            await database.check_schema(f"make migrate-{environment}")
            tasks = PeriodicTasks(database)
            plans, runs = await tasks.plans(), {run.name: run for run in await tasks.all()}
        finally:
            await database.close()
    if plans:
        header = ("TASK", "SCHEDULE", "LAST RUN", "RESULT", "TOOK", "NEXT RUN")
        show(table(header, [_cron_row(plan, runs.get(plan.name)) for plan in plans]))
    else:
        show(
            f"No worker of {environment} has told of periodic tasks yet; a worker runs them: make worker-{environment}."
        )
    return 0


def _worker_row(beat: WorkerBeat) -> tuple[object, ...]:
    return (
        beat.name,
        "live" if beat.live else "lost",
        f"{beat.host or '?'}:{'?' if beat.pid is None else beat.pid}",
        _time_text(beat.started_at) if beat.started_at is not None else "never",
        f"{duration(beat.age_s)} ago",
        ", ".join(beat.backends) or "none",
        ", ".join(map(str, beat.running)) or "nothing",
    )


def _cron_row(plan: Plan, run: PeriodicRun | None) -> tuple[object, ...]:
    next_run = _time_text(plan.next_run, past="overdue by {}")
    if run is None:
        return (plan.name, plan.schedule, "never", "", "", next_run)
    result = f"failed: {run.result}" if run.failed else run.result
    return (plan.name, plan.schedule, _time_text(run.last_run), result, f"{run.duration_ms} ms", next_run)


def _time_text(at: datetime, past: str = "{} ago") -> str:
    """Return a time as a table shows it: in UTC, and how far away; `past` is the format for a time in the past."""
    away_s = (datetime.now(UTC) - at).total_seconds()
    told = past.format(duration(away_s)) if away_s >= 0 else f"in {duration(-away_s)}"
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z ({told})"
