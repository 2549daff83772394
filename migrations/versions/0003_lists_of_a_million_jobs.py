"""Lists in the order of creation by an index for each filter, and leases that are renewed without touching any."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

JOBS = "generation_jobs"
FILTERS = ("status", "job_type", "checkpoint_model", "backend_name")
BEFORE = {
    "ix_generation_jobs_status_id": ["status", "id"],
    "ix_generation_jobs_user_id_id": ["user_id", "id"],
    "ix_generation_jobs_backend_name_id": ["backend_name", "id"],
    "ix_generation_jobs_checkpoint_model_id": ["checkpoint_model", "id"],
    "ix_generation_jobs_created_at": ["created_at"],
    "ix_generation_jobs_updated_at": ["updated_at"],
    "ix_generation_jobs_completed_at": ["completed_at"],
}
SINCE = {
    "ix_generation_jobs_created_at_id": ["created_at", "id"],
    "ix_generation_jobs_updated_at_id": ["updated_at", "id"],
    "ix_generation_jobs_user_id_created_at_id_status": ["user_id", "created_at", "id", "status"],
    **{f"ix_generation_jobs_{column}_created_at_id": [column, "created_at", "id"] for column in FILTERS},
}


def upgrade() -> None:
    """Replace the indexes."""
    op.drop_index("ix_generation_jobs_running", JOBS)
    op.create_index("ix_generation_jobs_running", JOBS, ["id"], postgresql_where=sa.text("status = 'running'"))
    for name, columns in SINCE.items():
        op.create_index(name, JOBS, columns)
    op.create_index(
        "ix_generation_jobs_completed_at_status",
        JOBS,
        ["completed_at", "status"],
        postgresql_where=sa.text("completed_at IS NOT NULL"),
    )
    for name in BEFORE:
        op.drop_index(name, JOBS)


def downgrade() -> None:
    """Put the old ones back."""
    for name, columns in BEFORE.items():
        op.create_index(name, JOBS, columns)
    op.drop_index("ix_generation_jobs_completed_at_status", JOBS)
    for name in SINCE:
        op.drop_index(name, JOBS)
    op.drop_index("ix_generation_jobs_running", JOBS)
    op.create_index(
        "ix_generation_jobs_running",
        JOBS,
        ["worker_id", "lease_expires_at"],
        postgresql_where=sa.text("status = 'running'"),
    )
