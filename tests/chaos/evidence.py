"""Everything that the checks look at: what PostgreSQL holds at the end, what was executed, what clients received."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chaos.clients import Record
    from tests.chaos.executions import ExecutionLogs
    from tests.chaos.processes import Fleet
    from tests.chaos.steering import Overheard

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that must not be."""

    rule: str
    text: str
    job_ids: tuple[int, ...] = ()


@dataclass
class Evidence:
    """The state after a run; rows as PostgreSQL has them, by job id and in their order."""

    record: Record
    logs: ExecutionLogs
    folder: Path
    store: Path
    jobs: dict[int, Row]
    events: dict[int, list[Row]]
    attempts: dict[int, list[Row]]
    contents: dict[int, list[Row]]
    outputs: dict[int, list[Row]]
    """By content id."""
    audit: list[Row] = field(default_factory=list)
    overheard: list[Overheard] = field(default_factory=list)
    """What followers of `/ws/events` were told."""
    attempt_of_prompt: dict[str, Row] = field(default_factory=dict)

    def attempt_at(self, job_id: int, seq: int) -> int | None:
        """Return the number of the attempt that the job's event of this number belongs to."""
        events = self.events.get(job_id, [])
        return int(events[seq - 1]["attempt"]) if 0 < seq <= len(events) else None


async def gather(fleet: Fleet, record: Record, logs: ExecutionLogs) -> Evidence:
    """Read everything that the run left in PostgreSQL."""
    jobs = await fleet.query(
        """SELECT id, status, phase, seq, attempt, metadata->>'chaos' AS tag, content_id, backend_name, worker_id,
                  user_id, lease_expires_at, error_code, error_message, cancel_reason, created_at, completed_at,
                  overtaken
           FROM generation_jobs ORDER BY id"""
    )
    events = await fleet.query(
        "SELECT job_id, seq, at, event, phase, attempt, actor, data FROM job_events ORDER BY job_id, seq"
    )
    attempts = await fleet.query(
        """SELECT job_id, number, worker_id, backend_name, prompt_id, claimed_at, submitted_at, executing_at,
                  executed_at, ended_at, outcome, error_code, error_message
           FROM job_attempts ORDER BY job_id, number"""
    )
    contents = await fleet.query("SELECT id, job_id FROM contents ORDER BY id")
    outputs = await fleet.query(
        """SELECT content_id, index, kind, content_type, size_bytes, width, height, sha256, path, thumbnail_path
           FROM outputs ORDER BY content_id, index"""
    )
    audit = await fleet.query("SELECT at, actor, action, target, outcome FROM audit_log ORDER BY id")
    return Evidence(
        record=record,
        logs=logs,
        folder=fleet.folder,
        store=fleet.store,
        jobs={row["id"]: row for row in jobs},
        events=_by(events, "job_id"),
        attempts=_by(attempts, "job_id"),
        contents=_by(contents, "job_id"),
        outputs=_by(outputs, "content_id"),
        audit=audit,
        attempt_of_prompt={row["prompt_id"]: row for row in attempts},
    )


def _by(rows: list[Row], column: str) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        found[row[column]].append(row)
    return dict(found)
