"""The present state of jobs as it is sent to watchers. It is read when a client begins to watch, and again in case an
event was lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from app.domain.job import Phase
from app.domain.message import Snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

_SNAPSHOTS: Final = """
    SELECT id AS job_id, phase, seq, updated_at AS at, attempt, progress, backend_name, error_code, error_message,
        cancel_reason, content_id,
        ARRAY(SELECT path FROM outputs WHERE outputs.content_id = jobs.content_id ORDER BY index) AS output_paths
    FROM generation_jobs AS jobs WHERE id = ANY($1) AND (user_id = $2 OR $2 IS NULL)"""
"""One statement, so that it is one moment, and only what is told: a row's graphs may be large."""


async def read_snapshots(connection: Any, job_ids: Sequence[int], owner: str | None) -> dict[int, Snapshot]:
    """Return the present state of those of the jobs that exist and are the owner's; through the driver itself."""
    rows = await connection.fetch(_SNAPSHOTS, job_ids, owner)
    return {row["job_id"]: Snapshot(**(dict(row) | {"phase": Phase(row["phase"])})) for row in rows}
