"""Which waiting job a backend gets next: one statement, guarded, so that of several workers each gets another job."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from app.domain.job import JobEvent
from app.storage.columns import WHOLE
from app.storage.fair_tags import QUEUED, clock_moved, waiting_owners
from app.storage.pauses import EVERYBODY
from app.storage.statements import Statement
from app.storage.transitions import transition

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
_IS_AT_HAND: Final = "(:warm::text[] IS NULL OR models <@ :warm AND prefer IS NULL)"
"""Whether the first job is to be taken as it comes: its models are loaded and it has no wish."""


def _first(fits: str) -> str:
    """Return the CTE `turn`: the first job that fits, if it is at hand."""
    return f"""turn AS (
            SELECT id FROM (
                SELECT id, models, prefer FROM generation_jobs WHERE {fits} {_IN_TURN} {_LOCKED}
            ) AS head WHERE {_IS_AT_HAND}
        )"""  # noqa: S608


def _chosen(fits: str) -> str:
    """Return the CTE `turn`: the job that was chosen, if it still fits."""
    return f"turn AS (SELECT id FROM generation_jobs WHERE id = :chosen_id AND {fits} {_LOCKED})"  # noqa: S608


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


def _of_owner(owner: str, fits: str) -> str:
    """Return the condition and the order of the jobs of an owner that fit.

    As a range, and in an order that only one index has: of an equal `user_id` PostgreSQL, which does not know how much
    of the queue is the owner's, may walk through the whole queue instead.
    """
    return f"user_id >= {owner} AND user_id <= {owner} AND {fits} ORDER BY user_id, {_TURNS}"


_NOBODY_AT_LIMIT: Final = "(SELECT owners = '{}' FROM at_limit)"
_SOMEBODY_AT_LIMIT: Final = f"(SELECT owners <> '{{}}' AND '{EVERYBODY}' <> ALL (owners) FROM at_limit)"  # noqa: S608
"""Some are, and not everybody is paused."""


def _owners_within_limits(fits: str, most: str) -> str:
    """Return the CTEs up to `next_owners`: the owners who may have another job run, those whose first one is due first.

    None are looked for as long as nobody has as many running as may run. The number of owners who wait is what that
    costs, about 20 µs each. Who is paused may have no more running than has; while everybody is, nobody is looked at.
    """
    return f"""busy AS MATERIALIZED (
            SELECT user_id, count(*) AS running FROM generation_jobs WHERE status = 'running' GROUP BY user_id
        ), at_limit AS MATERIALIZED (
            SELECT COALESCE(array_agg(user_id), '{{}}') AS owners FROM (
                SELECT user_id FROM busy WHERE running >= {_most_running("busy.user_id")}
                UNION ALL SELECT tenant FROM pauses
            ) AS held_back
        ), {waiting_owners(_SOMEBODY_AT_LIMIT)}, next_owners AS MATERIALIZED (
            SELECT waiting.user_id FROM waiting CROSS JOIN LATERAL (
                SELECT priority, fair_tag, id FROM generation_jobs
                WHERE {_of_owner("waiting.user_id", fits)} LIMIT 1
            ) AS head
            WHERE waiting.user_id <> ALL ((SELECT owners FROM at_limit)::text[])
            ORDER BY head.priority DESC, head.fair_tag, head.id LIMIT {most}
        )"""  # noqa: S608  # of our own words only


def _first_within_limits(fits: str) -> str:
    """Return the CTEs up to `turn`: the first job that fits, of an owner who may have another one run, if at hand.

    As long as no owner has as many running as may run, that is the first job. Else it is the first one of the others,
    whose first ones are looked at owner by owner: in front of them may wait a million jobs of one who may have none.
    """
    return f"""{_owners_within_limits(fits, "1")}, turn AS (
            SELECT id FROM (
                SELECT id, user_id, models, prefer FROM (
                    SELECT id, user_id, models, prefer FROM generation_jobs
                    WHERE {_NOBODY_AT_LIMIT} AND {fits} {_IN_TURN} {_LOCKED}
                ) AS of_all
                UNION ALL
                SELECT id, user_id, models, prefer FROM (
                    SELECT id, user_id, models, prefer FROM generation_jobs
                    WHERE {_of_owner("(SELECT user_id FROM next_owners)", fits)} LIMIT 1 {_LOCKED}
                ) AS of_owner
            ) AS candidate
            WHERE {_IS_AT_HAND} AND owner_may_run(user_id, {_most_running("candidate.user_id")})
        )"""  # noqa: S608  # of our own words only


def _chosen_within_limits(fits: str) -> str:
    """Return the CTE `turn`: the job that was chosen, if it still fits, and its owner may have another one run."""
    return f"""turn AS (
            SELECT id FROM (
                SELECT id, user_id FROM generation_jobs WHERE id = :chosen_id AND {fits} {_LOCKED}
            ) AS candidate
            WHERE owner_may_run(user_id, {_most_running("candidate.user_id")})
                AND NOT EXISTS (SELECT FROM pauses WHERE tenant IN ('{EVERYBODY}', candidate.user_id))
        )"""  # noqa: S608


_FITS: Final = f"""{QUEUED} AND available_at <= now() AND (backend IS NULL OR backend = :backend::text)
        AND NOT (:backend = ANY (refused_by) AND available_at > now() - :avoid_for::interval)"""
_UNSUSPECTED: Final = f"""{_FITS} AND (suspicions = 0 OR backend_name = :backend)
        AND (NOT :unrefused::bool OR refused_by = '{{}}' OR available_at < now() - :head_start::interval)"""
_SUSPECTED: Final = f"{_FITS} AND suspicions > 0"


def _claim(turn: str, clock: str, *more: str) -> Statement:
    """Return the statement that takes the job of the CTE `turn`. `clock` sets the clock; `more` are further CTEs."""
    claimed = transition(
        JobEvent.CLAIMED,
        source="turn",
        where="job.id = turn.id",
        job="""worker_id = :worker_id::text, backend_name = :backend, prompt_id = :prompt_id::text,
            lease_expires_at = now() + make_interval(secs => :lease_s),
            started_at = COALESCE(job.started_at, now()), progress = 0, error_code = NULL, error_message = NULL""",
        actor=":worker_id",
        data="jsonb_build_object('backend', :backend, 'prompt_id', :prompt_id) || COALESCE(:choice::jsonb, '{}')",
    )
    return Statement(f"""
        WITH RECURSIVE {", ".join((turn, claimed, clock, *more))}, tried AS (
            INSERT INTO job_attempts (job_id, number, worker_id, backend_name, prompt_id, claimed_at, choice)
            SELECT id, attempt, :worker_id, :backend, :prompt_id, now(), :choice FROM moved
        )
        SELECT {WHOLE} FROM moved""")  # noqa: S608  # of our own words only


CLAIM: Final = _claim(_first(_UNSUSPECTED), clock_moved())
"""A suspect is taken only by the backend that stopped while executing it. With `unrefused`, a job that a backend has
failed is left out for the time `HEAD_START`."""
CLAIM_SUSPECT: Final = _claim(_first(_SUSPECTED), clock_moved())
CLAIM_WITHIN_LIMITS: Final = _claim(_first_within_limits(_UNSUSPECTED), clock_moved())
CLAIM_SUSPECT_WITHIN_LIMITS: Final = _claim(_first_within_limits(_SUSPECTED), clock_moved())
"""The same where running jobs of any owner are limited, or paused. Of two claims at once one waits for the other
(`owner_may_run`, migration 0011), so that not both begin the last job that may run."""
RUNNING_LIMITED: Final = Statement(
    """SELECT EXISTS (SELECT FROM api_keys WHERE (limits ->> 'running') IS NOT NULL) OR EXISTS (SELECT FROM pauses)
        AS by_key"""
)

_PASSED: Final = """before AS (
            SELECT id AS passed_id FROM generation_jobs
            WHERE id = ANY (:overtook::bigint[]) AND status = 'pending' AND EXISTS (SELECT FROM turn)
            FOR NO KEY UPDATE SKIP LOCKED
        ), passed AS (
            UPDATE generation_jobs AS job
            SET overtaken = job.overtaken + 1, overtaken_s = job.overtaken_s + :put_off_s::real
            FROM before WHERE job.id = passed_id
        )"""
"""Counts of those that were due earlier that they were passed over. One that another statement changes in this very
moment is not counted: those that wait for each other, in whatever order, come to block each other for good."""
_CHOSEN: Final = clock_moved("LEAST(fair_tag, :due_tag::bigint)"), _PASSED
"""The clock goes by what was due first: who comes now must not stand before those that were passed over."""
CLAIM_CHOSEN: Final = _claim(_chosen(_UNSUSPECTED), *_CHOSEN)
"""Takes the one job that was chosen from `CANDIDATES`, unless it was taken or changed meanwhile."""
CLAIM_CHOSEN_WITHIN_LIMITS: Final = _claim(_chosen_within_limits(_UNSUSPECTED), *_CHOSEN)

_CONSIDERED: Final = """id, user_id, models, model_key, cost_s, priority, fair_tag, overtaken, overtaken_s, backend,
        prefer, CASE WHEN available_at > now() - :avoid_for::interval THEN refused_by ELSE '{}' END AS refused_by"""
_CONSIDERABLE: Final = f"{_UNSUSPECTED} AND NOT (models && :lacking::text[])"
_FIRST_SOME: Final = f"ORDER BY {_TURNS} LIMIT :most::int"
CANDIDATES: Final = Statement(
    f"SELECT {_CONSIDERED} FROM generation_jobs WHERE {_CONSIDERABLE} {_FIRST_SOME}"  # noqa: S608
)
"""The first waiting jobs that this backend may take, but those that need a model of `lacking`; nothing is locked."""
CANDIDATES_WITHIN_LIMITS: Final = Statement(f"""
    WITH RECURSIVE {_owners_within_limits(_CONSIDERABLE, ":most::int")}
    SELECT * FROM (
        (SELECT {_CONSIDERED} FROM generation_jobs WHERE {_NOBODY_AT_LIMIT} AND {_CONSIDERABLE} {_FIRST_SOME})
        UNION ALL
        SELECT of_owner.* FROM next_owners CROSS JOIN LATERAL (
            SELECT {_CONSIDERED} FROM generation_jobs
            WHERE {_of_owner("next_owners.user_id", _CONSIDERABLE)} LIMIT :most
        ) AS of_owner
    ) AS of_all {_FIRST_SOME}""")  # noqa: S608  # of our own words only
"""The same of the owners who may have another job run."""
WAITING: Final = Statement(f"""
    SELECT * FROM (
        SELECT {_CONSIDERED}, attempt, available_at FROM generation_jobs
        WHERE {QUEUED} AND available_at <= now() {_FIRST_SOME}
    ) AS first WHERE NOT EXISTS (SELECT FROM pauses WHERE tenant IN ('{EVERYBODY}', first.user_id))
    ORDER BY {_TURNS}""")  # noqa: S608
"""Of the first waiting jobs, whatever backend they are for, those that are not paused; owners at their limits count."""
