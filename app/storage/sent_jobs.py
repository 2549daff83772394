"""Who sent a job by REST, for the audit: it stands in the job's first event, which is written anyway.

So a submission costs no row and no statement more. A job that is deleted leaves it to the audit.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Select, literal_column, select, text

from app.storage.schema import IS_SENT, SENT_ACTOR, SENT_ADDRESS, EventRow
from app.storage.statements import Statement

if TYPE_CHECKING:
    from app.storage.audit import Chosen

SENT: Final = "sent"
"""Name in the data of a job's first event: `actor`, `role`, `address` and `request_id` of who sent it."""
SEND: Final = "send"
ACCEPTED: Final = "accepted"
"""Action and outcome of the entry; what was not accepted is no job."""
_JOB: Final = re.compile(r"job ([1-9]\d{0,17})", re.ASCII)

KEEP_SENT: Final = Statement(f"""
    INSERT INTO audit_log (at, actor, role, action, target, outcome, address, request_id, data)
    SELECT at, data #>> '{{sent,actor}}', data #>> '{{sent,role}}', '{SEND}', 'job ' || job_id, '{ACCEPTED}',
        data #>> '{{sent,address}}', data #>> '{{sent,request_id}}', jsonb_build_object('user_id', actor)
    FROM job_events WHERE job_id = :job_id AND seq = 1 AND {IS_SENT} RETURNING id""")  # noqa: S608  # of our own words only
"""Puts into the audit that a job was sent, before its events are deleted."""
FORGET_SENT: Final = Statement(f"""
    WITH old AS (
        SELECT id FROM job_events WHERE {IS_SENT} AND at < now() - :keep::interval
        ORDER BY at, id LIMIT :most::bigint FOR UPDATE SKIP LOCKED
    )
    UPDATE job_events SET data = data - '{SENT}' FROM old WHERE job_events.id = old.id RETURNING old.id""")  # noqa: S608
"""Forgets who sent jobs so long ago, and returns of which events."""


def sent(chosen: Chosen) -> Select[Any] | None:
    """Return the statement for events of jobs that were sent, in no order; None if the filters let none through."""
    if not chosen.sent_jobs or chosen.action not in (None, SEND):
        return None
    found = select(EventRow).where(text(IS_SENT))
    if chosen.target is not None:
        named = _JOB.fullmatch(chosen.target)
        if named is None:
            return None
        found = found.where(EventRow.job_id == int(named[1]), EventRow.seq == 1)
    for place, value in ((SENT_ACTOR, chosen.actor), (SENT_ADDRESS, chosen.address)):
        if value is not None:
            found = found.where(literal_column(place) == value)
    return found
