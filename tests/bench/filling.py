"""Fills an empty database with as many jobs as one wants, in the mix of a service that has long been running."""

from __future__ import annotations

from typing import Final

import asyncpg

FILL: Final = """
SET session_replication_role = replica;  -- no foreign key is checked row by row
SELECT setseed(0.4);  -- the same jobs each time: of others PostgreSQL may think that another plan is better
INSERT INTO generation_jobs (user_id, job_type, prompt, negative_prompt, checkpoint_model, lora_models, width, height,
    batch_size, sampler_params, priority, max_attempts, timeout_seconds, metadata, params, warnings, status, phase,
    seq, attempt, attempt_limit, progress, refused_by, backend_name, worker_id, lease_expires_at, prompt_id,
    error_code, error_message, content_id, available_at, queued_at, created_at, updated_at, started_at, completed_at)
SELECT CASE WHEN n % ({jobs} / 20) = 0 THEN 'seldom' ELSE 'user' || floor(random() ^ 3 * 400)::int END,
    CASE WHEN n % 50 = 7 THEN 'video' ELSE 'image' END, prompt || n, 'blurry, low quality',
    'model' || floor(random() ^ 2 * 20)::int || '.safetensors', '[]', 832, 1216, 1,
    '{{"seed": 18446744073709551615, "steps": 28, "cfg": 5.5, "sampler_name": "euler", "scheduler": "normal"}}',
    n % 3, 4, 900, '{{}}', '{{}}', '{{}}', status,
    CASE status WHEN 'pending' THEN 'queued' WHEN 'running' THEN 'executing' ELSE status END,
    CASE status WHEN 'pending' THEN 1 WHEN 'running' THEN 3 ELSE 5 END, 1, 4,
    CASE status WHEN 'completed' THEN 100 ELSE 0 END, '{{}}', backend, CASE status WHEN 'running' THEN 'w1' END,
    CASE status WHEN 'running' THEN now() + interval '1 hour' END,
    CASE WHEN status <> 'pending' THEN gen_random_uuid()::text END,
    CASE WHEN status = 'failed' THEN CASE WHEN n % 100 = 2 THEN 'out_of_memory' ELSE 'node_failed' END END,
    CASE WHEN status = 'failed' THEN 'the tensor has the wrong shape' END, CASE status WHEN 'completed' THEN n END,
    at, at, at, COALESCE(ended_at, at), CASE WHEN status <> 'pending' THEN at + interval '5 s' END, ended_at
FROM (
    SELECT *, CASE WHEN status <> 'pending' THEN 'gpu' || n % 8 END AS backend,
        CASE WHEN status NOT IN ('pending', 'running') THEN at + interval '20 s' END AS ended_at,
        (SELECT string_agg(words[1 + (hashint8(n * 31 + word) & 1023) % cardinality(words)], ' ')
            FROM generate_series(1, 20) AS word) || ' ' AS prompt
    FROM (
        SELECT n, now() - ({jobs} - n) * interval '10 s' AS at,
            CASE WHEN n > {jobs} - 200 THEN 'pending' WHEN n > {jobs} - 204 THEN 'running'
                WHEN n % 25 = 2 THEN 'failed' WHEN n % 50 = 3 THEN 'cancelled' ELSE 'completed' END AS status,
            string_to_array('harbour fog lantern copper fox river glass tower winter orchard moth silver canyon dusk
                violin ember ship marble garden storm meadow crow lighthouse velvet desert crystal wolf cathedral
                bamboo comet tide mirror saffron owl bridge snow market island thunder rose clock mountain whale',
                ' ') AS words
        FROM generate_series(1, {jobs}) AS n
    ) AS places
) AS jobs;
INSERT INTO job_attempts (job_id, number, worker_id, backend_name, prompt_id, claimed_at, submitted_at, executing_at,
    executed_at, ended_at, outcome, error_code, error_message, node_id, node_type)
SELECT id, 1, CASE status WHEN 'running' THEN 'w1' ELSE 'w' || id % 400 END, backend_name, prompt_id, started_at,
    started_at, started_at, completed_at, completed_at, NULLIF(status, 'running'), error_code, error_message,
    CASE status WHEN 'failed' THEN '7' END,
    CASE status WHEN 'failed' THEN CASE WHEN id % 1000 = 2 THEN 'VAEDecode' ELSE 'KSampler' END END
FROM generation_jobs WHERE status <> 'pending';
INSERT INTO job_events (job_id, seq, at, event, phase, attempt, actor, data)
SELECT id, step, created_at + step * interval '3 s',
    (ARRAY['submitted', 'claimed', 'executing', 'saving', status])[step],
    (ARRAY['queued', 'assigned', 'executing', 'saving', status])[step], 1, 'w1', '{{}}'
FROM generation_jobs, generate_series(1, seq) AS step;
INSERT INTO contents (id, job_id, created_at) OVERRIDING SYSTEM VALUE
SELECT id, id, completed_at FROM generation_jobs WHERE status = 'completed';
INSERT INTO outputs (content_id, index, node_id, kind, content_type, size_bytes, width, height, sha256, path,
    thumbnail_path)
SELECT id, 0, '9', 'image', 'image/png', 1400000, 832, 1216, md5(id::text) || md5(id::text),
    to_char(created_at, 'YYYY/MM/DD/') || id || '/1_0.png',
    to_char(created_at, 'YYYY/MM/DD/') || id || '/1_0.thumb.webp'
FROM contents;
SELECT setval(pg_get_serial_sequence('contents', 'id'), {jobs});
RESET session_replication_role;
VACUUM ANALYZE;
CHECKPOINT
"""
"""A service's life so far, a job each 10 s: nearly all have ended, 200 wait, 4 run, one user has sent 20."""


async def fill(url: str, jobs: int) -> None:
    """Fill it: jobs 1 to `jobs`, of which the last 200 wait and the 4 before them run; 1,000 jobs or more.

    As a superuser, whom PostgreSQL lets pass over the foreign keys.
    """
    connection = await asyncpg.connect(url)
    try:
        for statement in FILL.format(jobs=jobs).split(";\n"):
            await connection.execute(statement)
    finally:
        await connection.close()
