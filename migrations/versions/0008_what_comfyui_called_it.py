"""Outputs with what ComfyUI called them, thumbnails that follow, and graphs in the very order in which they came."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSON, JSONB

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change them; a default that is a constant rewrites no row. Thumbnails of old outputs are there or never."""
    # JSON keeps the order of nodes and inputs, which ComfyUI follows; JSONB does not. This rewrites the table once.
    op.execute("ALTER TABLE generation_jobs ALTER COLUMN workflow TYPE json USING workflow::json")
    op.add_column("generation_jobs", sa.Column("extra_pnginfo", JSON(none_as_null=True), nullable=True))
    op.add_column("outputs", sa.Column("source", JSONB(none_as_null=True), nullable=True))
    op.add_column("outputs", sa.Column("preview", sa.Boolean(), nullable=False, server_default=sa.text("false")))
    op.add_column("outputs", sa.Column("thumbnail_due", sa.Boolean(), nullable=False, server_default=sa.text("false")))
    op.create_index("ix_outputs_thumbnail_due", "outputs", ["content_id"], postgresql_where=sa.text("thumbnail_due"))


def downgrade() -> None:
    """Forget them."""
    op.drop_index("ix_outputs_thumbnail_due", "outputs")
    for column in ("thumbnail_due", "preview", "source"):
        op.drop_column("outputs", column)
    op.drop_column("generation_jobs", "extra_pnginfo")
    op.execute("ALTER TABLE generation_jobs ALTER COLUMN workflow TYPE jsonb USING workflow::jsonb")
