"""Statistics of loading, and of what each user got of the backends."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add them. What was counted before stays without."""
    op.add_column("job_statistics", sa.Column("loads", sa.Integer(), server_default="0", nullable=False))
    op.add_column("job_statistics", sa.Column("load_s", sa.Double(), server_default="0", nullable=False))
    op.create_table(
        "tenant_statistics",
        sa.Column("span_s", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("bucket", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tenant", sa.String(255), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("gpu_s", sa.Double(), nullable=False),
        sa.Column("wait_s", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("span_s", "bucket", "tenant", name=op.f("pk_tenant_statistics")),
    )


def downgrade() -> None:
    """Remove them."""
    op.drop_table("tenant_statistics")
    op.drop_column("job_statistics", "load_s")
    op.drop_column("job_statistics", "loads")
