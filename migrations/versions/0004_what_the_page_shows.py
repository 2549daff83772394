"""What the monitor page shows and records: spans of nodes, statistics, periodic tasks, keys, sessions and the audit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

JOBS, ATTEMPTS = "generation_jobs", "job_attempts"
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add columns, indexes and tables."""
    op.add_column(ATTEMPTS, sa.Column("traceback", sa.Text))
    op.add_column(ATTEMPTS, sa.Column("spans", JSONB(none_as_null=True)))
    op.add_column(ATTEMPTS, sa.Column("workflow_key", sa.String(32)))
    op.create_index("ix_job_attempts_worker_id", ATTEMPTS, ["worker_id", "job_id"])
    failed = sa.text("node_type IS NOT NULL")
    op.create_index("ix_job_attempts_node_type", ATTEMPTS, ["node_type", "job_id"], postgresql_where=failed)
    completed = sa.text("outcome = 'completed'")
    op.create_index("ix_job_attempts_workflow_key", ATTEMPTS, ["workflow_key", "ended_at"], postgresql_where=completed)
    op.create_index(
        "ix_generation_jobs_error_code_created_at_id",
        JOBS,
        ["error_code", "created_at", "id"],
        postgresql_where=sa.text("error_code IS NOT NULL"),
    )
    op.create_table(
        "backend_states",
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("drained", sa.Boolean, nullable=False),
        sa.Column("changed_at", MOMENT, nullable=False, server_default=sa.func.now()),
        sa.Column("changed_by", sa.String(255), nullable=False),
    )
    op.create_table(
        "periodic_tasks",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("schedule", sa.String(64), nullable=False),
        sa.Column("last_run", MOMENT, nullable=False),
        sa.Column("next_run", MOMENT, nullable=False),
        sa.Column("duration_ms", sa.Integer, nullable=False),
        sa.Column("result", sa.Text, nullable=False),
        sa.Column("failed", sa.Boolean, nullable=False),
        sa.Column("worker_id", sa.String(255), nullable=False),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("name", sa.String(255), nullable=False, unique=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("key_hash", sa.String(64), nullable=False, unique=True),
        sa.Column("created_at", MOMENT, nullable=False, server_default=sa.func.now()),
        sa.Column("last_used_at", MOMENT),
        sa.Column("revoked_at", MOMENT),
        sa.CheckConstraint("role IN ('viewer', 'operator', 'admin')", name="role"),
    )
    op.create_table(
        "monitor_sessions",
        sa.Column("token_hash", sa.String(64), primary_key=True),
        sa.Column("key_id", sa.BigInteger, sa.ForeignKey("api_keys.id", ondelete="CASCADE"), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False, server_default=sa.func.now()),
        sa.Column("expires_at", MOMENT, nullable=False),
    )
    op.create_index("ix_monitor_sessions_expires_at", "monitor_sessions", ["expires_at"])
    op.create_table(
        "audit_log",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("at", MOMENT, nullable=False, server_default=sa.func.now()),
        sa.Column("actor", sa.String(255), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("outcome", sa.String(32), nullable=False),
        sa.Column("data", JSONB, nullable=False),
    )
    op.create_index("ix_audit_log_actor_id", "audit_log", ["actor", "id"])
    op.create_index("ix_audit_log_action_id", "audit_log", ["action", "id"])
    op.create_table(
        "job_statistics",
        sa.Column("span_s", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("scope", sa.String(8), primary_key=True),
        sa.Column("bucket", MOMENT, primary_key=True),
        sa.Column("status", sa.String(16), primary_key=True),
        sa.Column("backend_name", sa.String(255), primary_key=True),
        sa.Column("checkpoint_model", sa.String(255), primary_key=True),
        sa.Column("error_code", sa.String(64), primary_key=True),
        sa.Column("node_type", sa.Text, primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("waits", ARRAY(sa.Integer), nullable=False),
        sa.Column("runs", ARRAY(sa.Integer), nullable=False),
    )
    op.create_table(
        "queue_statistics",
        sa.Column("at", MOMENT, primary_key=True),
        sa.Column("waiting", sa.Integer, nullable=False),
        sa.Column("running", sa.Integer, nullable=False),
    )
    op.create_table(
        "statistics_progress",
        sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("counted_until", MOMENT, nullable=False),
    )


def downgrade() -> None:
    """Take away what `upgrade` added."""
    for table in (
        *("statistics_progress", "queue_statistics", "job_statistics", "audit_log", "monitor_sessions"),
        *("api_keys", "periodic_tasks", "backend_states"),
    ):
        op.drop_table(table)
    op.drop_index("ix_generation_jobs_error_code_created_at_id", JOBS)
    op.drop_index("ix_job_attempts_workflow_key", ATTEMPTS)
    op.drop_index("ix_job_attempts_worker_id", ATTEMPTS)
    op.drop_index("ix_job_attempts_node_type", ATTEMPTS)
    for column in ("workflow_key", "spans", "traceback"):
        op.drop_column(ATTEMPTS, column)
