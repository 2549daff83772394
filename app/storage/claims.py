"""Which waiting job a backend gets next: one statement, guarded, so that of several workers each gets another job."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from app.domain.job import JobEvent
from app.storage.columns import WHOLE
from app.storage.fair_tags import CLOCK_MOVED, QUEUED
from app.storage.statements import Statement
from app.storage.transitions import transition

if TYPE_CHECKING:
    from collections.abc import Callable

AVOID_FOR = timedelta(minutes=5)
"""Time for which a job waits for another backend than those that failed it; after that any of them may try again."""
RUNNING_OF_KEY: Final = """(CASE WHEN jsonb_exists(limits, 'running') THEN (limits ->> 'running')::bigint
                ELSE (:running_of_roles::jsonb ->> role)::bigint END)"""
"""How many jobs a key lets its owner have running, as SQL; `:running_of_roles` is JSON, role → its limit."""
HEAD_START = timedelta(seconds=60)
"""Time for which a job that a backend has failed waits for a backend whose device is not in doubt."""


_TURNS: Final = "priority DESC, fair_tag, id"
_IN_TURN: Final = f"ORDER BY {_TURNS} LIMIT 1"
_LOCKED: Final = "FOR UPDATE SKIP LOCKED"


def _first(fits: str) -> str:
    """Return the CTE `turn`: the first job that fits."""
    return f"turn AS (SELECT id FROM generation_jobs WHERE {fits} {_IN_TURN} {_LOCKED})"  # noqa: S608


def _most_running(owner: str) -> str:
    """Return the SQL that tells how many jobs of an owner may run; NULL is no limit.

    That is what the most generous of its keys lets it. Revoked ones count only where there are no others: who has lost
    its keys gets no more by that.
    """
    return f"""(
        SELECT CASE WHEN bool_and(most IS NOT NULL) THEN max(most) END
        FROM (
            SELECT {RUNNING_OF_KEY} AS most FROM api_keys
            WHERE owner = {owner} AND (revoked_at IS NULL
                OR NOT EXISTS (SELECT FROM api_keys WHERE owner = {owner} AND revoked_at IS NULL))
        ) AS of_keys)"""  # noqa: S608


def _first_of(owner: str, fits: str) -> str:
    """Return the condition and the order of the first job of an owner that fits.

    As a range, and in an order that only one index has: of an equal `user_id` PostgreSQL, which does not know how much
    of the queue is the owner's, may walk through the whole queue instead.
    """
    return f"user_id >= {owner} AND user_id <= {owner} AND {fits} ORDER BY user_id, {_TURNS} LIMIT 1"


def _first_within_limits(fits: str) -> str:
    """Return the CTEs up to `turn`: the first job that fits, of an owner who may have another one run.

    As long as no owner has as many running as may run, that is the first job. Else it is the first one of the others,
    whose first ones are looked at owner by owner: in front of them may wait a million jobs of one who may have none.
    The number of owners who wait is what that costs, about 20 µs each.
    """
    return f"""busy AS MATERIALIZED (
            SELECT user_id, count(*) AS running FROM generation_jobs WHERE status = 'running' GROUP BY user_id
        ), at_limit AS MATERIALIZED (
            SELECT COALESCE(array_agg(user_id), '{{}}') AS owners FROM busy
            WHERE running >= {_most_running("busy.user_id")}
        ), waiting AS (
            (SELECT user_id FROM generation_jobs
                WHERE {QUEUED} AND (SELECT owners <> '{{}}' FROM at_limit) ORDER BY user_id LIMIT 1)
            UNION ALL
            SELECT (SELECT user_id FROM generation_jobs
                WHERE {QUEUED} AND user_id > waiting.user_id ORDER BY user_id LIMIT 1)
            FROM waiting WHERE waiting.user_id IS NOT NULL
        ), next_owner AS MATERIALIZED (
            SELECT waiting.user_id FROM waiting CROSS JOIN LATERAL (
                SELECT priority, fair_tag, id FROM generation_jobs
                WHERE {_first_of("waiting.user_id", fits)}
            ) AS head
            WHERE waiting.user_id <> ALL ((SELECT owners FROM at_limit)::text[])
            ORDER BY head.priority DESC, head.fair_tag, head.id LIMIT 1
        ), turn AS (
            SELECT id FROM (
                SELECT id, user_id FROM (
                    SELECT id, user_id FROM generation_jobs
                    WHERE (SELECT owners = '{{}}' FROM at_limit) AND {fits} {_IN_TURN} {_LOCKED}
                ) AS of_all
                UNION ALL
                SELECT id, user_id FROM (
                    SELECT id, user_id FROM generation_jobs
                    WHERE {_first_of("(SELECT user_id FROM next_owner)", fits)} {_LOCKED}
                ) AS of_owner
            ) AS candidate
            WHERE owner_may_run(user_id, {_most_running("candidate.user_id")})
        )"""  # noqa: S608  # of our own words only


def _claim(which: str, first: Callable[[str], str] = _first) -> Statement:
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
    fits = f"""{QUEUED} AND available_at <= now() AND (backend IS NULL OR backend = :backend::text)
        AND NOT (:backend = ANY (refused_by) AND available_at > now() - :avoid_for::interval) AND {which}"""
    return Statement(f"""
        WITH RECURSIVE {first(fits)}, {claimed}, {CLOCK_MOVED}, tried AS (
            INSERT INTO job_attempts (job_id, number, worker_id, backend_name, prompt_id, claimed_at)
            SELECT id, attempt, :worker_id, :backend, :prompt_id, now() FROM moved
        )
        SELECT {WHOLE} FROM moved""")  # noqa: S608  # of our own words only


_UNSUSPECTED: Final = """(suspicions = 0 OR backend_name = :backend)
    AND (NOT :unrefused::bool OR refused_by = '{}' OR available_at < now() - :head_start::interval)"""
_SUSPECTED: Final = "suspicions > 0"
CLAIM: Final = _claim(_UNSUSPECTED)
"""A suspect is taken only by the backend that stopped while executing it. With `unrefused`, a job that a backend has
failed is left out for the time `HEAD_START`."""
CLAIM_SUSPECT: Final = _claim(_SUSPECTED)
CLAIM_WITHIN_LIMITS: Final = _claim(_UNSUSPECTED, _first_within_limits)
CLAIM_SUSPECT_WITHIN_LIMITS: Final = _claim(_SUSPECTED, _first_within_limits)
"""The same where running jobs of any owner are limited. Of two claims at once one waits for the other (`owner_may_run`,
migration 0011), so that not both begin the last job that may run."""
RUNNING_LIMITED: Final = Statement(
    "SELECT EXISTS (SELECT FROM api_keys WHERE (limits ->> 'running') IS NOT NULL) AS by_key"
)
