"""Sets of a job's columns for each use, and conversion of rows to objects. Only this module names the graph's columns.

A graph and its `extra_pnginfo` may have megabytes, and the other fields of a client a hundred kilobytes. No statement
may select `*` or a whole `JobRow`. Steps and repairs read `STANDING`, lists read `LISTED`. `WHOLE` is read only to run
a job or to send it again.
"""

from __future__ import annotations

from typing import Any, Final

from app.domain.job import Asked, Job, ListedJob, Phase, Standing
from app.runtime.json_text import load_kept
from app.storage.schema import JobRow

_STANDING: Final = tuple(name for name in Standing.__dataclass_fields__ if name not in ("job_id", "phase"))
_ASKED: Final = tuple(Asked.__dataclass_fields__)

_FOUND_OUT: Final = ("has_workflow", "has_extra_pnginfo", "model_key", "cost_s")
_HAS_EXTRA: Final = "extra_pnginfo IS NOT NULL AS has_extra_pnginfo"

STANDING: Final = ", ".join(("id", "phase", *_STANDING))
LISTED: Final = ", ".join(
    (STANDING, *_ASKED, "workflow IS NOT NULL AS has_workflow", _HAS_EXTRA, "models", "model_key", "cost_s")
)
WHOLE: Final = f"{LISTED}, workflow::text AS workflow, extra_pnginfo::text AS extra_pnginfo"
STANDING_COLUMNS: Final = (JobRow.id, JobRow.phase, *(getattr(JobRow, name) for name in _STANDING))
"""The columns of `STANDING` for a SQLAlchemy statement."""


def standing_of(record: Any) -> Standing:
    """Return where the job of a row, SQLAlchemy's or the driver's, stands."""
    return Standing(job_id=record["id"], phase=Phase(record["phase"]), **{name: record[name] for name in _STANDING})


def listed_of(record: Any) -> ListedJob:
    """Return the job of a row without its graph."""
    return ListedJob(**_listed(record))


def job_of(record: Any) -> Job:
    """Return the job of a row with its graph."""
    graph = record["workflow"]
    workflow = load_kept(graph) if graph is not None else None
    return Job(
        workflow=workflow,
        extra_pnginfo=record["extra_pnginfo"],
        **_listed(record),
    )


def _listed(record: Any) -> dict[str, Any]:
    values = {name: record[name] for name in (*_STANDING, *_ASKED, *_FOUND_OUT)}
    return {"job_id": record["id"], "phase": Phase(record["phase"]), "models": tuple(record["models"]), **values}
