"""From when a job waits, the longest of what statistics count, and periodic tasks that have never run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

JOBS, STATISTICS, TASKS = "generation_jobs", "job_statistics", "periodic_tasks"
LONGEST = ("longest_wait_s", "longest_run_s")
OF_THE_LAST_RUN = {
    "last_run": sa.DateTime(timezone=True),
    "duration_ms": sa.Integer(),
    "result": sa.Text(),
    "failed": sa.Boolean(),
    "worker_id": sa.String(255),
}


def upgrade() -> None:
    """Add the columns, fill them for what is there, and let a task be without a last run."""
    moment = sa.DateTime(timezone=True)
    op.add_column(JOBS, sa.Column("queued_at", moment, nullable=False, server_default=sa.func.now()))
    # When its history says that it was retried; else when it was sent, or when its time had come.
    op.execute("""
        UPDATE generation_jobs AS job SET queued_at = COALESCE(
            CASE WHEN attempt > 1
                THEN (SELECT max(at) FROM job_events WHERE job_id = job.id AND event = 'retried') END,
            GREATEST(created_at, not_before))""")
    for column in LONGEST:
        # 0: nobody has looked. What is counted at all says more of the longest one by its place.
        op.add_column(STATISTICS, sa.Column(column, sa.Double, nullable=False, server_default="0"))
    for column, kind in OF_THE_LAST_RUN.items():
        op.alter_column(TASKS, column, existing_type=kind, nullable=True)


def downgrade() -> None:
    """Take away what `upgrade` added."""
    op.execute("DELETE FROM periodic_tasks WHERE last_run IS NULL")
    for column, kind in OF_THE_LAST_RUN.items():
        op.alter_column(TASKS, column, existing_type=kind, nullable=False)
    for column in LONGEST:
        op.drop_column(STATISTICS, column)
    op.drop_column(JOBS, "queued_at")
