"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "generation_jobs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.Column("job_type", sa.String(length=32), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=True),
        sa.Column("negative_prompt", sa.Text(), nullable=False),
        sa.Column("checkpoint_model", sa.String(length=255), nullable=True),
        sa.Column("lora_models", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("batch_size", sa.SmallInteger(), nullable=False),
        sa.Column("sampler_params", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("workflow", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("backend", sa.String(length=255), nullable=True),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("max_attempts", sa.SmallInteger(), nullable=False),
        sa.Column("timeout_seconds", sa.Integer(), nullable=False),
        sa.Column("metadata", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("params", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("warnings", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("attempt_limit", sa.Integer(), nullable=False),
        sa.Column("progress", sa.SmallInteger(), nullable=False),
        sa.Column("backend_name", sa.String(length=255), nullable=True),
        sa.Column("worker_id", sa.String(length=255), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("prompt_id", sa.String(length=64), nullable=True),
        sa.Column("refused_by", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("cancel_reason", sa.Text(), nullable=True),
        sa.Column("content_id", sa.BigInteger(), nullable=True),
        sa.Column("available_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(status = 'pending' AND phase IN ('queued', 'retrying')) OR (status = 'running' AND phase IN ('assigned', 'executing', 'saving', 'cancelling')) OR (status = 'completed' AND phase IN ('completed')) OR (status = 'failed' AND phase IN ('failed')) OR (status = 'cancelled' AND phase IN ('cancelled'))",
            name=op.f("ck_generation_jobs_phase_of_status"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_generation_jobs")),
    )
    op.create_index("ix_generation_jobs_backend_name_id", "generation_jobs", ["backend_name", "id"], unique=False)
    op.create_index(
        "ix_generation_jobs_checkpoint_model_id", "generation_jobs", ["checkpoint_model", "id"], unique=False
    )
    op.create_index("ix_generation_jobs_completed_at", "generation_jobs", ["completed_at"], unique=False)
    op.create_index("ix_generation_jobs_created_at", "generation_jobs", ["created_at"], unique=False)
    op.create_index(
        "ix_generation_jobs_running",
        "generation_jobs",
        ["worker_id", "lease_expires_at"],
        unique=False,
        postgresql_where=sa.text("status = 'running'"),
    )
    op.create_index("ix_generation_jobs_status_id", "generation_jobs", ["status", "id"], unique=False)
    op.create_index("ix_generation_jobs_updated_at", "generation_jobs", ["updated_at"], unique=False)
    op.create_index("ix_generation_jobs_user_id_id", "generation_jobs", ["user_id", "id"], unique=False)
    op.create_index(
        "ix_generation_jobs_waiting",
        "generation_jobs",
        [sa.literal_column("priority DESC"), "available_at", "id"],
        unique=False,
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_table(
        "contents",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["generation_jobs.id"], name=op.f("fk_contents_job_id_generation_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_contents")),
        sa.UniqueConstraint("job_id", name=op.f("uq_contents_job_id")),
    )
    op.create_table(
        "job_attempts",
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("worker_id", sa.String(length=255), nullable=False),
        sa.Column("backend_name", sa.String(length=255), nullable=False),
        sa.Column("prompt_id", sa.String(length=64), nullable=False),
        sa.Column("graph", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("executing_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("executed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.String(length=32), nullable=True),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("node_id", sa.Text(), nullable=True),
        sa.Column("node_type", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["job_id"], ["generation_jobs.id"], name=op.f("fk_job_attempts_job_id_generation_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_job_attempts")),
    )
    op.create_index(
        "ix_job_attempts_completed",
        "job_attempts",
        ["ended_at"],
        unique=False,
        postgresql_where=sa.text("outcome = 'completed'"),
    )
    op.create_index("ix_job_attempts_prompt_id", "job_attempts", ["prompt_id"], unique=False)
    op.create_table(
        "job_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("actor", sa.String(length=255), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["generation_jobs.id"], name=op.f("fk_job_events_job_id_generation_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_events")),
        sa.UniqueConstraint("job_id", "seq", name=op.f("uq_job_events_job_id_seq")),
    )
    op.create_table(
        "outputs",
        sa.Column("content_id", sa.BigInteger(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("content_type", sa.String(length=128), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("thumbnail_path", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["content_id"], ["contents.id"], name=op.f("fk_outputs_content_id_contents"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("content_id", "index", name=op.f("pk_outputs")),
    )


def downgrade() -> None:
    """Undo it."""
    op.drop_table("outputs")
    op.drop_table("job_events")
    op.drop_index("ix_job_attempts_prompt_id", table_name="job_attempts")
    op.drop_index(
        "ix_job_attempts_completed", table_name="job_attempts", postgresql_where=sa.text("outcome = 'completed'")
    )
    op.drop_table("job_attempts")
    op.drop_table("contents")
    op.drop_index(
        "ix_generation_jobs_waiting", table_name="generation_jobs", postgresql_where=sa.text("status = 'pending'")
    )
    op.drop_index("ix_generation_jobs_user_id_id", table_name="generation_jobs")
    op.drop_index("ix_generation_jobs_updated_at", table_name="generation_jobs")
    op.drop_index("ix_generation_jobs_status_id", table_name="generation_jobs")
    op.drop_index(
        "ix_generation_jobs_running", table_name="generation_jobs", postgresql_where=sa.text("status = 'running'")
    )
    op.drop_index("ix_generation_jobs_created_at", table_name="generation_jobs")
    op.drop_index("ix_generation_jobs_completed_at", table_name="generation_jobs")
    op.drop_index("ix_generation_jobs_checkpoint_model_id", table_name="generation_jobs")
    op.drop_index("ix_generation_jobs_backend_name_id", table_name="generation_jobs")
    op.drop_table("generation_jobs")
