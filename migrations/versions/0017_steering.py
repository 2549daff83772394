"""Steering: a backend that a job prefers, and what is paused."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add both."""
    op.add_column("generation_jobs", sa.Column("prefer", sa.String(255)))
    op.create_table(
        "pauses",
        sa.Column("tenant", sa.String(255), nullable=False),
        sa.Column("paused_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("paused_by", sa.String(255), nullable=False),
        sa.Column("reason", sa.String(200)),
        sa.PrimaryKeyConstraint("tenant", name=op.f("pk_pauses")),
    )


def downgrade() -> None:
    """Remove both: what was paused goes on."""
    op.drop_table("pauses")
    op.drop_column("generation_jobs", "prefer")
