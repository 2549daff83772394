"""Which waiting job a backend gets next: one statement, guarded, so that of several workers each gets another job."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from app.domain.job import JobEvent
from app.storage.columns import WHOLE
from app.storage.statements import Statement
from app.storage.transitions import transition

AVOID_FOR = timedelta(minutes=5)
"""Time for which a job waits for another backend than those that failed it; after that any of them may try again."""
HEAD_START = timedelta(seconds=60)
"""Time for which a job that a backend has failed waits for a backend whose device is not in doubt."""


def _claim(which: str) -> Statement:
    """Return the statement that takes the first of the waiting jobs of which `which` is true."""
    claimed = transition(
        JobEvent.CLAIMED,
        source="turn",
        where="job.id = turn.id",
        job="""worker_id = :worker_id::text, backend_name = :backend, prompt_id = :prompt_id::text,
            lease_expires_at = now() + make_interval(secs => :lease_s),
            started_at = COALESCE(job.started_at, now()), progress = 0, error_code = NULL, error_message = NULL""",
        actor=":worker_id",
        data="jsonb_build_object('backend', :backend, 'prompt_id', :prompt_id)",
    )
    return Statement(f"""
        WITH turn AS (
            SELECT id FROM generation_jobs
            WHERE status = 'pending' AND available_at <= now() AND (backend IS NULL OR backend = :backend::text)
                AND NOT (:backend = ANY (refused_by) AND available_at > now() - :avoid_for::interval) AND {which}
            ORDER BY priority DESC, available_at, id
            LIMIT 1 FOR UPDATE SKIP LOCKED
        ), {claimed}, tried AS (
            INSERT INTO job_attempts (job_id, number, worker_id, backend_name, prompt_id, claimed_at)
            SELECT id, attempt, :worker_id, :backend, :prompt_id, now() FROM moved
        )
        SELECT {WHOLE} FROM moved""")  # noqa: S608  # of our own words only


CLAIM: Final = _claim(
    """(suspicions = 0 OR backend_name = :backend)
    AND (NOT :unrefused::bool OR refused_by = '{}' OR available_at < now() - :head_start::interval)"""
)
"""A suspect is taken only by the backend that stopped while executing it. With `unrefused`, a job that a backend has
failed is left out for the time `HEAD_START`."""
CLAIM_SUSPECT: Final = _claim("suspicions > 0")
