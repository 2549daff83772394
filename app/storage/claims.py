"""Which waiting job a backend gets next: one statement, guarded, so that of several workers each gets another job."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from app.domain.job import TRANSITIONS, JobEvent
from app.storage.columns import WHOLE
from app.storage.transitions import listed, stepped

AVOID_FOR = timedelta(minutes=5)
"""So long a job waits for another backend than one that failed it; after that any may try again."""
HEAD_START = timedelta(seconds=60)
"""So long a job that a backend has failed waits for one whose device is not in doubt."""


def _claim(which: str) -> str:
    """Return the SQL that takes the first of the waiting jobs of which `which` is true."""
    return f"""
        WITH turn AS (
            SELECT id FROM generation_jobs
            WHERE status = 'pending' AND available_at <= now() AND (backend IS NULL OR backend = $2::text)
                AND NOT ($2 = ANY (refused_by) AND available_at > now() - $5::interval) AND {which}
            ORDER BY priority DESC, available_at, id
            LIMIT 1 FOR UPDATE SKIP LOCKED
        ), moved AS (
            UPDATE generation_jobs AS job
            SET {stepped(TRANSITIONS[JobEvent.CLAIMED].target)}, worker_id = $1::text, backend_name = $2,
                prompt_id = $3::text, lease_expires_at = now() + make_interval(secs => $4),
                started_at = COALESCE(job.started_at, now()), progress = 0, error_code = NULL, error_message = NULL
            FROM turn
            WHERE job.id = turn.id AND job.phase IN ({listed(TRANSITIONS[JobEvent.CLAIMED].sources)})
            RETURNING job.*
        ), logged AS (
            INSERT INTO job_events (job_id, seq, event, phase, attempt, actor, data)
            SELECT id, seq, '{JobEvent.CLAIMED}', phase, attempt, $1, jsonb_build_object('backend', $2, 'prompt_id', $3)
            FROM moved
        ), tried AS (
            INSERT INTO job_attempts (job_id, number, worker_id, backend_name, prompt_id, claimed_at)
            SELECT id, attempt, $1, $2, $3, now() FROM moved
        )
        SELECT {WHOLE} FROM moved"""  # noqa: S608  # of our own words only


CLAIM: Final = _claim(
    """(suspicions = 0 OR backend_name = $2)
    AND (NOT $6::bool OR refused_by = '{}' OR available_at < now() - $7::interval)"""
)
"""Parameters: worker id, backend, prompt id, seconds of the lease, `AVOID_FOR`, whether only those that no backend has
failed are taken, and for how long: `HEAD_START`. A suspect stays with the backend that stopped under it."""
CLAIM_SUSPECT: Final = _claim("suspicions > 0")
"""The first five of the parameters."""
