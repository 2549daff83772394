"""The status in the indexes of the lists of a type, a model and a backend: who wants one of each reads no other rows."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

JOBS = "generation_jobs"
NARROWED = ("job_type", "checkpoint_model", "backend_name")


def upgrade() -> None:
    """Make the new indexes before the old ones go."""
    for column in NARROWED:
        short = f"ix_{JOBS}_{column}_created_at_id"
        op.create_index(f"{short}_status", JOBS, [column, "created_at", "id", "status"])
        op.drop_index(short, JOBS)


def downgrade() -> None:
    """Bring back the old ones."""
    for column in NARROWED:
        short = f"ix_{JOBS}_{column}_created_at_id"
        op.create_index(short, JOBS, [column, "created_at", "id"])
        op.drop_index(f"{short}_status", JOBS)
