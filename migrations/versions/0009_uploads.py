"""Files that clients hand over, and which jobs need them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables; a default that is a constant rewrites no row of the jobs."""
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("content_type", sa.String(128), nullable=False),
        sa.Column("extension", sa.String(16), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("duration_s", sa.Double(), nullable=True),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("user_id", "sha256", name="uq_uploads_user_id_sha256"),
    )
    op.create_index("ix_uploads_user_id_created_at_id", "uploads", ["user_id", "created_at", "id"])
    op.create_index("ix_uploads_expires_at", "uploads", ["expires_at"])
    op.create_index("ix_uploads_path", "uploads", ["path"])
    op.create_table(
        "job_uploads",
        sa.Column(
            "job_id",
            sa.BigInteger(),
            sa.ForeignKey("generation_jobs.id", ondelete="CASCADE", name="fk_job_uploads_job_id_generation_jobs"),
            primary_key=True,
        ),
        sa.Column(
            "upload_id",
            sa.String(32),
            sa.ForeignKey("uploads.id", ondelete="CASCADE", name="fk_job_uploads_upload_id_uploads"),
            primary_key=True,
        ),
    )
    op.create_index("ix_job_uploads_upload_id", "job_uploads", ["upload_id", "job_id"])
    op.add_column("generation_jobs", sa.Column("image", JSONB(none_as_null=True), nullable=True))
    op.add_column("generation_jobs", sa.Column("mask", JSONB(none_as_null=True), nullable=True))
    op.add_column("generation_jobs", sa.Column("inputs", JSONB(), nullable=False, server_default=sa.text("'{}'")))
    op.add_column("generation_jobs", sa.Column("upscale_model", sa.String(255), nullable=True))


def downgrade() -> None:
    """Forget them."""
    for column in ("upscale_model", "inputs", "mask", "image"):
        op.drop_column("generation_jobs", column)
    op.drop_table("job_uploads")
    op.drop_table("uploads")
