"""The statements of the store of attempts: changes of a job and its attempt by a worker, with the event rows."""

from __future__ import annotations

from typing import Final

from sqlalchemy.dialects import postgresql

from app.domain.job import TRANSITIONS, JobEvent, Output, Phase, Repair
from app.storage.columns import STANDING
from app.storage.fair_tags import DEFERRED, QUEUED
from app.storage.schema import OutputRow
from app.storage.statements import Statement
from app.storage.transitions import (
    FENCE,
    NO_DATA,
    RELEASED,
    claimed_transition,
    event_row,
    event_rows,
    listed,
    noted_attempt,
    stepped,
    transition,
)

RENEW: Final = Statement("""
    UPDATE generation_jobs AS job
    SET lease_expires_at = now() + make_interval(secs => :lease_s), progress = GREATEST(job.progress, held.percent)
    FROM unnest(:job_ids::bigint[], :attempts::int[], :percents::smallint[]) AS held (id, attempt, percent)
    WHERE job.id = held.id AND job.attempt = held.attempt AND job.worker_id = :worker_id AND job.status = 'running'
    RETURNING job.id, job.phase""")

TAKE_OVER: Final = Statement(f"""
    WITH abandoned AS (
        SELECT id AS abandoned_id, worker_id AS lost_worker FROM generation_jobs
        WHERE status = 'running' AND lease_expires_at < now() - make_interval(secs => :over_for_s)
            AND backend_name = ANY (:backends::text[]) AND id <> ALL (:held::bigint[])
        LIMIT :limit::int FOR UPDATE SKIP LOCKED
    ), moved AS (
        UPDATE generation_jobs AS job
        SET worker_id = :worker_id::text, lease_expires_at = now() + make_interval(secs => :lease_s), seq = job.seq + 1
        FROM abandoned WHERE job.id = abandoned_id
        RETURNING job.*, lost_worker
    ), logged AS (
        {event_rows(event_row(Repair.TAKEN_OVER, ":worker_id", "jsonb_build_object('from', lost_worker)"))}
    ), noted AS (
        UPDATE job_attempts AS tried SET worker_id = :worker_id
        FROM moved WHERE tried.job_id = moved.id AND tried.number = moved.attempt
    )
    SELECT {STANDING} FROM moved""")  # noqa: S608  # of our own words only

# In the order of the indexes: without one PostgreSQL may read the whole table for the first row that is due.
ANY_DUE: Final = Statement(f"""
    SELECT COALESCE(
        (SELECT true FROM generation_jobs WHERE {QUEUED} AND available_at <= now()
            ORDER BY priority DESC, fair_tag, id LIMIT 1),
        (SELECT true FROM generation_jobs WHERE {DEFERRED} AND available_at <= now()
            ORDER BY available_at, id LIMIT 1),
        false)""")  # noqa: S608
NOTE_TURN_RENEWED: Final = Statement(f"""
    WITH moved AS (
        UPDATE generation_jobs AS job SET seq = job.seq + 1
        WHERE job.id = :job_id AND job.status = 'pending' RETURNING job.*
    )
    {event_rows(event_row(Repair.TURN_RENEWED, ":actor::text"))}""")  # noqa: S608  # of our own words only

SUBMITTING: Final = Statement(f"""
    WITH held AS (
        SELECT id FROM generation_jobs AS job WHERE {FENCE} AND job.status = 'running' FOR NO KEY UPDATE
    ), renamed AS (
        UPDATE generation_jobs AS job SET prompt_id = :prompt_id::text
        FROM held WHERE job.id = held.id AND job.prompt_id <> :prompt_id
    )
    UPDATE job_attempts AS tried SET graph = :graph, prompt_id = :prompt_id, workflow_key = :workflow_key::text,
        submitted_at = COALESCE(now() - make_interval(secs => :sent_s::float8), tried.submitted_at)
    FROM held WHERE tried.job_id = held.id AND tried.number = :attempt
    RETURNING tried.job_id""")  # noqa: S608  # of our own words only
"""The job's row first, as everywhere: two transactions that lock in different orders wait for each other."""

NOTE_INPUTS: Final = Statement(f"""
    WITH held AS (
        UPDATE generation_jobs AS job
        SET image = :image::jsonb, mask = :mask::jsonb, inputs = :inputs::jsonb, width = :width::int,
            height = :height::int
        WHERE {FENCE} AND job.status = 'running' RETURNING id
    ), needed AS (
        INSERT INTO job_uploads (job_id, upload_id)
        SELECT held.id, needed FROM held, unnest(:upload_ids::text[]) AS needed
        ON CONFLICT DO NOTHING
    ), renewed AS (
        UPDATE uploads SET expires_at = GREATEST(expires_at, now() + :keep::interval)
        WHERE id = ANY (:upload_ids::text[])
    )
    SELECT id FROM held""")  # noqa: S608  # of our own words only

_ENDED: Final = "ended_at = now(), outcome = '{outcome}'"
_ERROR: Final = "error_code = :error_code::text, error_message = :error::text"
_ERROR_DATA: Final = "jsonb_build_object('error_code', :error_code::text, 'error', :error::text)"
_NODE: Final = "node_id = :node_id::text, node_type = :node_type::text, traceback = :traceback::text"

EXECUTING: Final = Statement(claimed_transition(JobEvent.EXECUTING))
SAVING: Final = Statement(claimed_transition(JobEvent.SAVING, job="progress = 100"))
FAIL: Final = Statement(
    claimed_transition(
        JobEvent.FAILED,
        job=f"completed_at = now(), {_ERROR}, {RELEASED}",
        attempt=f"{_ENDED.format(outcome='failed')}, {_ERROR}, {_NODE}",
        data=_ERROR_DATA,
    )
)
REQUEUE: Final = Statement(
    claimed_transition(
        JobEvent.REQUEUED,
        job=f"""attempt = job.attempt + 1, available_at = now() + make_interval(secs => :delay_s), refused_by = :avoid,
            attempt_limit = job.attempt_limit + :uncounted::int, suspicions = job.suspicions + :suspicions::int,
            progress = 0, {_ERROR}, {RELEASED}""",
        attempt=f"{_ENDED.format(outcome='retried')}, {_ERROR}, {_NODE}",
        data=f"{_ERROR_DATA} || CASE WHEN :suspicions > 0 THEN '{{\"suspect\": true}}'::jsonb ELSE {NO_DATA} END",
    )
)
CANCELLED: Final = Statement(
    claimed_transition(
        JobEvent.CANCELLED, job=f"completed_at = now(), {RELEASED}", attempt=_ENDED.format(outcome="cancelled")
    )
)

_COLUMNS: Final = [column for column in OutputRow.__table__.columns if column.key in Output.__dataclass_fields__]
_NAMES: Final = ", ".join(f'"{column.name}"' for column in _COLUMNS)
_TYPED: Final = ", ".join(f'"{column.name}" {column.type.compile(postgresql.dialect())}' for column in _COLUMNS)  # type: ignore[no-untyped-call]
_SAVING_ROW: Final = event_row(
    JobEvent.SAVING,
    ":worker_id",
    seq="seq - 1",
    phase=f"'{Phase.SAVING}'",
    source="moved JOIN held USING (id) WHERE NOT was_saving",
)
_COMPLETED_ROW: Final = event_row(
    JobEvent.COMPLETED, ":worker_id", "jsonb_build_object('content_id', content_id)", source="moved"
)
COMPLETE: Final = Statement(f"""
    WITH held AS (
        SELECT id, job.phase = '{Phase.SAVING}' AS was_saving FROM generation_jobs AS job
        WHERE {FENCE} AND (job.phase IN ({listed(TRANSITIONS[JobEvent.COMPLETED].sources)})
            OR :ended_s::float8 IS NOT NULL AND job.phase IN ({listed(TRANSITIONS[JobEvent.SAVING].sources)}))
        FOR NO KEY UPDATE
    ), content AS (
        INSERT INTO contents (job_id) SELECT id FROM held RETURNING id, job_id
    ), stored AS (
        INSERT INTO outputs (content_id, {_NAMES})
        SELECT content.id, output.* FROM content, jsonb_to_recordset(:outputs::jsonb) AS output ({_TYPED})
    ), moved AS (
        UPDATE generation_jobs AS job
        SET {stepped(Phase.COMPLETED, "CASE WHEN was_saving THEN 1 ELSE 2 END")}, content_id = content.id,
            progress = 100, completed_at = now(), warnings = job.warnings || :warnings::text[], {RELEASED}
        FROM held JOIN content ON content.job_id = held.id
        WHERE job.id = held.id
        RETURNING job.*
    ), logged AS (
        {event_rows(_SAVING_ROW, _COMPLETED_ROW)}
    ), noted AS (
        {noted_attempt(_ENDED.format(outcome="completed"))}
    )
    SELECT {STANDING} FROM moved""")  # noqa: S608  # of our own words only
"""One or two transitions. The fence is checked first, so that a worker that lost its claim gets no row instead of a
violated constraint of `contents`."""

GIVE_UP: Final = Statement(f"""
    WITH waits AS (
        SELECT id AS waits_id, said FROM generation_jobs
        JOIN unnest(:job_ids::bigint[], :attempts::int[], :errors::text[]) AS asked (asked_id, number, said)
            ON id = asked_id AND attempt = number
        WHERE status = 'pending' AND available_at < now() - make_interval(secs => :wait_s::float8)
        ORDER BY id FOR NO KEY UPDATE OF generation_jobs SKIP LOCKED
    ), {
    transition(
        JobEvent.GIVEN_UP,
        source="waits",
        where="job.id = waits_id",
        job="completed_at = now(), error_code = :error_code::text, error_message = said",
        actor=":actor::text",
        data="jsonb_build_object('error_code', :error_code, 'error', error_message)",
    )
}
    SELECT {STANDING} FROM moved""")  # noqa: S608  # of our own words only
"""Ends jobs that wait as failed. One that a worker takes, or somebody cancels, in this very moment is left out."""
