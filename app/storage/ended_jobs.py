"""What counts as an end of a job, and the stretches of time in which ends are counted: for recording and reading."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from app.domain.histogram import BOUNDS

FIVE_MINUTES_S: Final = 300
HOUR_S: Final = 3600
DAY_S: Final = 86400
SPANS_S: Final = (FIVE_MINUTES_S, HOUR_S, DAY_S)
"""The lengths of the stretches in which jobs are counted. Stretches begin at whole multiples, in UTC."""
KEPT: Final = {
    FIVE_MINUTES_S: timedelta(hours=48),
    HOUR_S: timedelta(days=9),
    DAY_S: timedelta(days=93),
}
"""How long the stretches of each length are kept: the longer ones have the same jobs in them."""

EPOCH: Final = "timestamptz 'epoch'"
NO_JIT: Final = "SET LOCAL jit = off"
"""Compiling a hundred sums takes longer than adding up the few rows that there are."""
COUNTED_UNTIL: Final = "SELECT now(), (SELECT counted_until FROM statistics_progress WHERE id = 1)"
LIVE: Final = """
    (SELECT count(*)::int FROM generation_jobs WHERE status = 'pending'),
    (SELECT count(*)::int FROM generation_jobs WHERE status = 'running')"""


# What counts as an end, with `Job.waited_s` and `Job.ran_s` in SQL: the very expressions that the filters
# `waited_over_s` and `ran_over_s` of a list compare.
_WAIT_S: Final = "extract(epoch FROM COALESCE(job.started_at, job.completed_at) - job.queued_at)::float8"
_RUN_S: Final = "extract(epoch FROM job.completed_at - job.started_at)::float8"
# One row by its primary key for each job, whatever PostgreSQL thinks of their number.
_LAST_ATTEMPT: Final = """LEFT JOIN LATERAL (
        SELECT error_code, node_type, load_s, executing_at, executed_at, ended_at FROM job_attempts
        WHERE job_id = job.id AND number = job.attempt LIMIT 1) AS tried ON true"""
ENDED: Final = f"""
    SELECT job.completed_at, job.status, COALESCE(job.backend_name, '') AS backend_name,
        COALESCE(job.checkpoint_model, '') AS checkpoint_model, COALESCE(job.error_code, '') AS error_code,
        CASE WHEN job.status = 'failed' AND tried.error_code = job.error_code THEN COALESCE(tried.node_type, '')
            ELSE '' END AS node_type,
        COALESCE(tried.load_s, 0)::float8 AS load_s,
        {_WAIT_S} AS wait_s, width_bucket({_WAIT_S}, ARRAY{list(BOUNDS)}::float8[]) AS wait,
        {_RUN_S} AS run_s, width_bucket({_RUN_S}, ARRAY{list(BOUNDS)}::float8[]) AS run
    FROM generation_jobs AS job {_LAST_ATTEMPT}"""  # noqa: S608  # of our own words only
ENDED_OF_TENANTS: Final = f"""
    SELECT job.completed_at, job.user_id AS tenant, GREATEST(0, {_WAIT_S}) AS wait_s, GREATEST(0, COALESCE(
        extract(epoch FROM COALESCE(tried.executed_at, tried.ended_at) - tried.executing_at), 0))::float8 AS gpu_s
    FROM generation_jobs AS job {_LAST_ATTEMPT}"""  # noqa: S608  # of our own words only
"""What each job's user got by it: the seconds for which ComfyUI executed its last attempt."""


def longest(column: str) -> str:
    """Return the SQL of the longest of lengths of time; without any it is 0."""
    return f"GREATEST(0, max({column}))"


def floor(at: datetime, step_s: int) -> datetime:
    """Return the beginning of the step, a whole multiple of its length, that holds this moment."""
    seconds = int(at.timestamp())
    return datetime.fromtimestamp(seconds - seconds % step_s, UTC)
